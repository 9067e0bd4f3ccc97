#include "inputs/answers.h"

#include <sys/socket.h>

#include <cerrno>

#include "shmstate/status.h"

namespace shmstate::agent {

void Answers::add(const Verdict& verdict, std::string_view problem) {
  const bool is_wanted = answers_lines_ || verdict.answer == Answer::kFlushError;
  if (verdict.answer == Answer::kNone || !is_wanted || is_deaf_) return;
  if (verdict.answer == Answer::kOk) {
    add_ok();
  } else {
    add_error(problem);
  }
}

void Answers::add_flush(Status status, std::string_view lost_lines) {
  std::string problem = status == Status::kOk ? "" : std::string(describe(status));
  if (!lost_lines.empty()) problem.append(problem.empty() ? "" : "; ").append(lost_lines);
  if (is_deaf_) return;
  if (problem.empty()) {
    add_ok();
  } else {
    add_error(problem);
  }
}

void Answers::send(int fd) {
  if (text_.empty()) return;
  const ssize_t sent = ::send(fd, text_.data(), text_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) {
    text_.erase(0, static_cast<std::size_t>(sent));
  } else if (errno != EAGAIN && errno != EINTR) {
    is_deaf_ = true;
    text_.clear();
  }
}

}  // namespace shmstate::agent
