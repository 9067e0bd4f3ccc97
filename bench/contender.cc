#include "contender.h"

#include "contenders/contenders.h"

namespace shmstate::bench {

void Contender::load(const std::vector<Item>& items) {
  const auto put = [&]() -> Figures {
    const std::unique_ptr<Client> client = connect(Role::kBoth);
    client->set_all(items, 0);
    client->finish();
    return {};
  };
  measure_apart(put);
}

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
