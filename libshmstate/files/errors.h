// What can be wrong with an instance, in the words that its user reads. Every error that names an instance and a remedy
// is a row of this table, and docs/operations.md lists exactly these rows (tests/unit/errors_test.cc compares them).
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

#include "shmstate/status.h"

namespace shmstate::internal {

// Name, status, reason, remedy. Each "…" stands for a detail that is only known when the error occurs.
// clang-format off
#define SHMSTATE_INSTANCE_ERRORS(X)                                                                                    \
  /* found by everybody who attaches */                                                                                \
  X(Absent, NoInstance, "does not exist", "start its merger: shmstate-merger --instance …")                            \
  X(AbsentEverywhere, NoInstance, "does not exist, and neither does …",                                                \
    "start its merger: systemctl start shmstate-merger@…, or of your own: shmstate-merger --instance …")               \
  X(Unfinished, NotReady, "its creation has not finished", "start its merger, which begins again")                     \
  X(Recreated, NotReady, "was removed or re-created at this moment", "try again")                                      \
  X(Closed, NoPermission, "permission denied for …", "…")                                                              \
  X(Refused, NoPermission, "permission denied for …", "")                                                              \
  X(UnknownFeatures, VersionMismatch, "requires features that this program does not know (bits …)",                    \
    "install the same shmstate version for merger, writers and readers")                                               \
  X(OtherLayout, VersionMismatch, "has layout …, this program reads layout …",                                         \
    "install the same shmstate version for merger, writers and readers")                                               \
  X(ControlTruncated, Damaged, "control is truncated",                                                                 \
    "stop its merger, remove the directory and start the merger again")                                                \
  X(ControlForeign, Damaged, "control is not a shmstate file",                                                         \
    "stop its merger, remove the directory and start the merger again")                                                \
  X(ControlImpossible, Damaged, "control describes an impossible layout",                                              \
    "stop its merger, remove the directory and start the merger again")                                                \
  X(SnapshotTruncated, Damaged, "snapshot is truncated", "remove the directory and restart the merger")                \
  X(SnapshotForeign, Damaged, "snapshot is not the one that control describes",                                        \
    "remove the directory and restart the merger")                                                                     \
  X(PinsClosed, NoPermission, "a snapshot needs write access to …",                                                    \
    "mount it writable, or create the instance with --pins ask; reads of single keys need none")                       \
  X(FilesTruncated, Damaged, "its files were truncated", "remove the directory and restart the merger")                \
  /* found by a writer */                                                                                              \
  X(BatchOpen, InvalidArgument, "a batch of this writer is open", "commit it, or let it go, before the next one")      \
  /* found by a merger */                                                                                              \
  X(Running, AlreadyRunning, "its merger is already running as …", "stop that one first")                              \
  X(JustRemoved, System, "was just removed", "start the merger again")                                                 \
  X(GroupsShutOut, InvalidArgument, "its mode lets no group in",                                                       \
    "start the merger with --mode 0750, or remove the directory")                                                      \
  X(NoMemoryForTable, NoMemory, "no memory for an empty table", "make the file system larger or raise the limit")      \
  X(ControlCut, Damaged, "control is truncated", "remove the directory to begin with an empty state")                  \
  X(SnapshotCut, Damaged, "snapshot is truncated", "remove the directory to begin with an empty state")                \
  X(ControlMissing, Damaged, "control is missing", "remove the directory to begin with an empty state")                \
  X(SnapshotMissing, Damaged, "snapshot is missing", "remove the directory to begin with an empty state")              \
  X(BootUnknown, Damaged, "control does not say of which boot it is",                                                  \
    "remove the directory to begin with an empty state")                                                               \
  X(NoCurrentBuffer, Damaged, "no buffer holds the current epoch",                                                     \
    "remove the directory to begin with an empty state")                                                               \
  X(BufferImpossible, Damaged, "the current buffer has an impossible size",                                            \
    "remove the directory to begin with an empty state")                                                               \
  X(TableDamaged, Damaged, "the table of the current buffer is damaged",                                               \
    "remove the directory to begin with an empty state")                                                               \
  X(StateLost, Damaged, "control or snapshot was truncated, its state is lost",                                        \
    "remove the directory to begin with an empty one")
// clang-format on

enum class InstanceError : std::uint8_t {
#define SHMSTATE_NAME(name, status, why, remedy) k##name,
  SHMSTATE_INSTANCE_ERRORS(SHMSTATE_NAME)
#undef SHMSTATE_NAME
      kCount
};

struct InstanceErrorRow {
  Status status;
  std::string_view why;
  std::string_view remedy;  // empty: none is known
};
[[nodiscard]] const InstanceErrorRow& row_of(InstanceError error) noexcept;

/// "shmstate: instance "plant" (/run/shmstate/plant): <why>; <remedy>", with the details in place of the "…", in order.
[[nodiscard]] std::string text_of(InstanceError error, const std::filesystem::path& instance,
                                  std::initializer_list<std::string_view> details = {});

/// The same as an exception, with the row's status.
[[nodiscard]] Error error_of(InstanceError error, const std::filesystem::path& instance,
                             std::initializer_list<std::string_view> details = {});

}  // namespace shmstate::internal
