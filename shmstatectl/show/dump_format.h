// A state as portable text: a head line, a line per entry, an end line. docs/shmstatectl.md describes it for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shmstate/reader.h"
#include "show/entry.h"

namespace shmstate::ctl {

inline constexpr std::string_view kDumpHead = "# shmstate dump 2";
inline constexpr std::string_view kDumpHead1 = "# shmstate dump 1";  // without epochs
/// What a line of an entry can have at most: every byte of the longest key and value escaped, and its metadata.
inline constexpr std::size_t kDumpLineBytesMax = 4 * (kKeyBytesMax + kValueBytesMax) + 256;

/// The line of an entry, with its line end.
[[nodiscard]] std::string dump_line(const EntryView& entry);
/// "# end N", without a line end: what tells a complete dump from one that was cut off.
[[nodiscard]] std::string dump_end(std::uint64_t entry_count);
/// Whether a line is an end line, of any count. A key may begin like one, but its line has tabs.
[[nodiscard]] bool is_dump_end(std::string_view line);

/// The entry of a line. Throws `UsageError` with the reason when it is none.
[[nodiscard]] Entry parse_dump_line(std::string_view line);

}  // namespace shmstate::ctl
