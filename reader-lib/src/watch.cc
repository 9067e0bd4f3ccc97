#include "shmstate/watch.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "core/os.h"

namespace shmstate {
namespace {

using std::chrono::nanoseconds;

constexpr auto kStopInterval = std::chrono::milliseconds(100);

// Turns publishes into a readable descriptor. It has a reader of its own: readers belong to one thread.
class Notifier {
 public:
  Notifier(const std::string& instance, const ReaderOptions& options, Epoch known)
      : event_(os::move_up(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))), reader_(instance, options), known_(known) {
    if (!event_.is_open()) os::throw_errno("eventfd", errno);
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }

  [[nodiscard]] int fd() const noexcept { return event_.get(); }
  void clear() noexcept {
    std::uint64_t count = 0;
    while (::read(event_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const Epoch now = reader_.wait(known_, kStopInterval);
      const std::uint64_t instances = reader_.status().reattach_count;
      if (now == known_ && instances == instances_) continue;
      known_ = now;
      instances_ = instances;
      const std::uint64_t one = 1;
      while (::write(event_.get(), &one, sizeof one) < 0 && errno == EINTR) {
      }
    }
  }

  os::Fd event_;
  Reader reader_;
  Epoch known_;
  std::uint64_t instances_ = 0;  // that the reader went over to
  std::jthread thread_;          // last: it ends before what it uses
};

}  // namespace

struct Watch::Impl {
  Impl(std::string_view instance, std::string_view wanted, const ReaderOptions& wanted_options)
      : options(wanted_options), reader(instance, options), prefix(wanted) {}

  [[nodiscard]] WatchBatch complete_state() {
    WatchBatch batch;
    batch.complete = true;
    const Snapshot snapshot = reader.snapshot();
    snapshot.scan(prefix, [&](const EntryView& entry) {
      batch.changes.push_back({.key = std::string(entry.key),
                               .kind = ChangeKind::kSet,
                               .epoch = entry.changed_epoch,
                               .value = entry.value.to_value()});
    });
    std::stable_sort(batch.changes.begin(), batch.changes.end(),
                     [](const Change& a, const Change& b) { return a.epoch < b.epoch; });
    batch.epoch = known = snapshot.epoch();
    batch.conflated = std::exchange(has_gap, false);
    has_begun = true;
    return batch;
  }

  ReaderOptions options;
  Reader reader;
  std::string prefix;
  Epoch known = 0;
  bool has_begun = false;
  bool has_gap = false;  // since `known`, until the complete state closed it
  std::unique_ptr<Notifier> notifier;
};

Watch::Watch(std::string_view instance, std::string_view prefix, ReaderOptions options)
    : impl_(std::make_unique<Impl>(instance, prefix, options)) {}
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&&) noexcept = default;
Watch::~Watch() = default;

WatchBatch Watch::next(nanoseconds timeout) {
  if (impl_->notifier) impl_->notifier->clear();
  if (!impl_->has_begun) {
    static_cast<void>(impl_->reader.changes(0));  // so that a later call knows to which instance `known` belongs
    return impl_->complete_state();
  }
  const auto began = std::chrono::steady_clock::now();
  for (;;) {
    if (impl_->has_gap) return impl_->complete_state();
    Changes news = impl_->reader.changes(impl_->known);
    impl_->has_gap = news.gap;
    if (news.gap) continue;
    std::erase_if(news.changes, [this](const Change& change) { return !change.key.starts_with(impl_->prefix); });
    const bool conflated = news.epoch > impl_->known + 1;
    impl_->known = news.epoch;
    const auto left = timeout - (std::chrono::steady_clock::now() - began);
    if (!news.changes.empty() || left <= nanoseconds::zero()) {
      return {.changes = std::move(news.changes), .epoch = news.epoch, .complete = false, .conflated = conflated};
    }
    impl_->reader.wait(impl_->known, left);
  }
}

int Watch::fd() {
  if (!impl_->notifier)
    impl_->notifier = std::make_unique<Notifier>(impl_->reader.path(), impl_->options, impl_->known);
  return impl_->notifier->fd();
}

}  // namespace shmstate
