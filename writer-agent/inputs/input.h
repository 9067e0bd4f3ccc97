// A source of lines: reads chunks, cuts them, and hands the lines to its session, one chunk a turn.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flusher.h"
#include "inputs/answers.h"
#include "inputs/own_ring.h"
#include "lines/line_splitter.h"
#include "lines/session.h"
#include "reporter.h"
#include "support/event_loop.h"

namespace shmstate::agent {

class FollowedFile;
class Notifier;

/// What all inputs share.
struct InputContext {
  EventLoop& loop;
  Flusher& flusher;
  Reporter& reporter;
  MutationSink& sink;
  Tally& tally;
  Scratch& scratch;
  std::span<char> read_buffer;
  std::size_t batch_bytes_max = 0;
  Notifier& notifier;
  std::vector<FollowedFile*> followed_files;
  std::string instance;  ///< for rings of their own
  WriterOptions writer;
  bool has_ended_inputs = false;
  bool has_changed_names = false;  ///< of FIFOs and sockets
};

class Input : public EventHandler {
 public:
  ~Input() override;

  /// What is decided about its lines beforehand; the rules must outlive it.
  void set_rules(const LineRules& rules) noexcept { session_.set_rules(rules); }
  [[nodiscard]] const LineRules& rules() const noexcept { return session_.rules(); }
  void start();
  void on_events(std::uint32_t events) override;

  [[nodiscard]] bool has_ended() const noexcept { return has_ended_; }
  [[nodiscard]] bool is_connection() const noexcept { return answers_.has_value(); }
  /// Whether events say when to read; if not, the input wants a turn now and then.
  [[nodiscard]] virtual bool is_watchable() const { return true; }

  /// A few times a second: what no event tells.
  virtual void tick() {}
  /// Sees to it that its name still leads to it. Returns the input that follows on this one, which has lost its name.
  [[nodiscard]] virtual std::unique_ptr<Input> look_after_name() { return nullptr; }

  /// For shutdown: read no further than what is readable now.
  virtual void limit_to_readable() { bytes_left_ = readable_bytes(); }
  [[nodiscard]] bool is_drained() const noexcept;
  /// Discards a line without its newline and a batch without `commit`, and reports them.
  virtual void abandon();
  void look_after_own_ring() {
    if (own_ring_ != nullptr) own_ring_->look();
  }
  /// Waits until what it pushed through a ring of its own is merged, and reports what became of it.
  void settle_own_ring(std::chrono::milliseconds timeout);

 protected:
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

  Input(InputContext& context, std::string name);

  /// The stream has ended: its last line needs no newline, and its batch is discarded.
  void finish_stream();
  /// Nothing more comes from this input.
  void end();
  void start_new_stream();
  void skip_rest_of_line() { splitter_.skip_rest_of_line(); }
  [[nodiscard]] bool drop_unfinished_line() { return splitter_.drop_unfinished(); }
  void set_fd(Fd fd);
  [[nodiscard]] Fd take_fd();
  /// Something that could not be read is lost; `--strict` sees that.
  void lose(std::uint64_t count, std::string_view what);
  void report(std::string_view problem) { context_->reporter.problem(name_, problem); }

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] InputContext& context() noexcept { return *context_; }
  [[nodiscard]] bool is_at_end() const noexcept { return is_at_end_; }
  [[nodiscard]] bool is_draining() const noexcept { return bytes_left_ != kUnlimited; }

  /// As read(2).
  virtual ssize_t read_some(std::span<char> buffer);
  virtual void on_end_of_stream() = 0;
  /// While draining: goes on with what follows on the end of the stream. Returns whether there is anything.
  [[nodiscard]] virtual bool go_on_after_end() { return false; }
  [[nodiscard]] virtual std::uint64_t readable_bytes() const;
  /// Whether to read again until nothing comes, without waiting for an event.
  [[nodiscard]] virtual bool reads_until_empty() const { return false; }

  /// Only connections are answered.
  void talk_back(bool answers_lines) { answers_.emplace(answers_lines); }
  /// Its keys may be ephemeral: they end with it.
  void allow_own_ring() noexcept { session_.set_own_ring(Session::OwnRing::kMayHave); }

 private:
  /// What it waits for until `on_flushed`, and reads nothing meanwhile.
  enum class Awaited : std::uint8_t { kNothing, kFlush, kOwnRing, kEnd };
  /// A line that needs a ring of its own, and what became of the wait for all before it.
  struct Postponed {
    std::string text;
    std::uint64_t number;
    Status flushed;
  };

  void on_flushed(Status status);
  void send_answers();
  void take_turn();
  void read_chunk();
  void take(std::string_view bytes);
  void take_held();
  bool handle(const Line& line);
  bool follow(const Line& line, const Verdict& verdict);
  void wait_for(Awaited awaited);
  void finish_flush(Status status);
  void postpone(const Line& line);
  void take_postponed();
  [[nodiscard]] std::string open_own_ring(Status flushed);
  void end_session();
  void end_when_done();
  void update_interest();
  [[nodiscard]] bool is_waiting() const noexcept { return awaited_ != Awaited::kNothing; }
  [[nodiscard]] bool is_paused() const;
  [[nodiscard]] std::uint32_t wanted_events() const;

  InputContext* context_;
  std::string name_;
  Fd fd_;
  std::uint32_t interest_ = 0;
  bool is_always_ready_ = false;  // a regular file, which epoll cannot watch

  Session session_;
  std::optional<Answers> answers_;
  LineSplitter splitter_{kLineBytesMax};
  std::string held_;  // read, but not handled yet: a line before it made the input wait
  std::size_t held_used_ = 0;

  std::unique_ptr<OwnRing> own_ring_;
  std::optional<Postponed> postponed_;
  bool owes_rejection_ = false;  // seen by a wait that told nobody

  std::uint64_t bytes_left_ = kUnlimited;
  Awaited awaited_ = Awaited::kNothing;
  bool is_settled_ = false;
  bool is_at_end_ = false;
  bool has_ended_ = false;
};

}  // namespace shmstate::agent
