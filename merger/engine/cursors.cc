#include "engine/cursors.h"

#include <algorithm>

#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {

// Twice as many at a time: so all copying together costs no more than the cursors themselves.
bool Cursors::reserve(BackBuffer& back, std::uint32_t ring_index) {
  if (ring_index < capacity()) return true;
  const CursorPages old = more_;
  CursorPages larger{.page = 0, .count = std::max<std::uint64_t>(1, 2 * old.count)};
  while (ring_index >= larger.capacity()) larger.count *= 2;
  const std::optional<std::uint64_t> page = pages_.allocate(back, larger.count);
  if (!page) return false;
  larger.page = *page;
  const auto* const from = back.at<std::uint64_t>(old.page * layout::kPageBytes);
  auto* const to = back.at<std::uint64_t>(larger.page * layout::kPageBytes);
  const std::size_t kept = old.count * layout::kPageBytes / kWord;
  for (std::size_t i = 0; i < larger.count * layout::kPageBytes / kWord; ++i) back.store(to[i], i < kept ? from[i] : 0);
  crash_point(CrashPoint::kCursorsCopied);
  back.store(back.header().more_cursors, larger.pack());
  crash_point(CrashPoint::kCursorsMoved);
  if (old.count != 0) pages_.release(old.page, old.count);
  more_ = larger;
  return true;
}

bool Cursors::resume(const BufferView& buffer) {
  const CursorPages more = CursorPages::unpack(buffer.header_word(offsetof(layout::BufferHeader, more_cursors)));
  if (more.count != 0 && !pages_.adopt(more.page, more.count)) return false;
  more_ = more;
  return true;
}

}  // namespace shmstate::internal
