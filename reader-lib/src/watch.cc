#include "shmstate/watch.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "files/fork.h"
#include "files/os.h"

namespace shmstate {

using namespace internal;
namespace {

using std::chrono::nanoseconds;

using Clock = std::chrono::steady_clock;

constexpr auto kStopInterval = std::chrono::milliseconds(100);
constexpr nanoseconds kTimeoutMax = std::chrono::hours(24 * 365);  // more could overflow a point in time

OwnFd make_event() {
  OwnFd event = OwnFd::from([] { return os::move_up(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); });
  if (!event.is_open()) os::throw_errno("eventfd", errno);
  return event;
}

/// All signals but those that a thread raises by what it does: blocked, they would kill instead of being handled.
sigset_t signals_of_others() noexcept {
  sigset_t signals;
  sigfillset(&signals);
  for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&signals, own);
  return signals;
}

// Turns publishes into a readable descriptor. It has a reader of its own: readers belong to one thread. Its thread
// takes none of the program's signals.
class Notifier {
 public:
  Notifier(const std::string& instance, const ReaderOptions& options, const Position& known)
      : event_(make_event()), reader_(instance, options), known_(known) {
    const sigset_t blocked = signals_of_others();
    sigset_t before;
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const auto run_it = [](void* self) -> void* {
      static_cast<Notifier*>(self)->run();
      return nullptr;
    };
    const int error_number = ::pthread_create(&thread_, nullptr, run_it, this);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error_number != 0) os::throw_errno("cannot start the thread of a watch", error_number);
  }
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;
  ~Notifier() {
    must_stop_.store(true, std::memory_order_relaxed);
    const os::NoCancellation shield;
    ::pthread_join(thread_, nullptr);
  }

  /// In a child of fork there is no such thread, and what it was doing to its reader stays half done.
  static void abandon(std::unique_ptr<Notifier> notifier) noexcept {
    static std::atomic<Notifier*> abandoned{nullptr};  // so that they can be found, as by a search for leaks
    notifier->next_abandoned_ = abandoned.load(std::memory_order_relaxed);
    abandoned.store(notifier.release(), std::memory_order_relaxed);
  }

