// What a fork means to a process that has an instance open, and how it is noticed at no cost.
//
// A child has the parent's memory and the parent's open files, and with them the parent's locks: an unlock in the child
// is one in the parent, two pushers of one shared ring do not exclude each other, and a lock lasts until both are gone.
// So nothing that was opened before a fork is used, or let go, after it:
//
// - The descriptors are closed in the child, within fork(), so that what the parent locked ends with the parent. A
//   mapping keeps its open file, too, so files are mapped through another open file than the one that has the locks.
// - The kernel zeroes a page in every child (MADV_WIPEONFORK), also where nothing of the C library runs (clone). What
//   a hot path compares anyway, such as how much room is left, lies in such a page: zero in the child leads it to where
//   it asks for the process number.
//
// A child that shares the memory (vfork, posix_spawn) is not a process of its own here; it may only exec or _exit.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <string>
#include <utility>

#include "files/os.h"

namespace shmstate::internal {

/// The number of this process, in a page that is zero in a child of fork; zero before it has one.
extern std::atomic<const std::atomic<std::uint64_t>*> process_number_word;
[[nodiscard]] std::uint64_t number_this_process();

/// Another number in every process that comes from another one by fork. Cost: two loads.
/// Throws std::bad_alloc, in the first call of a process only.
[[nodiscard]] inline std::uint64_t process_number() {
  // pair: fork.process_number
  const std::uint64_t number = process_number_word.load(std::memory_order_acquire)->load(std::memory_order_relaxed);
  return number != 0 ? number : number_this_process();
}

/// The process that made this object.
class Maker {
 public:
  [[nodiscard]] bool is_this_process() const noexcept { return number_ == process_number(); }

 private:
  std::uint64_t number_ = process_number();
};

/// A descriptor that belongs to the process that opened it: a child of fork has it closed.
class OwnFd {
 public:
  OwnFd() = default;
  /// Calls `open`, which returns an os::Fd; no fork comes between that and this. Not open on failure, with errno set.
  template <typename Open>
  [[nodiscard]] static OwnFd from(Open&& open) {
    const Registration registration;
    return OwnFd(open());
  }
  /// As os::open_file.
  [[nodiscard]] static OwnFd open_file(const std::filesystem::path& path, int flags, unsigned mode = 0) {
    return from([&] { return os::open_file(path, flags, mode); });
  }
  OwnFd(OwnFd&& other) noexcept : fd_(std::move(other.fd_)), number_(std::exchange(other.number_, 0)) {}
  OwnFd& operator=(OwnFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(number_, other.number_);
    return *this;
  }
  ~OwnFd();

  [[nodiscard]] const os::Fd& fd() const noexcept { return fd_; }
  [[nodiscard]] int get() const noexcept { return fd_.get(); }
  [[nodiscard]] bool is_open() const noexcept { return fd_.is_open(); }
  /// Calls `use` with the same file, opened once more, and returns what it returns; with this one where that cannot be,
  /// as without /proc.
  template <typename Use>
  [[nodiscard]] auto opened_again(int flags, Use&& use) const {
    const OwnFd again = open_file("/proc/self/fd/" + std::to_string(get()), flags);
    return use(again.is_open() ? again.fd() : fd_);
  }

 private:
  /// While it lives, this process does not fork.
  struct Registration {
    Registration();
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
    ~Registration();
  };
  explicit OwnFd(os::Fd fd);

  os::Fd fd_;
  std::uint64_t number_ = 0;  // in the list of those to be closed
};

/// Memory behind a page that is zero in a child of fork, and how to give it back. `bytes` are aligned as from malloc.
[[nodiscard]] void* allocate_behind_wiped_page(std::size_t bytes);
void free_behind_wiped_page(void* memory) noexcept;

/// The first base of a class whose objects are made by `new` only: `wiped()` are words just in front of the object,
/// which begin as zeros and are zeros again in a child of fork.
template <typename Words>
class WithWipedWords {
 public:
  WithWipedWords() noexcept { new (place()) Words(); }
  WithWipedWords(const WithWipedWords&) = delete;
  WithWipedWords& operator=(const WithWipedWords&) = delete;

  static void* operator new(std::size_t bytes) { return allocate_behind_wiped_page(bytes); }
  static void operator delete(void* memory) noexcept { free_behind_wiped_page(memory); }

 protected:
  ~WithWipedWords() = default;
  [[nodiscard]] Words& wiped() noexcept { return *reinterpret_cast<Words*>(place()); }
  [[nodiscard]] const Words& wiped() const noexcept { return *reinterpret_cast<const Words*>(place()); }

 private:
  [[nodiscard]] std::byte* place() const noexcept {
    const auto here = reinterpret_cast<std::uintptr_t>(this);  // no pointer: what lies in front is no part of an object
    return reinterpret_cast<std::byte*>(here - sizeof(Words));
  }
};

}  // namespace shmstate::internal
