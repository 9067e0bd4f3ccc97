// set, add and del: push one mutation, and wait until readers can see it.
#include <fmt/format.h>

#include <cstdio>
#include <iterator>

#include "commands/agent_connection.h"
#include "commands/commands.h"
#include "doctor/pin_holders.h"
#include "instance.h"
#include "interrupt.h"
#include "shmstate/writer.h"
#include "show/output.h"
#include "show/rejection.h"
#include "show/text.h"
#include "show/value_text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

constexpr std::chrono::nanoseconds kAgentPatience = std::chrono::seconds(1);  // until it takes a line

// What became of a mutation.
struct Outcome {
  Status status = Status::kOk;
  Status reason = Status::kOk;  // when rejected, or not pushed: why
  bool is_pushed = true;
  bool merger_running = true;
  bool pins_hold_it_up = false;
};

// A ring of its own lets a command know what became of its own mutation. While no merger runs, the ring that this
// user's short-lived writers share keeps the order of commands, and few files.
Writer open_writer(const std::string& instance, const Options& options) {
  WriterOptions writer_options;
  writer_options.name = "shmstatectl";
  writer_options.shared = !look_at(instance).merger_running;
  writer_options.full_timeout = options.timeout;
  writer_options.attach_timeout = {};
  writer_options.survive_truncation = true;
  try {
    return Writer(instance, writer_options);
  } catch (const Error& error) {
    if (error.status() != Status::kNoMemory || writer_options.shared) throw;
    writer_options.shared = true;  // no room for one more ring, but perhaps for a key less
    return Writer(instance, writer_options);
  }
}

std::string read_stdin() {
  std::string bytes(kValueBytesMax + 1, '\0');  // one more than allowed, to notice what is too big
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), stdin));
  if (std::ferror(stdin) != 0) throw UsageError("standard input cannot be read; look at where it comes from");
  return bytes;
}

std::string_view without_line_end(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.ends_with('\r')) text.remove_suffix(1);
  return text;
}

// Bytes from standard input stay exactly what they are, unless a number is asked for.
Value value_from_stdin(std::optional<Type> forced) {
  std::string bytes = read_stdin();
  if (forced.value_or(Type::kBytes) == Type::kBytes) return bytes;
  return parse_value(without_line_end(bytes), forced);
}

Value value_to_set(const Options& options) {
  return options.value == "-" ? value_from_stdin(options.type) : parse_value(options.value, options.type);
}

Outcome not_pushed(Status pushed, const Writer& writer) {
  const Status reason = pushed == Status::kTimeout ? Status::kRingFull : pushed;
  return {reason, reason, false, look_at(writer.path()).merger_running};
}

Outcome wait_until_merged(Writer& writer, std::chrono::nanoseconds timeout) {
  Outcome outcome;
  outcome.status = writer.flush(timeout);
  if (outcome.status == Status::kRejected) outcome.reason = reason_of_rejection(writer);
  if (outcome.status == Status::kTimeout) {
    const InstanceInfo info = look_at(writer.path());
    outcome.merger_running = info.merger_running;
    outcome.pins_hold_it_up = is_every_back_buffer_pinned(info);
  }
  return outcome;
}

std::string_view push_remedy(Status status) {
  switch (status) {
    case Status::kKeyEmpty:
    case Status::kKeyTooLong: return "choose another KEY";
    case Status::kOutOfRange: return "what is no number (NaN) cannot be added";
    case Status::kValueTooBig:
    case Status::kMutationTooBig: return "choose a smaller value, or several keys";
    case Status::kNoMemory: return "the file system of the instance is full: erase keys, or give it more room";
    case Status::kRingFull: return "start shmstate-merger, or give it time with --timeout";
    default: return "see shmstatectl status";
  }
}

std::string timeout_text(const Outcome& outcome, std::chrono::nanoseconds timeout) {
  if (!outcome.merger_running)
    return "pushed, but no merger is running; it will be merged when one starts: start shmstate-merger";
  return fmt::format("pushed, but not merged within {}; it will be when {}", format_duration(timeout),
                     outcome.pins_hold_it_up
                         ? "readers let go of a buffer, for they pin all that could be written: see shmstatectl doctor"
                         : "the merger has caught up: see shmstatectl status");
}

