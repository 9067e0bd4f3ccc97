// Commands that go on until SIGINT, SIGTERM or SIGHUP ends them in good order.
#pragma once

namespace shmstate::ctl {

/// From now on those signals only make `is_interrupted` true, and let system calls return.
void end_on_interrupt();
[[nodiscard]] bool is_interrupted() noexcept;

}  // namespace shmstate::ctl
