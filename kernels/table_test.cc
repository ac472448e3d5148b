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
  ASSERT_NE(FindBackend("cuda"), nullptr);
  EXPECT_EQ(FindBackend("tpu"), nullptr);
  EXPECT_NE(Active().backend, nullptr);
}

}  // namespace
}  // namespace quantd::kernels
