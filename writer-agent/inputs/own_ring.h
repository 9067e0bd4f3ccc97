// A ring of one connection's own. What is ephemeral in it ends with the connection, however that ends, since the kernel
// tells the merger; and what a lost ring costs, it costs that connection only.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "flusher.h"
#include "shmstate/writer.h"
#include "writer_sink.h"

namespace shmstate::agent {

class OwnRing {
 public:
  /// Throws `Error`.
  OwnRing(const std::string& instance, const WriterOptions& options) : writer_(instance, options) {}

  [[nodiscard]] MutationSink& sink() noexcept { return sink_; }
  /// As `RingWait::wait`, for all that was pushed.
  [[nodiscard]] Status wait(std::chrono::milliseconds timeout) { return wait_.wait(writer_.ticket(), timeout); }
  /// Finds out whether the ring is lost, which nobody tells a writer that does not wait. From then on, pushes fail.
  void look() { (void)sink_.note(writer_.flush(writer_.ticket(), std::chrono::nanoseconds(0))); }
  [[nodiscard]] std::uint64_t rejected() const noexcept { return writer_.counters().rejected; }

 private:
  Writer writer_;
  WriterSink sink_{writer_};
  RingWait wait_{writer_};
};

}  // namespace shmstate::agent
