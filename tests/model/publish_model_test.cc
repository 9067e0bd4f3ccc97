// publish.h under the checker: what a reader believes was whole, and belongs to the epoch that it says.
#include "protocol/publish.h"

#include "kernel_model.h"
#include "mutation_test.h"

namespace shmstate::model {
using namespace internal;
namespace {

constexpr std::uint32_t kWordCount = 2;  // of a buffer; all of them hold its epoch

template <std::uint32_t kBuffers>
struct Publication {
  CheckedAtomic<std::uint64_t> epoch_word;
  CheckedAtomic<std::uint64_t> stamps[kBuffers];
};

/// As `Replicas::store` and `BufferView::load` do: words that one side may read while the other writes them.
class SharedWord {
 public:
  void init(std::uint64_t value) { word_.store(value, std::memory_order_relaxed); }
  void store(std::uint64_t value) { word_.store(value, std::memory_order_release); }          // pair: data
  [[nodiscard]] std::uint64_t load() const { return word_.load(std::memory_order_acquire); }  // pair: data

 private:
  CheckedAtomic<std::uint64_t> word_;
};

/// Plain words, as who has pinned a buffer may read them: the checker reports a race if anybody writes them meanwhile.
class PlainWord {
 public:
  void init(std::uint64_t value) { word_.write(value); }
  void store(std::uint64_t value) { word_.write(value); }
  [[nodiscard]] std::uint64_t load() const { return word_.read(); }

 private:
  CheckedWord<std::uint64_t> word_;
};

template <std::uint32_t kBuffers, typename Word, typename Pins = AnnouncedPins<kBuffers>>
struct Instance {
  Publication<kBuffers> publication;
  Pins pins;
  Word words[kBuffers][kWordCount];

  /// Buffer 0 is current, at epoch 1; nothing was ever written to the others.
  void create() {
    pins.init();
    for (std::uint32_t b = 0; b < kBuffers; ++b) {
      publication.stamps[b].store(b == 0 ? 1 : layout::kWriting, std::memory_order_relaxed);
      for (Word& word : words[b]) word.init(b == 0 ? 1 : 0);
    }
    publication.epoch_word.store(Version{.epoch = 1, .buffer = 0}.pack(), std::memory_order_relaxed);
  }

  // ---- merger, as MergeEngine::claim_back_buffer and step

  bool try_publish(Version& current, bool force) {
    for (std::uint32_t i = 1; i < kBuffers; ++i) {
      const std::uint32_t buffer = (current.buffer + i) % kBuffers;
      if (!try_claim(publication, pins, buffer, force)) continue;
      current = {.epoch = current.epoch + 1, .buffer = buffer};
      for (Word& word : words[buffer]) word.store(current.epoch);
      publish_version(publication, current);
      return true;
    }
    return false;
  }
  void merge(int turns, bool force = false) {
    Version current{.epoch = 1, .buffer = 0};
    for (int i = 0; i < turns; ++i) static_cast<void>(try_publish(current, force));
  }

  // ---- reader

  void expect_whole(const std::uint64_t (&copy)[kWordCount], std::uint64_t epoch) const {
    for (const std::uint64_t word : copy) RL_ASSERT(word == epoch);
  }
  void copy_words(std::uint32_t buffer, std::uint64_t (&copy)[kWordCount]) const {
    for (std::uint32_t i = 0; i < kWordCount; ++i) copy[i] = words[buffer][i].load();
  }
  /// As Reader::Impl::read_current. Returns the epoch, or 0 when the buffer was written meanwhile.
  std::uint64_t try_read() const {
    std::uint64_t copy[kWordCount];
    const Version version = current_version(publication);
    copy_words(version.buffer, copy);
    if (!is_intact(publication, version)) return 0;
    expect_whole(copy, version.epoch);
    return version.epoch;
  }
  /// As Attachment::pin_current, tried once. Returns the epoch, or 0.
  std::uint64_t try_read_pinned(bool may_expire) {
    std::uint64_t copy[kWordCount];
    Version version;
    if (!try_pin(publication, pins, version)) return 0;
    copy_words(version.buffer, copy);
    const bool kept = is_kept(publication, version);
    pins.unpin(version.buffer);
    RL_ASSERT(kept || may_expire);
    if (!kept) return 0;
    expect_whole(copy, version.epoch);
    return version.epoch;
  }
};

/// Reads again and again; epochs never go back.
template <typename Read>
void read_forward(int count, Read read) {
  std::uint64_t newest = 0;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t epoch = read();
    if (epoch == 0) continue;
    RL_ASSERT(epoch >= newest);
    newest = epoch;
  }
}

/// Point reads, while the merger publishes and comes back to the buffer that is being read.
template <std::uint32_t kBuffers, int kPublishes, int kReads>
struct PointReads : rl::test_suite<PointReads<kBuffers, kPublishes, kReads>, 2> {
  Instance<kBuffers, SharedWord> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) instance.merge(kPublishes);
    if (index == 1) read_forward(kReads, [&] { return instance.try_read(); });
  }
};

/// Reads at leisure under a pin: the merger leaves a pinned buffer alone, and nothing looks as if it did not.
template <template <unsigned> typename Pins, std::uint32_t kBuffers, int kPublishes, int kReads>
struct PinnedReads : rl::test_suite<PinnedReads<Pins, kBuffers, kPublishes, kReads>, 2> {
  Instance<kBuffers, PlainWord, Pins<kBuffers>> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) instance.merge(kPublishes);
    if (index == 1) read_forward(kReads, [&] { return instance.try_read_pinned(false); });
  }
};

