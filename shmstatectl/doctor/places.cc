#include "doctor/places.h"

#include "files/access.h"
#include "files/paths.h"

namespace shmstate::ctl {

std::string instance_name(const std::filesystem::path& instance) {
  std::string name = instance.filename().string();
  try {
    if (internal::instance_path(name) == instance) return name;
  } catch (const Error&) {
  }
  return instance.string();
}

std::vector<ClosedDirectory> closed_directories() {
  std::vector<ClosedDirectory> closed;
  for (const internal::Obstacle& obstacle : internal::closed_directories()) {
    closed.push_back(
        {.path = obstacle.path.string(), .text = description(obstacle), .remedy = remedy_of_closed(obstacle)});
  }
  return closed;
}

}  // namespace shmstate::ctl
