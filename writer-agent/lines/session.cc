#include "lines/session.h"

#include <utility>

#include "support/escape.h"

namespace shmstate::agent {
namespace {

constexpr std::size_t kProblemBytes = 400;  // of the first line that was lost, as it is told

std::string why_refused(Status status) {
  if (status == Status::kTimeout || status == Status::kRingFull) {
    return "refused: the ring is full; the merger is down, or too slow for this flood";
  }
  return "refused: " + std::string(describe(status));
}

std::string at_line(std::uint64_t number, std::string_view problem) {
  return "line " + std::to_string(number) + ": " + std::string(problem);
}

std::string_view first_key(const PendingBatch& batch) {
  std::string_view first;
  batch.for_each([&](const Command& mutation) {
    if (first.empty()) first = mutation.key;
  });
  return first;
}

}  // namespace

void LostLines::add(std::uint64_t count, std::uint64_t line_number, std::string_view problem) {
  if (count_ == 0) first_ = at_line(line_number, problem.substr(0, kProblemBytes));
  count_ += count;
}

std::string LostLines::take() {
  if (count_ == 0) return {};
  const std::string count = std::to_string(std::exchange(count_, 0));
  return count + (count == "1" ? " line" : " lines") + " refused since the last flush, first: " + first_;
}

const LineRules Session::kNoRules{};

Verdict Session::handle(const Line& line) {
  ++tally_->lines;
  line_number_ = line.number;
  line_ = line.text;
  if (line.is_utf16) return bad_line(describe(LineError::kUtf16));
  if (line.is_too_long) return bad_line(describe(LineError::kLineTooLong));
  const ParsedLine parsed = parse_line(line.text, *scratch_, *rules_);
  if (parsed.error != LineError::kNone) return bad_line(describe(parsed.error));
  return run(parsed.command);
}

Verdict Session::refuse_own_ring(const Line& line, std::string_view reason) {
  ++tally_->lines;
  line_number_ = line.number;
  line_ = line.text;
  const std::string problem = "no ring for ephemeral keys: " + std::string(reason);
  if (in_batch_) return discard(problem);
  ++tally_->refused_mutations;
  lost_lines_.add(1, line_number_, problem);
  return fail(problem);
}

bool Session::end() {
  if (!in_batch_) return false;
  problem_ = "the batch begun in line " + std::to_string(batch_line_number_) +
             " is discarded: its source ended without commit";
  ++tally_->discarded_batches;
  close_batch();
  return true;
}

Verdict Session::run(const Command& command) {
  if (command.options.ephemeral && own_ring_ == OwnRing::kNever) {
    return bad_line("only the keys of a connection can be ephemeral; use ttl=");
  }
  switch (command.verb) {
    case Verb::kNothing: return {};
    case Verb::kSet:
    case Verb::kAdd:
    case Verb::kErase: return in_batch_ ? collect(command) : push(command);
    case Verb::kBegin: return begin();
    case Verb::kCommit: return commit();
    case Verb::kAbort: return abort();
    case Verb::kFlush: return flush();
  }
  return {};
}

Verdict Session::push(const Command& mutation) {
  if (mutation.options.ephemeral && own_ring_ != OwnRing::kHas) return again_with_own_ring();
  const Status status = sink_->push(mutation);
  if (status != Status::kOk) return refuse("key " + excerpt(mutation.key), status, 1);
  ++tally_->mutations;
  return {.answer = Answer::kOk};
}

Verdict Session::collect(const Command& mutation) {
  if (batch_spoiled_.empty()) {
    if (mutation.options.ephemeral) is_batch_ephemeral_ = true;
    batch_.append(mutation);
    if (const std::string problem = why_too_big(); !problem.empty()) return bad_line(problem);
  }
  ++batch_mutation_count_;
  return {};
}

std::string Session::why_too_big() const {
  const std::uint64_t batch_max = sink_->batch_max();
  if (!is_batch_allowed(batch_.count(), batch_.ring_bytes(), batch_max)) {
    return "the batch is larger than the " + std::to_string(batch_max) + " mutations, of " +
           std::to_string(kBatchBytesPerMutation) +
           " bytes each, that the merger allows; make it smaller, or raise its --batch-max";
  }
  if (batch_.ring_bytes() <= batch_bytes_max_) return {};
  return "the batch is bigger than the ring; make it smaller, or raise --ring-size";
}

Verdict Session::begin() {
  if (in_batch_) return bad_line("begin inside a batch; commit or abort the first one");
  in_batch_ = true;
  batch_line_number_ = line_number_;
  return {};
}

Verdict Session::commit() {
  if (!in_batch_) return bad_line("commit without begin");
  if (!batch_spoiled_.empty()) return discard(batch_spoiled_);
  if (is_batch_ephemeral_ && own_ring_ != OwnRing::kHas) return again_with_own_ring();
  const std::size_t count = batch_.count();
  const Status status = count == 0 ? Status::kOk : sink_->push_batch(batch_);
  const std::string what = status == Status::kOk ? "" : "batch with key " + excerpt(first_key(batch_));
  close_batch();
  if (status != Status::kOk) return refuse(what, status, count);
  tally_->mutations += count;
  ++tally_->batches;
  return {.answer = Answer::kOk};
}

Verdict Session::abort() {
  if (!in_batch_) return bad_line("abort without begin");
  close_batch();
  return {.answer = Answer::kOk};
}

Verdict Session::flush() {
  if (!in_batch_) return {.answer = Answer::kFlushWhenReadable};
  Verdict verdict = bad_line("flush inside a batch; commit or abort it first");
  verdict.answer = Answer::kFlushError;
  return verdict;
}

/// The line is not counted: it comes once more.
Verdict Session::again_with_own_ring() {
  --tally_->lines;
  return {.answer = Answer::kAgainWithOwnRing};
}

/// A bad line inside a batch spoils the batch; the source is told when it commits.
Verdict Session::bad_line(std::string_view reason) {
  ++tally_->bad_lines;
  Verdict verdict = fail(std::string(reason) + ", in " + excerpt(line_));
  lost_lines_.add(1, line_number_, problem_);
  if (in_batch_) {
    if (batch_spoiled_.empty()) batch_spoiled_ = at_line(line_number_, problem_);
    batch_.clear();
    verdict.answer = Answer::kNone;
  }
  return verdict;
}

Verdict Session::discard(const std::string& reason) {
  ++tally_->discarded_batches;
  Verdict verdict = fail("the batch is discarded: " + reason);
  if (batch_mutation_count_ > 0) lost_lines_.add(batch_mutation_count_, line_number_, problem_);
  close_batch();
  return verdict;
}

Verdict Session::refuse(const std::string& what, Status status, std::size_t mutation_count) {
  tally_->refused_mutations += mutation_count;
  Verdict verdict = fail(what + " " + why_refused(status));
  lost_lines_.add(mutation_count, line_number_, problem_);
  verdict.is_ring_full = status == Status::kTimeout;
  return verdict;
}

Verdict Session::fail(std::string problem) {
  problem_ = std::move(problem);
  return {.answer = Answer::kError, .is_problem = true};
}

void Session::close_batch() {
  in_batch_ = false;
  is_batch_ephemeral_ = false;
  batch_mutation_count_ = 0;
  batch_spoiled_.clear();
  batch_.clear();
}

}  // namespace shmstate::agent
