#include "lines/pending_batch.h"

namespace shmstate::agent {
namespace {

constexpr std::size_t kRecordHeadBytes = 8;
constexpr std::size_t kNumberBytes = 8;
constexpr std::size_t kItemsKept = 1024;
constexpr std::size_t kBytesKept = std::size_t{64} << 10;

std::string_view take_bytes(std::string_view& rest, std::size_t count) {
  const std::string_view taken = rest.substr(0, count);
  rest.remove_prefix(count);
  return taken;
}

}  // namespace

void PendingBatch::append(const Command& mutation) {
  const bool is_bytes = mutation.value.type() == Type::kBytes;
  const std::string_view value = is_bytes ? mutation.value.bytes() : std::string_view{};
  const SetOptions& options = mutation.options;
  items_.push_back(
      {mutation.verb, mutation.key.size(), value.size(), is_bytes ? ValueView(value) : mutation.value, options});
  bytes_.append(mutation.key).append(value);
  ring_bytes_ += kRecordHeadBytes + mutation.key.size() + (is_bytes ? value.size() : kNumberBytes);
  ring_bytes_ += (options.ttl.count() != 0 ? kNumberBytes : 0) + (options.version ? kNumberBytes : 0);
}

void PendingBatch::clear() {
  items_.clear();
  bytes_.clear();
  ring_bytes_ = 0;
  if (items_.capacity() > kItemsKept) items_.shrink_to_fit();
  if (bytes_.capacity() > kBytesKept) bytes_.shrink_to_fit();
}

Command PendingBatch::take(const Item& item, std::string_view& rest) {
  Command command{
      .verb = item.verb, .key = take_bytes(rest, item.key_bytes), .value = item.number, .options = item.options};
  if (item.number.type() == Type::kBytes) command.value = take_bytes(rest, item.value_bytes);
  return command;
}

}  // namespace shmstate::agent
