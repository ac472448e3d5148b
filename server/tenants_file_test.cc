// What a file of tenants may say, and that errors name the line.
#include "server/tenants_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/file.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class TenantsFile : public ::testing::Test {
 protected:
  TenantsFile() {
    char pattern[] = "/tmp/quantd_tenants_XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  ~TenantsFile() override { RemoveTree(folder_).IgnoreError(); }
  absl::StatusOr<TenantPolicies> Read(const std::string& text) {
    QD_CHECK(WriteFileAtomic(folder_ + "/tenants.yaml", text).ok());
    return ReadTenants(folder_ + "/tenants.yaml");
  }
  std::string Error(const std::string& text) { return Read(text).status().ToString(); }

  std::string folder_;
};

TEST_F(TenantsFile, EntriesInheritFromTheOthers) {
  const auto read = Read(
      "# us\n\"*\":\n  queued-max: 100\n  weight: 2\nvision:\n  weight: 3\n  running-max: 8\n"
      "  gpu-hours-per-day: 1.5\n  artifact-gib-max: 0.5\n");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Of("anyone").weight, 2);
  EXPECT_EQ(read->Of("anyone").queued_max, 100);
  EXPECT_EQ(read->Of("anyone").running_max, 0);
  const TenantPolicy& vision = read->Of("vision");
  EXPECT_EQ(vision.weight, 3);
  EXPECT_EQ(vision.queued_max, 100);
  EXPECT_EQ(vision.running_max, 8);
  EXPECT_EQ(vision.gpu_hours_per_day, 1.5);
  EXPECT_EQ(vision.artifact_bytes_max, int64_t{1} << 29);
  EXPECT_TRUE(Read("").ok());
  EXPECT_TRUE(Read("a: {weight: 5}\n").ok()) << "without others";
}

TEST_F(TenantsFile, ErrorsNameTheLineAndWhatToWrite) {
  EXPECT_THAT(Error("a:\n  wieght: 1\n"),
              HasSubstr("tenants.yaml:2: \"wieght\" is none of weight"));
  EXPECT_THAT(Error("a:\n  weight: 0\n"), HasSubstr("tenants.yaml:2: weight has to be a whole"));
  EXPECT_THAT(Error("a:\n  weight: 1.5\n"), HasSubstr("from 1 to 1000"));
  EXPECT_THAT(Error("a:\n  queued-max: many\n"), HasSubstr("queued-max has to be"));
  EXPECT_THAT(Error("a:\n  gpu-hours-per-day: -1\n"), HasSubstr("from 0"));
  EXPECT_THAT(Error("a:\n  gpu-hours-per-day: .nan\n"), HasSubstr("from 0"));
  EXPECT_THAT(Error("\n\nA_b:\n  weight: 1\n"), HasSubstr("tenants.yaml:3: \"A_b\" is no tenant"));
  EXPECT_THAT(Error("a: 7\n"), HasSubstr("`key: number` lines"));
  EXPECT_THAT(Error("- a\n"), HasSubstr("has to name tenants"));
  EXPECT_THAT(Error("a: [\n"), HasSubstr("tenants.yaml"));
  EXPECT_FALSE(ReadTenants(folder_ + "/none").ok());
}

}  // namespace
}  // namespace quantd
