#include "inputs/input.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace shmstate::agent {

Input::Input(InputContext& context, std::string name)
    : context_(&context),
      name_(std::move(name)),
      session_(context.sink, context.tally, context.scratch, context.batch_bytes_max) {}

Input::~Input() {
  context_->loop.forget(*this);
  context_->flusher.forget(this);
}

void Input::start() {
  if (!is_watchable()) context_->loop.call_again(*this);
  update_interest();
}

void Input::on_events(std::uint32_t /*events*/) {
  send_answers();
  take_turn();
  send_answers();
  end_when_done();
  update_interest();
}

void Input::on_flushed(Status status) {
  const Awaited awaited = std::exchange(awaited_, Awaited::kNothing);
  if (awaited == Awaited::kFlush) {
    finish_flush(status);
    if (status != Status::kOk) report("flush: " + std::string(describe(status)));
  }
  if (awaited == Awaited::kOwnRing) postponed_->flushed = status;
  context_->loop.call_again(*this);
}

bool Input::is_drained() const noexcept {
  return has_ended_ || (held_.empty() && !postponed_ && !is_waiting() && (bytes_left_ == 0 || is_at_end_));
}

void Input::abandon() {
  send_answers();
  if (splitter_.drop_unfinished()) report("the last line is discarded: it has no newline yet");
  if (postponed_) report("an ephemeral line is discarded: what came before it is not merged yet");
  postponed_.reset();
  end_session();
}

void Input::settle_own_ring(std::chrono::milliseconds timeout) {
  if (own_ring_ == nullptr) return;
  const Status status = own_ring_->wait(timeout);
  const std::uint64_t rejected = own_ring_->rejected();
  if (status != Status::kOk && status != Status::kRejected) report("its own ring: " + std::string(describe(status)));
  if (rejected > 0) report("the merger has rejected " + std::to_string(rejected) + " mutations of its own ring");
  context_->tally.rejected_mutations += rejected;
  if (is_ring_loss(status)) ++context_->tally.lost_rings;
  own_ring_.reset();
}

void Input::send_answers() {
  if (answers_) answers_->send(fd());
}

/// Handles what was held back, or one chunk.
void Input::take_turn() {
  if (has_ended_ || is_paused()) return;
  if (postponed_) {
    take_postponed();
  } else if (held_.empty()) {
    read_chunk();
  } else {
    take_held();
  }
}

void Input::read_chunk() {
  const std::span<char> buffer = context_->read_buffer;
  const auto bytes_wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), bytes_left_));
  if (is_at_end_ || bytes_wanted == 0) return;
  const ssize_t count = read_some(buffer.first(bytes_wanted));
  if (count > 0) {
    if (is_draining()) bytes_left_ -= static_cast<std::uint64_t>(count);
    take({buffer.data(), static_cast<std::size_t>(count)});
    if (is_always_ready_ || reads_until_empty()) context_->loop.call_again(*this);
    return;
  }
  if (count < 0 && errno == EINTR) return;
  if (count == 0 && is_draining() && go_on_after_end()) return;
  if (is_draining()) bytes_left_ = 0;
  if (count < 0 && errno == EAGAIN) return;
  if (count < 0 && errno != ECONNRESET) report("cannot read: " + std::generic_category().message(errno));
  on_end_of_stream();
}

void Input::take(std::string_view bytes) {
  const std::size_t used = splitter_.feed(bytes, [this](const Line& line) { return handle(line); });
  if (used == bytes.size()) return;
  held_.assign(bytes.substr(used));
  context_->loop.call_again(*this);
}

void Input::take_held() {
  const std::string_view rest = std::string_view(held_).substr(held_used_);
  held_used_ += splitter_.feed(rest, [this](const Line& line) { return handle(line); });
  context_->loop.call_again(*this);
  if (held_used_ < held_.size()) return;
  held_.clear();
  held_.shrink_to_fit();
  held_used_ = 0;
}

/// Returns whether the next line may be handled at once.
bool Input::handle(const Line& line) { return follow(line, session_.handle(line)); }

bool Input::follow(const Line& line, const Verdict& verdict) {
  if (verdict.is_problem) context_->reporter.bad_line(name_, line.number, session_.problem());
  switch (verdict.answer) {
    case Answer::kFlushWhenReadable: wait_for(Awaited::kFlush); break;
    case Answer::kAgainWithOwnRing: postpone(line); break;
    default:
      if (answers_) answers_->add(verdict, session_.problem());
  }
  return !is_paused() && !postponed_ && !verdict.is_ring_full;
}

