#include "contender.h"

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

}  // namespace shmstate::bench
