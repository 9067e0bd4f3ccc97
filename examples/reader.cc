// Prints one consistent state, then every change below pump/ for as many seconds as asked for.
// usage: example-reader INSTANCE [SECONDS]
#include <shmstate/reader.h>
#include <shmstate/watch.h>

#include <chrono>
#include <cstdlib>
#include <iostream>

using namespace std::chrono_literals;

namespace {

std::string text_of(shmstate::ValueView value) {
  switch (value.type()) {
    case shmstate::Type::kInt64: return std::to_string(value.int64());
    case shmstate::Type::kFloat64: return std::to_string(value.float64());
    default: return std::string(value.bytes());
  }
}

void print_state(shmstate::Reader& reader) {
  const shmstate::Snapshot snapshot = reader.snapshot();
  for (const auto& [key, value] : snapshot) std::cout << key << " = " << text_of(value) << '\n';
  std::cout << snapshot.size() << " entries at epoch " << snapshot.epoch() << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) return std::cerr << "usage: example-reader INSTANCE [SECONDS]\n", 2;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 10);

  shmstate::Reader reader{argv[1]};
  print_state(reader);
  shmstate::Watch watch{argv[1], "pump/"};
  while (std::chrono::steady_clock::now() < end) {
    for (const shmstate::Change& change : watch.next(100ms).changes) {
      std::cout << change.key << (change.value ? " = " + text_of(*change.value) : " is gone") << '\n';
    }
  }
  return 0;
} catch (const shmstate::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
