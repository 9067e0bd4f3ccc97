// Memory mappings of instance files, on Boost.Interprocess.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "files/os.h"

namespace shmstate::internal {

enum class Access : std::uint8_t { kReadOnly, kReadWrite };

/// A range of an open file in memory. Throws `Error` naming `what` when it cannot be mapped.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const os::Fd& fd, Access access, std::uint64_t offset, std::size_t bytes, const std::string& what,
          void* fixed_address = nullptr);

  [[nodiscard]] std::byte* data() const noexcept { return static_cast<std::byte*>(region_.get_address()); }
  [[nodiscard]] std::size_t size() const noexcept { return region_.get_size(); }

 private:
  boost::interprocess::mapped_region region_;
};

/// A file's `header_bytes` and `data_bytes`, then the data once more, back to back, so that a record that starts
/// anywhere in it is contiguous, then what lies behind the data in the file.
class MirroredMapping {
 public:
  MirroredMapping() = default;
  MirroredMapping(const os::Fd& fd, std::size_t header_bytes, std::size_t data_bytes, std::size_t behind_bytes,
                  const std::string& what);

  [[nodiscard]] std::byte* header() const noexcept { return first_.data(); }
  [[nodiscard]] std::byte* data() const noexcept { return first_.data() + header_bytes_; }
  [[nodiscard]] std::byte* behind() const noexcept { return second_.data() + (first_.size() - header_bytes_); }
  [[nodiscard]] std::size_t size() const noexcept { return first_.size() + second_.size(); }

 private:
  Mapping first_;
  Mapping second_;
  std::size_t header_bytes_ = 0;
};

}  // namespace shmstate::internal
