// Producers that connect to a Unix stream socket: one input for each connection, which may be answered.
#pragma once

#include <string>

#include "inputs/input.h"

namespace shmstate::agent {

class Connection final : public Input {
 public:
  Connection(InputContext& shared, Fd fd, std::string name, bool answers_lines);

 private:
  void on_end_of_stream() override { end(); }
};

}  // namespace shmstate::agent
