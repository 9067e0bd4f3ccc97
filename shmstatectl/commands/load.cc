// load: sets what a dump holds, batch after batch, each merged before the next is pushed.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "commands/agent_connection.h"
#include "commands/commands.h"
#include "commands/dump_file.h"
#include "commands/load_plan.h"
#include "commands/progress.h"
#include "instance.h"
#include "live/stable_snapshot.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"
#include "show/output.h"
#include "show/rejection.h"
#include "show/text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

constexpr std::size_t kRingBytesMin = std::size_t{8} << 20;
constexpr std::size_t kRingBytesMax = std::size_t{16} << 20;
constexpr std::size_t kBatchEntriesMax = 32'768;
constexpr BatchLimits kLimits = {
    .entries_max = kBatchEntriesMax, .bytes_max = kRingBytesMax, .entries = 1000, .bytes = std::size_t{1} << 20};
constexpr std::chrono::nanoseconds kTimeToLiveMin = std::chrono::milliseconds(1);

// Where a batch goes: into a ring of this process, or to an agent.
class Target {
 public:
  virtual ~Target() = default;
  /// Returns when readers can see it. Throws `Error` with the reason and the remedy.
  virtual void merge(const std::vector<Entry>& entries, std::size_t begin, std::size_t end) = 0;
  /// What a batch can have.
  [[nodiscard]] virtual BatchLimits limits() const { return kLimits; }
  /// Once all is merged.
  virtual void finish() {}
  /// Who it is, for messages, with a colon.
  [[nodiscard]] virtual std::string name() const = 0;
};

SetOptions set_options(const Entry& entry, bool missing_only) {
  SetOptions options;
  if (entry.version != 0 || missing_only) options.version = entry.version;  // 0 is for a missing key only
  if (entry.time_to_live) options.ttl = std::max(*entry.time_to_live, kTimeToLiveMin);
  return options;
}

class RingTarget final : public Target {
 public:
  RingTarget(const std::string& instance, const Options& options, std::size_t batch_bytes)
      : missing_only_(options.missing_only),
        timeout_(options.load_timeout),
        writer_(instance, writer_options(options, batch_bytes)) {}

  void merge(const std::vector<Entry>& entries, std::size_t begin, std::size_t end) override {
    Batch batch = writer_.batch();
    for (std::size_t i = begin; i < end; ++i)
      batch.set(entries[i].key, entries[i].value, set_options(entries[i], missing_only_));  // `commit` tells an error
    const Status pushed = batch.commit();
    const Status status = pushed == Status::kOk ? writer_.flush(timeout_) : pushed;
    if (status != Status::kOk) throw Error(status, fmt::format("{}; {}", describe(status), remedy(status)));
  }

  [[nodiscard]] BatchLimits limits() const override {
    const auto entries = static_cast<std::size_t>(std::min<std::uint64_t>(writer_.batch_max(), kLimits.entries_max));
    const std::size_t bytes = std::min(entries * kBatchBytesPerMutation, kLimits.bytes_max);
    return {.entries_max = entries,
            .bytes_max = bytes,
            .entries = std::min(entries, kLimits.entries),
            .bytes = std::min(bytes, kLimits.bytes)};
  }

  [[nodiscard]] std::string name() const override { return "instance " + in_quotes(writer_.path()) + ": "; }

 private:
  // The ring is as large as the largest batch asks for.
  static WriterOptions writer_options(const Options& options, std::size_t batch_bytes) {
    WriterOptions writer_options;
    writer_options.name = "shmstatectl load";
    writer_options.ring_bytes = std::bit_ceil(std::clamp(batch_bytes, kRingBytesMin, kRingBytesMax));
    writer_options.full_timeout = options.load_timeout;
    writer_options.attach_timeout = {};
    writer_options.survive_truncation = true;
    return writer_options;
  }

  [[nodiscard]] std::string remedy(Status status) const {
    if (status == Status::kRejected) return rejection_text(reason_of_rejection(writer_));
    if (status == Status::kTimeout) return "see that a merger is running, and load again";
    return "see shmstatectl status";
  }

  bool missing_only_;
  std::chrono::nanoseconds timeout_;
  Writer writer_;
};

class AgentTarget final : public Target {
 public:
  explicit AgentTarget(const Options& options)
      : missing_only_(options.missing_only), timeout_(options.load_timeout), agent_(options.connect) {}

  void merge(const std::vector<Entry>& entries, std::size_t begin, std::size_t end) override {
    std::string lines = "begin\n";
    for (std::size_t i = begin; i < end; ++i)
      lines += agent_set_line(entries[i].key, entries[i].value, set_options(entries[i], missing_only_));
    agent_.send(lines + "commit\nflush\n", timeout_);
  }
  void finish() override { agent_.finish(timeout_); }
  [[nodiscard]] std::string name() const override { return ""; }  // is in its errors

 private:
  bool missing_only_;
  std::chrono::nanoseconds timeout_;
  AgentConnection agent_;
};

struct Loaded {
  std::uint64_t loaded_count = 0;
  std::uint64_t present_count = 0;  // left out with --missing
  std::uint64_t split_count = 0;    // epochs whose entries are in several batches
};

