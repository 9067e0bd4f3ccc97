#include "files/fork.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

namespace shmstate::internal {
namespace {

struct Descriptor {
  int fd;
  std::uint64_t number;
};
struct Wiped {
  void* page;
  std::size_t bytes;
};

/// What must happen in a child of fork. Never destroyed: threads may outlive the end of `main`.
struct AtFork {
  std::mutex mutex;  // held while the process forks, so that the child finds the lists whole
  std::vector<Descriptor> descriptors;
  std::vector<Wiped> pages;  // that the kernel does not wipe
  std::uint64_t last_number = 0;
};

AtFork& at_fork() {
  static AtFork* const lists = [] {
    auto* const made = new AtFork;
    ::pthread_atfork([] { at_fork().mutex.lock(); }, [] { at_fork().mutex.unlock(); },
                     [] {
                       AtFork& ours = at_fork();
                       const int error_number = errno;
                       for (const Descriptor& descriptor : ours.descriptors) ::close(descriptor.fd);
                       for (const Wiped& wiped : ours.pages) std::memset(wiped.page, 0, wiped.bytes);
                       ours.descriptors.clear();
                       errno = error_number;
                       ours.mutex.unlock();
                     });
    return made;
  }();
  return *lists;
}

std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

void wipe_on_fork(void* page, std::size_t bytes) {
  if (::madvise(page, bytes, MADV_WIPEONFORK) == 0) {
    at_fork();  // for the descriptors
    return;
  }
  AtFork& ours = at_fork();  // memory of another kind, or an emulated kernel
  const std::lock_guard lock(ours.mutex);
  ours.pages.push_back({page, bytes});
}

void keep_on_fork(void* page, std::size_t bytes) noexcept {
  ::madvise(page, bytes, MADV_KEEPONFORK);
  AtFork& ours = at_fork();
  const std::lock_guard lock(ours.mutex);
  std::erase_if(ours.pages, [page](const Wiped& wiped) { return wiped.page == page; });
}

std::atomic<std::uint64_t>& number_in_wiped_page() {
  static auto* const number = [] {
    const std::size_t bytes = page_bytes();
    void* const page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw std::bad_alloc();
    wipe_on_fork(page, bytes);
    return new (page) std::atomic<std::uint64_t>(0);
  }();
  return *number;
}

std::byte* page_in_front_of(void* memory) noexcept { return static_cast<std::byte*>(memory) - page_bytes(); }

constinit const std::atomic<std::uint64_t> kNoneYet{0};

}  // namespace

constinit std::atomic<const std::atomic<std::uint64_t>*> process_number_word{&kNoneYet};

std::uint64_t number_this_process() {
  static std::atomic<std::uint64_t> last{0};  // in the child what it was in the parent
  std::atomic<std::uint64_t>& number = number_in_wiped_page();
  process_number_word.store(&number, std::memory_order_release);  // pair: fork.process_number
  std::uint64_t known = number.load(std::memory_order_relaxed);
  if (known != 0) return known;  // another thread was faster
  const std::uint64_t ours = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return number.compare_exchange_strong(known, ours, std::memory_order_relaxed) ? ours : known;
}

OwnFd::Registration::Registration() { at_fork().mutex.lock(); }
OwnFd::Registration::~Registration() { at_fork().mutex.unlock(); }

OwnFd::OwnFd(os::Fd fd) {
  if (!fd.is_open()) return;
  AtFork& ours = at_fork();
  ours.descriptors.push_back({.fd = fd.get(), .number = ours.last_number + 1});
  number_ = ++ours.last_number;
  fd_ = std::move(fd);
}

// Closed under the lock, so that no child gets it who does not find it in the list.
OwnFd::~OwnFd() {
  if (!fd_.is_open()) return;
  AtFork& ours = at_fork();
  const std::lock_guard lock(ours.mutex);
  const bool is_ours = std::erase_if(ours.descriptors, [this](const Descriptor& descriptor) {
                         return descriptor.number == number_;
                       }) != 0;
  if (is_ours) {
    const os::Fd closed = std::move(fd_);
  } else {
    fd_.release();  // closed at the fork; the number may be another file's by now
  }
}

void* allocate_behind_wiped_page(std::size_t bytes) {
  const std::size_t page = page_bytes();
  auto* const front = static_cast<std::byte*>(::operator new(page + bytes, std::align_val_t(page)));
  try {
    wipe_on_fork(front, page);
  } catch (...) {
    ::operator delete(front, std::align_val_t(page));
    throw;
  }
  return front + page;
}

void free_behind_wiped_page(void* memory) noexcept {
  std::byte* const front = page_in_front_of(memory);
  keep_on_fork(front, page_bytes());
  ::operator delete(front, std::align_val_t(page_bytes()));
}

}  // namespace shmstate::internal
