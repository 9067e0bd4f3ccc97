// The current buffer of an instance, pinned while this lives.
#pragma once

#include <memory>
#include <string>

#include "attachment.h"
#include "files/errors.h"

namespace shmstate::internal {

class Pinned {
 public:
  /// Throws `Error`.
  explicit Pinned(std::shared_ptr<Attachment> files) : files_(std::move(files)) {
    if (const Status status = files_->pin_current(version_); status != Status::kOk) fail_pin(status);
  }
  ~Pinned() {
    if (!is_forked()) files_->snapshot.unpin(version_.buffer);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  [[nodiscard]] const Attachment& files() const noexcept { return *files_; }
  [[nodiscard]] Version version() const noexcept { return version_; }
  [[nodiscard]] Position position() const noexcept { return files_->position_of(version_); }
  [[nodiscard]] BufferView view() const noexcept { return files_->snapshot.buffer(version_.buffer); }
  /// Whether this is a child of the process that pinned it: the pin is the parent's.
  [[nodiscard]] bool is_forked() const noexcept { return !maker_.is_this_process(); }
  /// False once the merger reclaimed the buffer, and in a child of fork.
  [[nodiscard]] bool is_kept() const noexcept {
    return !is_forked() && internal::is_kept(files_->publication(), version_);
  }

  [[noreturn]] void fail(Status status) const {
    throw Error(status, "shmstate: " + quoted(files_->control.path()) + ": snapshot of epoch " +
                            std::to_string(version_.epoch) + ": " + std::string(describe(status)));
  }
  void check_kept() const {
    if (is_kept()) return;
    if (is_forked()) fail(Status::kForked);
    fail(files_->control.is_lost() ? Status::kDamaged : Status::kExpired);
  }
  /// Fails as expired when that explains why something was out of bounds.
  [[noreturn]] void fail_damaged() const {
    check_kept();
    fail(Status::kDamaged);
  }

 private:
  [[noreturn]] void fail_pin(Status status) const {
    const std::filesystem::path& path = files_->control.path();
    if (status == Status::kNoPermission) throw error_of(InstanceError::kPinsClosed, path, {pins_path(path).native()});
    fail(status);
  }

  std::shared_ptr<Attachment> files_;
  Version version_;
  Maker maker_;
};

}  // namespace shmstate::internal
