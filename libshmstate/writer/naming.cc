#include "writer/naming.h"

#include <algorithm>

namespace shmstate::internal {

void Naming::name(Mutation& mutation, Key& key) noexcept {
  const std::uint64_t ring_id = pusher.ring_id;
  if (!KeyIds::is_named(key, ring_id)) {
    if (!maker.is_this_process() || check(mutation) != Status::kOk || !KeyIds::wants_id(key, ring_id)) return;
    if (!add_name(key)) return KeyIds::set_unnamed(key, ring_id);
  }
  if (value_bytes_of(mutation.value) > kNamedValueBytesMax) return;
  mutation.flags |= kById;
  mutation.id = KeyIds::id(key);
}

// Nobody else writes the counts, which are only shown.
bool Naming::add_name(Key& key) noexcept {
  if (options.shared) return false;  // others would have to know the names
  const std::uint64_t bytes = padded(key.bytes().size());
  const std::uint64_t index_end = (names.count + 1) * sizeof(layout::NameEntry);
  layout::RingHeader& header = ring.header();
  if (index_end + bytes > names.begin || !commit_names(index_end, names.begin - bytes)) {
    if (ring.names().bytes() != 0) header.unnamed_count.store(++names.unnamed_count, std::memory_order_relaxed);
    return false;
  }
  const auto id = static_cast<std::uint32_t>(names.count);
  names.begin -= bytes;
  ring.names().store(id, static_cast<std::uint32_t>(names.begin), key.bytes());
  header.name_count.store(++names.count, std::memory_order_relaxed);
  KeyIds::set_id(key, pusher.ring_id, id);
  return true;
}

bool Naming::commit_names(std::uint64_t index_end, std::uint64_t names_begin) noexcept {
  if (index_end > names.committed_index_end) {
    const std::uint64_t end = std::min(index_end + kCommitStep, ring.names().bytes());
    if (!commit(names.committed_index_end, end)) return false;
    names.committed_index_end = end;
  }
  if (names_begin < names.committed_begin) {
    const std::uint64_t begin = names_begin > kCommitStep ? names_begin - kCommitStep : 0;
    if (!commit(begin, names.committed_begin)) return false;
    names.committed_begin = begin;
  }
  return true;
}

bool Naming::commit(std::uint64_t begin, std::uint64_t end) const noexcept {
  return os::commit(ring.fd(), ring.names_offset() + begin, end - begin) == 0;
}

}  // namespace shmstate::internal
