#include "inputs/watched_name.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace shmstate::agent {
namespace {

namespace fs = std::filesystem;
using Clock = FileSuccession::Clock;

// Names go on being tracked for those that follow.
constexpr std::size_t kOpenMax = 32;
constexpr int kAttemptsPerTurn = 8;
constexpr std::uint32_t kNameEvents =
    IN_CREATE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;

/// Whether other hosts may change files without a notification.
bool is_shared_with_other_hosts(int fd) {
  constexpr std::array<std::uint64_t, 8> kMagics{0x6969,       // NFS
                                                 0x517B,       // SMB
                                                 0xFE534D42,   // SMB2
                                                 0xFF534D42,   // CIFS
                                                 0x00C36400,   // Ceph
                                                 0x01021997,   // 9P
                                                 0x5346414F,   // AFS
                                                 0x65735546};  // FUSE
  struct statfs info {};
  return ::fstatfs(fd, &info) == 0 &&
         std::ranges::find(kMagics, static_cast<std::uint32_t>(info.f_type)) != kMagics.end();
}

}  // namespace

WatchedName::WatchedName(Notifier& notifier, std::string path, Owner& owner)
    : notifier_(&notifier), path_(std::move(path)), owner_(&owner) {}

WatchedName::~WatchedName() { unwatch(); }

/// A change that was not announced, as on another host or where nothing can be watched, is told from one whose
/// notification is still on its way.
void WatchedName::look() {
  settle_in();
  take_announced();
  if (std::exchange(has_overflown_, false) && identity_of(path_) != newest_at_overflow_) {
    owner_->on_missed(1, "notifications were lost, and with them perhaps files that had the name");
  }
  if (knows_named_file()) return;
  wait_for_directory();
  take_announced();
  if (knows_named_file() || !leads_to_directory()) return;
  succession_.appeared(succession_.name(), Clock::now());
  take_announced();
}

/// Not when the directory was replaced at this moment; the next look goes there.
bool WatchedName::leads_to_directory() const {
  struct stat info {};
  return ::fstatat(directory_.get(), succession_.name().c_str(), &info, 0) == 0 &&
         identity_of(info) == identity_of(path_);
}

/// Whether the file that has the name now, if there is one, was taken note of.
bool WatchedName::knows_named_file() {
  const FileIdentity named = identity_of(path_);
  return named == kNoFile || named == newest_ ||
         std::ranges::any_of(succession_.files(), [&](const SucceedingFile& file) {
           return !file.is_open() && file.name == succession_.name();
         });
}

void WatchedName::take_announced() {
  notifier_->take_all();
  for (int attempts_left = kAttemptsPerTurn; attempts_left > 0 && open_announced(); --attempts_left) {
    wait_for_directory();
    notifier_->take_all();
    succession_.forget_departed();
    const bool is_settled = !discard_mistaken();
    accept_opened();
    if (is_settled) break;
  }
  accept_opened();
  report_missed();
}

const SucceedingFile* WatchedName::next() {
  std::deque<SucceedingFile>& files = succession_.files();
  const auto first_open = std::ranges::find_if(files, &SucceedingFile::is_open);
  if (first_open == files.end()) return nullptr;
  for (auto left = first_open - files.begin(); left > 0; --left) succession_.miss_oldest();
  report_missed();
  return &files.front();
}

SucceedingFile WatchedName::take_next() {
  SucceedingFile file = std::move(succession_.files().front());
  succession_.files().pop_front();
  taken_ = file.identity;
  return file;
}

bool WatchedName::awaits(const FileIdentity& identity) {
  return std::ranges::any_of(succession_.files(),
                             [&](const SucceedingFile& file) { return file.is_open() && file.identity == identity; });
}

void WatchedName::on_notification(const Notification& notification) {
  if ((notification.events & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT)) != 0) {
    if ((notification.events & IN_IGNORED) != 0) directory_identity_ = kNoFile;
    owner_->on_announced(true);
    return;
  }
  if (notification.watch == link_watch_ && notification.name == link_name_) owner_->on_announced(true);
  if (notification.watch == directory_watch_) note(notification);
}

void WatchedName::note(const Notification& notification) {
  const bool is_ours = notification.name == succession_.name();
  const std::size_t count_before = succession_.files().size();
  if ((notification.events & IN_CREATE) != 0) succession_.appeared(notification.name, Clock::now());
  if ((notification.events & IN_MOVED_FROM) != 0) succession_.moved_from(notification.name, notification.cookie);
  if ((notification.events & IN_MOVED_TO) != 0) {
    succession_.moved_to(notification.name, notification.cookie, Clock::now());
  }
  if ((notification.events & IN_DELETE) != 0) succession_.deleted(notification.name);
  if (is_ours || succession_.files().size() != count_before) owner_->on_announced(false);
}

void WatchedName::on_overflow() {
  if (!std::exchange(has_overflown_, true)) newest_at_overflow_ = newest_;
  succession_.start_anew(succession_.name());
  owner_->on_announced(true);
}

WatchedName::Place WatchedName::find_place() const {
  std::error_code error;
  fs::path path = path_;
  if (fs::is_symlink(path, error)) {
    const fs::path target = fs::canonical(path, error);
    if (!error) path = target;
  }
  const fs::path parent = path.parent_path();
  return {parent.empty() ? "." : parent, path.filename().string()};
}

