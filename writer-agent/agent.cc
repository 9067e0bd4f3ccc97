#include "agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "inputs/followed_file.h"
#include "support/log.h"

namespace shmstate::agent {
namespace {

constexpr std::size_t kReadBytes = std::size_t{128} << 10;
constexpr std::chrono::milliseconds kNoWait{0};
constexpr std::chrono::milliseconds kTick{250};
constexpr std::chrono::milliseconds kSocketPatience{2000};
constexpr std::uint64_t kTicksPerReport = 4;
constexpr int kExitSuccess = 0;
constexpr int kExitFailure = 1;

WriterOptions for_own_rings(WriterOptions options) {
  options.name += " (connection)";
  options.attach_timeout = {};
  return options;
}

}  // namespace

Agent::Agent(Options options)
    : options_(std::move(options)),
      writer_(options_.instance, options_.writer),
      flusher_(writer_, options_.flush_timeout),
      read_buffer_(kReadBytes),
      context_{.loop = loop_,
               .flusher = flusher_,
               .reporter = reporter_,
               .sink = sink_,
               .tally = tally_,
               .scratch = scratch_,
               .read_buffer = read_buffer_,
               .batch_bytes_max = std::bit_ceil(options_.writer.ring_bytes),
               .notifier = notifier_,
               .followed_files = {},
               .instance = writer_.path(),
               .writer = for_own_rings(options_.writer)},
      instance_identity_(identity_of(writer_.path() + "/control")),
      next_tick_(Clock::now() + kTick) {
  open_sources();
}

int Agent::run() {
  ::sd_notify(0, "READY=1");
  log_info("pushing into {}", writer_.path());
  while (!is_over()) round();
  ::sd_notify(0, "STOPPING=1");
  if (stop_signal_.is_cpu_limit()) log_error("{}", kCpuLimitText);
  if (stop_signal_.has_come()) drain();
  close();
  StopSignal::stop_catching();
  return finish();
}

void Agent::open_sources() {
  for (const std::string& path : options_.fifos) open_fifo(path);
  for (const std::string& path : options_.files) {
    add_input(std::make_unique<FollowedFile>(context_, path, options_.from_start), path);
  }
  listen_on_sockets_of_systemd();
  if (!options_.socket.empty()) {
    socket_watch_ = std::make_unique<NameWatch>(notifier_, options_.socket, context_.has_changed_names);
    socket_file_ = std::make_unique<SocketFile>(options_.socket, options_.socket_mode, kSocketPatience);
    add_listener(socket_file_->take_fd(), options_.socket);
  }
  open_stdin_if_alone();
}

/// Two readers of one FIFO would tear lines apart.
void Agent::open_fifo(const std::string& path) {
  auto fifo = std::make_unique<FifoInput>(context_, path);
  const bool is_known = std::ranges::any_of(inputs_, [&](const std::unique_ptr<Input>& input) {
    const auto* other = dynamic_cast<const FifoInput*>(input.get());
    return other != nullptr && other->identity() == fifo->identity();
  });
  if (is_known) {
    log_warning("FIFO {} was given twice; it is read once", path);
  } else {
    add_input(std::move(fifo), path);
  }
}

void Agent::open_stdin_if_alone() {
  const bool is_alone = inputs_.empty() && listeners_.empty();
  if (is_alone || options_.reads_stdin) add_input(std::make_unique<StandardInput>(context_), kStandardInput);
}

void Agent::listen_on_sockets_of_systemd() {
  const int count = ::sd_listen_fds(1);
  for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; ++fd) {
    if (::sd_is_socket_unix(fd, SOCK_STREAM, 1, nullptr, 0) <= 0) {
      throw Error(Status::kInvalidArgument,
                  fmt::format("shmstate: descriptor {} from systemd is no listening Unix stream socket; use "
                              "ListenStream= with a path and Accept=no in the socket unit",
                              fd));
    }
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (const std::string path = path_of_socket(fd); !path.empty()) {
      systemd_sockets_.push_back({path, identity_of(path)});
    }
    add_listener(Fd(fd), fmt::format("systemd socket {}", fd));
  }
}

void Agent::add_input(std::unique_ptr<Input> input, const std::string& source) {
  input->set_rules(options_.rules.of(source));
  start_input(std::move(input));
}

