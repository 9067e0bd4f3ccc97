// What one producer watches: a part of this host's metrics.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mutation_lines.h"

namespace shmstate::demo {

class Area {
 public:
  Area() = default;
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;
  virtual ~Area() = default;

  /// Appends the present value of every metric of the area.
  virtual void sample(MutationLines& lines) = 0;
};

[[nodiscard]] const std::vector<std::string>& area_names();
/// `name` is one of `area_names`.
[[nodiscard]] std::unique_ptr<Area> make_area(std::string_view name);

}  // namespace shmstate::demo
