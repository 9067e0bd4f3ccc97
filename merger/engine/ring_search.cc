#include "engine/ring_search.h"

#include <utility>

#include "files/os.h"
#include "files/ring_file.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kNamesPerTurn = 1024;  // of the directory of rings
constexpr std::size_t kOpenedPerTurn = 32;   // of those, files that are not served yet
constexpr std::size_t kRefusedMax = 65'536;  // remembered, so that each is counted only once

}  // namespace

bool RingSearch::has_more() const noexcept {
  const auto& registrations = context_.owner.doorbell().registrations;
  // pair: doorbell.registrations
  return search_ || news_.has_more() || registrations.load(std::memory_order_acquire) != registrations_seen_;
}

void RingSearch::advance(const Turn& turn, BackBuffer& back) {
  read_news();
  std::size_t opened = 0;
  while (opened < turn.at_most(kOpenedPerTurn)) {
    const std::optional<std::uint64_t> id = news_.next();
    if (!id) break;
    if (consider(ring_name(*id), turn, back)) ++opened;
  }
  search_directory(turn, back);
}

void RingSearch::read_news() {
  // pair: doorbell.registrations
  const std::uint32_t registrations = context_.owner.doorbell().registrations.load(std::memory_order_acquire);
  const bool has_rung = std::exchange(registrations_seen_, registrations) != registrations;
  if (!has_rung && !must_read_news_ && !news_.has_unread()) return;
  must_read_news_ = false;
  news_.read(rings_.ids());
  if (news_.fetch_lost() || (has_rung && !news_.is_watching())) must_search_ = true;
}

void RingSearch::search_directory(const Turn& turn, BackBuffer& back) {
  if (!search_ && !begin_search()) return;
  std::size_t opened = 0;
  std::error_code error;
  for (std::size_t names = 0; names < kNamesPerTurn && opened < turn.at_most(kOpenedPerTurn) && search_; ++names) {
    if (*search_ == std::filesystem::directory_iterator()) {
      search_.reset();
      break;
    }
    const std::string name = (*search_)->path().filename().string();
    ++names_read_;
    search_->increment(error);
    if (error) search_.reset();
    if (consider(name, turn, back)) ++opened;
  }
}

bool RingSearch::begin_search() {
  if (!must_search_) return false;
  must_search_ = false;
  refused_before_ = std::exchange(refused_, {});
  std::error_code error;
  search_.emplace(context_.owner.rings_path(), error);
  if (error) search_.reset();
  return search_.has_value();
}

// Returns whether more than the name had to be examined.
bool RingSearch::consider(const std::string& name, const Turn& turn, BackBuffer& back) {
  const std::filesystem::path directory = context_.owner.rings_path();
  const std::optional<std::uint64_t> id = ring_id_of(name);
  if (!id) {
    RingFile::remove_junk(directory, name);
    return true;
  }
  if (rings_.ids().contains(*id)) return false;
  if (!os::file_info(directory / name)) return true;  // removed since its name was read
  std::string why;
  try {
    std::optional<RingFile> file = RingFile::open(directory, *id, context_.owner.geometry().instance_id);
    crash_point(CrashPoint::kRingOpened);
    if (file && rings_.admit(std::move(*file), back)) return true;
    if (!file) RingFile::remove_broken(directory, *id, false);
    why = file ? "too many rings, or too large a one" : "not a ring of this instance";
  } catch (const Error& problem) {  // no address space, no descriptors, no permission: this ring only
    if (problem.status() == Status::kNoPermission) RingFile::remove_broken(directory, *id, false);
    why = problem.what();
  }
  refuse(*id, turn.now_ns, std::move(why));
  return true;
}

void RingSearch::refuse(std::uint64_t id, std::uint64_t now_ns, std::string why) {
  if (refused_.contains(id)) return;
  if (refused_.size() < kRefusedMax) refused_.insert(id);
  if (refused_before_.contains(id)) return;
  ++context_.statistics.rings_refused;
  context_.log.ring_refused(now_ns, id, std::move(why));
}

}  // namespace shmstate::internal
