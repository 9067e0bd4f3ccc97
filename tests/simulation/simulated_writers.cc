// The writers of the simulation: what they push, and what of it counts as accepted.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "simulation/simulation.h"

namespace shmstate::test {
namespace {

constexpr std::uint64_t kGrownMax = 4000;  // entries: several segments, far below the memory limit

}  // namespace

using namespace std::chrono_literals;

Producer* Simulation::idle_producer(bool open) {
  const std::size_t first = dice_.below(producers_.size());
  for (std::size_t i = 0; i < producers_.size(); ++i) {
    Producer& producer = producers_[(first + i) % producers_.size()];
    if (producer.writer.has_value() == open && !producer.is_busy) return &producer;
  }
  return nullptr;
}

void Simulation::open(Producer& producer) {
  if (logs_.size() > 2 * kRingsMax) return;
  WriterOptions options = ring_of(kRingBytesMin, WhenFull::kFail);
  options.name = "simulated";
  options.full_timeout = 2ms;
  options.shared = producer.kind == Producer::Kind::kShared;
  if (producer.kind == Producer::Kind::kConflating) options.when_full = WhenFull::kConflate;
  if (producer.kind == Producer::Kind::kBlocking) options.when_full = WhenFull::kBlock;
  if (dice_.chance(20)) options.names_bytes = dice_.below(2) * 4096;
  producer.is_busy = true;
  perform(&producer, false, [&] {
    producer.writer.emplace(path(), options);
    const std::filesystem::path rings = rings_path(path());
    producer.ring = RingFile::open(rings, producer.writer->ring_id(), control_->geometry().instance_id);
    expect(producer.ring.has_value(), "a new ring's file is gone");
    logs_.try_emplace(producer.writer->ring_id());
  });
  producer.is_busy = false;
}

void Simulation::close(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return;  // until the end of the schedule: it must not lose anything
  producer.end();
  producer.ring.reset();
}

// The tail has moved: what lies before it will be merged, whatever happens to its writer.
void Simulation::accept(Producer& producer) {
  const RingFile& ring = *producer.ring;
  RingLog& log = logs_.at(ring.id());
  const std::uint64_t tail = ring.header().tail.load(std::memory_order_acquire);
  std::vector<Pushed> seen;
  while (log.accepted_end < tail) {
    RecordView record;
    if (!parse_record(ring.at(log.accepted_end), tail - log.accepted_end, record)) return fail("a malformed record");
    Mutation mutation = record.mutation();
    if ((mutation.flags & kById) != 0) mutation.key = ring.names().name_of(mutation.id);
    const std::optional<std::size_t> key = index_of(mutation.key);
    if (!key) return fail("a key that nobody pushed");
    seen.push_back(Pushed::of(mutation, *key));
    log.accepted_end += record.bytes;
    log.accepted.push_back(
        {.pushed = seen.back(), .end = log.accepted_end, .is_followed = (record.flags & kBatchContinues) != 0});
  }
  expect(producer.kind == Producer::Kind::kConflating || seen == producer.intended,
         "what was pushed is not in the ring");
  producer.was_accepted = true;
}

Pushed Simulation::random_mutation(const Producer& producer) {
  static constexpr std::array kOperations{Operation::kSet, Operation::kSet, Operation::kSet, Operation::kErase,
                                          Operation::kAdd, Operation::kAdd, Operation::kMax, Operation::kMin};
  Pushed pushed;
  pushed.operation = kOperations[dice_.below(kOperations.size())];
  pushed.key = dice_.below(kCommonKeys);
  const bool is_set = pushed.operation == Operation::kSet;
  const auto number = static_cast<std::int64_t>(dice_.below(100)) - 50;
  Value value = number;
  if (dice_.chance(15)) value = static_cast<double>(number);
  if (dice_.chance(3)) value = std::copysign(std::numeric_limits<double>::infinity(), static_cast<double>(number));
  if (is_set && dice_.chance(1)) value = std::numeric_limits<double>::quiet_NaN();
  if (is_set && dice_.chance(20)) value = Content{Type::kBytes, dice_.word(), dice_.below(200)}.to_value();
  if (pushed.operation != Operation::kErase) pushed.content = Content::of(ValueView(value));
  if (is_set && dice_.chance(20)) {
    pushed.flags |= kWithTtl;
    pushed.ttl_ns = dice_.between(1, 40) * 1'000'000;
  }
  if (is_set && producer.kind != Producer::Kind::kShared && dice_.chance(20)) pushed.flags |= kEphemeral;
  if ((is_set || pushed.operation == Operation::kErase) && dice_.chance(20)) {
    pushed.flags |= kWithVersion;
    pushed.version = std::max<std::uint64_t>(++last_version_, 8) - dice_.below(8);
  }
  return pushed;
}

namespace {

/// Does to a writer or a batch, with a key's bytes or a bound key, what is to be pushed.
template <typename To, typename K>
Status push_to(To& to, K& key, const Pushed& pushed) {
  const Value value = pushed.content.to_value();
  const SetOptions options{.ttl = nanoseconds(pushed.ttl_ns),
                           .ephemeral = pushed.has(kEphemeral),
                           .version = pushed.has(kWithVersion) ? std::optional(pushed.version) : std::nullopt};
  switch (pushed.operation) {
    case Operation::kSet: return pushed.flags != 0 ? to.set(key, value, options) : to.set(key, value);
    case Operation::kErase: return pushed.has(kWithVersion) ? to.erase(key, pushed.version) : to.erase(key);
    case Operation::kAdd: return to.add(key, value);
    case Operation::kMax: return to.max(key, value);
    case Operation::kMin: return to.min(key, value);
  }
  return Status::kOk;
}

}  // namespace

template <typename To>
Status Simulation::push_one(Producer& producer, To& to, const Pushed& pushed) {
  if (pushed.key == kGrowing) return to.set(growing_key(pushed.content.bits), pushed.content.to_value());
  if (dice_.chance(60)) return push_to(to, producer.bound[pushed.key], pushed);
  return push_to(to, keys()[pushed.key], pushed);
}

// Accepted or not, and nothing between; a writer that died is gone.
void Simulation::check_push(Producer& producer, Status status, bool lived) {
  producer.is_busy = false;
  if (!lived) {
    producer.end();
    producer.ring.reset();
    return;
  }
  if (producer.kind == Producer::Kind::kConflating) return;
  expect((status == Status::kOk) == producer.was_accepted, "a push that lies about whether it was accepted");
  expect(status == Status::kOk || status == Status::kRingFull || status == Status::kTimeout ||
             status == Status::kRingRefused,
         "a push that fails for no good reason");
}

void Simulation::push(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  const Pushed pushed = random_mutation(producer);
  producer.intended = {pushed};
  producer.was_accepted = false;
  producer.is_busy = true;
  Status status = Status::kOk;
  const bool lived = perform(&producer, true, [&] { status = push_one(producer, *producer.writer, pushed); });
  check_push(producer, status, lived);
}

void Simulation::push_conflated(Producer& producer) {
  producer.is_busy = true;
  perform(&producer, false, [&] {
    for (std::uint64_t n = dice_.between(1, 20); n > 0; --n) {
      producer.batch.reset();
      Batch& batch = producer.batch.emplace(producer.writer->batch());
      const auto delta = static_cast<std::int64_t>(dice_.below(10));
      expect(batch.add(producer.bound[kSum], delta) == Status::kOk, "an add to a batch");
      expect(batch.set(producer.bound[kLast], producer.last + 1) == Status::kOk, "a set in a batch");
      const Status status = batch.commit();
      if (status == Status::kRingRefused) return;
      expect(status == Status::kOk, "a push of a writer that conflates");
      producer.sum += delta;
      ++producer.last;
    }
  });
  producer.is_busy = false;
}

void Simulation::push_batch(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  producer.intended.clear();
  const std::uint64_t count = dice_.chance(10) ? dice_.between(60, 140) : dice_.between(2, 6);
  while (producer.intended.size() < count) producer.intended.push_back(random_mutation(producer));
  commit_intended(producer);
}

void Simulation::commit_intended(Producer& producer) {
  producer.was_accepted = false;
  producer.is_busy = true;
  Status status = Status::kOk;
  const bool lived = perform(&producer, true, [&] {
    producer.batch.reset();
    Batch& batch = producer.batch.emplace(producer.writer->batch());
    for (const Pushed& pushed : producer.intended) {
      expect(push_one(producer, batch, pushed) == Status::kOk, "an add to a batch");
    }
    status = batch.commit();
  });
  check_push(producer, status, lived);
}

void Simulation::flood(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  for (std::uint64_t n = dice_.between(1, 10); n > 0 && producer.writer && failure_.empty(); --n) {
    const Content content{Type::kBytes, dice_.word(), dice_.between(1'000, 14'000)};
    Pushed pushed;
    pushed.key = dice_.below(kCommonKeys);
    pushed.content = content;
    producer.intended = {pushed};
    producer.was_accepted = false;
    producer.is_busy = true;
    Status status = Status::kOk;
    const bool lived = perform(&producer, true, [&] { status = push_one(producer, *producer.writer, pushed); });
    check_push(producer, status, lived);
  }
}

void Simulation::grow(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating || grown_pushed_ > kGrownMax) return push(producer);
  producer.intended.clear();
  for (std::uint64_t n = dice_.between(10, 200); n > 0; --n) {
    Pushed& pushed = producer.intended.emplace_back();
    pushed.key = kGrowing;
    pushed.content = {Type::kInt64, grown_pushed_++, 0};
  }
  commit_intended(producer);
}

void Simulation::flush(Producer& producer) {
  producer.is_busy = true;
  Status status = Status::kOk;
  Ticket ticket = 0;
  const std::uint64_t id = producer.writer->ring_id();
  const bool lived = perform(&producer, false, [&] {
    ticket = producer.writer->ticket();
    status = producer.writer->flush(ticket, nanoseconds(dice_.below(4) * 1'000'000));
  });
  producer.is_busy = false;
  const bool is_merged = status != Status::kTimeout && status != Status::kRingRefused;
  if (!lived || !is_merged) return;
  const auto log = logs_.find(id);
  expect(log != logs_.end() && log->second.published.cursor >= ticket, "a flush that returned too early");
}

}  // namespace shmstate::test
