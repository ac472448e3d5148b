// Names built and parsed, and the strings that must not pass for one.
#include "proto/names.h"

#include <gtest/gtest.h>

#include "base/testing/evil_paths.h"

namespace quantd {
namespace {

TEST(Names, ThereAndBack) {
  const std::string digest(64, 'a');
  EXPECT_EQ(JobName({"default", "j-1"}), "tenants/default/jobs/j-1");
  EXPECT_EQ(ParseJobName("tenants/default/jobs/j-1")->id, "j-1");
  EXPECT_EQ(ParseSweepName(SweepName({"t", "s"}))->tenant, "t");
  EXPECT_EQ(ParseArtifactName(ArtifactName({"t", digest}))->id, digest);
  EXPECT_EQ(*ParseWorkerName(WorkerName("Host-1.example_a")), "Host-1.example_a");
  EXPECT_EQ(*ParseTenantName(""), "default");
  EXPECT_EQ(*ParseTenantName("tenants/x"), "x");
  EXPECT_EQ(JobName(*ParseJobReference("jobs/a", "t")), "tenants/t/jobs/a");
  EXPECT_EQ(JobName(*ParseJobReference("a", "t")), "tenants/t/jobs/a");
  EXPECT_EQ(JobName(*ParseJobReference("tenants/u/jobs/a", "t")), "tenants/u/jobs/a");
  EXPECT_EQ(SweepName(*ParseSweepReference("sweeps/a", "t")), "tenants/t/sweeps/a");
}

TEST(Names, EvilOnesAreRefused) {
  std::vector<std::string> paths = EvilPaths();
  for (const std::string& odd : OddPaths()) paths.push_back(odd);
  for (const std::string& id : paths) {
    EXPECT_FALSE(IsResourceId(id)) << id;
    EXPECT_FALSE(ParseJobName("tenants/default/jobs/" + id).ok()) << id;
    EXPECT_FALSE(ParseSweepName("tenants/default/sweeps/" + id).ok()) << id;
    EXPECT_FALSE(ParseArtifactName("tenants/default/artifacts/" + id).ok()) << id;
    EXPECT_FALSE(ParseTenantName("tenants/" + id).ok()) << id;
  }
  for (const std::string& id : EvilPaths()) EXPECT_FALSE(IsWorkerId(id)) << id;
  for (const char* id :
       {"", "-", "-a", "a-", "A", "a b", "..", ".", "a/b", "a%2e", "a\\b", "a\nb", "\xc3\xa9",
        "a_b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    EXPECT_FALSE(IsResourceId(id)) << id;
    EXPECT_FALSE(ParseJobName(std::string("tenants/default/jobs/") + id).ok()) << id;
    EXPECT_FALSE(ParseJobName(std::string("tenants/") + id + "/jobs/a").ok()) << id;
  }
  EXPECT_FALSE(IsResourceId(std::string("a\0b", 3)));
  for (const char* name :
       {"", "tenants", "tenants/a", "tenants/a/jobs", "tenants/a/jobs/b/c", "/tenants/a/jobs/b",
        "tenants/a/sweeps/b", "Tenants/a/jobs/b", "jobs/b"}) {
    EXPECT_FALSE(ParseJobName(name).ok()) << name;
  }
  for (const char* worker :
       {"workers/", "workers/.a", "workers/../a", "workers/a/b", "worker/a", "a"}) {
    EXPECT_FALSE(ParseWorkerName(worker).ok()) << worker;
  }
  EXPECT_FALSE(ParseArtifactName("tenants/t/artifacts/abc").ok());
  EXPECT_FALSE(ParseTenantName("tenants/").ok());
  EXPECT_EQ(ParseJobName("tenants/a/jobs/\n").status().message(),
            "\"tenants/a/jobs/\\n\" is no name of the form tenants/{tenant}/jobs/{id}");
}

}  // namespace
}  // namespace quantd
