
#include <algorithm>

#include "commands/commands.h"
#include "instance.h"
#include "live/stable_snapshot.h"
#include "show/output.h"

namespace shmstate::ctl {

namespace {

struct Listed {
  Epoch epoch = 0;
  std::vector<Entry> entries;
};

bool key_less(const Entry& a, const Entry& b) { return a.key < b.key; }

// Keeps the `limit` smallest keys: a heap with the largest of them on top, so a long list costs no memory.
void push_bounded(std::vector<Entry>& heap, Entry entry, std::uint64_t limit) {
  if (heap.size() == limit && key_less(heap.front(), entry)) return;
  heap.push_back(std::move(entry));
  std::push_heap(heap.begin(), heap.end(), key_less);
  if (heap.size() <= limit) return;
  std::pop_heap(heap.begin(), heap.end(), key_less);
  heap.pop_back();
}

// Everything is copied before anything is printed: a slow terminal must not pin a buffer.
Listed read_entries(const Snapshot& snapshot, const Options& options) {
  Listed listed;
  listed.epoch = snapshot.epoch();
  snapshot.scan(options.prefix, [&](const EntryView& entry) {
    Entry copy = options.keys_only ? Entry{.key = std::string(entry.key), .value = {}} : copy_of(entry);
    if (options.limit) {
      push_bounded(listed.entries, std::move(copy), *options.limit);
    } else {
      listed.entries.push_back(std::move(copy));
    }
  });
  return listed;
}

std::string json_of(const Listed& listed, const InstanceInfo& info, bool keys_only) {
  const Json head = json_of_freshness(info, listed.epoch);
  if (!keys_only)
    return json_document(head, "entries", listed.entries, [](const Entry& entry) { return json_of(entry); });
  return json_document(head, "keys", listed.entries, [](const Entry& entry) { return json_of_bytes(entry.key); });
}

}  // namespace

ExitCode run_list(const Options& options) {
  Reader reader = open_reader(resolve_instance(options.instance));
  Listed listed =
      with_stable_snapshot(reader, [&](const Snapshot& snapshot) { return read_entries(snapshot, options); });
  std::sort(listed.entries.begin(), listed.entries.end(), key_less);
  const InstanceInfo info = look_at(reader.path());
  print(options.json ? json_of(listed, info, options.keys_only) : entries_text(listed.entries, options.keys_only));
  if (!options.json) report_silent_merger(info);
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