/// The merger takes buffers back in spite of pins: what is read is whole, or said to be expired.
template <std::uint32_t kBuffers>
struct ExpiredPins : rl::test_suite<ExpiredPins<kBuffers>, 2> {
  Instance<kBuffers, SharedWord> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) instance.merge(3, true);
    if (index == 1) read_forward(2, [&] { return instance.try_read_pinned(true); });
  }
};

/// Somebody sets the count of announcements back, which hides a pin: what is read is whole, or said to be expired.
struct HiddenPins : rl::test_suite<HiddenPins, 3> {
  Instance<2, SharedWord> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) instance.merge(4);
    if (index == 1) read_forward(2, [&] { return instance.try_read_pinned(true); });
    if (index == 2) instance.pins.set_count(0);
  }
};

/// A reader that pins beside one that does not: a claim that was given up leaves the buffer as it was.
struct ClaimsGivenUp : rl::test_suite<ClaimsGivenUp, 3> {
  Instance<2, SharedWord> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) instance.merge(3);
    if (index == 1) read_forward(2, [&] { return instance.try_read(); });
    if (index == 2) read_forward(2, [&] { return instance.try_read_pinned(false); });
  }
  void after() const {
    RL_ASSERT(instance.try_read() != 0);  // nobody is left who writes
  }
};

/// The merger dies between stamp and epoch word, and the next one publishes under the same number.
struct EpochUsedTwice : rl::test_suite<EpochUsedTwice, 2> {
  Instance<3, SharedWord> instance;

  void before() { instance.create(); }
  void thread(unsigned index) {
    if (index == 0) die_and_resume();
    if (index == 1) read_forward(3, [&] { return instance.try_read(); });
  }
  void die_and_resume() {
    Publication<3>& publication = instance.publication;
    RL_ASSERT(try_claim(publication, instance.pins, 1, false));
    instance.words[1][0].store(kTorn);
    publication.stamps[1].store(2, std::memory_order_relaxed);  // dies here
    Version current = current_version(publication);
    RL_ASSERT(current.epoch == 1 && is_intact(publication, current));
    const std::uint32_t first = rl::rand(2);  // either buffer may be the one that nobody pins
    for (std::uint32_t i = 0; i < 2; ++i) {
      current = {.epoch = current.epoch + 1, .buffer = 1 + (first + i) % 2};
      RL_ASSERT(try_claim(publication, instance.pins, current.buffer, false));
      for (SharedWord& word : instance.words[current.buffer]) word.store(current.epoch);
      publish_version(publication, current);
    }
  }

  static constexpr std::uint64_t kTorn = 77;
};

TEST(PublishModel, APointReadThatIsBelievedWasWholeInEveryScheduleWithTwoBuffers) {
  expect_holds(check_all<PointReads<2, 2, 1>>());
}
TEST(PublishModel, APointReadThatIsBelievedWasWholeInEveryScheduleWithThreeBuffers) {
  expect_holds(check_all<PointReads<3, 2, 1>>());
}
TEST(PublishModel, EpochsNeverGoBackOverManyPublishes) {
  expect_holds(check_some<PointReads<2, 6, 4>>(schedules(100'000)));
  expect_holds(check_some<PointReads<3, 6, 4>>(schedules(100'000)));
}
TEST(PublishModel, ABufferThatIsPinnedIsNotWrittenInAnyScheduleWithTwoBuffers) {
  expect_holds(check_all<PinnedReads<AskedPins, 2, 2, 1>>());
}
TEST(PublishModel, ABufferThatIsPinnedIsNotWrittenOverManyPublishes) {
  expect_holds(check_some<PinnedReads<AnnouncedPins, 2, 4, 3>>(schedules(100'000)));
  expect_holds(check_some<PinnedReads<AnnouncedPins, 3, 5, 3>>(schedules(100'000)));
  expect_holds(check_some<PinnedReads<AskedPins, 2, 4, 3>>(schedules(100'000)));
}
TEST(PublishModel, APinThatIsHiddenFromTheMergerExpiresAndSaysSo) {
  expect_holds(check_some<HiddenPins>(schedules(100'000)));
}
TEST(PublishModel, APinThatExpiredSaysSo) {
  expect_holds(check_some<ExpiredPins<2>>(schedules(100'000)));
  expect_holds(check_some<ExpiredPins<3>>(schedules(100'000)));
}
TEST(PublishModel, AClaimThatIsGivenUpLeavesTheBufferReadable) {
  expect_holds(check_some<ClaimsGivenUp>(schedules(100'000)));
}
TEST(PublishModel, AnEpochThatWasStampedButNeverPublishedMayBeUsedAgain) {
  expect_holds(check_some<EpochUsedTwice>(schedules(100'000)));
}

TEST(PublishModel, EveryMemoryOrderIsNeeded) {
  MutationTest(
      {{"PointReads", check_some<PointReads<2, 4, 2>>},
       {"PointReads, 3 buffers", check_some<PointReads<3, 4, 2>>},
       {"PinnedReads", check_some<PinnedReads<AnnouncedPins, 2, 4, 2>>},
       {"PinnedReads, 3 buffers", check_some<PinnedReads<AnnouncedPins, 3, 4, 2>>},
       {"PinnedReads, asked", check_some<PinnedReads<AskedPins, 2, 4, 2>>},
       {"HiddenPins", check_some<HiddenPins>},
       {"ExpiredPins", check_some<ExpiredPins<2>>},
       {"ClaimsGivenUp", check_some<ClaimsGivenUp>},
       {"EpochUsedTwice", check_some<EpochUsedTwice>}},
      {SHMSTATE_SOURCE_DIR "/libshmstate/protocol/publish.h", SHMSTATE_SOURCE_DIR "/tests/model/publish_model_test.cc",
       SHMSTATE_SOURCE_DIR "/tests/model/kernel_model.h"})
      .run();
}

}  // namespace
}  // namespace shmstate::model