std::string outcome_text(const Outcome& outcome, std::chrono::nanoseconds timeout) {
  if (!outcome.is_pushed)
    return fmt::format("not pushed: {}; {}", describe(outcome.reason), push_remedy(outcome.reason));
  switch (outcome.status) {
    case Status::kTimeout: return timeout_text(outcome, timeout);
    case Status::kRejected: return "rejected by the merger: " + rejection_text(outcome.reason);
    case Status::kRingRefused:
      return "will not be merged: the ring was refused: end other writers, or configure more rings";
    case Status::kRingQuarantined:
      return "will not be merged: the merger quarantined the ring; see its log, and try again";
    default: return std::string(describe(outcome.status));
  }
}

Json json_of(const Outcome& outcome, const Options& options, const std::string& path) {
  Json json = {{"instance", json_of_bytes(path)},
               {"key", json_of_bytes(options.key)},
               {"merged", outcome.status == Status::kOk},
               {"status", outcome.is_pushed ? describe(outcome.status) : "not pushed"},
               {"merger", {{"running", outcome.merger_running}}}};
  if (outcome.reason != Status::kOk) json.set("reason", describe(outcome.reason));
  return json;
}

std::string subject_of(const Options& options, const Writer& writer) {
  return fmt::format("instance {}: key {}: ", in_quotes(writer.path()), in_quotes(options.key));
}

template <typename Push>
Status push_noted(Writer& writer, const Push& push) {
  const CpuLimitLater later;
  const Status pushed = push(writer);
  if (pushed == Status::kOk) set_exit_code_at_cpu_limit(ExitCode::kNotMerged);
  return pushed;
}

template <typename Push>
ExitCode push_and_wait(const Options& options, const Push& push) {
  Writer writer = open_writer(resolve_instance(options.instance), options);
  const Status pushed = push_noted(writer, push);
  const Outcome outcome =
      pushed == Status::kOk ? wait_until_merged(writer, options.timeout) : not_pushed(pushed, writer);
  if (options.json) try_print(json_document(json_of(outcome, options, writer.path())));
  if (outcome.status != Status::kOk) report(subject_of(options, writer) + outcome_text(outcome, options.timeout));
  return exit_code_of(outcome.status);
}

// What an agent shall push. It answers when readers can see it.
ExitCode send_and_wait(const Options& options, const std::string& line) {
  Status status = Status::kOk;
  std::string problem;
  try {
    AgentConnection agent(options.connect);
    agent.send(line + "flush\n", kAgentPatience);
    agent.finish(options.timeout);
  } catch (const Error& error) {
    status = error.status();
    problem = error.what();
  }
  if (options.json) {
    try_print(json_document({{"agent", json_of_bytes(options.connect)},
                             {"key", json_of_bytes(options.key)},
                             {"merged", status == Status::kOk},
                             {"status", describe(status)}}));
  }
  if (status != Status::kOk) report(fmt::format("key {}: {}", in_quotes(options.key), problem));
  return exit_code_of(status);
}

template <typename Push>
ExitCode change(const Options& options, const std::string& line, const Push& push) {
  return options.connect.empty() ? push_and_wait(options, push) : send_and_wait(options, line);
}

}  // namespace

ExitCode run_set(const Options& options) {
  const Value value = value_to_set(options);
  SetOptions set_options;
  set_options.ttl = options.time_to_live;
  set_options.version = options.version;
  return change(options, agent_set_line(options.key, value, set_options),
                [&](Writer& writer) { return writer.set(options.key, value, set_options); });
}

ExitCode run_add(const Options& options) {
  const Value delta = parse_number(options.value, options.type);
  return change(options, agent_add_line(options.key, delta),
                [&](Writer& writer) { return writer.add(options.key, delta); });
}

ExitCode run_del(const Options& options) {
  return change(options, agent_del_line(options.key, options.version), [&](Writer& writer) {
    return options.version ? writer.erase(options.key, *options.version) : writer.erase(options.key);
  });
}

}  // namespace shmstate::ctl
