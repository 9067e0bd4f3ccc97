// A pump reports its speed a hundred times a second, for as many seconds as asked for.
// usage: example-writer INSTANCE [SECONDS]
#include <shmstate/writer.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

using namespace std::chrono_literals;

int main(int argc, char** argv) try {
  if (argc < 2) return std::fputs("usage: example-writer INSTANCE [SECONDS]\n", stderr), 2;
  const int rounds = 100 * (argc > 2 ? std::atoi(argv[2]) : 10);

  shmstate::Writer writer{argv[1]};
  writer.add("pump/7/starts", 1);
  writer.set("pump/7/state", "running", {.ephemeral = true});  // goes when this process goes, however it ends
  for (int i = 0; i < rounds; ++i) {
    auto batch = writer.batch();  // both become visible together
    batch.set("pump/7/rpm", 1480 + i % 10);
    batch.set("pump/7/power", 0.25 * (1480 + i % 10));
    batch.commit();
    std::this_thread::sleep_for(10ms);
  }
  const shmstate::Status status = writer.flush(1s);  // also reports what went wrong before
  std::printf("flush: %s\n", shmstate::describe(status).data());
  return status == shmstate::Status::kOk ? 0 : 1;
} catch (const shmstate::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
