#include "writer-agent/session.h"

#include <utility>

#include "core/record.h"

namespace shmstate::agent {
namespace {

std::string why_refused(Status status) {
  if (status == Status::kTimeout || status == Status::kRingFull) {
    return "refused: the ring is full; the merger is down, or too slow for this flood";
  }
  return "refused: " + std::string(describe(status));
}

}  // namespace

Verdict Session::handle(const Line& line) {
  ++tally_->lines;
  line_number_ = line.number;
  if (line.is_too_long) return bad_line(describe(LineError::kLineTooLong));
  const ParsedLine parsed = parse_line(line.text, *scratch_);
  if (parsed.error != LineError::kNone) return bad_line(describe(parsed.error));
  return run(parsed.command);
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
  const Status status = sink_->push(mutation);
  if (status != Status::kOk) return refuse(status, 1);
  ++tally_->mutations;
  return {.answer = Answer::kOk};
}

Verdict Session::collect(const Command& mutation) {
  if (!batch_spoiled_.empty()) return {};
  batch_.append(mutation);
  const std::uint64_t batch_max = sink_->batch_max();
  if (!is_batch_allowed(batch_.count(), batch_.ring_bytes(), batch_max)) {
    return bad_line("the batch is larger than the " + std::to_string(batch_max) +
                    " mutations, of 512 bytes each, that the merger allows; make it smaller, or raise its --batch-max");
  }
  if (batch_.ring_bytes() <= batch_bytes_max_) return {};
  return bad_line("the batch is bigger than the ring; make it smaller, or raise --ring-size");
}

Verdict Session::begin() {
  if (in_batch_) return bad_line("begin inside a batch; commit or abort the first one");
  in_batch_ = true;
  batch_line_number_ = line_number_;
  return {};
}

Verdict Session::commit() {
  if (!in_batch_) return bad_line("commit without begin");
  if (!batch_spoiled_.empty()) {
    ++tally_->discarded_batches;
    const std::string reason = std::move(batch_spoiled_);
    close_batch();
    return fail("the batch is discarded: " + reason);
  }
  const std::size_t count = batch_.count();
  const Status status = count == 0 ? Status::kOk : sink_->push_batch(batch_);
  close_batch();
  if (status != Status::kOk) return refuse(status, count);
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

/// A bad line inside a batch spoils the batch; the source is told when it commits.
Verdict Session::bad_line(std::string_view reason) {
  ++tally_->bad_lines;
  Verdict verdict = fail(std::string(reason));
  if (in_batch_) {
    if (batch_spoiled_.empty()) batch_spoiled_ = "line " + std::to_string(line_number_) + ": " + problem_;
    batch_.clear();
    verdict.answer = Answer::kNone;
  }
  return verdict;
}

Verdict Session::refuse(Status status, std::size_t mutation_count) {
  tally_->refused_mutations += mutation_count;
  Verdict verdict = fail(why_refused(status));
  verdict.is_ring_full = status == Status::kTimeout;
  return verdict;
}

Verdict Session::fail(std::string problem) {
  problem_ = std::move(problem);
  return {.answer = Answer::kError, .is_problem = true};
}

void Session::close_batch() {
  in_batch_ = false;
  batch_spoiled_.clear();
  batch_.clear();
}

}  // namespace shmstate::agent
