// A name in a directory, and the files that come to have it: opens each as soon as it is known, so that it can be read
// whatever happens to its name. Notifications tell of every one; looking at the name, now and then, of the present one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "inputs/file_succession.h"
#include "notifier.h"

namespace shmstate::agent {

class WatchedName final : public Notified {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    /// Something was announced: call `take_announced` or, when told so, `look`. Nothing may be done right now.
    virtual void on_announced(bool must_look) = 0;
    virtual void on_problem(std::string_view problem) = 0;
    virtual void on_missed(std::uint64_t count, std::string_view what) = 0;
  };

  /// A name that leads through symbolic links is watched at both ends.
  WatchedName(Notifier& notifier, std::string path, Owner& owner);
  ~WatchedName() override;

  /// Looks which file has the name now, and opens what it did not know.
  void look();
  /// Opens the files that were announced.
  void take_announced();

  /// The file that follows on the one taken last, in the order in which they had the name.
  [[nodiscard]] const SucceedingFile* next();
  [[nodiscard]] SucceedingFile take_next();
  [[nodiscard]] bool awaits(const FileIdentity& identity);
  /// How many follow, opened or not.
  [[nodiscard]] std::size_t count() { return succession_.files().size(); }

  void on_notification(const Notification& notification) override;
  void on_overflow() override;

 private:
  /// Where the file is in the end: a directory, and a name in it.
  struct Place {
    std::filesystem::path directory;
    std::string name;
    bool operator==(const Place&) const = default;
  };

  [[nodiscard]] Place find_place() const;
  void settle_in();
  void watch();
  void unwatch() noexcept;
  void note(const Notification& notification);

  [[nodiscard]] bool knows_named_file();
  [[nodiscard]] bool leads_to_directory() const;
  [[nodiscard]] bool open_announced();
  [[nodiscard]] bool open(SucceedingFile& file);
  void drop_what_is_no_file(SucceedingFile& file, mode_t mode);
  [[nodiscard]] bool discard_mistaken();
  void accept_opened();
  void wait_for_directory() const;
  void report_missed();

  Notifier* notifier_;
  std::string path_;
  Owner* owner_;

  Place place_;
  Fd directory_;
  FileIdentity directory_identity_ = kNoFile;
  int directory_watch_ = Notifier::kNone;
  int link_watch_ = Notifier::kNone;
  std::string link_name_;

  FileSuccession succession_{""};
  FileIdentity taken_ = kNoFile;   // the one taken last
  FileIdentity newest_ = kNoFile;  // the one that had the name last, also if it cannot be read
  FileIdentity newest_at_overflow_ = kNoFile;
  bool has_overflown_ = false;
  bool is_unreadable_ = false;   // and reported
  bool is_unwatchable_ = false;  // and reported
};

}  // namespace shmstate::agent
