// Which backends there are.
#include "kernels/table.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace quantd::kernels
