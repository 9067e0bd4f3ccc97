// A program whose system calls may fail as a test wants: the kernel asks the test before it runs one of them.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "harness/process_support.h"

namespace shmstate::test {
using namespace internal;

/// A system call on files that is about to be made.
struct FileCall {
  int number = 0;    // SYS_openat and so on
  std::string path;  // empty for those on a descriptor
};

class FaultyProgram : public Process {
 public:
  /// The errno value with which a call fails; 0 for one that the kernel shall run. Called in a thread of its own.
  using Judge = std::function<int(const FileCall&)>;

  FaultyProgram(const std::string& executable, const std::vector<std::string>& arguments, Judge judge);
  FaultyProgram(const FaultyProgram&) = delete;
  FaultyProgram& operator=(const FaultyProgram&) = delete;
  ~FaultyProgram();

  /// What it has written so far, standard output and standard error together.
  [[nodiscard]] std::string output() const;
  [[nodiscard]] bool has_said(std::string_view text) const { return output().find(text) != std::string::npos; }

 private:
  void answer_calls(const os::Fd& listener) const;

  Judge judge_;
  os::Fd output_;
  std::thread supervisor_;
};

/// As text, for messages.
[[nodiscard]] std::string describe(const FileCall& call);

}  // namespace shmstate::test
