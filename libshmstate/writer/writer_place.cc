#include "writer/writer_place.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

namespace shmstate::internal {
namespace {

constexpr std::uint64_t kSilenceNs = 1'000'000'000;  // of the merger, before its directory is looked at

}  // namespace

WriterPlace::WriterPlace(std::string_view instance, WriterOptions wanted)
    : WriterFiles(open(instance_path(instance), wanted)), options(std::move(wanted)), path(control.path().string()) {
  ask_from_now_on();
  rejected_reported = rejected_in_all();
  os::register_fence();
  announce_and_wake();
}

void WriterPlace::announce_again() noexcept {
  const auto verdict = static_cast<layout::RingVerdict>(ring.header().verdict.load(std::memory_order_relaxed));
  if (verdict != layout::RingVerdict::kPending && verdict != layout::RingVerdict::kRefused) return;
  if (Clock::now() < next_announcement) return;
  next_announcement = Clock::now() + announcement_pause;
  announcement_pause = std::min<std::chrono::nanoseconds>(2 * announcement_pause, kSleepMax);
  static_cast<void>(::utimensat(AT_FDCWD, ring_path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW));
  announce_and_wake();
}

Status WriterPlace::check_place() noexcept {
  if (!maker.is_this_process()) return Status::kForked;
  const std::uint64_t now = os::now_ns();
  if (now < next_check_ns) return place;
  next_check_ns = now + kCheckIntervalNs;
  const layout::Heartbeat& heartbeat = control.heartbeat();
  const bool is_silent = now - heartbeat.beat_ns.load(std::memory_order_relaxed) > kSilenceNs;  // or nonsense
  const bool is_suspect =
      is_silent || heartbeat.retired.load(std::memory_order_acquire) != 0;  // pair: heartbeat.retired
  return is_suspect ? check_path() : set_place(Status::kOk);
}

Status WriterPlace::check_path() noexcept {
  if (control.is_lost()) return set_place(Status::kDamaged);
  if (control.is_current()) return set_place(Status::kOk);
  return options.reopen ? reopen() : set_place(Status::kNoInstance);
}

void WriterPlace::check_place_after_push() noexcept { static_cast<void>(check_place()); }

// What is conflated goes to the new instance; what is in the ring is lost, unless it was merged.
Status WriterPlace::reopen() noexcept {
  const os::NoCancellation shield;
  try {
    WriterFiles found(control.path(), options, std::chrono::nanoseconds::zero());
    account_for_what_is_lost();
    leave_ring();
    static_cast<WriterFiles&>(*this) = std::move(found);
  } catch (const std::exception&) {  // not there yet
    return set_place(Status::kNoInstance);
  }
  ask_from_now_on();
  ++reopen_count;
  announce();
  return set_place(Status::kOk);
}

void WriterPlace::account_for_what_is_lost() {
  const Ticket merged = earlier.end + ring.header().head.load(std::memory_order_acquire);  // pair: ring.head
  if (merged < ticket()) {
    earlier.lost.push_back({.begin = merged, .end = ticket()});
    if (first_failure == Status::kOk) first_failure = Status::kNoInstance;
  }
  std::uint64_t seen = applied();
  for (std::size_t i = 0; i < earlier.rejected.size(); ++i) {
    seen += rejected(i);
    earlier.rejected[i] += rejected(i);
  }
  if (!options.shared && seen < pusher.pushed) counters.lost += pusher.pushed - seen;
  earlier.pushed += pusher.pushed;
  earlier.applied += applied();
  earlier.unnamed += names.unnamed_count;
  earlier.end = ticket();
}

std::uint64_t WriterPlace::rejected_in_all() const noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < earlier.rejected.size(); ++i) sum += earlier.rejected[i] + rejected(i);
  return sum;
}

}  // namespace shmstate::internal
