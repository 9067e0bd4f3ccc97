// One source's conversation with the agent: takes its lines, keeps its batch, pushes its mutations, and says what the
// source should be told.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "lines/line_parser.h"
#include "lines/line_splitter.h"
#include "lines/pending_batch.h"
#include "shmstate/status.h"

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
  std::uint64_t lines = 0;               ///< all lines, also empty ones and comments
  std::uint64_t mutations = 0;           ///< accepted by the ring, also in batches
  std::uint64_t batches = 0;             ///< accepted by the ring
  std::uint64_t bad_lines = 0;           ///< lines that are no command, or not one that is possible here
  std::uint64_t refused_mutations = 0;   ///< mutations that the ring refused, also in batches
  std::uint64_t rejected_mutations = 0;  ///< by the merger, in rings of connections that are over
  std::uint64_t lost_rings = 0;          ///< of connections: what they held is not merged
  std::uint64_t losses = 0;              ///< files, and pieces of files and streams, that could not be read
  std::uint64_t discarded_batches = 0;   ///< batches with a bad line, and batches whose source ended before `commit`

  [[nodiscard]] bool is_clean() const noexcept {
    return bad_lines == 0 && refused_mutations == 0 && rejected_mutations == 0 && lost_rings == 0 &&
           discarded_batches == 0 && losses == 0;
  }
};

/// What a source should be told. The two of `flush` are told in any case. The last one is no answer yet: when readers
/// can see all that this source pushed, it gets a ring of its own, and the line is said once more.
enum class Answer : std::uint8_t { kNone, kOk, kError, kFlushWhenReadable, kFlushError, kAgainWithOwnRing };

/// What follows from a line.
struct Verdict {
  Answer answer = Answer::kNone;
  bool is_problem = false;    ///< `Session::problem` says what went wrong
  bool is_ring_full = false;  ///< the ring stayed full: look after signals before the next line
};

/// The lines of one source that changed nothing: bad ones, refused ones, those of discarded batches.
class LostLines {
 public:
  void add(std::uint64_t count, std::uint64_t line_number, std::string_view problem);
  /// "7 lines refused since the last flush, first: line 9: ..." and none are known any more; empty when there are none.
  [[nodiscard]] std::string take();

 private:
  std::uint64_t count_ = 0;
  std::string first_;
};

class Session {
 public:
  Session(MutationSink& sink, Tally& tally, Scratch& scratch, std::size_t batch_bytes_max)
      : sink_(&sink), tally_(&tally), scratch_(&scratch), batch_bytes_max_(batch_bytes_max) {}

  /// Ephemeral keys need a ring that ends with the source: `kMayHave` asks for it with `Answer::kAgainWithOwnRing`.
  enum class OwnRing : std::uint8_t { kNever, kMayHave, kHas };
  void set_own_ring(OwnRing own_ring) noexcept { own_ring_ = own_ring; }
  /// From now on, everything goes there.
  void move_to_own_ring(MutationSink& sink) noexcept {
    sink_ = &sink;
    own_ring_ = OwnRing::kHas;
  }
  void set_rules(const LineRules& rules) noexcept { rules_ = &rules; }
  [[nodiscard]] const LineRules& rules() const noexcept { return *rules_; }

  Verdict handle(const Line& line);
  /// Instead of a line that was to be said once more.
  Verdict refuse_own_ring(const Line& line, std::string_view reason);

  /// The source has ended. Discards an open batch; returns whether there was one, and `problem` tells.
  bool end();

  /// What the last line, or the end, had wrong.
  [[nodiscard]] const std::string& problem() const noexcept { return problem_; }
  [[nodiscard]] LostLines& lost_lines() noexcept { return lost_lines_; }

 private:
  Verdict run(const Command& command);
  Verdict push(const Command& mutation);
  Verdict collect(const Command& mutation);
  [[nodiscard]] std::string why_too_big() const;
  Verdict begin();
  Verdict commit();
  Verdict abort();
  Verdict flush();

  Verdict again_with_own_ring();
  Verdict bad_line(std::string_view reason);
  Verdict discard(const std::string& reason);
  Verdict refuse(const std::string& what, Status status, std::size_t mutation_count);
  Verdict fail(std::string problem);
  void close_batch();

  MutationSink* sink_;
  Tally* tally_;
  Scratch* scratch_;
  const LineRules* rules_ = &kNoRules;
  std::size_t batch_bytes_max_;
  OwnRing own_ring_ = OwnRing::kNever;
  std::uint64_t line_number_ = 0;
  std::string_view line_;  // while it is handled

  bool in_batch_ = false;
  bool is_batch_ephemeral_ = false;
  std::uint64_t batch_mutation_count_ = 0;  // good lines, also of a batch that is spoiled
  std::uint64_t batch_line_number_ = 0;
  std::string batch_spoiled_;  // by what; empty while the batch is good
  PendingBatch batch_;

  std::string problem_;
  LostLines lost_lines_;

  static const LineRules kNoRules;
};

}  // namespace shmstate::agent
