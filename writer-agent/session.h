// One source's conversation with the agent: takes its lines, keeps its batch, pushes its mutations, and says what the
// source should be told.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "shmstate/status.h"
#include "writer-agent/line_parser.h"
#include "writer-agent/line_splitter.h"
#include "writer-agent/pending_batch.h"

namespace shmstate::agent {

/// Where mutations go; the writer, or a test.
class MutationSink {
 public:
  virtual ~MutationSink() = default;
  virtual Status push(const Command& mutation) = 0;
  virtual Status push_batch(const PendingBatch& batch) = 0;
  /// Mutations that a batch may hold now.
  [[nodiscard]] virtual std::uint64_t batch_max() const noexcept { return std::numeric_limits<std::uint64_t>::max(); }
};

/// What the agent has done, over all sources.
struct Tally {
  std::uint64_t lines = 0;              ///< all lines, also empty ones and comments
  std::uint64_t mutations = 0;          ///< accepted by the ring, also in batches
  std::uint64_t batches = 0;            ///< accepted by the ring
  std::uint64_t bad_lines = 0;          ///< lines that are no command, or not one that is possible here
  std::uint64_t refused_mutations = 0;  ///< mutations that the ring refused, also in batches
  std::uint64_t losses = 0;             ///< files, and pieces of files and streams, that could not be read
  std::uint64_t discarded_batches = 0;  ///< batches with a bad line, and batches whose source ended before `commit`

  [[nodiscard]] bool is_clean() const noexcept {
    return bad_lines == 0 && refused_mutations == 0 && discarded_batches == 0 && losses == 0;
  }
};

/// What a source should be told. The last two answer `flush`, which is answered in any case.
enum class Answer : std::uint8_t { kNone, kOk, kError, kFlushWhenReadable, kFlushError };

/// What follows from a line.
struct Verdict {
  Answer answer = Answer::kNone;
  bool is_problem = false;    ///< `Session::problem` says what went wrong
  bool is_ring_full = false;  ///< the ring stayed full: look after signals before the next line
};

class Session {
 public:
  Session(MutationSink& sink, Tally& tally, Scratch& scratch, std::size_t batch_bytes_max)
      : sink_(&sink), tally_(&tally), scratch_(&scratch), batch_bytes_max_(batch_bytes_max) {}

  Verdict handle(const Line& line);

  /// The source has ended. Discards an open batch; returns whether there was one, and `problem` tells.
  bool end();

  /// What the last line, or the end, had wrong.
  [[nodiscard]] const std::string& problem() const noexcept { return problem_; }

 private:
  Verdict run(const Command& command);
  Verdict push(const Command& mutation);
  Verdict collect(const Command& mutation);
  Verdict begin();
  Verdict commit();
  Verdict abort();
  Verdict flush();

  Verdict bad_line(std::string_view reason);
  Verdict refuse(Status status, std::size_t mutation_count);
  Verdict fail(std::string problem);
  void close_batch();

  MutationSink* sink_;
  Tally* tally_;
  Scratch* scratch_;
  std::size_t batch_bytes_max_;
  std::uint64_t line_number_ = 0;

  bool in_batch_ = false;
  std::uint64_t batch_line_number_ = 0;
  std::string batch_spoiled_;  // by what; empty while the batch is good
  PendingBatch batch_;

  std::string problem_;
};

}  // namespace shmstate::agent
