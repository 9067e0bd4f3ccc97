#include "files/errors.h"

#include <array>
#include <cassert>
#include <string>
#include <utility>

#include "files/paths.h"

namespace shmstate::internal {
namespace {

constexpr std::string_view kDetail = "…";

constexpr std::array<InstanceErrorRow, static_cast<std::size_t>(InstanceError::kCount)> kRows{{
#define SHMSTATE_ROW(name, status, why, remedy) {Status::k##status, why, remedy},
    SHMSTATE_INSTANCE_ERRORS(SHMSTATE_ROW)
#undef SHMSTATE_ROW
}};

std::string filled(std::string text, std::initializer_list<std::string_view> details) {
  std::size_t at = 0;
  for (const std::string_view detail : details) {
    at = text.find(kDetail, at);
    assert(at != std::string::npos);
    text.replace(at, kDetail.size(), detail);
    at += detail.size();
  }
  assert(text.find(kDetail, at) == std::string::npos);
  return text;
}

}  // namespace

const InstanceErrorRow& row_of(InstanceError error) noexcept { return kRows[static_cast<std::size_t>(error)]; }

std::string text_of(InstanceError error, const std::filesystem::path& instance,
                    std::initializer_list<std::string_view> details) {
  const InstanceErrorRow& row = row_of(error);
  std::string text(row.why);
  if (!row.remedy.empty()) text.append("; ").append(row.remedy);
  return "shmstate: " + quoted(instance) + ": " + filled(std::move(text), details);
}

Error error_of(InstanceError error, const std::filesystem::path& instance,
               std::initializer_list<std::string_view> details) {
  return {row_of(error).status, text_of(error, instance, details)};
}

}  // namespace shmstate::internal
