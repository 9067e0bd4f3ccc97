// ring.h under the checker: every record arrives once, whole and in order, and nobody sleeps for ever.
#include "protocol/ring.h"

#include "kernel_model.h"
#include "mutation_test.h"

namespace shmstate::model {
using namespace internal;
namespace {

constexpr std::uint64_t kWord = 8;

struct Header {
  CheckedAtomic<std::uint64_t> tail, head;
  CheckedAtomic<std::uint32_t> waiting;
};
using Producer = RingProducer<Header>;
using Consumer = RingConsumer<Header>;

/// A ring of plain words. What is pushed at a position is that position plus one.
template <unsigned kWords>
struct Ring {
  Header header;
  CheckedWord<std::uint64_t> words[kWords];
  Futexes futexes;

  void clear() {
    header.tail.store(0, std::memory_order_relaxed);
    header.head.store(0, std::memory_order_relaxed);
    header.waiting.store(0, std::memory_order_relaxed);
  }
  Producer producer() { return {header, kWords * kWord}; }
  Consumer consumer(std::uint64_t cursor = 0) { return {header, kWords * kWord, cursor}; }

  /// As Writer::Impl::write_here.
  void push(Producer& producer, unsigned records) {
    for (unsigned i = 0; i < records; ++i) {
      const std::uint64_t position = producer.tail() + i * kWord;
      words[position / kWord % kWords].write(position + 1);
    }
    producer.push(records * kWord);
  }
  bool try_push(Producer& producer, unsigned records) {
    if (!producer.has_room(records * kWord)) producer.refresh();
    if (!producer.has_room(records * kWord)) return false;
    push(producer, records);
    return true;
  }

  /// As MergeEngine::drain. Returns the number of records.
  unsigned drain(Consumer& consumer) {
    const std::uint64_t tail = consumer.tail();
    RL_ASSERT(consumer.is_sane(tail));
    unsigned count = 0;
    for (; consumer.cursor() < tail; ++count) {
      RL_ASSERT(words[consumer.cursor() / kWord % kWords].read() == consumer.cursor() + 1);
      consumer.advance(kWord);
    }
    return count;
  }
  /// As MergeEngine::release_heads.
  void release(Consumer& consumer) {
    if (consumer.release()) futexes.wake_all(header.head);
  }

  /// As Writer::Impl::wait_for_head, without its timeouts.
  template <typename Done>
  void wait_for_head(Producer& producer, Done done) {
    for (;;) {
      if (done(producer.head_before_sleep())) return;
      producer.announce_wait();
      const std::uint64_t head = producer.head_before_sleep();
      if (!done(head)) futexes.wait(header.head, head);
      producer.end_wait();
    }
  }
};

/// Five records through a ring of two: it wraps, and it is full at times.
struct PushAndDrain : rl::test_suite<PushAndDrain, 2> {
  Ring<2> ring;

  void before() { ring.clear(); }
  void thread(unsigned index) { index == 0 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    for (int i = 0; i < 5; ++i) static_cast<void>(ring.try_push(producer, 1));
  }
  void consume() {
    Consumer consumer = ring.consumer();
    for (int i = 0; i < 3; ++i) {
      static_cast<void>(ring.drain(consumer));
      ring.release(consumer);
    }
  }
};

/// Batches of two records in a ring of three words: each is pushed with one store, and seen whole or not at all.
struct Batches : rl::test_suite<Batches, 2> {
  Ring<3> ring;

  void before() { ring.clear(); }
  void thread(unsigned index) { index == 0 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    for (int i = 0; i < 3; ++i) static_cast<void>(ring.try_push(producer, 2));
  }
  void consume() {
    Consumer consumer = ring.consumer();
    for (int i = 0; i < 3; ++i) {
      RL_ASSERT(ring.drain(consumer) % 2 == 0);
      ring.release(consumer);
    }
  }
};

/// A producer that sleeps while the ring is full, and a consumer that sleeps never: the producer gets through.
struct SleepForRoom : rl::test_suite<SleepForRoom, 2> {
  static constexpr unsigned kRecords = 3;
  Ring<1> ring;

  void before() { ring.clear(); }
  void thread(unsigned index) { index == 0 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    for (unsigned i = 0; i < kRecords; ++i) {
      while (!ring.try_push(producer, 1)) {
        ring.wait_for_head(producer, [&](std::uint64_t) {
          producer.refresh();
          return producer.has_room(kWord);
        });
      }
    }
  }
  void consume() {
    Consumer consumer = ring.consumer();
    for (unsigned count = 0; count < kRecords;) {
      const unsigned drained = ring.drain(consumer);
      count += drained;
      if (drained != 0) ring.release(consumer);
      if (drained == 0) rl::yield(1, RL_INFO);
    }
  }
};

/// A flush that returned has made readable what was pushed: the writer itself sees the epoch word that covers it.
struct Flush : rl::test_suite<Flush, 2> {
  Ring<1> ring;
  CheckedAtomic<std::uint64_t> epoch_word;

  void before() {
    ring.clear();
    epoch_word.store(0, std::memory_order_relaxed);
  }
  void thread(unsigned index) { index == 0 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    ring.push(producer, 1);
    ring.wait_for_head(producer, [ticket = producer.tail()](std::uint64_t head) { return head >= ticket; });
    RL_ASSERT(epoch_word.load(std::memory_order_relaxed) == 1);
  }
  void consume() {
    Consumer consumer = ring.consumer();
    while (ring.drain(consumer) == 0) rl::yield(1, RL_INFO);
    epoch_word.store(1, std::memory_order_relaxed);
    ring.release(consumer);
  }
};

/// A merger dies at any step of its turn, and another one goes on from the cursor that was published: every record is
/// applied once, and the producer gets its room back.
struct ConsumerReplaced : rl::test_suite<ConsumerReplaced, 3> {
  Ring<2> ring;
  ExclusiveLock merger_lock;
  CheckedWord<std::uint64_t> published_cursor, published_sum, turns;  // in the current buffer
  std::uint64_t pushed = 0;

