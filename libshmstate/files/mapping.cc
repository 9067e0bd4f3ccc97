#include "files/mapping.h"

#include <sys/mman.h>

#include <boost/interprocess/exceptions.hpp>
#include <cerrno>

namespace shmstate::internal {
namespace {

namespace bip = boost::interprocess;

// What mapped_region asks of the thing that it maps. Boost's own file_mapping opens without O_CLOEXEC, and a program
// started by a participant would keep its locks alive.
class OpenFile {
 public:
  OpenFile(int fd, bip::mode_t mode) : fd_(fd), mode_(mode) {}
  [[nodiscard]] bip::mapping_handle_t get_mapping_handle() const {
    return bip::ipcdetail::mapping_handle_from_file_handle(fd_);
  }
  [[nodiscard]] bip::mode_t get_mode() const { return mode_; }

 private:
  int fd_;
  bip::mode_t mode_;
};

bip::mapped_region map(const os::Fd& fd, Access access, std::uint64_t offset, std::size_t bytes,
                       const std::string& what, void* fixed_address) {
  const bip::mode_t mode = access == Access::kReadOnly ? bip::read_only : bip::read_write;
  const bip::map_options_t options = fixed_address == nullptr ? bip::default_map_options : MAP_FIXED;
  try {
    return {OpenFile(fd.get(), mode), mode, static_cast<bip::offset_t>(offset), bytes, fixed_address, options};
  } catch (const bip::interprocess_exception& error) {
    os::throw_errno("cannot map " + what + " (" + std::to_string(bytes) + " bytes)", error.get_native_error());
  }
}

// Address space to put mappings into; they replace it completely.
std::byte* reserve_address_space(std::size_t bytes, const std::string& what) {
  void* const address = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) os::throw_errno("cannot reserve address space for " + what, errno);
  return static_cast<std::byte*>(address);
}

// Huge pages of the file can be mapped as such only where its offset and the address agree.
bip::mapped_region map_aligned(const os::Fd& fd, Access access, std::uint64_t offset, std::size_t bytes,
                               const std::string& what) {
  if (bytes % os::kHugePageBytes != 0) return map(fd, access, offset, bytes, what, nullptr);
  std::byte* const reserved = reserve_address_space(bytes + os::kHugePageBytes, what);
  const std::size_t before = (offset - reinterpret_cast<std::uintptr_t>(reserved)) % os::kHugePageBytes;
  if (before != 0) ::munmap(reserved, before);
  std::byte* const begin = reserved + before;
  ::munmap(begin + bytes, os::kHugePageBytes - before);
  try {
    return map(fd, access, offset, bytes, what, begin);
  } catch (...) {
    ::munmap(begin, bytes);
    throw;
  }
}

}  // namespace

Mapping::Mapping(const os::Fd& fd, Access access, std::uint64_t offset, std::size_t bytes, const std::string& what,
                 void* fixed_address)
    : region_(fixed_address == nullptr ? map_aligned(fd, access, offset, bytes, what)
                                       : map(fd, access, offset, bytes, what, fixed_address)) {}

MirroredMapping::MirroredMapping(const os::Fd& fd, std::size_t header_bytes, std::size_t data_bytes,
                                 std::size_t behind_bytes, const std::string& what)
    : header_bytes_(header_bytes) {
  const std::size_t first_bytes = header_bytes + data_bytes;
  const std::size_t second_bytes = data_bytes + behind_bytes;
  std::byte* const base = reserve_address_space(first_bytes + second_bytes, what);
  try {
    first_ = Mapping(fd, Access::kReadWrite, 0, first_bytes, what, base);
    second_ = Mapping(fd, Access::kReadWrite, header_bytes, second_bytes, what, base + first_bytes);
  } catch (...) {
    std::byte* const left = base + first_.size();  // what no mapping owns yet
    ::munmap(left, first_bytes + second_bytes - first_.size());
    throw;
  }
}

}  // namespace shmstate::internal
