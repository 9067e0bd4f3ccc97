#include "mutation_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace shmstate::demo {
namespace {

bool is_plain(char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
         std::string_view("_-./:()@+").find(byte) != std::string_view::npos;
}

void append_escaped(std::string& text, std::string_view bytes) {
  for (const char byte : bytes) {
    if (byte == '"' || byte == '\\') {
      text += '\\';
      text += byte;
    } else if (byte >= ' ' && byte <= '~') {
      text += byte;
    } else {
      fmt::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<unsigned char>(byte));
    }
  }
}

}  // namespace

void append_word(std::string& text, std::string_view prefix, std::string_view name) {
  const bool plain = std::all_of(prefix.begin(), prefix.end(), is_plain) &&
                     std::all_of(name.begin(), name.end(), is_plain) && !(prefix.empty() && name.empty());
  if (plain) {
    text.append(prefix).append(name);
    return;
  }
  text += '"';
  append_escaped(text, prefix);
  append_escaped(text, name);
  text += '"';
}

void MutationLines::begin() {
  ++batch_count_;
  text_ = "begin\n";
}

void MutationLines::set_integer(std::string_view prefix, std::string_view name, std::int64_t value) {
  start_set("set ", prefix, name);
  append_number(value);
}

// `set:f`, because a float without a fraction would be taken for an integer.
void MutationLines::set_float(std::string_view prefix, std::string_view name, double value) {
  start_set("set:f ", prefix, name);
  fmt::format_to(std::back_inserter(text_), "{}\n", value);
}

// `set:s`, because a process may be called "42".
void MutationLines::set_text(std::string_view prefix, std::string_view name, std::string_view value) {
  start_set("set:s ", prefix, name);
  append_word(text_, value, {});
  text_ += '\n';
}

void MutationLines::add(std::string_view key, std::int64_t delta) { append_lasting("add ", key, delta); }

std::string_view MutationLines::commit(std::string_view count_key) {
  erase_what_was_not_set_again();
  append_lasting("set ", count_key, mutation_count_ + 1);
  text_ += "commit\n";
  return text_;
}

void MutationLines::start_set(std::string_view verb, std::string_view prefix, std::string_view name) {
  text_ += verb;
  const std::size_t key_start = text_.size();
  append_word(text_, prefix, name);
  remember(std::string_view(text_).substr(key_start));
  text_ += ' ';
  ++mutation_count_;
}

void MutationLines::append_lasting(std::string_view verb, std::string_view key, std::int64_t number) {
  text_ += verb;
  append_word(text_, key, {});
  text_ += ' ';
  append_number(number);
  ++mutation_count_;
}

void MutationLines::append_number(std::int64_t number) {
  const fmt::format_int digits(number);
  text_.append(digits.data(), digits.size());
  text_ += '\n';
}

void MutationLines::remember(std::string_view key) {
  const auto known = last_batch_of_key_.find(key);
  if (known != last_batch_of_key_.end()) {
    known->second = batch_count_;
  } else {
    last_batch_of_key_.emplace(key, batch_count_);
  }
}

void MutationLines::erase_what_was_not_set_again() {
  for (auto known = last_batch_of_key_.begin(); known != last_batch_of_key_.end();) {
    if (known->second == batch_count_) {
      ++known;
      continue;
    }
    text_.append("del ").append(known->first) += '\n';
    ++mutation_count_;
    known = last_batch_of_key_.erase(known);
  }
}

}  // namespace shmstate::demo
