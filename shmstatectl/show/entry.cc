#include "show/entry.h"

#include <algorithm>

#include "show/text.h"
#include "show/value_text.h"

namespace shmstate::ctl {

namespace {

// A state can be large: the width is found without keeping every cell.
std::size_t key_width(const std::vector<Entry>& entries) {
  std::size_t width = 0;
  for (const Entry& entry : entries) width = std::max(width, character_count(escaped(entry.key)));
  return std::min(width, kColumnWidthMax);
}

std::string life_text(const Entry& entry) {
  std::string text = entry.time_to_live ? format_duration(*entry.time_to_live) : "";
  if (entry.ephemeral) text += text.empty() ? "ephemeral" : ", ephemeral";
  return text.empty() ? "-" : text;
}

}  // namespace

std::string entries_table(const std::vector<Entry>& entries) {
  std::vector<std::vector<std::string>> rows = {{"KEY", "TYPE", "EPOCH", "VERSION", "TIME TO LIVE", "VALUE"}};
  for (const Entry& entry : entries) {
    rows.push_back({escaped(entry.key), std::string(type_name(ValueView(entry.value).type())),
                    std::to_string(entry.changed_epoch), entry.version == 0 ? "-" : std::to_string(entry.version),
                    life_text(entry), value_text(entry.value)});
  }
  return format_columns(rows);
}

std::string entries_text(const std::vector<Entry>& entries, bool keys_only) {
  const std::size_t width = key_width(entries);
  std::string text;
  for (const Entry& entry : entries) {
    text += keys_only ? escaped(entry.key) : padded(escaped(entry.key), width) + value_text(entry.value);
    text += '\n';
  }
  return text;
}

}  // namespace shmstate::ctl
