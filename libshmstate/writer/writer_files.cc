#include "writer/writer_files.h"

#include <fcntl.h>

#include <bit>
#include <cerrno>

#include "files/access.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

os::Fd open_doorbell(const Control& control) {
  const std::filesystem::path path = doorbell_path(control.path());
  os::Fd fd = os::open_file(path, O_RDWR);
  if (!fd.is_open()) {
    const int error_number = errno;
    if (error_number == EACCES || error_number == EPERM) throw refusal(control.path(), path, Purpose::kWrite);
    os::throw_errno("cannot open " + path.string(), error_number);
  }
  return fd;
}

RingFile open_ring(const Control& control, const WriterOptions& options) {
  if (options.ring_bytes < kRingBytesMin || options.ring_bytes > kRingBytesMax) {
    throw Error(Status::kInvalidArgument,
                "shmstate: ring_bytes must be 64 KiB to 1 GiB, not " + std::to_string(options.ring_bytes));
  }
  const std::uint64_t data_bytes = std::bit_ceil(options.ring_bytes);
  const std::uint64_t names_bytes = options.names_bytes.value_or(data_bytes / 4);
  if (names_bytes > kNamesBytesMax) {
    throw Error(Status::kInvalidArgument,
                "shmstate: names_bytes must be at most 1 GiB, not " + std::to_string(names_bytes));
  }
  const RingFile::Description description{.data_bytes = data_bytes,
                                          .names_bytes = options.shared ? 0 : round_up(names_bytes, kNamesBytesStep),
                                          .flags = options.shared ? layout::kRingShared : 0,
                                          .name = options.name.empty() ? os::program_name() : options.name,
                                          .instance_id = control.geometry().instance_id};
  const std::filesystem::path rings = rings_path(control.path());
  RingFile ring = options.shared ? RingFile::open_shared(rings, description) : RingFile::create(rings, description);
  if (options.survive_truncation) ring.survive_truncation();
  return ring;
}

}  // namespace

WriterFiles::WriterFiles(const std::filesystem::path& instance, const WriterOptions& options,
                         std::chrono::nanoseconds timeout)
    : control(instance, timeout, options.survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
      doorbell_mapping(open_more(control, [this] { return open_doorbell(control); }), Access::kReadWrite, 0,
                       sizeof(layout::Doorbell), "doorbell"),
      ring(open_more(control, [&] { return open_ring(control, options); })),
      pusher(ring.header(), ring.at(0), ring.data_bytes(), control.sleep()),
      ring_path((rings_path(control.path()) / ring_name(ring.id())).string()),
      names{.begin = ring.names().bytes(), .committed_begin = ring.names().bytes()} {}

WriterFiles WriterFiles::open(const std::filesystem::path& instance, const WriterOptions& options) {
  return attach_within(options.attach_timeout,
                       [&](std::chrono::nanoseconds left) { return WriterFiles(instance, options, left); });
}

void WriterFiles::announce() const noexcept {
  os::futex_add_and_wake(doorbell().registrations.futex());
  crash_point(CrashPoint::kRingRegistered);
}

}  // namespace shmstate::internal