void Input::wait_for(Awaited awaited) {
  const std::optional<Status> status =
      context_->flusher.flush(this, own_ring_.get(), [this](Status outcome) { on_flushed(outcome); });
  awaited_ = status ? Awaited::kNothing : awaited;
  if (!status) return;
  if (awaited == Awaited::kFlush) finish_flush(*status);
  if (awaited == Awaited::kOwnRing) postponed_->flushed = *status;
}

void Input::finish_flush(Status status) {
  const bool owes_rejection = std::exchange(owes_rejection_, false);
  if (!answers_) return;
  answers_->add_flush(status == Status::kOk && owes_rejection ? Status::kRejected : status,
                      session_.lost_lines().take());
}

/// Until readers can see what went through the common ring: between two rings, there is no order.
void Input::postpone(const Line& line) {
  postponed_ = {.text = std::string(line.text), .number = line.number, .flushed = Status::kTimeout};
  wait_for(Awaited::kOwnRing);
  context_->loop.call_again(*this);
}

void Input::take_postponed() {
  const Postponed postponed = std::move(*postponed_);
  postponed_.reset();
  const Line line{.text = postponed.text, .number = postponed.number};
  const std::string problem = open_own_ring(postponed.flushed);
  (void)follow(line, problem.empty() ? session_.handle(line) : session_.refuse_own_ring(line, problem));
  if (is_at_end_) end_session();
  context_->loop.call_again(*this);
}

/// Returns why not, or nothing.
std::string Input::open_own_ring(Status flushed) {
  if (flushed == Status::kRejected) owes_rejection_ = true;
  if (flushed != Status::kOk && flushed != Status::kRejected) {
    return "what came before is not merged: " + std::string(describe(flushed));
  }
  try {
    own_ring_ = std::make_unique<OwnRing>(context_->instance, context_->writer);
    session_.move_to_own_ring(own_ring_->sink());
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

void Input::finish_stream() {
  splitter_.finish([this](const Line& line) { return handle(line); });
  if (!postponed_) end_session();
}

void Input::end() {
  finish_stream();
  is_at_end_ = true;
}

void Input::start_new_stream() { splitter_ = LineSplitter{kLineBytesMax}; }

void Input::end_session() {
  if (session_.end()) report(session_.problem());
}

void Input::end_when_done() {
  if (has_ended_ || !is_at_end_ || is_waiting() || postponed_ || (answers_ && !answers_->empty())) return;
  if (own_ring_ != nullptr && !std::exchange(is_settled_, true)) wait_for(Awaited::kEnd);
  if (is_waiting()) return;
  settle_own_ring(std::chrono::milliseconds(0));
  has_ended_ = true;
  context_->has_ended_inputs = true;
}

bool Input::is_paused() const { return is_waiting() || (answers_ && answers_->has_too_many() && !is_draining()); }

std::uint32_t Input::wanted_events() const {
  if (has_ended_) return 0;
  const bool wants_to_read = !is_at_end_ && !is_paused() && held_.empty();
  return (wants_to_read ? std::uint32_t{EPOLLIN} : 0U) |
         (answers_ && !answers_->empty() ? std::uint32_t{EPOLLOUT} : 0U);
}

/// Stops watching a descriptor that nothing is wanted from: a hang-up would be reported again and again.
void Input::update_interest() {
  if (!is_watchable() || is_always_ready_ || !fd_.is_open()) return;
  const std::uint32_t wanted = wanted_events();
  if (wanted == interest_) return;
  interest_ = wanted;
  if (wanted == 0) {
    context_->loop.unwatch(fd_.get());
  } else if (!context_->loop.watch(fd_.get(), wanted, *this)) {
    is_always_ready_ = true;
    context_->loop.call_again(*this);
  }
}

void Input::set_fd(Fd fd) {
  if (fd_.is_open() && interest_ != 0) context_->loop.unwatch(fd_.get());
  interest_ = 0;
  fd_ = std::move(fd);
}

Fd Input::take_fd() {
  if (fd_.is_open() && interest_ != 0) context_->loop.unwatch(fd_.get());
  interest_ = 0;
  return std::move(fd_);
}

void Input::lose(std::uint64_t count, std::string_view what) {
  context_->tally.losses += count;
  report(what);
}

ssize_t Input::read_some(std::span<char> buffer) { return ::read(fd_.get(), buffer.data(), buffer.size()); }

std::uint64_t Input::readable_bytes() const {
  int count = 0;
  if (::ioctl(fd_.get(), FIONREAD, &count) != 0) return 0;
  return static_cast<std::uint64_t>(std::max(count, 0));
}

}  // namespace shmstate::agent
