#include "unit.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <system_error>

#include "files/os.h"

namespace shmstate::merger {
using namespace internal;
namespace {

namespace fs = std::filesystem;

constexpr auto kInstances = "/run/shmstate";
constexpr auto kConfigurations = "/etc/shmstate";
constexpr std::string_view kTemplate = "shmstate-merger@";
constexpr std::string_view kSuffix = ".service";

std::vector<fs::path> unit_directories() {
  const char* const given = std::getenv("SYSTEMD_UNIT_PATH");
  std::istringstream all(given != nullptr && *given != '\0'
                             ? given
                             : "/etc/systemd/system:/run/systemd/system:/usr/local/lib/systemd/system:"
                               "/usr/lib/systemd/system:/lib/systemd/system");
  std::vector<fs::path> directories;
  for (std::string directory; std::getline(all, directory, ':');) {
    if (!directory.empty()) directories.emplace_back(directory);
  }
  return directories;
}

bool is_there(const fs::path& path) {
  if (os::file_info(path)) return true;
  if (!os::is_absence(errno)) os::throw_errno("cannot look at " + path.string(), errno);
  return false;
}

std::string text_of(const fs::path& path) {
  const os::Fd file = os::open_file(path, O_RDONLY);
  std::string text;
  char buffer[4096];
  ssize_t got = file.is_open() ? 0 : -1;
  while (got >= 0 && (got = ::read(file.get(), buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  if (got < 0) os::throw_errno("cannot read " + path.string(), errno);
  return text;
}

/// The file of this instance's own unit, or else of the template; those of the administrator first.
std::optional<fs::path> unit_file(const std::string& name) {
  for (const std::string& instance : {name, std::string()}) {
    for (const fs::path& directory : unit_directories()) {
      fs::path file = directory / (std::string(kTemplate) + instance + std::string(kSuffix));
      if (is_there(file)) return file;
    }
  }
  return std::nullopt;
}

/// What `systemctl edit` adds, in the order of the files' names; of two with the same name, the administrator's.
std::map<std::string, fs::path> additions_to(const std::string& name) {
  std::map<std::string, fs::path> files;
  for (const std::string& instance : {name, std::string()}) {
    for (const fs::path& directory : unit_directories()) {
      const fs::path place = directory / (std::string(kTemplate) + instance + std::string(kSuffix) + ".d");
      if (!is_there(place)) continue;
      for (const fs::directory_entry& entry : fs::directory_iterator(place)) {
        if (entry.path().extension() == ".conf") files.emplace(entry.path().filename().string(), entry.path());
      }
    }
  }
  return files;
}

std::string without_specifiers(std::string_view text, const std::string& name) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '%' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next == 'i' || next == 'I') plain += name;
    if (next == '%') plain += '%';
    if (next == 'i' || next == 'I' || next == '%') {
      ++i;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

/// Words, of which quotes may hold several together.
std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  bool is_in_word = false;
  char quote = '\0';
  for (const char c : text) {
    const bool is_space = quote == '\0' && (c == ' ' || c == '\t');
    if (!is_space && !is_in_word) words.emplace_back();
    is_in_word = !is_space;
    if (is_space) continue;
    if (quote == '\0' && (c == '"' || c == '\'')) {
      quote = c;
    } else if (c == quote) {
      quote = '\0';
    } else {
      words.back() += c;
    }
  }
  return words;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

void take_setting(std::string_view key, const std::string& value, Unit& unit) {
  if (key == "User") unit.user = value;
  if (key == "SupplementaryGroups") {
    if (value.empty()) unit.groups.clear();
    for (std::string& group : words_of(value)) unit.groups.push_back(std::move(group));
  }
  if (key != "Environment") return;
  if (value.empty()) unit.environment.clear();
  for (const std::string& word : words_of(value)) {
    if (const std::size_t equals = word.find('='); equals != std::string::npos) {
      unit.environment[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
}

std::string name_of_served(const fs::path& instance, const fs::path& configuration) {
  if (configuration.parent_path() == kConfigurations && configuration.extension() == ".conf") {
    return configuration.stem().string();
  }
  return instance.parent_path() == kInstances ? instance.filename().string() : "";
}

}  // namespace

void take_unit_lines(std::string_view text, Unit& unit) {
  std::string section;
  std::string whole;  // of lines that go on in the next one
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const std::string_view part = trimmed(line);
    if (part.starts_with('#') || part.starts_with(';')) continue;
    const bool goes_on = part.ends_with('\\');
    whole += part.substr(0, part.size() - (goes_on ? 1 : 0));
    if (goes_on) continue;
    const std::size_t equals = whole.find('=');
    if (whole.starts_with('[')) {
      section = whole;
    } else if (section == "[Service]" && equals != std::string::npos) {
      const std::string_view value = trimmed(std::string_view(whole).substr(equals + 1));
      take_setting(trimmed(std::string_view(whole).substr(0, equals)), without_specifiers(value, unit.name), unit);
    }
    whole.clear();
  }
}

std::optional<Unit> find_unit(const fs::path& instance, const fs::path& configuration) {
  Unit unit;
  unit.name = name_of_served(instance, configuration);
  const std::optional<fs::path> file = unit.name.empty() ? std::nullopt : unit_file(unit.name);
  if (!file) return std::nullopt;
  unit.file = *file;
  take_unit_lines(text_of(*file), unit);
  for (const auto& [name, addition] : additions_to(unit.name)) take_unit_lines(text_of(addition), unit);
  return unit;
}

}  // namespace shmstate::merger
