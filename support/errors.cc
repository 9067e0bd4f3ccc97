#include "support/errors.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <new>
#include <string_view>
#include <system_error>

#include "files/os.h"

namespace shmstate {

Status status_of(int error_number) noexcept { return internal::os::status_of(error_number); }

std::string remedy_of(int error_number, const std::string& otherwise) {
  return internal::os::remedy_of(error_number, otherwise);
}

void throw_errno(const std::string& what, int error_number, const std::string& remedy) {
  internal::os::throw_errno(what, error_number, remedy);
}

std::string text_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "shmstate: no memory is left for this process; " +
           remedy_of(ENOMEM, "see what uses it: free, or memory.max of the service");
  }
  const auto* const of_system = dynamic_cast<const std::system_error*>(&error);
  const std::string remedy = of_system != nullptr ? remedy_of(of_system->code().value()) : "";
  return std::string("shmstate: ") + error.what() + (remedy.empty() ? "" : "; " + remedy);
}

void end_without_memory(int code) noexcept {
  static std::atomic<int> exit_code;
  static std::terminate_handler otherwise = nullptr;
  exit_code.store(code, std::memory_order_relaxed);
  otherwise = std::set_terminate([] {
    if (std::current_exception() != nullptr) otherwise();
    constexpr std::string_view kText =
        "shmstate: no memory is left for this process; raise the limit of data or of address space (ulimit -d, -v)\n";
    static_cast<void>(!::write(STDERR_FILENO, kText.data(), kText.size()));
    ::_exit(exit_code.load(std::memory_order_relaxed));
  });
}

}  // namespace shmstate
