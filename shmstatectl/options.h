// The command line, parsed.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "exit_code.h"
#include "shmstate/value.h"

namespace shmstate::ctl {

struct Options {
  ExitCode (*run)(const Options&) = nullptr;  // the subcommand

  std::string instance;  // as given; empty: the only one there is
  std::string connect;   // set, add, del, load: the socket of an agent to send to
  bool json = false;

  std::vector<std::string> keys;  // get
  std::string key;                // set, add, del
  std::string value;              // set, add
  std::string prefix;             // list, watch, dump
  std::string file;               // load: empty or "-" is standard input

  std::optional<Type> type;  // set, add: forced
  std::chrono::nanoseconds timeout = std::chrono::seconds(1);
  std::chrono::nanoseconds load_timeout = std::chrono::seconds(30);  // of one batch
  std::chrono::nanoseconds interval{};
  std::chrono::nanoseconds rate_interval = std::chrono::milliseconds(500);  // status: between its two looks
  std::chrono::nanoseconds refresh_interval = std::chrono::seconds(1);      // top
  std::chrono::nanoseconds time_to_live{};                                  // set; zero: for ever
  std::optional<std::uint64_t> limit;                                       // list: entries; watch: changes
  std::optional<std::uint64_t> version;                                     // set, del
  bool initial = false;                                                     // watch
  bool missing_only = false;                                                // load
  bool only_if_empty = false;                                               // load
  bool no_split = false;                                                    // load
  bool raw = false;
  bool keys_only = false;
  bool verbose = false;  // status, get
};

}  // namespace shmstate::ctl
