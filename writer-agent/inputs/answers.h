// What a connection is told about its lines, and what of it its peer has not taken yet.
#pragma once

#include <string>
#include <string_view>

#include "lines/session.h"

namespace shmstate::agent {

class Answers {
 public:
  /// `answers_lines`: each line, or batch, is answered; otherwise only a `flush`.
  explicit Answers(bool answers_lines) : answers_lines_(answers_lines) {}

  /// To a line; `problem` says what is wrong with it, if anything is.
  void add(const Verdict& verdict, std::string_view problem);
  /// To a `flush`; `lost_lines` are those refused since the last one, or empty.
  void add_flush(Status status, std::string_view lost_lines);
  /// Sends what the peer takes without waiting.
  void send(int fd);

  [[nodiscard]] bool empty() const noexcept { return text_.empty(); }
  [[nodiscard]] bool has_too_many() const noexcept { return text_.size() > kBytesMax; }

 private:
  void add_ok() { text_ += "ok\n"; }
  void add_error(std::string_view problem) { text_.append("error: ").append(problem) += '\n'; }

  static constexpr std::size_t kBytesMax = std::size_t{64} << 10;

  bool answers_lines_;
  bool is_deaf_ = false;  // the peer no longer takes answers
  std::string text_;
};

}  // namespace shmstate::agent
