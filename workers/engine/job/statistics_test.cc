// Against numbers worked out by hand and by numpy.
#include "workers/engine/job/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantd::engine {
namespace {

TEST(StatisticsTest, MeanAndError) {
  const MeanError result = MeanAndError({1.0, 2.0, 4.0});
  EXPECT_DOUBLE_EQ(result.mean, 7.0 / 3);
  EXPECT_NEAR(result.standard_error, 0.8819171036881969, 1e-15);
  EXPECT_EQ(MeanAndError({5.0}).standard_error, 0);
  EXPECT_TRUE(std::isnan(MeanAndError({}).mean));
}

TEST(StatisticsTest, Quantile) {
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.95), 3.85);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 1), 4);
  EXPECT_TRUE(std::isnan(Quantile({}, 0.5)));
}

}  // namespace
}  // namespace quantd::engine
