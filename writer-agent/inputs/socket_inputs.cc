#include "inputs/socket_inputs.h"

#include <utility>

namespace shmstate::agent {

Connection::Connection(InputContext& shared, Fd fd, std::string name, bool answers_lines)
    : Input(shared, std::move(name)) {
  set_fd(std::move(fd));
  talk_back(answers_lines);
  allow_own_ring();
}

}  // namespace shmstate::agent