void Agent::start_input(std::unique_ptr<Input> input) {
  inputs_.push_back(std::move(input));
  inputs_.back()->start();
}

void Agent::add_listener(Fd fd, const std::string& path) {
  listeners_.push_back(std::make_unique<Listener>(
      loop_, std::move(fd), path,
      [this, path](Fd connection, const std::string& name) { add_connection(std::move(connection), name, path); }));
  share_places();
}

void Agent::add_connection(Fd fd, const std::string& name, const std::string& path) {
  auto connection = std::make_unique<Connection>(context_, std::move(fd), name, options_.answers_lines);
  add_input(std::move(connection), path == options_.socket ? path : kSockets);
  ++connection_count_;
  share_places();
}

bool Agent::is_over() const {
  if (stop_signal_.has_come() || sink_.ring_loss() != Status::kOk) return true;
  return inputs_.empty() && listeners_.empty();
}

void Agent::round() {
  const auto until_tick = std::chrono::ceil<std::chrono::milliseconds>(next_tick_ - Clock::now());
  loop_.round(flusher_.is_waiting() ? kNoWait : std::max(until_tick, kNoWait));
  flusher_.poll();
  remove_ended_inputs();
  if (std::exchange(context_.has_changed_names, false)) look_after_names();
  tick_when_due();
}

void Agent::remove_ended_inputs() {
  if (!std::exchange(context_.has_ended_inputs, false)) return;
  std::erase_if(inputs_, [this](const std::unique_ptr<Input>& input) {
    if (input->has_ended() && input->is_connection()) --connection_count_;
    return input->has_ended();
  });
  share_places();
}

void Agent::tick_when_due() {
  const Clock::time_point now = Clock::now();
  if (now < next_tick_) return;
  next_tick_ = now + kTick;
  tick();
}

/// What nobody announces: names that were not watched, free places, and what must not be told too often.
void Agent::tick() {
  for (const std::unique_ptr<Input>& input : inputs_) input->tick();
  if (++tick_count_ % kTicksPerReport != 0) return;
  look_after_names();
  share_places();
  reporter_.report_suppressed();
  report_rejections();
  look_after_ring();
}

/// A FIFO or socket that was removed or replaced gets its name back, or it is said why not.
void Agent::look_after_names() {
  std::vector<std::unique_ptr<Input>> successors;
  for (const std::unique_ptr<Input>& input : inputs_) {
    if (auto successor = input->look_after_name()) {
      successor->set_rules(input->rules());
      successors.push_back(std::move(successor));
    }
  }
  for (std::unique_ptr<Input>& successor : successors) start_input(std::move(successor));
  look_after_socket();
  look_after_sockets_of_systemd();
}

void Agent::look_after_socket() {
  if (socket_file_ == nullptr || socket_file_->has_its_name()) return;
  socket_watch_->renew();
  try {
    auto renewed = std::make_unique<SocketFile>(options_.socket, options_.socket_mode, kNoWait);
    listeners_.back()->move_to(renewed->take_fd());
    socket_file_ = std::move(renewed);
    socket_problem_.clear();
    log_warning("socket {}: was removed or replaced; created again", options_.socket);
  } catch (const Error& error) {
    if (std::exchange(socket_problem_, error.what()) == error.what()) return;
    log_warning("socket {}: was removed or replaced, and nobody can connect: {}; trying again", options_.socket,
                error.what());
  }
}

/// They are not the agent's to make.
void Agent::look_after_sockets_of_systemd() {
  for (SystemdSocket& socket : systemd_sockets_) {
    const FileIdentity identity = identity_of(socket.path);
    if (std::exchange(socket.identity, identity) == identity) continue;
    log_warning("socket {}: was removed or replaced, and nobody can connect; restart the socket unit", socket.path);
  }
}

void Agent::share_places() {
  const std::size_t places = options_.connections_max - std::min(options_.connections_max, connection_count_);
  for (const std::unique_ptr<Listener>& listener : listeners_) listener->set_places(places);
}

