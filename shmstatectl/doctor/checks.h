// What doctor examines; each check adds what it finds.
#pragma once

#include <filesystem>

#include "doctor/findings.h"
#include "shmstate/inspect.h"

namespace shmstate::ctl {

// Who may do what: access.cc.
void check_reading(const std::filesystem::path& instance, Findings& findings);
void check_writing(const std::filesystem::path& instance, Findings& findings);
void check_owners(const std::filesystem::path& instance, Findings& findings);

// What the host gives: host.cc.
void check_mount(const std::filesystem::path& instance, Findings& findings);
void check_huge_pages(Findings& findings);
void check_space(const InstanceInfo& info, Findings& findings);

// What the instance says: state.cc. `check_pins` may take 200 ms.
void check_boot(const std::filesystem::path& instance, Findings& findings);
void check_state(const std::filesystem::path& instance, Findings& findings);
void check_merger(const InstanceInfo& info, Findings& findings);
void check_rings(const InstanceInfo& info, Findings& findings);
void check_pins(const InstanceInfo& info, Findings& findings);
void check_statistics(const InstanceInfo& info, Findings& findings);

}  // namespace shmstate::ctl