std::size_t bytes_of_largest_batch(const std::vector<Entry>& entries, const LoadPlan& plan) {
  std::size_t largest = 0;
  std::size_t begin = 0;
  for (const std::size_t end : plan.ends) {
    std::size_t bytes = 0;
    for (; begin < end; ++begin) bytes += set_bytes(entries[begin]);
    largest = std::max(largest, bytes);
  }
  return largest;
}

// Keys that are there already. Of those that somebody sets from now on, the merger decides.
std::uint64_t leave_out_present(Reader& reader, std::vector<Entry>& entries) {
  const auto is_present = with_stable_snapshot(reader, [&](const Snapshot& snapshot) {
    std::vector<bool> found;
    for (const Entry& entry : entries) found.push_back(snapshot.find(entry.key).has_value());
    return found;
  });
  std::size_t index = 0;
  return std::erase_if(entries, [&](const Entry&) { return is_present[index++]; });
}

// Where the state is read: empty when this user may write to an agent, but not read.
std::string local_path(const Options& options) {
  try {
    return look_at(resolve_instance(options.instance)).path;
  } catch (const std::exception&) {
    if (options.connect.empty() || options.missing_only || options.only_if_empty) throw;
    return {};
  }
}

std::uint64_t entry_count(const std::string& instance) {
  return instance.empty() ? 0 : open_reader(instance).snapshot().size();
}

void warn_of_entries(const Options& options, const std::string& instance, std::uint64_t count) {
  if (count == 0 || options.missing_only || options.only_if_empty) return;
  report(
      fmt::format("instance {} has {} entries: what the dump holds replaces them, also what is newer; --missing sets "
                  "only keys that are not there, --if-empty loads into an empty instance only",
                  in_quotes(instance), count));
}

std::string split_text(const LoadPlan& plan, const BatchLimits& limits) {
  return fmt::format("{} epochs of the dump have more entries than a batch can have ({}, or {})", plan.split_count,
                     limits.entries_max, format_bytes(limits.bytes_max));
}

std::unique_ptr<Target> open_target(const Options& options, const std::string& instance, std::size_t batch_bytes) {
  if (options.connect.empty()) return std::make_unique<RingTarget>(instance, options, batch_bytes);
  return std::make_unique<AgentTarget>(options);
}

void merge_all(Target& target, const std::vector<Entry>& entries, const LoadPlan& plan, Loaded& loaded) {
  Progress progress("loading", entries.size());
  try {
    for (const std::size_t end : plan.ends) {
      target.merge(entries, loaded.loaded_count, end);
      loaded.loaded_count = end;
      progress.show(end);
    }
    target.finish();
  } catch (const Error& error) {
    throw Error(error.status(),
                fmt::format("{}{} entries are loaded, then: {}", target.name(), loaded.loaded_count, error.what()));
  }
}

// How large a batch may be, only who is attached knows.
void load_all(const Options& options, const std::string& instance, const std::vector<Entry>& entries, Loaded& loaded) {
  const std::size_t largest = bytes_of_largest_batch(entries, plan_batches(entries, kLimits));
  const std::unique_ptr<Target> target = open_target(options, instance, largest);
  const BatchLimits limits = target->limits();
  const LoadPlan plan = plan_batches(entries, limits);
  if (options.no_split && plan.split_count > 0) throw UsageError(split_text(plan, limits) + "; nothing is loaded");
  loaded.split_count = plan.split_count;
  merge_all(*target, entries, plan, loaded);
}

void tell(const Options& options, const std::string& instance, const Dump& dump, const Loaded& loaded) {
  if (options.json) {
    try_print(json_document({{"instance", json_of_bytes(instance)},
                             {"loaded_count", loaded.loaded_count},
                             {"ephemeral_count", dump.ephemeral_count},
                             {"present_count", loaded.present_count},
                             {"split_count", loaded.split_count}}));
  }
  const std::string subject =
      instance.empty() ? "agent " + in_quotes(options.connect) : "instance " + in_quotes(instance);
  const auto tell_count = [&](std::uint64_t count, std::string_view what) {
    if (count > 0 && !options.json) report(fmt::format("{}: {} {}", subject, count, what));
  };
  tell_count(dump.ephemeral_count, "ephemeral entries left out: such an entry lives as long as its writer");
  tell_count(loaded.present_count, "entries left out: their keys are there");
  tell_count(loaded.split_count, "epochs were split: for a moment, readers could see parts of what belongs together");
}

}  // namespace

ExitCode run_load(const Options& options) {
  const std::string instance = local_path(options);
  Dump dump = read_dump(options.file);
  Loaded loaded;
  const std::uint64_t count = entry_count(instance);
  if (options.only_if_empty && count > 0) {
    report(fmt::format("instance {} has {} entries: nothing is loaded", in_quotes(instance), count));
    loaded.present_count = std::exchange(dump.entries, {}).size();
  }
  warn_of_entries(options, instance, count);
  if (options.missing_only) {
    Reader reader = open_reader(instance);
    loaded.present_count += leave_out_present(reader, dump.entries);
  }
  if (options.no_split && !dump.tells_epochs)
    throw UsageError("a dump of version 1 does not tell what belongs together; nothing is loaded");
  if (!dump.entries.empty()) load_all(options, instance, dump.entries, loaded);
  tell(options, instance, dump, loaded);
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