void Agent::report_rejections() {
  const std::uint64_t rejected = writer_.counters().rejected;
  if (rejected == std::exchange(rejected_reported_, rejected)) return;
  log_warning(
      "the merger has rejected {} mutations so far: {} of the wrong type, {} out of range, {} without memory, {} "
      "beyond the maximum of entries, {} in batches that are too large, {} that it does not know",
      rejected, writer_.rejected(Status::kWrongType), writer_.rejected(Status::kOutOfRange),
      writer_.rejected(Status::kNoMemory), writer_.rejected(Status::kLimit), writer_.rejected(Status::kMutationTooBig),
      writer_.rejected(Status::kUnknown));
}

/// The writer notices a loss only when it waits, and a removed instance not even then.
void Agent::look_after_ring() {
  for (const std::unique_ptr<Input>& input : inputs_) input->look_after_own_ring();
  (void)sink_.note(writer_.flush(writer_.ticket(), kNoWait));
  if (identity_of(writer_.path() + "/control") != instance_identity_) (void)sink_.note(Status::kNoInstance);
}

void Agent::drain() {
  take_last_connections();
  for (const std::unique_ptr<Input>& input : inputs_) input->limit_to_readable();
  const Clock::time_point deadline = Clock::now() + options_.flush_timeout;
  while (!is_drained() && sink_.ring_loss() == Status::kOk) {
    if (Clock::now() >= deadline) {
      ++tally_.losses;
      log_warning("stopping although not all readable lines have been pushed; the flush timeout has passed");
      return;
    }
    for (const std::unique_ptr<Input>& input : inputs_) input->on_events(0);
    flusher_.poll();
  }
}

/// Its name goes first, so that whoever comes now finds the next agent, or nobody. Who waits for a place on a socket of
/// systemd is served by the next agent.
void Agent::take_last_connections() {
  const bool has_socket_file = socket_file_ != nullptr;
  socket_file_.reset();
  for (const std::unique_ptr<Listener>& listener : listeners_) {
    if (has_socket_file && listener == listeners_.back()) {
      listener->accept_everybody();
    } else {
      listener->accept_all();
    }
  }
  listeners_.clear();
}

bool Agent::is_drained() const {
  return std::ranges::all_of(inputs_, [](const std::unique_ptr<Input>& input) { return input->is_drained(); });
}

void Agent::close() {
  for (const std::unique_ptr<Input>& input : inputs_) input->abandon();
  socket_file_.reset();
  settle_own_rings();
  listeners_.clear();
  inputs_.clear();
}

/// Connections that are still open: what they pushed is merged, and what was ephemeral ends.
void Agent::settle_own_rings() {
  const Clock::time_point deadline = Clock::now() + options_.flush_timeout;
  for (const std::unique_ptr<Input>& input : inputs_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    input->settle_own_ring(std::max(left, kNoWait));
  }
}

/// By the merger, in whichever ring.
std::uint64_t Agent::rejected() const noexcept { return writer_.counters().rejected + tally_.rejected_mutations; }

int Agent::finish() {
  const Status status = flush_at_end();
  reporter_.report_suppressed();
  report_rejections();
  summarise();
  if (is_ring_loss(status)) {
    log_error("{}: what is not readable yet is lost; start the agent again", ring_loss_text());
    return kExitFailure;
  }
  if (status == Status::kTimeout) {
    log_warning("the last mutations are not readable yet; they stay in the ring until the merger takes them");
  }
  if (stop_signal_.is_cpu_limit()) return kExitFailure;
  const bool is_clean = tally_.is_clean() && status == Status::kOk && rejected() == 0;
  return options_.is_strict && !is_clean ? kExitFailure : kExitSuccess;
}

Status Agent::flush_at_end() {
  look_after_ring();
  if (is_ring_loss(sink_.ring_loss())) return sink_.ring_loss();
  return sink_.note(flusher_.wait(writer_.ticket(), options_.flush_timeout));
}

void Agent::summarise() const {
  log_info(
      "{} lines, {} mutations, {} batches; {} bad lines, {} mutations refused, {} rejected by the merger, "
      "{} batches discarded, {} losses of input",
      tally_.lines, tally_.mutations, tally_.batches, tally_.bad_lines, tally_.refused_mutations, rejected(),
      tally_.discarded_batches, tally_.losses);
}

std::string Agent::ring_loss_text() const {
  if (sink_.ring_loss() != Status::kNoInstance) return std::string(describe(sink_.ring_loss()));
  return fmt::format("the instance {} was removed or re-created", writer_.path());
}

}  // namespace shmstate::agent
