// The C API as a C program has it that links the shared libraries.
#include <gtest/gtest.h>

#include "harness/process_support.h"
#include "shmstate/reader.h"

namespace shmstate::test {
using namespace internal;
namespace {

// What a C99 program writes, it reads back in every way there is; and a C++ reader sees the same state.
TEST(ProcessCApi, AProgramInCWritesAndReads) {
  const TestDirectory directory;
  const auto instance = directory / "plant";
  const Program merger = start_merger(instance);
  Program program(SHMSTATE_C_API_TEST, {instance.string()});
  EXPECT_EQ(program.wait(), 0) << program.output();

  Reader reader{instance.string()};
  EXPECT_EQ(reader.get<std::int64_t>("versioned"), 7);
  EXPECT_EQ(reader.get<std::string>("news"), "good");
  eventually("the program's ephemeral key goes when the program has ended", [&] { return !reader.info("ephemeral"); });
}

}  // namespace
}  // namespace shmstate::test
