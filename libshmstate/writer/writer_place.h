// Whether this is the place to push to: the instance may have been removed, and another one re-created at its path.
// Also waking the merger, and what is counted across the rings that a writer had.
#pragma once

#include <array>
#include <limits>
#include <vector>

#include "files/fork.h"
#include "writer/writer_files.h"

namespace shmstate::internal {

/// What may be done without a question. In a child of fork they are zero: so there is no room, and who asks is told.
struct WriterWords {
  std::uint64_t push_end;     // stream position below which records may be pushed
  std::uint64_t batch_bytes;  // of the open batch
};

struct WriterPlace : WithWipedWords<WriterWords>, WriterFiles {
  static constexpr auto kSleepMax = std::chrono::milliseconds(100);  // a merger that restarts does not know who sleeps
  static constexpr std::uint64_t kCheckIntervalNs = 100'000'000;

  /// Throws `Error`.
  WriterPlace(std::string_view instance, WriterOptions wanted);
  WriterPlace(const WriterPlace&) = delete;
  WriterPlace& operator=(const WriterPlace&) = delete;
  virtual ~WriterPlace() = default;

  // ---- the merger

  void wake_merger() noexcept {
    const bool is_heard = waker.wake(control.sleep(), [this] {
      os::futex_add_and_wake(doorbell().wakes.futex());
      check_place_after_push();
    });
    if (!is_heard && ++unheard % kUnheardPerCheck == 0) check_place_after_push();
  }
  void announce_and_wake() noexcept {
    announce();
    wake_merger();
  }
  /// A ring that is not served may have gone unnoticed in a flood of others, or there may be room for it now. Whoever
  /// waits for that touches it, soon and then more and more rarely, so that the merger looks at it again.
  void announce_again() noexcept;
  [[nodiscard]] std::chrono::nanoseconds sleep_max() const noexcept {
    const std::uint32_t verdict = ring.header().verdict.load(std::memory_order_relaxed);
    return verdict == static_cast<std::uint32_t>(layout::RingVerdict::kPending) ? announcement_pause : kSleepMax;
  }
  /// How many mutations a batch may hold: what the merger says now.
  [[nodiscard]] std::uint64_t batch_max() const noexcept {
    const std::uint64_t said = control.sleep().batch_max.load(std::memory_order_relaxed);
    return said == 0 ? std::numeric_limits<std::uint64_t>::max() : said;
  }

  // ---- the place

  /// Why not to push here. Asked rarely: when the ring seems full, at the latest after `RingRoom::kBytesPerCheck`, and
  /// while the merger sleeps on. No system call unless the merger is silent or says that the instance was removed.
  [[nodiscard]] Status check_place() noexcept;
  /// The same with a system call, now.
  [[nodiscard]] Status check_place_now() noexcept { return maker.is_this_process() ? check_path() : Status::kForked; }
  [[nodiscard]] Status check_path() noexcept;
  /// Whether another attempt makes sense: the instance of the first one was removed, and there is a new one.
  [[nodiscard]] bool has_reopened(Status status) noexcept {
    return status == Status::kNoInstance && options.reopen && check_place_now() == Status::kOk;
  }

  // ---- counting, also what was in the rings of instances that were removed

  [[nodiscard]] Ticket ticket() const noexcept { return earlier.end + pusher.tail(); }
  [[nodiscard]] std::uint64_t pushed_in_all() const noexcept { return earlier.pushed + pusher.pushed; }
  [[nodiscard]] std::uint64_t applied_in_all() const noexcept { return earlier.applied + applied(); }
  [[nodiscard]] std::uint64_t rejected_in_all(layout::Reject reason) const noexcept {
    const auto index = static_cast<std::size_t>(reason);
    return earlier.rejected.at(index) + rejected(index);
  }
  [[nodiscard]] std::uint64_t rejected_in_all() const noexcept;
  Status fail(Status status, std::uint64_t mutations) noexcept {
    counters.failed += mutations;
    if (first_failure == Status::kOk) first_failure = status;
    return status;
  }

  struct Lost {
    Ticket begin;  // merged up to here
    Ticket end;
  };
  struct Earlier {
    Ticket end = 0;
    std::uint64_t pushed = 0;
    std::uint64_t applied = 0;
    std::uint64_t unnamed = 0;
    std::array<std::uint64_t, std::extent_v<decltype(layout::RingHeader::rejected)>> rejected{};
    std::vector<Lost> lost{};
  };

  WriterOptions options;
  std::string path;
  Maker maker;
  Status place = Status::kOk;  // what the last check found
  std::uint32_t unheard = 0;
  std::uint64_t next_check_ns = 0;
  std::uint64_t reopen_count = 0;
  Earlier earlier;
  WriterCounters counters;
  Status first_failure = Status::kOk;   // since the last flush
  std::uint64_t rejected_reported = 0;  // by the last flush

 private:
  static constexpr std::uint32_t kUnheardPerCheck = 64;

  /// Called before this ring is left for that of a re-created instance.
  virtual void leave_ring() noexcept {}
  Status set_place(Status status) noexcept {
    if (status != Status::kOk) wiped().push_end = 0;  // so that the next push checks, too
    return place = status;
  }
  /// The push was accepted: what is found counts for the next one.
  [[gnu::noinline, gnu::cold]] void check_place_after_push() noexcept;
  [[nodiscard]] Status reopen() noexcept;
  void account_for_what_is_lost();
  /// Of a ring that is new here, nothing may be assumed.
  void ask_from_now_on() noexcept {
    wiped() = {};
    pusher.unasked_end = &wiped().push_end;
  }
};

}  // namespace shmstate::internal
