// Which instance a command means, and what to say when nobody serves it.
#pragma once

#include <chrono>
#include <string>

#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "show/json.h"

namespace shmstate::ctl {

/// The instance that was asked for, or else the only one there is. Throws `Error` when there is none, `UsageError`
/// when there are several.
[[nodiscard]] std::string resolve_instance(const std::string& asked);

/// How to read: without waiting for an instance to appear, and to the end whatever happens to its files.
[[nodiscard]] ReaderOptions reader_options();
[[nodiscard]] Reader open_reader(const std::string& instance);

/// What an instance says about itself.
[[nodiscard]] InstanceInfo look_at(const std::string& instance);

/// The same once the merger has refreshed what it says after this call began: statistics and rings are up to 100 ms old
/// otherwise. As it is, when no merger runs, or it does nothing for a second.
[[nodiscard]] InstanceInfo look_at_fresh(const std::string& instance);

/// An idle merger gives ten heartbeats a second: one that is this late is stopped or badly behind.
inline constexpr auto kSilenceNoticed = std::chrono::seconds(1);

/// Tells on standard error when the merger is gone or hangs, so that what is shown may be old.
void report_silent_merger(const InstanceInfo& info);

/// How fresh a snapshot is, for the JSON of `get` and `list`.
[[nodiscard]] Json json_of_freshness(const InstanceInfo& info, Epoch epoch);

}  // namespace shmstate::ctl
