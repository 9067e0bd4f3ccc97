#include "inputs/source_rules.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace shmstate::agent {
namespace {

[[noreturn]] void refuse(std::string_view text, std::string_view reason) {
  throw std::invalid_argument("\"" + std::string(text) + "\": " + std::string(reason));
}

/// "BEFORE<mark>BEHIND", cut at the last mark: what stands before may be any text.
std::pair<std::string, std::string_view> cut(std::string_view text, char mark, std::string_view usage) {
  const std::size_t at = text.rfind(mark);
  if (at == std::string_view::npos) refuse(text, usage);
  return {std::string(text.substr(0, at)), text.substr(at + 1)};
}

std::optional<FixedType> type_named(std::string_view name) {
  if (name == "float") return FixedType::kFloat;
  if (name == "integer") return FixedType::kInteger;
  if (name == "text") return FixedType::kText;
  return std::nullopt;
}

void fix_type(LineRules& rules, const std::string& prefix, std::string_view name, std::string_view text) {
  const std::optional<FixedType> type = type_named(name);
  if (!type) refuse(text, "the type is float, integer or text");
  rules.types.add(prefix, *type);
}

void take_word(std::string_view word, LineRules& rules, std::string_view text) {
  const std::string_view value = word.substr(std::min(word.find('=') + 1, word.size()));
  if (word == "ephemeral") {
    rules.defaults.ephemeral = true;
  } else if (word.starts_with("ttl=")) {
    const auto duration = parse_time_to_live(value);
    if (!duration) refuse(text, describe(LineError::kTimeToLive));
    rules.defaults.ttl = *duration;
  } else if (word.starts_with("version=")) {
    rules.defaults.version = parse_version(value);
    if (!rules.defaults.version) refuse(text, describe(LineError::kVersion));
  } else if (word.starts_with("type=")) {
    fix_type(rules, "", value, text);
  } else {
    refuse(text, "what a source gives is ttl=, version=, ephemeral or type=, with commas between");
  }
}

void take_words(std::string_view words, LineRules& rules, std::string_view text) {
  for (std::size_t end = 0; end != std::string_view::npos; words.remove_prefix(std::min(end + 1, words.size()))) {
    end = words.find(',');
    take_word(words.substr(0, end), rules, text);
    if (end == std::string_view::npos) break;
  }
}

struct Defaults {
  std::string source;
  std::string_view words;
  std::string_view text;
};

bool is_source(const std::string& source, const SourceNames& names) {
  if (source == kAllSources || source == kStandardInput || source == kSockets) return true;
  return (!names.socket.empty() && source == names.socket) ||
         std::ranges::find(names.paths, source) != names.paths.end();
}

std::vector<Defaults> parse_defaults(const std::vector<std::string>& texts, const SourceNames& names) {
  std::vector<Defaults> all;
  for (const std::string& text : texts) {
    auto [source, words] = cut(text, ':', "write SOURCE:WORDS, such as socket:ttl=5s,ephemeral");
    if (!is_source(source, names))
      refuse(text, "the source is stdin, socket, all, or the path of a source as it is given");
    const bool has_end = source == kSockets || (source == names.socket && !names.socket.empty());
    if (words.find("ephemeral") != std::string_view::npos && !has_end) {
      refuse(text, "only the keys of a connection can be ephemeral; use ttl=");
    }
    all.push_back({std::move(source), words, text});
  }
  return all;
}

}  // namespace

SourceRules::SourceRules(const SourceNames& names, const std::vector<std::string>& types,
                         const std::vector<std::string>& defaults) {
  for (const std::string& text : types) {
    const auto [prefix, name] = cut(text, '=', "write PREFIX=float, PREFIX=integer or PREFIX=text");
    fix_type(common_, prefix, name, text);
  }
  const std::vector<Defaults> all = parse_defaults(defaults, names);
  const auto give = [&](const std::string& source, LineRules& rules) {
    for (const Defaults& given : all) {
      if (given.source == source) take_words(given.words, rules, given.text);
    }
  };
  give(kAllSources, common_);
  LineRules& sockets = rules_[kSockets] = common_;
  give(kSockets, sockets);
  for (const Defaults& given : all) {
    const bool is_common = given.source == kAllSources || given.source == kSockets;
    if (is_common || rules_.contains(given.source)) continue;
    LineRules& rules = rules_[given.source] = given.source == names.socket ? sockets : common_;
    give(given.source, rules);
  }
  if (!names.socket.empty()) rules_.try_emplace(names.socket, sockets);
}

const LineRules& SourceRules::of(const std::string& source) const {
  const auto found = rules_.find(source);
  return found == rules_.end() ? common_ : found->second;
}

}  // namespace shmstate::agent
