// A program that uses the libraries before `main` and behind it, and from threads that outlive `main`.
// usage: SHMSTATE_GUEST=INSTANCE guest_program
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"

namespace {

using namespace std::chrono_literals;
using shmstate::Status;

const char* instance() {
  const char* const path = std::getenv("SHMSTATE_GUEST");
  return path != nullptr ? path : "";
}

void must(bool holds, const char* what) {
  if (holds) return;
  std::printf("guest_program: %s\n", what);
  std::_Exit(1);
}

struct BeforeAndBehindMain {
  BeforeAndBehindMain() {
    must(writer.set("before main", 1) == Status::kOk && writer.flush(60s) == Status::kOk, "a push before main");
    must(reader.get<std::int64_t>("before main") == 1, "a read before main");
    must(watch.fd() > 2 && watch.next(60s).complete, "a watch before main");
  }
  ~BeforeAndBehindMain() {
    must(writer.set("behind main", 1) == Status::kOk && writer.flush(60s) == Status::kOk, "a push behind main");
    must(reader.get<std::int64_t>("behind main") == 1, "a read behind main");
    must(!watch.next(60s).changes.empty(), "a watch behind main");
  }
  BeforeAndBehindMain(const BeforeAndBehindMain&) = delete;
  BeforeAndBehindMain& operator=(const BeforeAndBehindMain&) = delete;

  shmstate::Writer writer{instance()};
  shmstate::Reader reader{instance(), {.survive_truncation = true}};
  shmstate::Watch watch{instance(), ""};
};

[[gnu::init_priority(101)]] BeforeAndBehindMain first;  // before the standard library's own, and everything else

void work_for_ever(int i) {
  shmstate::Writer writer(instance(), {.survive_truncation = true});
  shmstate::Reader reader(instance());
  for (;;) {
    must(writer.set("thread", i) == Status::kOk, "a push of a thread");
    static_cast<void>(reader.get<std::int64_t>("thread"));
    static_cast<void>(reader.snapshot().size());
    const shmstate::Writer another(instance(), {.shared = true});
  }
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work_for_ever, i);
  shmstate::Reader reader(instance());
  must(reader.wait_until(
           "thread", [](const auto& value) { return value.has_value(); }, 60s) == Status::kOk,
       "threads");
  for (std::thread& thread : threads) thread.detach();
  std::exit(0);  // NOLINT(concurrency-mt-unsafe): that is what is tried
}
