#include "contenders/contenders.h"

namespace shmstate::bench {

std::vector<std::unique_ptr<Contender>> make_contenders() {
  std::vector<std::unique_ptr<Contender>> contenders;
  add_shmstate(contenders);
  add_maps(contenders);
  add_lmdb(contenders);
  add_redis(contenders);
  add_memcached(contenders);
  add_dual_queue(contenders);
  add_queues(contenders);
  add_iceoryx(contenders);
  return contenders;
}

}  // namespace shmstate::bench
