// For tests that are built with crash points: something happens while a step of production code is under way.
#pragma once

#include <functional>
#include <utility>

#include "shmstate/detail/crash_point.h"

namespace shmstate::test {
using namespace internal;

/// While it lives: what happens in the middle of something, at points of one kind.
class Meanwhile {
 public:
  Meanwhile(CrashPoint point, std::function<void()> what) : point_(point), what_(std::move(what)) {
    current = this;
    crash_hook = [](CrashPoint passed) {
      if (current != nullptr && passed == current->point_) current->happen();
    };
  }
  Meanwhile(const Meanwhile&) = delete;
  Meanwhile& operator=(const Meanwhile&) = delete;
  ~Meanwhile() {
    crash_hook = nullptr;
    current = nullptr;
  }

 private:
  void happen() {
    Meanwhile* const me = std::exchange(current, nullptr);  // what happens reads nothing that would come here
    what_();
    current = me;
  }

  static inline Meanwhile* current = nullptr;
  CrashPoint point_;
  std::function<void()> what_;
};

}  // namespace shmstate::test
