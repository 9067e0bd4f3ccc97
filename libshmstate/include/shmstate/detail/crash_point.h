// Named places at which the crash tests kill the process. In any other build they are nothing at all.
#pragma once

#include <cstdint>

namespace shmstate::internal {

// clang-format off
#define SHMSTATE_CRASH_POINTS(X)                                                                                    \
  /* a writer's ring: created, registered, pushed to */                                                             \
  X(RingSized) X(RingCommitted) X(RingHeaderWritten) X(RingNamed) X(RingRegistered)                                 \
  X(RingMemoryCommitted) X(NameWritten) X(NameIndexed) X(RecordWritten) X(BatchWritten) X(TailMoved)                \
  X(SharedRingOpened) X(SharedRingNamed) X(SharedRingLocked) X(SharedRingPushed)                                    \
  /* an instance: created, started */                                                                               \
  X(DirectoryMade) X(InstanceLocked) X(ControlReplaced) X(SnapshotCreated) X(OldRingsRemoved) X(ControlCommitted)  \
  X(FeedCommitted) X(IdentityWritten) X(PinsReady) X(DoorbellReady) X(FirstPagesCommitted) X(FirstPublished)        \
  X(Announced) X(FilesMapped) X(TableResumed) X(RingResumed) X(OrphanFound)                                         \
  /* drain and apply */                                                                                             \
  X(RingOpened) X(VerdictWritten) X(RingServed) X(GroupStaged) X(MutationApplied) X(CursorStored)                   \
  X(RingQuarantined) X(BrokenRingRemoved)                                                                           \
  X(SlotClaimed) X(KeyWritten) X(ValueWritten) X(PlaceWritten) X(PlaceSwitched) X(CellFreed) X(SlotFreed)           \
  X(EntryErased) X(EntryExpired) X(FeedReserved) X(FeedHeadWritten)                                                 \
  /* growth, and back */                                                                                           \
  X(PagesCommitted) X(SlabOpened) X(SlabClosed) X(SegmentWritten) X(SegmentSplit) X(SegmentsMerged) X(NodeWritten)  \
  X(DirectoryCopied) X(DirectoryDoubled) X(DirectoryHalved) X(CursorsCopied) X(CursorsMoved)                        \
  /* publish, catch-up */                                                                                           \
  X(BufferHeaderWritten) X(StampWritten) X(EpochWritten) X(CountersMirrored) X(HeadMoved) X(ReadersWoken)           \
  X(BufferClaimed) X(BufferTaken) X(LineCopied) X(ValueCopied) X(BufferCaughtUp)                                    \
  /* a ring's end */                                                                                                \
  X(OwnedErased) X(SharedNameRemoved) X(RingRemoved) X(CursorDropped) X(OrphanDropped)                              \
  /* a reader with a pin */                                                                                         \
  X(FeedRead) X(SlabRead)
// clang-format on

enum class CrashPoint : std::uint8_t {
#define SHMSTATE_NAME(name) k##name,
  SHMSTATE_CRASH_POINTS(SHMSTATE_NAME)
#undef SHMSTATE_NAME
      kCount
};

#ifdef SHMSTATE_WITH_CRASH_POINTS
/// Called at each point, when set.
inline void (*crash_hook)(CrashPoint) = nullptr;
inline void crash_point(CrashPoint point) {
  if (crash_hook != nullptr) crash_hook(point);
}
#else
constexpr void crash_point(CrashPoint) noexcept {}
#endif

}  // namespace shmstate::internal
