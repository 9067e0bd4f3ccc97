// What the process tests stand on: real processes that never outlive their test, and a directory for their files.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "files/os.h"
#include "harness/board.h"
#include "shmstate/status.h"

namespace shmstate::test {
using namespace internal;

/// How long a test waits for what must happen some time; no promise is about time.
inline constexpr std::chrono::seconds kPatience{60};

/// Whether SHMSTATE_TEST_LONG asks for the long run.
[[nodiscard]] bool is_long_run();

/// Sanitizers need memory, descriptors and /proc for themselves, so nothing can be shown without these.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

/// A promise that did not hold. Thrown in a child, it becomes its verdict.
class Broken : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
void must(bool holds, std::string_view otherwise);
void must_be_ok(Status status, std::string_view what);
/// Waits until `condition` holds; after `patience` the promise is broken.
void eventually(std::string_view promise, const std::function<bool()>& condition,
                std::chrono::seconds patience = kPatience);

/// A process that is killed and collected at the latest when this object goes.
class Process {
 public:
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  ~Process();

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  void signal(int number) const;
  /// Stops it, and returns once it stands still.
  void stop() const;
  void go_on() const;
  [[nodiscard]] bool has_ended();
  /// Waits for its end, in a long run for longer: the exit code, or 128 + the signal that ended it.
  int wait();
  /// Kills it with SIGKILL and collects it.
  void kill();

 protected:
  Process() = default;
  /// Forks; the child gets 0.
  pid_t fork_here();

 private:
  pid_t pid_ = 0;
  std::optional<int> exit_code_;
};

/// A fork of the test that runs `body`. Start children before opening readers and writers: a fork shares the locks on
/// their files.
class Child : public Process {
 public:
  explicit Child(const std::function<void()>& body);

  /// Waits for its end: empty when the body returned, else what was broken, or the signal that ended it.
  [[nodiscard]] std::string verdict();

 private:
  os::Fd pipe_;
};

struct User {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups{};  // besides `gid`
};

struct ProgramSettings {
  std::string input{};            // given on standard input, which then ends
  std::optional<User> user{};     // to run as
  std::function<void()> setup{};  // called in the new process, last: limits, other streams
};

/// One of the built programs.
class Program : public Process {
 public:
  Program(const std::string& executable, const std::vector<std::string>& arguments,
          const ProgramSettings& settings = {});

  /// What it has written so far, standard output and standard error together.
  [[nodiscard]] std::string output() const;

 private:
  os::Fd output_;
};

/// Becomes another user, in a child that must not keep anything of root.
void become(const User& user);

/// A `shmstate-merger` for `instance`, with a small memory limit unless `options` says otherwise.
[[nodiscard]] Program launch_merger(const std::filesystem::path& instance, const std::vector<std::string>& options = {},
                                    const ProgramSettings& settings = {});
/// The same; returns when it serves.
[[nodiscard]] Program start_merger(const std::filesystem::path& instance, const std::vector<std::string>& options = {});

/// A statistic of an instance, by name; refreshed ten times a second.
[[nodiscard]] std::uint64_t statistic(const std::filesystem::path& instance, std::string_view name);

/// A directory of its own under $SHMSTATE_TEST_DIR or /dev/shm, open to every user, removed at the end.
class TestDirectory {
 public:
  TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  ~TestDirectory();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A tmpfs of its own, in a mount namespace of the calling process. Needs root.
class SmallFilesystem {
 public:
  /// `options` as for mount(8): "size=32m".
  SmallFilesystem(std::filesystem::path path, const std::string& options);
  SmallFilesystem(const SmallFilesystem&) = delete;
  SmallFilesystem& operator=(const SmallFilesystem&) = delete;
  ~SmallFilesystem();

  void remount(const std::string& options) const;
  /// Takes all room but `spare` bytes; gives it back with `make_room`.
  void fill(std::uint64_t spare) const;
  void make_room() const { std::filesystem::remove(path_ / "filler"); }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Expects that every child kept its promise.
void expect_kept(std::vector<Child>& children);

}  // namespace shmstate::test