  [[nodiscard]] int fd() const noexcept { return event_.get(); }
  [[nodiscard]] bool is_forked() const noexcept { return !maker_.is_this_process(); }
  void clear() noexcept {
    const os::NoCancellation shield;
    std::uint64_t count = 0;
    while (::read(event_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }

 private:
  void run() noexcept {
    while (!must_stop_.load(std::memory_order_relaxed)) {
      const Position now = reader_.wait(known_, kStopInterval);
      if (now == known_) continue;
      known_ = now;
      const std::uint64_t one = 1;
      while (::write(event_.get(), &one, sizeof one) < 0 && errno == EINTR) {
      }
    }
  }

  OwnFd event_;
  Reader reader_;
  Position known_;
  Maker maker_;
  std::atomic<bool> must_stop_{false};
  Notifier* next_abandoned_ = nullptr;
  pthread_t thread_{};
};

}  // namespace

struct Watch::Impl {
  Impl(std::string_view instance, std::string_view wanted, const Position& since, const ReaderOptions& wanted_options)
      : options(wanted_options), reader(instance, options), prefix(wanted), known(since) {}
  ~Impl() { leave_to_parent(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void leave_to_parent() noexcept {
    if (notifier && notifier->is_forked()) Notifier::abandon(std::move(notifier));
  }

  /// The state of one epoch; nothing when none was available before the deadline. The merger may reclaim a buffer
  /// before all of it was read: then reading continues in the next one, and what changed meanwhile comes from the feed.
  [[nodiscard]] std::optional<WatchBatch> complete_state(GapReason why, Clock::time_point deadline) {
    for (;;) {
      WatchBatch batch;
      batch.complete = true;
      batch.conflated = why != GapReason::kNone;
      batch.gap_reason = why;
      if (read_all(batch, deadline)) {
        std::stable_sort(batch.changes.begin(), batch.changes.end(),
                         [](const Change& a, const Change& b) { return a.epoch < b.epoch; });
        known = batch.position;
        return batch;
      }
      if (Clock::now() >= deadline) return std::nullopt;
    }
  }

  /// False when the deadline passed and nothing more could be read, or the feed lost track of what changed meanwhile.
  [[nodiscard]] bool read_all(WatchBatch& batch, Clock::time_point deadline) {
    std::uint64_t page = 0;
    if (read_some(batch, page)) return true;
    const Position begun = batch.position;
    for (std::uint64_t from = page; !read_some(batch, page); from = page) {
      if (page == from && Clock::now() >= deadline) return false;
    }
    return catch_up(batch, begun);
  }

  /// Reads from a page on. False when the buffer was reclaimed; then `page` is where to continue.
  [[nodiscard]] bool read_some(WatchBatch& batch, std::uint64_t& page) {
    const Snapshot snapshot = reader.snapshot();
    batch.position = snapshot.position();
    try {
      for (auto entry = snapshot.begin_at(page); entry != snapshot.end(); ++entry) {
        page = entry.page();
        if (!entry->key.starts_with(prefix)) continue;
        Change change{.key = std::string(entry->key),
                      .kind = ChangeKind::kSet,
                      .epoch = entry->changed_epoch,
                      .value = entry->value.to_value()};
        if (snapshot.expired()) return false;
        batch.changes.push_back(std::move(change));
      }
      return true;
    } catch (const Error& error) {
      if (error.status() != Status::kExpired) throw;
      return false;
    }
  }

  /// Entries that were read in several epochs, some of them twice: brings them to one epoch. False when the feed does
  /// not reach back that far, or the instance was re-created meanwhile.
  [[nodiscard]] bool catch_up(WatchBatch& batch, const Position& begun) {
    Changes news = reader.changes(begun);
    if (news.gap) return false;
    std::unordered_map<std::string, Change> entries;
    for (std::vector<Change>* const part : {&batch.changes, &news.changes}) {
      for (Change& change : *part) {
        if (change.kind == ChangeKind::kSet && change.key.starts_with(prefix)) {
          std::string key = change.key;
          entries.insert_or_assign(std::move(key), std::move(change));
        } else {
          entries.erase(change.key);
        }
      }
    }
    batch.changes.clear();
    for (auto& [key, change] : entries) batch.changes.push_back(std::move(change));
    batch.position = news.position;
    return true;
  }

  ReaderOptions options;
  Reader reader;
  std::string prefix;
  Position known;  // up to which everything has been delivered
  std::unique_ptr<Notifier> notifier;
};

Watch::Watch(std::string_view instance, std::string_view prefix, ReaderOptions options)
    : Watch(instance, prefix, Position{}, options) {}
Watch::Watch(std::string_view instance, std::string_view prefix, const Position& since, ReaderOptions options)
    : impl_(std::make_unique<Impl>(instance, prefix, since, options)) {}
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&&) noexcept = default;
Watch::~Watch() = default;

WatchBatch Watch::next(nanoseconds timeout) {
  Impl& impl = *impl_;
  impl.leave_to_parent();
  if (impl.notifier) impl.notifier->clear();
  const auto deadline = Clock::now() + std::min<nanoseconds>(timeout, kTimeoutMax);
  const auto complete_state = [&](GapReason why) {
    return impl.complete_state(why, deadline).value_or(WatchBatch{.changes = {}, .position = impl.known});
  };
  if (impl.known == Position{}) return complete_state(GapReason::kNone);
  for (;;) {
    Changes news = impl.reader.changes(impl.known);
    if (news.gap) return complete_state(news.gap_reason);
    std::erase_if(news.changes, [&](const Change& change) { return !change.key.starts_with(impl.prefix); });
    const bool conflated = news.position.epoch > impl.known.epoch + 1;
    impl.known = news.position;
    const auto left = deadline - Clock::now();
    if (!news.changes.empty() || left <= nanoseconds::zero()) {
      return {.changes = std::move(news.changes), .position = news.position, .complete = false, .conflated = conflated};
    }
    impl.reader.wait(impl.known, left);
  }
}

int Watch::fd() {
  impl_->leave_to_parent();
  if (!impl_->notifier)
    impl_->notifier = std::make_unique<Notifier>(impl_->reader.path(), impl_->options, impl_->known);
  return impl_->notifier->fd();
}

}  // namespace shmstate
