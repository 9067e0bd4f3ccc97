// Each file here adds its contenders.
#pragma once

#include <memory>
#include <vector>

#include "contender.h"

namespace shmstate::bench {

using Contenders = std::vector<std::unique_ptr<Contender>>;

void add_shmstate(Contenders& contenders);
/// Private hash maps (what a lookup can cost at best), and one in shared memory behind a mutex.
void add_maps(Contenders& contenders);
/// Queues that carry the same bytes, with nothing behind them that applies them.
void add_queues(Contenders& contenders);

}  // namespace shmstate::bench