  void before() {
    ring.clear();
    published_cursor.write(0);
    published_sum.write(0);
    turns.write(0);
  }
  void thread(unsigned index) { index == 0 ? produce() : merge(); }
  void after() {
    run_merger(true);
    RL_ASSERT(published_sum.read() == pushed);
  }
  void produce() {
    Producer producer = ring.producer();
    for (int i = 0; i < 4; ++i) {
      if (ring.try_push(producer, 1)) ++pushed;
    }
  }
  void merge() {
    merger_lock.lock();
    run_merger(false);
    merger_lock.unlock();  // by the kernel
  }
  void run_merger(bool is_last) {
    Consumer consumer = ring.consumer(published_cursor.read());
    ring.release(consumer);  // as MergeEngine::resume_rings
    for (int turn = 0; turn < 2; ++turn) {
      const unsigned applied = ring.drain(consumer);
      if (!is_last && rl::rand(3) == 0) return;
      published_cursor.write(consumer.cursor());  // both in the one store of the epoch word
      published_sum.write(published_sum.read() + applied);
      if (!is_last && rl::rand(3) == 0) return;
      ring.release(consumer);
    }
  }
};

/// Two processes push into one ring by turns.
struct SharedRing : rl::test_suite<SharedRing, 3> {
  Ring<2> ring;
  ExclusiveLock pusher_lock;

  void before() { ring.clear(); }
  void thread(unsigned index) { index < 2 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    for (int i = 0; i < 2; ++i) {
      pusher_lock.lock();
      producer.take_over();
      if (producer.has_room(kWord)) ring.push(producer, 1);
      pusher_lock.unlock();
    }
  }
  void consume() {
    Consumer consumer = ring.consumer();
    for (int i = 0; i < 3; ++i) {
      static_cast<void>(ring.drain(consumer));
      ring.release(consumer);
    }
  }
};

/// Records that refer to names beside the ring, each of which was stored before its first record (or behind it, to show
/// that the checker sees that): who took a record finds its name, without an order of its own.
template <bool kNameFirst>
struct Names : rl::test_suite<Names<kNameFirst>, 2> {
  static constexpr unsigned kNames = 2;
  Ring<2> ring;
  CheckedWord<std::uint64_t> index[kNames], names[kNames];

  void before() {
    ring.clear();
    for (unsigned id = 0; id < kNames; ++id) {
      index[id].write(0);
      names[id].write(0);
    }
  }
  void thread(unsigned thread) { thread == 0 ? produce() : consume(); }
  void produce() {
    Producer producer = ring.producer();
    for (unsigned id = 0; id < kNames; ++id) {
      if (kNameFirst) store(id);
      ring.push(producer, 1);
      if (!kNameFirst) store(id);
    }
  }
  /// As RingNames::store.
  void store(unsigned id) {
    names[id].write(id + 100);
    index[id].write(id + 1);
  }
  void consume() {
    Consumer consumer = ring.consumer();
    for (unsigned id = 0, tries = 0; tries < 3; ++tries) {
      for (unsigned count = ring.drain(consumer); count > 0; --count, ++id) {
        RL_ASSERT(index[id].read() == id + 1);
        RL_ASSERT(names[id].read() == id + 100);
      }
    }
  }
};

TEST(RingModel, WhoTookARecordFindsItsNameInEverySchedule) {
  expect_holds(check_all<Names<true>>());
  EXPECT_FALSE(check_all<Names<false>>().holds) << "a name that is stored behind its record is not always there";
}
TEST(RingModel, EveryRecordArrivesOnceAndInOrderInEverySchedule) { expect_holds(check_all<PushAndDrain>()); }
TEST(RingModel, ABatchIsSeenWholeOrNotAtAllInEverySchedule) { expect_holds(check_all<Batches>()); }
TEST(RingModel, AProducerThatSleepsForRoomIsWoken) { expect_holds(check_some<SleepForRoom>(schedules(100'000))); }
TEST(RingModel, AFlushReturnsWhenAndOnlyWhenItsMutationsAreReadable) {
  expect_holds(check_some<Flush>(schedules(100'000)));
}
TEST(RingModel, AConsumerThatIsReplacedLosesAndRepeatsNothing) {
  expect_holds(check_some<ConsumerReplaced>(schedules(100'000)));
}
TEST(RingModel, ProducersOfASharedRingFollowEachOther) { expect_holds(check_some<SharedRing>(schedules(100'000))); }

TEST(RingModel, EveryMemoryOrderIsNeeded) {
  MutationTest({{"PushAndDrain", check_some<PushAndDrain>},
                {"Names", check_some<Names<true>>},
                {"SleepForRoom", check_some<SleepForRoom>},
                {"Flush", check_some<Flush>},
                {"SharedRing", check_some<SharedRing>},
                {"ConsumerReplaced", check_some<ConsumerReplaced>}},
               {SHMSTATE_SOURCE_DIR "/libshmstate/protocol/ring.h",
                SHMSTATE_SOURCE_DIR "/libshmstate/include/shmstate/detail/ring_producer.h"})
      .run();
}

}  // namespace
}  // namespace shmstate::model
