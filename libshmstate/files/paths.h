// Where an instance and its files are, and whether those places are to be trusted.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/os.h"
#include "shmstate/status.h"

namespace shmstate::internal {

/// Whether an instance may be called so: 1 to 200 characters, of which the first is no dot. What begins with a dot is a
/// directory on its way to become an instance, or none at all: nobody serves, finds or lists it.
[[nodiscard]] bool is_instance_name(std::string_view name) noexcept;

/// The directory of an instance. A name with a slash is a path, whose last part is a name; otherwise it is looked for
/// in $SHMSTATE_ROOT if set, else in /run/shmstate and then in the user's own /dev/shm/shmstate-<uid>. Throws `Error`
/// for an impossible name, for a root to distrust, and when nobody can tell what is there.
[[nodiscard]] std::filesystem::path instance_path(std::string_view name);

/// The directories in which instances may lie, in that order.
[[nodiscard]] std::vector<std::filesystem::path> instance_roots();

/// Everybody may create /dev/shm/shmstate-<uid>, and could then choose what its user reads. So this is an error when
/// `root` is that of this user, but not made by this user.
[[nodiscard]] std::optional<Error> why_untrusted(const std::filesystem::path& root);

/// What to say of an instance that does not exist: how to start its merger.
[[nodiscard]] Error absence(const std::filesystem::path& instance);

/// What becomes `control` when the instance is complete. Where only this is, its creator died.
[[nodiscard]] std::filesystem::path new_control_path(const std::filesystem::path& instance);
/// What only writers need lies behind a directory of its own, the gate: whoever may pass it may write to the instance.
[[nodiscard]] std::filesystem::path gate_path(const std::filesystem::path& instance);
[[nodiscard]] std::filesystem::path rings_path(const std::filesystem::path& instance);
[[nodiscard]] std::filesystem::path doorbell_path(const std::filesystem::path& instance);
/// Where readers announce their pins.
[[nodiscard]] std::filesystem::path pins_path(const std::filesystem::path& instance);

/// "instance "plant"", for messages.
[[nodiscard]] std::string quoted(const std::filesystem::path& instance);

/// Whether `path` still leads to the file that `fd` has open; nothing when that cannot be told.
[[nodiscard]] std::optional<bool> leads_to(const std::filesystem::path& path, const os::Fd& fd) noexcept;

}  // namespace shmstate::internal
