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
/// A transaction for each write or read, and for each 1,000.
void add_lmdb(Contenders& contenders);
/// Over a Unix socket, one command at a time, and 100 at a time.
void add_redis(Contenders& contenders);
void add_memcached(Contenders& contenders);
/// The idea that shmstate descends from: a bounded channel, and a worker that copies the whole map at each tick.
void add_dual_queue(Contenders& contenders);
/// Publish and subscribe.
void add_iceoryx(Contenders& contenders);

}  // namespace shmstate::bench
