// Which backends there are.
#include "kernels/table.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace quantd::kernels {
namespace {

TEST(TableTest, ReferenceAndCpuAreComplete) {
  for (const char* name : {"reference", "cpu"}) {
    ASSERT_NE(FindBackend(name), nullptr);
    EXPECT_TRUE(Complete(*FindBackend(name))) << name;
  }
  std::string why;
  if (LoadCudaModule(&why) != nullptr) {
    ASSERT_NE(FindBackend("cuda"), nullptr);
    EXPECT_NE(FindBackend("cuda")->gptq_block, nullptr);
  } else {
    EXPECT_EQ(FindBackend("cuda"), nullptr);
    EXPECT_FALSE(why.empty());
  }
  EXPECT_EQ(FindBackend("tpu"), nullptr);
  EXPECT_NE(Active().backend, nullptr);
}

// Exits with 0 when QUANTD_BACKEND=value gives what `check` wants; in a process of its own, because
// the variable is read once.
void ExitWith(const char* value, bool (*check)(const ActiveBackend& active)) {
  setenv("QUANTD_BACKEND", value, 1);
  std::exit(check(Active()) ? 0 : 1);
}

TEST(TableDeathTest, BackendsAreForced) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const testing::ExitedWithCode well(0);
  EXPECT_EXIT(ExitWith("",
                       [](const ActiveBackend& active) {
                         return active.backend->name == "cpu" && active.error.empty() &&
                                (ActiveOnDevice() != nullptr) ==
                                    (LoadCudaModule(nullptr) != nullptr);
                       }),
              well, "");
  EXPECT_EXIT(ExitWith("reference",
                       [](const ActiveBackend& active) {
                         return active.backend->name == "reference" && active.error.empty() &&
                                ActiveOnDevice() == nullptr;
                       }),
              well, "");
  EXPECT_EXIT(ExitWith("cpu",
                       [](const ActiveBackend& active) {
                         return active.backend->name == "cpu" && active.error.empty() &&
                                ActiveOnDevice() == nullptr;
                       }),
              well, "");
  // An error exactly where there is no GPU, and the host's work by the cpu column where there is.
  EXPECT_EXIT(ExitWith("cuda",
                       [](const ActiveBackend& active) {
                         return active.backend->name == "cpu" &&
                                active.error.empty() == (LoadCudaModule(nullptr) != nullptr);
                       }),
              well, "");
  EXPECT_EXIT(ExitWith("tpu", [](const ActiveBackend& active) { return !active.error.empty(); }),
              well, "");
}

}  // namespace
}  // namespace quantd::kernels
