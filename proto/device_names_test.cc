// What counts as a device's name, and how many GPUs it asks for.
#include "proto/device_names.h"

#include <gtest/gtest.h>

namespace quantd {
namespace {

TEST(DeviceNames, SayHowManyGpusThereMustBe) {
  for (const char* none : {"", "auto", "cpu"}) EXPECT_EQ(GpusNeeded(none), 0) << none;
  for (const char* one : {"cuda", "cuda:0", "cuda:all"}) EXPECT_EQ(GpusNeeded(one), 1) << one;
  EXPECT_EQ(GpusNeeded("cuda:3"), 4);
  EXPECT_EQ(GpusNeeded("cuda:0,cuda:1"), 2);
  EXPECT_EQ(GpusNeeded("cuda:2,cuda:0"), 3);
}

TEST(DeviceNames, OthersAreNone) {
  for (const char* wrong :
       {"gpu", "cuda:", "cuda:-1", "cuda:64", "cuda:x", "cuda:0,", ",", "cuda:0,1", "cuda:1,cuda:1",
        "cpu,cuda:0", "cpu,cpu", "cuda:all,cuda:0", "cuda:99999999999"}) {
    EXPECT_FALSE(GpusNeeded(wrong).has_value()) << wrong;
  }
}

}  // namespace
}  // namespace quantd
