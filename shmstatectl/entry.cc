#include "shmstatectl/entry.h"

#include "shmstatectl/text.h"
#include "shmstatectl/value_text.h"

namespace shmstate::ctl {

std::string entries_text(const std::vector<Entry>& entries, bool keys_only) {
  std::vector<std::vector<std::string>> rows;
  rows.reserve(entries.size());
  for (const Entry& entry : entries) {
    rows.push_back({escaped(entry.key)});
    if (!keys_only) rows.back().push_back(value_text(entry.value));
  }
  return format_columns(rows);
}

}  // namespace shmstate::ctl
