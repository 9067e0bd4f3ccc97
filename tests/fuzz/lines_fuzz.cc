// Any bytes to the writer-agent: what it pushes is possible, and does not depend on how its input was cut.
#include <array>
#include <string>

#include "input.h"
#include "inputs/source_rules.h"
#include "lines/session.h"

namespace shmstate::fuzz {
namespace {

using agent::Command;

/// Takes mutations like a ring that is sometimes full.
class RecordingSink final : public agent::MutationSink {
 public:
  explicit RecordingSink(std::uint8_t refused) : refused_(refused) {}

  Status push(const Command& mutation) override {
    record(mutation);
    return answer();
  }
  Status push_batch(const agent::PendingBatch& batch) override {
    record_ += "batch ";
    batch.for_each([this](const Command& mutation) { record(mutation); });
    return answer();
  }
  [[nodiscard]] const std::string& everything() const noexcept { return record_; }
  void note(const std::string& text) { record_ += text + '\n'; }

 private:
  Status answer() noexcept { return (refused_ >> pushes_++ % 8 & 1) != 0 ? Status::kTimeout : Status::kOk; }

  void record(const Command& mutation) {
    using agent::Verb;
    must(mutation.verb == Verb::kSet || mutation.verb == Verb::kAdd || mutation.verb == Verb::kErase,
         "only mutations are pushed");
    must(!mutation.key.empty() && mutation.key.size() <= kKeyBytesMax, "keys are possible");
    record_ += std::to_string(static_cast<int>(mutation.verb)) + ' ' + std::string(mutation.key) + ' ';
    if (mutation.verb != agent::Verb::kErase) record(mutation.value);
    record(mutation.options, mutation.verb);
    record_ += '\n';
  }
  void record(const SetOptions& options, agent::Verb verb) {
    using std::chrono::milliseconds;
    must(options.ttl.count() == 0 || options.ttl >= milliseconds(1), "times to live are possible");
    must(verb == agent::Verb::kSet || (options.ttl.count() == 0 && !options.ephemeral), "only sets have them");
    must(verb != agent::Verb::kAdd || !options.version, "an addition has no version");
    record_ += std::to_string(options.ttl.count()) + (options.ephemeral ? "e" : "");
    if (options.version) record_ += 'v' + std::to_string(*options.version);
  }
  void record(const ValueView& value) {
    must(value.type() != Type::kNone, "values have a type");
    switch (value.type()) {
      case Type::kInt64: record_ += std::to_string(value.int64()); break;
      case Type::kFloat64: record_ += std::to_string(value.float64()); break;
      default: must(value.bytes().size() <= kValueBytesMax, "values are possible"); record_ += value.bytes();
    }
  }

  std::uint8_t refused_;
  unsigned pushes_ = 0;
  std::string record_;
};

struct Settings {
  std::size_t line_bytes_max;
  std::size_t batch_bytes_max;
  std::uint8_t refused;
  const agent::LineRules* rules;
};

const agent::LineRules& rules_of(std::uint8_t choice) {
  static const agent::SourceRules rules({{"/f"}, "/s"}, {"f=float", "i=integer", "t=text"},
                                        {"/f:ttl=5s,type=text", "/s:ephemeral,version=3"});
  constexpr std::array kSources{agent::kStandardInput, "/f", "/s"};
  return rules.of(kSources[choice % kSources.size()]);
}

std::string talk(std::span<const std::uint8_t> bytes, std::size_t piece_bytes, const Settings& settings) {
  static agent::Scratch scratch;
  RecordingSink sink(settings.refused);
  agent::Tally tally;
  agent::Session session(sink, tally, scratch, settings.batch_bytes_max);
  session.set_rules(*settings.rules);
  session.set_own_ring(agent::Session::OwnRing::kMayHave);
  agent::LineSplitter splitter(settings.line_bytes_max);
  const auto handle = [&](const agent::Line& line) {
    agent::Verdict verdict = session.handle(line);
    if (verdict.answer == agent::Answer::kAgainWithOwnRing) {
      session.move_to_own_ring(sink);
      sink.note("own ring");
      verdict = session.handle(line);
      must(verdict.answer != agent::Answer::kAgainWithOwnRing, "it asks once");
    }
    sink.note(std::to_string(line.number) + ": " + std::to_string(static_cast<int>(verdict.answer)) +
              (verdict.is_problem ? session.problem() : "") +
              (line.number % 5 == 0 ? session.lost_lines().take() : ""));
    return true;
  };
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  while (!rest.empty()) {
    const std::string_view piece = rest.substr(0, piece_bytes);
    must(splitter.feed(piece, handle) == piece.size(), "all bytes are taken");
    rest.remove_prefix(piece.size());
  }
  splitter.finish(handle);
  if (session.end()) sink.note(session.problem());
  must(tally.bad_lines <= tally.lines && tally.batches <= tally.lines, "the tally is possible");
  return sink.everything();
}

void run(Input input) {
  const std::size_t piece_bytes = input.take<std::uint8_t>() % 64U + 1U;
  const auto line_limit = input.take<std::uint8_t>();
  const auto batch_limit = input.take<std::uint8_t>();
  const Settings settings{.line_bytes_max = line_limit % 2 == 0 ? agent::kLineBytesMax : 40,
                          .batch_bytes_max = batch_limit % 2 == 0 ? std::size_t{1} << 16 : 100,
                          .refused = input.take<std::uint8_t>(),
                          .rules = &rules_of(batch_limit / 2)};
  const std::string whole = talk(input.rest(), input.rest().size(), settings);
  must(talk(input.rest(), piece_bytes, settings) == whole, "what happens does not depend on how the input was cut");
}

}  // namespace
}  // namespace shmstate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  shmstate::fuzz::run({data, bytes});
  return 0;
}
