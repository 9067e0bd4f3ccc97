#include "inputs/followed_file.h"

#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shmstate/status.h"

namespace shmstate::agent {
namespace {

// Whoever writes the old file may take a moment to notice that it was renamed; but not when files come in a rush.
constexpr std::chrono::seconds kOldFileGrace{1};
constexpr std::size_t kPatientBacklog = 16;

// How long files that were left are looked after, and how many.
constexpr std::chrono::minutes kLookAfter{1};
constexpr std::size_t kLeftFilesMax = 32;

constexpr std::size_t kLastBytes = 256;
constexpr int kHolesPerTurn = 16;

std::string_view remedy_for(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFIFO: return "read it with --fifo";
    case S_IFDIR: return "name a file in it";
    case S_IFSOCK: return "let producers connect to a --socket of the agent";
    default: return "read it through --stdin";
  }
}

void must_be_plain_file(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return;
  throw Error(Status::kInvalidArgument, fmt::format("shmstate: file \"{}\": this is {}; {}", path,
                                                    kind_of(info.st_mode), remedy_for(info.st_mode)));
}

std::uint64_t size_of(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

}  // namespace

FollowedFile::FollowedFile(InputContext& shared, const std::string& path, bool from_start)
    : Input(shared, "file " + path), path_(path), name_(shared.notifier, path, *this) {
  must_be_plain_file(path);
  context().followed_files.push_back(this);
  name_.look();
  if (take_next_file() && !from_start) start_at_end();
}

FollowedFile::~FollowedFile() {
  std::erase(context().followed_files, this);
  context().notifier.unwatch(growth_watch_, *this);
}

void FollowedFile::tick() {
  must_look_ = true;
  count_late_bytes();
  context().loop.call_again(*this);
}

void FollowedFile::on_events(std::uint32_t events) {
  if (std::exchange(must_look_, false)) {
    name_.look();
  } else if (std::exchange(has_announced_, false)) {
    name_.take_announced();
  }
  Input::on_events(events);
}

void FollowedFile::on_notification(const Notification& /*notification*/) { context().loop.call_again(*this); }

void FollowedFile::on_announced(bool must_look) {
  has_announced_ = true;
  must_look_ = must_look_ || must_look;
  context().loop.call_again(*this);
}

/// All that has the name, or had it, is read up to the end that it has now.
void FollowedFile::limit_to_readable() {
  name_.look();
  limit_ = size_of(fd());
  Input::limit_to_readable();
}

void FollowedFile::abandon() {
  Input::abandon();
  count_late_bytes();
  if (const std::size_t count = name_.count(); count > 0) {
    lose(count, fmt::format("{} files that had the name are not read any more", count));
  }
}

ssize_t FollowedFile::read_some(std::span<char> buffer) {
  if (fd() < 0 && !take_next_file()) {
    errno = EAGAIN;
    return -1;
  }
  if (is_read_elsewhere()) return 0;
  if (was_rewritten()) start_over();
  for (int holes_left = kHolesPerTurn; holes_left > 0; --holes_left) {
    const ssize_t count = read_on(buffer);
    if (count <= 0) return count;
    const std::size_t kept = take_out_holes(buffer.first(static_cast<std::size_t>(count)));
    if (kept > 0) return static_cast<ssize_t>(kept);
    jump_over_hole();
  }
  context().loop.call_again(*this);
  errno = EINTR;
  return -1;
}

void FollowedFile::on_end_of_stream() {
  if (!is_draining() && may_leave()) leave_file();
}

bool FollowedFile::go_on_after_end() {
  name_.take_announced();
  if (name_.next() == nullptr) return false;
  leave_file();
  return true;
}

bool FollowedFile::may_leave() {
  const SucceedingFile* next = name_.next();
  return next != nullptr && (name_.count() > kPatientBacklog || Clock::now() - next->since >= kOldFileGrace);
}

/// The old file is kept open, so that what is still appended to it is noticed.
void FollowedFile::leave_file() {
  finish_stream();
  start_new_stream();
  context().notifier.unwatch(std::exchange(growth_watch_, Notifier::kNone), *this);
  if (is_reading_) left_files_.push_back({take_fd(), identity_, offset_, Clock::now()});
  if (left_files_.size() > kLeftFilesMax) left_files_.pop_front();
  (void)take_next_file();
  has_announced_ = true;  // there is room for another open file
  context().loop.call_again(*this);
}

bool FollowedFile::take_next_file() {
  if (name_.next() == nullptr) return false;
  SucceedingFile file = name_.take_next();
  const std::string opened = fmt::format("/proc/self/fd/{}", file.fd.get());
  identity_ = file.identity;
  offset_ = 0;
  last_bytes_.clear();
  has_read_all_ = true;
  is_reading_ = false;
  has_reported_other_ = false;
  is_at_line_start_ = true;
  skips_rest_of_line_ = false;
  hole_bytes_ = 0;
  cut_from_.reset();
  set_fd(std::move(file.fd));
  limit_ = size_of(fd());
  growth_watch_ = context().notifier.watch(opened, IN_MODIFY, *this);
  return true;
}

void FollowedFile::start_at_end() {
  offset_ = size_of(fd());
  if (offset_ == 0) return;
  std::array<char, kLastBytes> bytes;
  const std::uint64_t count = std::min<std::uint64_t>(offset_, bytes.size());
  const ssize_t got = ::pread(fd(), bytes.data(), count, static_cast<off_t>(offset_ - count));
  if (got <= 0) return;
  last_bytes_.assign(bytes.data(), static_cast<std::size_t>(got));
  is_at_line_start_ = last_bytes_.back() == '\n';
  if (!is_at_line_start_) skip_rest_of_line();
}

/// What comes later than the next file's beginning is older than that, and must not overwrite it.
void FollowedFile::count_late_bytes() {
  for (LeftFile& file : left_files_) {
    const std::uint64_t bytes = size_of(file.fd.get());
    if (bytes <= file.read_bytes || is_to_be_read(file.identity)) continue;
    lose(1, fmt::format("{} bytes were appended to a file that had the name, more than {} s after it had lost it",
                        bytes - file.read_bytes, kOldFileGrace.count()));
    file.read_bytes = bytes;
  }
  std::erase_if(left_files_, [](const LeftFile& file) { return Clock::now() - file.since > kLookAfter; });
}

/// A file that has several of the followed names is read through one of them, and through another once it has
/// lost that one.
bool FollowedFile::is_read_elsewhere() {
  if (is_reading_) return false;
  bool is_first = true;
  for (const FollowedFile* other : context().followed_files) {
    if (other == this) {
      is_first = false;
    } else if (other->has_taken(identity_) && (is_first || other->is_reading_)) {
      if (!std::exchange(has_reported_other_, true)) report(other->path_ + " is the same file; its lines count once");
      return true;
    }
  }
  is_reading_ = true;
  for (const FollowedFile* other : context().followed_files) take_over_from(*other);
  std::erase_if(left_files_, [this](const LeftFile& left) { return left.identity == identity_; });
  return false;
}

/// By another name, or by this one, which it has again.
bool FollowedFile::is_to_be_read(const FileIdentity& identity) {
  return std::ranges::any_of(context().followed_files, [&](FollowedFile* other) {
    return other->has_taken(identity) || other->name_.awaits(identity);
  });
}

/// Goes on where it was left; also by this name itself, which it had before.
void FollowedFile::take_over_from(const FollowedFile& other) {
  for (const LeftFile& left : other.left_files_) {
    if (left.identity != identity_ || left.read_bytes <= offset_) continue;
    offset_ = left.read_bytes;
    last_bytes_.clear();
  }
}

/// Whether it is shorter than what was read of it, or holds something else.
bool FollowedFile::was_rewritten() const {
  if (size_of(fd()) < offset_) return true;
  std::array<char, kLastBytes> bytes;
  const ssize_t count =
      ::pread(fd(), bytes.data(), last_bytes_.size(), static_cast<off_t>(offset_ - last_bytes_.size()));
  return count >= 0 && std::string_view(bytes.data(), static_cast<std::size_t>(count)) != last_bytes_;
}

void FollowedFile::start_over() {
  report("was truncated; reading it from the start");
  if (!has_read_all_) lose(1, "what it held was not read to its end");
  if (drop_unfinished_line()) {
    lose(1, "the beginning of a line is discarded: it was truncated before its newline came");
    skips_rest_of_line_ = true;
  }
  Input::abandon();
  start_new_stream();
  cut_from_ = offset_;
  offset_ = 0;
  last_bytes_.clear();
  is_at_line_start_ = true;
  hole_bytes_ = 0;
}

ssize_t FollowedFile::read_on(std::span<char> buffer) {
  const std::uint64_t wanted =
      is_draining() ? std::min<std::uint64_t>(buffer.size(), limit_ - std::min(limit_, offset_)) : buffer.size();
  const ssize_t count = ::pread(fd(), buffer.data(), wanted, static_cast<off_t>(offset_));
  if (count < 0) return count;
  has_read_all_ = static_cast<std::size_t>(count) < buffer.size();
  offset_ += static_cast<std::uint64_t>(count);
  remember_end(buffer.first(static_cast<std::size_t>(count)));
  return count;
}

void FollowedFile::remember_end(std::span<const char> bytes) {
  const std::span<const char> last = bytes.last(std::min(bytes.size(), kLastBytes));
  last_bytes_.append(last.data(), last.size());
  if (last_bytes_.size() > kLastBytes) last_bytes_.erase(0, last_bytes_.size() - kLastBytes);
}

/// Takes out the zeros before a line, which are there when a producer kept its place in a file that was truncated, and
/// the rest of a line whose beginning was cut off then. Returns how many bytes remain.
std::size_t FollowedFile::take_out_holes(std::span<char> bytes) {
  const bool may_have_holes = hole_bytes_ > 0 || cut_from_ || skips_rest_of_line_;
  if (!may_have_holes && std::memchr(bytes.data(), '\0', bytes.size()) == nullptr) {
    is_at_line_start_ = bytes.back() == '\n';
    return bytes.size();
  }
  std::size_t kept = 0;
  const std::uint64_t start = offset_ - bytes.size();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char byte = bytes[i];
    if (byte == '\0' && is_at_line_start_) {
      ++hole_bytes_;
      continue;
    }
    if (is_at_line_start_) end_hole(start + i);
    is_at_line_start_ = byte == '\n';
    if (!skips_rest_of_line_) bytes[kept++] = byte;
    if (is_at_line_start_) skips_rest_of_line_ = false;
  }
  return kept;
}

/// A line begins there. Without a hole before it, the file was rewritten, and the line is whole.
void FollowedFile::end_hole(std::uint64_t end) {
  const std::optional<std::uint64_t> cut_from = std::exchange(cut_from_, std::nullopt);
  const std::uint64_t bytes = std::exchange(hole_bytes_, 0);
  if (bytes == 0) {
    if (cut_from) skips_rest_of_line_ = false;
    return;
  }
  report(
      fmt::format("skipped a hole of {} zero bytes: its producer kept its place when the file was truncated, so it "
                  "should open it for appending",
                  bytes));
  if (cut_from && end > *cut_from) lose(1, fmt::format("{} bytes of it were truncated unread", end - *cut_from));
}

/// Where the file system knows that there is nothing.
void FollowedFile::jump_over_hole() {
  if (hole_bytes_ == 0) return;
  const off_t data = ::lseek(fd(), static_cast<off_t>(offset_), SEEK_DATA);
  const std::uint64_t end = data >= 0 ? static_cast<std::uint64_t>(data) : errno == ENXIO ? size_of(fd()) : offset_;
  if (end <= offset_) return;
  hole_bytes_ += end - offset_;
  offset_ = end;
  last_bytes_.clear();
}

}  // namespace shmstate::agent