/// Goes to another directory when the name leads there now.
void WatchedName::settle_in() {
  Place place = find_place();
  const FileIdentity identity = identity_of(place.directory.string());
  const bool is_settled = directory_.is_open() && place == place_ && identity == directory_identity_;
  if (is_settled && directory_watch_ != Notifier::kNone) return;
  if (!is_settled) {
    take_announced();
    succession_.start_anew(place.name);
    report_missed();
    place_ = std::move(place);
    directory_ = open_file(place_.directory, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
    if (!directory_.is_open()) directory_ = open_file(place_.directory, O_PATH | O_DIRECTORY);
    directory_identity_ = identity_of(directory_.get());
  }
  unwatch();
  watch();
}

void WatchedName::watch() {
  if (!directory_.is_open()) return;
  directory_watch_ = notifier_->watch(place_.directory.string(), kNameEvents | IN_ONLYDIR, *this);
  const int error_number = errno;
  const fs::path path = path_;
  const fs::path parent = path.parent_path().empty() ? "." : path.parent_path();
  link_name_ = path.filename().string();
  if (place_ != Place{parent, link_name_}) link_watch_ = notifier_->watch(parent.string(), kNameEvents, *this);
  if (directory_watch_ == Notifier::kNone && error_number == EACCES && !std::exchange(is_unwatchable_, true)) {
    owner_->on_problem("its directory may not be read: looking at the name four times a second instead");
  }
  if (is_shared_with_other_hosts(directory_.get()) && !std::exchange(is_unwatchable_, true)) {
    owner_->on_problem("what other hosts do to it is seen only by looking four times a second");
  }
}

void WatchedName::unwatch() noexcept {
  for (int* watch : {&directory_watch_, &link_watch_}) {
    notifier_->unwatch(std::exchange(*watch, Notifier::kNone), *this);
  }
}

/// Returns whether any was opened.
bool WatchedName::open_announced() {
  std::deque<SucceedingFile>& files = succession_.files();
  std::vector<std::string> gone;
  std::size_t open_count = 0;
  bool has_opened = false;
  for (SucceedingFile& file : files) {
    if (open_count >= kOpenMax) break;
    if (!file.is_open() && !file.name.empty()) {
      has_opened = open(file) || has_opened;
      if (!file.is_open() && errno == ENOENT && directory_watch_ == Notifier::kNone) gone.push_back(file.name);
    }
    if (file.is_open()) ++open_count;
  }
  for (const std::string& name : gone) succession_.deleted(name);
  return has_opened;
}

/// Does not open what is no plain file: that would end the wait of a FIFO's producers, or rewind a tape.
bool WatchedName::open(SucceedingFile& file) {
  file.was_touched = false;
  struct stat info {};
  if (::fstatat(directory_.get(), file.name.c_str(), &info, 0) == 0) {
    if (!S_ISREG(info.st_mode)) {
      drop_what_is_no_file(file, info.st_mode);
      return false;
    }
    file.fd = move_up(::openat(directory_.get(), file.name.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  }
  if (!file.is_open()) {
    const int error_number = errno;
    if (error_number != ENOENT && !std::exchange(is_unreadable_, true)) {
      owner_->on_problem(
          fmt::format("cannot be opened: {}; trying again", std::generic_category().message(error_number)));
    }
    errno = error_number;
    return false;
  }
  is_unreadable_ = false;
  file.identity = identity_of(file.fd.get());
  return true;
}

void WatchedName::drop_what_is_no_file(SucceedingFile& file, mode_t mode) {
  const FileIdentity identity = identity_of(path_);
  if (std::exchange(newest_, identity) != identity) {
    owner_->on_problem(fmt::format("is {} now, and not read; only plain files are followed", kind_of(mode)));
  }
  file.name.clear();
  file.identity = identity;
  file.is_certain = true;
  errno = 0;
}

/// A file whose name changed while it was opened may be another one: it is opened again, or missed.
bool WatchedName::discard_mistaken() {
  bool has_discarded = false;
  for (SucceedingFile& file : succession_.files()) {
    if (!file.is_open() || file.is_certain || !file.was_touched) continue;
    struct stat info {};
    const bool was_removed = file.name.empty();
    if (was_removed && ::fstat(file.fd.get(), &info) == 0 && info.st_nlink == 0) continue;
    file.fd = Fd{};
    has_discarded = true;
  }
  succession_.forget_removed();
  return has_discarded;
}

/// A file that is read already is no other one because it got its name again.
void WatchedName::accept_opened() {
  std::deque<SucceedingFile>& files = succession_.files();
  std::vector<FileIdentity> known{taken_};
  for (SucceedingFile& file : files) {
    if (!file.is_open()) continue;
    if (!std::exchange(file.is_certain, true)) newest_ = file.identity;
    if (std::ranges::find(known, file.identity) != known.end()) {
      file.fd = Fd{};
      file.is_certain = true;
    }
    known.push_back(file.identity);
  }
  std::erase_if(files, [](const SucceedingFile& file) { return file.is_certain && !file.is_open(); });
}

/// Whoever changes the directory holds its lock until that is announced, and reading it needs that lock, too.
void WatchedName::wait_for_directory() const {
  alignas(std::uint64_t) std::array<char, 1024> entries;
  ::lseek(directory_.get(), 0, SEEK_SET);
  (void)::syscall(SYS_getdents64, directory_.get(), entries.data(), entries.size());
}

void WatchedName::report_missed() {
  const std::uint64_t count = succession_.take_missed();
  if (count == 0) return;
  owner_->on_missed(count, fmt::format("{} files that had the name were gone before they could be read", count));
}

}  // namespace shmstate::agent
