#include "shmstate/writer.h"

#include <algorithm>
#include <utility>

#include "files/errors.h"
#include "layout/record.h"
#include "writer/batching.h"

namespace shmstate {

using namespace internal;
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

Mutation make(Operation operation, std::string_view key, ValueView value) noexcept {
  Mutation mutation;
  mutation.operation = operation;
  mutation.key = key;
  mutation.value = value;
  return mutation;
}

/// What an inline push has in words.
Mutation make(std::uint8_t kind, std::string_view key, std::uint64_t bits, std::string_view bytes) noexcept {
  const ValueView value = visit_value(
      static_cast<Type>(kind >> 4), [bits] { return bits; }, [](auto number) { return ValueView(number); },
      [bytes] { return ValueView(bytes); }, ValueView());
  return make(static_cast<Operation>(kind & 0xf), key, value);
}

Mutation make_set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  Mutation mutation = make(Operation::kSet, key, value);
  if (options.ttl != nanoseconds::zero()) {
    mutation.flags |= kWithTtl;
    mutation.ttl_ns = static_cast<std::uint64_t>(options.ttl.count());
  }
  if (options.ephemeral) mutation.flags |= kEphemeral;
  if (options.version) {
    mutation.flags |= kWithVersion;
    mutation.version = *options.version;
  }
  return mutation;
}

Mutation make_erase(std::string_view key, std::uint64_t version) noexcept {
  Mutation mutation = make(Operation::kErase, key, {});
  mutation.flags |= kWithVersion;
  mutation.version = version;
  return mutation;
}

}  // namespace

struct SHMSTATE_LOCAL Writer::Impl : Batching {
  using Batching::Batching;

  [[nodiscard]] Status push(Mutation mutation) noexcept {
    Status status = check_for_ring(mutation);
    if (status == Status::kOk) {
      // What must ask may find itself in another ring, or be retained: then ids mean nothing.
      const bool must_ask = !conflation.empty() || !pusher.may_push(record_bytes(mutation));
      if (must_ask) mutation.flags &= static_cast<std::uint8_t>(~kById);
      status = write_in_order(record_bytes(mutation), 1, [&](std::byte* at) { encode_record(at, mutation, 0); });
      if (must_conflate(status)) status = conflate({&mutation, 1});
    }
    return status == Status::kOk ? status : fail_or_retry(status, mutation);
  }
  [[nodiscard, gnu::noinline, gnu::cold]] Status fail_or_retry(Status status, const Mutation& mutation) noexcept {
    return has_reopened(status) ? push(mutation) : fail(status, 1);
  }

  /// Waits for the position in this ring that a ticket means.
  [[nodiscard]] Status wait_for_ticket(Ticket ticket, nanoseconds timeout) noexcept;
  [[nodiscard]] Status report() noexcept;
};

// ---- the verbs

template <typename Self>
Status Verbs<Self>::set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  return self().push(make_set(key, value, options));
}
template <typename Self>
Status Verbs<Self>::erase(std::string_view key, std::uint64_t version) noexcept {
  return self().push(make_erase(key, version));
}

template <typename Self>
Status Verbs<Self>::set(Key& key, ValueView value, const SetOptions& options) noexcept {
  return self().push(make_set(key.bytes(), value, options), &key);
}
template <typename Self>
Status Verbs<Self>::erase(Key& key, std::uint64_t version) noexcept {
  return self().push(make_erase(key.bytes(), version), &key);
}

inline Status Writer::push(Mutation mutation, Key* bound) noexcept {
  if (bound != nullptr) impl_->name(mutation, *bound);
  return impl_->push(mutation);
}
inline Status Batch::push(Mutation mutation, Key* bound) noexcept {
  auto& writer = static_cast<Writer::Impl&>(*open_->writer);
  if (bound != nullptr) writer.name(mutation, *bound);
  return writer.add_to_batch(number_, mutation);
}

template class Verbs<Writer>;
template class Verbs<Batch>;

Status Writer::push_asking(std::uint8_t kind, std::string_view key, std::uint64_t bits,
                           std::string_view bytes) noexcept {
  return push(make(kind, key, bits, bytes));
}
Status Writer::push_asking(std::uint8_t kind, Key& key, std::uint64_t bits, std::string_view bytes) noexcept {
  return push(make(kind, key.bytes(), bits, bytes), &key);
}
Status Batch::push_asking(std::uint8_t kind, std::string_view key, std::uint64_t bits,
                          std::string_view bytes) noexcept {
  return push(make(kind, key, bits, bytes));
}
Status Batch::push_asking(std::uint8_t kind, Key& key, std::uint64_t bits, std::string_view bytes) noexcept {
  return push(make(kind, key.bytes(), bits, bytes), &key);
}
Status Writer::wake_merger() noexcept {
  impl_->wake_merger();
  return Status::kOk;  // it was pushed
}

