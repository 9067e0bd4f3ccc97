// Writes to an instance and reads it back. The errors of both libraries are one type.
#include <shmstate/inspect.h>
#include <shmstate/reader.h>
#include <shmstate/watch.h>
#include <shmstate/writer.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string_view>

namespace {

using namespace std::chrono_literals;

bool is_said(const char* library, shmstate::Status status) {
  if (status == shmstate::Status::kNoInstance) return true;
  std::printf("%s reports a missing instance as: %s\n", library, shmstate::describe(status).data());
  return false;
}

template <typename Handle, typename Options>
shmstate::Status status_of_missing_instance(Options options) {
  options.attach_timeout = 0ns;
  try {
    const Handle handle{"/nonexistent/plant", options};
  } catch (const shmstate::Error& error) {
    return error.status();
  }
  return shmstate::Status::kOk;
}

bool errors_are_caught() {
  const auto of_writer = status_of_missing_instance<shmstate::Writer>(shmstate::WriterOptions{});
  const auto of_reader = status_of_missing_instance<shmstate::Reader>(shmstate::ReaderOptions{});
  return is_said("the writer", of_writer) && is_said("the reader", of_reader);
}

bool values_arrive(const char* instance) {
  shmstate::Writer writer{instance};
  writer.set("consumer/int64", 42);
  writer.set("consumer/bytes", "text");
  auto batch = writer.batch();
  batch.erase("consumer/sum");
  batch.add("consumer/sum", 1.5);
  batch.add("consumer/sum", 1.5);
  batch.commit();
  if (const shmstate::Status status = writer.flush(10s); status != shmstate::Status::kOk) {
    std::printf("flush: %s\n", shmstate::describe(status).data());
    return false;
  }
  shmstate::Reader reader{instance};
  std::size_t count = 0;
  for (const auto& entry : reader.snapshot()) count += entry.key.starts_with("consumer/");
  std::size_t visited = 0;
  reader.snapshot().for_each([&](const shmstate::EntryView& entry) { visited += entry.key.starts_with("consumer/"); });
  shmstate::Key bound{"consumer/int64"};
  const std::array<std::string_view, 2> keys{"consumer/int64", "consumer/missing"};
  std::array<std::optional<std::int64_t>, 2> values{};
  if (visited != count || reader.read_many(keys, values) != shmstate::Status::kOk || values[0] != 42 || values[1] ||
      reader.get<std::int64_t>(bound) != 42 || reader.get<std::int64_t>(keys[1])) {
    std::puts("what is compiled into programs reads otherwise");
    return false;
  }
  return reader.get<std::int64_t>("consumer/int64") == 42 && reader.get<std::string>("consumer/bytes") == "text" &&
         reader.get<double>("consumer/sum") == 3.0 && count == 3 && shmstate::inspect(instance).merger_running;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !errors_are_caught() || !values_arrive(argv[1])) return 1;
  std::puts("all as written");
  return 0;
}
