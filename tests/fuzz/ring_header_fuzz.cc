// Any bytes in the header of a ring, and any size of its file, before it is found and while it is served: it is served,
// refused or quarantined, can be shown, vanishes with its writer, and another ring does not suffer.
#include <unistd.h>

#include "served_instance.h"
#include "shmstate/inspect.h"

namespace shmstate::fuzz {
using namespace internal;
namespace {

namespace fs = std::filesystem;

enum Step : std::uint8_t { kPatch, kTruncate, kMerge, kRestart, kCount };

// Most patches go to fields; the rest is reserved.
void patch(const os::Fd& ring, Input& input) {
  constexpr std::size_t kFieldBytes = sizeof(layout::RingHeader);
  const auto offset = static_cast<off_t>(input.take<std::uint16_t>() % kFieldBytes);
  const auto value = input.take<std::uint64_t>();
  const std::size_t bytes = std::size_t{1} << input.take<std::uint8_t>() % 4;
  static_cast<void>(!::pwrite(ring.get(), &value, bytes, offset));
}

void truncate(const os::Fd& ring, Input& input) {
  const auto pages = static_cast<off_t>(input.take<std::uint8_t>());
  static_cast<void>(!::ftruncate(ring.get(), pages * 1024));
}

void look(const std::string& path) {
  for (const RingInfo& ring : inspect(path).rings) must(ring.name.size() <= 48, "a name is bounded by its field");
}

void run(Input input) {
  ServedInstance served;
  served.push_honestly();
  served.pump();
  const fs::path rings = served.instance().owner().rings_path();
  RingFile::Description description{.data_bytes = ServedInstance::kRingBytes,
                                    .flags = input.take<std::uint8_t>() % 2U,
                                    .name = "hostile",
                                    .instance_id = served.instance().owner().geometry().instance_id};
  std::optional<RingFile> hostile = RingFile::create(rings, description);
  const std::uint64_t id = hostile->id();
  std::optional<os::Fd> file(::dup(hostile->fd()));
  for (int i = 0; i < 64 && !input.empty(); ++i) {
    switch (static_cast<Step>(input.take<std::uint8_t>() % kCount)) {
      case kPatch: patch(*file, input); break;
      case kTruncate: truncate(*file, input); break;
      case kRestart: served.instance().restart(); break;
      default: served.instance().step(std::chrono::seconds(1)); break;
    }
  }
  served.pass_rounds();
  look(served.instance().path());
  served.must_serve_everybody();
  file.reset();
  hostile.reset();
  served.instance().step(std::chrono::seconds(1));
  served.pass_rounds();
  must(!served.instance().has_ring_file(id), "a ring goes with its writer");
  served.must_serve_everybody();
}

}  // namespace
}  // namespace shmstate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  shmstate::fuzz::run({data, bytes});
  return 0;
}