// ---- Writer

Writer::Writer(std::string_view instance, WriterOptions options)
    : impl_(std::make_unique<Impl>(instance, std::move(options))), pusher_(&impl_->pusher) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&& other) noexcept {
  Writer taken(std::move(other));
  impl_.swap(taken.impl_);  // what was here goes with `taken`, as any writer goes
  std::swap(pusher_, taken.pusher_);
  return *this;
}
Writer::~Writer() {
  const bool must_push = impl_ && !impl_->conflation.empty() && impl_->maker.is_this_process();
  if (must_push) static_cast<void>(impl_->flush_conflated(impl_->options.full_timeout));
}

Batch Writer::batch() {
  const std::uint64_t number = impl_->begin_batch();
  if (number == 0) throw error_of(InstanceError::kBatchOpen, impl_->control.path());
  return {impl_->open_batch, number};
}

Ticket Writer::ticket() const noexcept { return impl_->ticket(); }

Status Writer::flush(nanoseconds timeout) noexcept {
  const auto began = Clock::now();
  if (const Status status = impl_->check_place(); status != Status::kOk) return status;
  if (!impl_->conflation.empty()) {
    if (const Status pushed = impl_->flush_conflated(timeout); pushed != Status::kOk) return pushed;
  }
  return flush(ticket(), left_of(timeout, began));
}

Status Writer::flush(Ticket ticket, nanoseconds timeout) noexcept {
  if (const Status status = impl_->check_place(); status != Status::kOk) return status;
  const Status failure = impl_->first_failure;
  const Status waited = impl_->wait_for_ticket(ticket, timeout);
  if (impl_->has_reopened(waited)) impl_->first_failure = failure;  // that something is lost is what we say now
  return waited == Status::kOk ? impl_->report() : waited;
}

Status Writer::Impl::wait_for_ticket(Ticket ticket, nanoseconds timeout) noexcept {
  const bool is_lost = std::any_of(earlier.lost.begin(), earlier.lost.end(),
                                   [&](const Lost& lost) { return ticket > lost.begin && ticket <= lost.end; });
  if (is_lost) return Status::kNoInstance;
  if (ticket <= earlier.end) return Status::kOk;
  return wait_for_head(timeout, [&](std::uint64_t head) { return head >= ticket - earlier.end; });
}

Status Writer::Impl::report() noexcept {
  const Status failure = std::exchange(first_failure, Status::kOk);
  if (failure != Status::kOk) return failure;  // a rejection is left for the next flush
  const std::uint64_t rejected_now = rejected_in_all();
  return std::exchange(rejected_reported, rejected_now) == rejected_now ? Status::kOk : Status::kRejected;
}

WriterStatus Writer::status() noexcept {
  WriterStatus status{.reopen_count = impl_->reopen_count, .ring = impl_->check_place_now()};
  if (status.ring == Status::kForked) return status;
  if (status.ring == Status::kOk) status.ring = impl_->verdict();
  status.merger_running = impl_->control.merger_running();
  status.instance_gone = impl_->place == Status::kNoInstance;
  return status;
}

WriterCounters Writer::counters() const noexcept {
  WriterCounters counters = impl_->counters;
  counters.pushed = impl_->pushed_in_all();
  counters.applied = impl_->applied_in_all();
  counters.rejected = impl_->rejected_in_all();
  counters.unnamed = impl_->earlier.unnamed + impl_->names.unnamed_count;
  return counters;
}

std::uint64_t Writer::rejected(Status reason) const noexcept {
  switch (reason) {
    case Status::kWrongType: return impl_->rejected_in_all(layout::Reject::kWrongType);
    case Status::kOutOfRange: return impl_->rejected_in_all(layout::Reject::kOutOfRange);
    case Status::kNoMemory: return impl_->rejected_in_all(layout::Reject::kNoMemory);
    case Status::kLimit: return impl_->rejected_in_all(layout::Reject::kLimit);
    case Status::kMutationTooBig: return impl_->rejected_in_all(layout::Reject::kBatchTooBig);
    case Status::kUnknown: return impl_->rejected_in_all(layout::Reject::kUnknown);
    case Status::kCrowded: return impl_->rejected_in_all(layout::Reject::kCrowded);
    default: return 0;
  }
}

std::uint64_t Writer::batch_max() const noexcept { return impl_->batch_max(); }
const std::string& Writer::path() const noexcept { return impl_->path; }
std::uint64_t Writer::ring_id() const noexcept { return impl_->ring.id(); }

// ---- Batch

Batch::Batch(Batch&&) noexcept = default;
Batch::~Batch() {
  if (open_ != nullptr && open_->writer != nullptr) open_->writer->discard_batch(number_);
}

Status Batch::commit() noexcept { return open_->writer->commit_batch(number_); }

}  // namespace shmstate
