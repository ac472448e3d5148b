// Flags, the file, and what is refused before anything starts.
#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "base/file.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Config, Defaults) {
  const auto config = ParseConfig({});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server.listen, "127.0.0.1:7717");
  EXPECT_EQ(config->server.metrics_listen, "127.0.0.1:7718");
  EXPECT_FALSE(config->server.reflection);
  EXPECT_THAT(config->server.data, HasSubstr("quantd"));
}

TEST(Config, FlagsWinOverTheFileAndUnknownKeysNameTheirLine) {
  char pattern[] = "/tmp/quantd_config_XXXXXX";
  const std::string folder = mkdtemp(pattern);
  const std::string path = folder + "/quantd.yaml";
  ASSERT_TRUE(
      WriteFileAtomic(path, "listen: 127.0.0.1:1\nlease-seconds: 5\nreflection: true\n").ok());
  const auto config = ParseConfig({"--config", path, "--listen", "127.0.0.1:2"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server.listen, "127.0.0.1:2");
  EXPECT_EQ(config->server.lease_time, absl::Seconds(5));
  EXPECT_TRUE(config->server.reflection);
  ASSERT_TRUE(WriteFileAtomic(path, "listen: 127.0.0.1:1\nlisten-on: x\n").ok());
  EXPECT_THAT(std::string(ParseConfig({"--config", path}).status().message()),
              HasSubstr("quantd.yaml:2: there is no option \"listen-on\""));
  ASSERT_TRUE(WriteFileAtomic(path, "a: [\n").ok());
  EXPECT_FALSE(ParseConfig({"--config", path}).ok());
  EXPECT_TRUE(RemoveTree(folder).ok());
}

TEST(Config, WhatOthersCanReachNeedsTheFlag) {
  for (const char* address :
       {"0.0.0.0:7717", "[::]:7717", "example.org:7717", "127.0.0.1.example.org:1"}) {
    const auto config = ParseConfig({"--listen", address});
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("--insecure")) << address;
    EXPECT_TRUE(ParseConfig({"--listen", address, "--insecure"}).ok());
  }
  for (const char* address : {"localhost:0", "[::1]:7717", "127.0.0.2:7717"}) {
    EXPECT_TRUE(ParseConfig({"--listen", address}).ok()) << address;
  }
}

TEST(Config, TlsBringsTokensAndOpensTheAddress) {
  const std::vector<std::string> tls = {"--tls-cert", "c", "--tls-key", "k"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), tls.begin(), tls.end());
    return ParseConfig(more);
  };
  const auto open = with({"--listen", "0.0.0.0:7717"});
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_TRUE(open->server.access.tokens);
  EXPECT_EQ(open->server.access.tls.certificate, "c");
  EXPECT_FALSE(ParseConfig({})->server.access.tokens);
  EXPECT_TRUE(ParseConfig({"--auth", "tokens"})->server.access.tokens);
  EXPECT_TRUE(ParseConfig({"--auth", "tokens", "--insecure", "--listen", "0.0.0.0:1"})
                  ->server.access.tokens)
      << "behind a proxy that speaks TLS";
  const auto words = [](const absl::StatusOr<Config>& config) {
    return std::string(config.status().message());
  };
  EXPECT_THAT(words(with({"--listen", "0.0.0.0:7717", "--auth", "none"})), HasSubstr("tokens"));
  EXPECT_THAT(words(ParseConfig({"--listen", "0.0.0.0:1", "--auth", "tokens"})),
              HasSubstr("without TLS"));
  EXPECT_THAT(words(ParseConfig({"--tls-cert", "c"})), HasSubstr("--tls-key"));
  EXPECT_THAT(words(ParseConfig({"--tls-client-ca", "c"})), HasSubstr("--tls-cert"));
  EXPECT_THAT(words(ParseConfig({"--worker-token-file", "f"})), HasSubstr("--auth tokens"));
  EXPECT_THAT(words(with({"--reflection"})), HasSubstr("without a token"));
  EXPECT_THAT(words(with({"--metrics-listen", "0.0.0.0:1"})), HasSubstr("--metrics-insecure"));
  EXPECT_TRUE(with({"--metrics-listen", "0.0.0.0:1", "--metrics-insecure"}).ok());
  EXPECT_THAT(ParseConfig({"--new-token"})->print_and_exit, ::testing::StartsWith("qdt_"));
  EXPECT_NE(ParseConfig({"--new-token"})->print_and_exit,
            ParseConfig({"--new-token"})->print_and_exit);
}

TEST(Config, ABucketIsNamedOnTheCommandLineOrInTheFile) {
  char pattern[] = "/tmp/quantd_config_XXXXXX";
  const std::string folder = mkdtemp(pattern);
  ASSERT_TRUE(
      WriteFileAtomic(folder + "/keys", "[default]\naws_access_key_id=k\naws_secret_access_key=s\n")
          .ok());
  const std::string url = "s3://bucket/a?endpoint=https://minio:9000&credentials=" + folder;
  ASSERT_TRUE(WriteFileAtomic(folder + "/quantd.yaml", "artifacts: " + url + "/keys\n").ok());
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"--artifacts", url + "/keys"}, {"--config", folder + "/quantd.yaml"}}) {
    const auto config = ParseConfig(args);
    ASSERT_TRUE(config.ok()) << config.status();
    ASSERT_TRUE(config->server.bucket.has_value());
    EXPECT_EQ(config->server.bucket->Place(), "s3://bucket/a/");
    EXPECT_EQ(config->server.bucket->endpoint, "https://minio:9000");
    EXPECT_EQ(config->server.bucket->keys.access_key, "k");
  }
  EXPECT_THAT(std::string(ParseConfig({"--artifacts", url + "/nokeys"}).status().message()),
              HasSubstr("--artifacts"));
  EXPECT_TRUE(RemoveTree(folder).ok());
}

TEST(Config, EverythingIsKeptUnlessTold) {
  const auto config = ParseConfig({});
  EXPECT_EQ(config->server.retention, absl::InfiniteDuration());
  EXPECT_EQ(config->server.artifact_grace, absl::InfiniteDuration());
  const auto told = ParseConfig({"--retention-days", "0.5", "--artifact-grace-hours", "36"});
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->server.retention, absl::Hours(12));
  EXPECT_EQ(told->server.artifact_grace, absl::Hours(36));
  EXPECT_THAT(std::string(ParseConfig({"--artifact-grace-hours", "0.2"}).status().message()),
              HasSubstr("at least 1"));
  EXPECT_FALSE(ParseConfig({"--retention-days", "-1"}).ok());
}

TEST(Config, TenantsComeFromAFile) {
  EXPECT_EQ(ParseConfig({})->server.aging, absl::Hours(1));
  EXPECT_EQ(ParseConfig({"--aging-minutes", "0"})->server.aging, absl::InfiniteDuration());
  char pattern[] = "/tmp/quantd_config_XXXXXX";
  const std::string folder = mkdtemp(pattern);
  const std::string path = folder + "/tenants.yaml";
  ASSERT_TRUE(WriteFileAtomic(path, "vision:\n  weight: 3\n").ok());
  const auto config = ParseConfig({"--tenants", path});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server.tenants.Of("vision").weight, 3);
  EXPECT_EQ(config->server.tenants.Of("other").weight, 1);
  ASSERT_TRUE(WriteFileAtomic(path, "vision:\n  weight: heavy\n").ok());
  EXPECT_THAT(std::string(ParseConfig({"--tenants", path}).status().message()),
              HasSubstr("tenants.yaml:2: weight has to be"));
  EXPECT_TRUE(RemoveTree(folder).ok());
}

TEST(Config, NonsenseIsRefused) {
  for (const char* flag :
       {"--listen=7717", "--listen=127.0.0.1:99999", "--store=postgres:x", "--log-format=xml",
        "--lease-seconds=0", "--nope", "--metrics-listen=0.0.0.0:1"}) {
    EXPECT_EQ(ParseConfig({flag}).status().code(), absl::StatusCode::kInvalidArgument) << flag;
  }
  EXPECT_EQ(ParseConfig({"--store=sqlite:/x/y.db"})->server.database, "/x/y.db");
  EXPECT_EQ(ParseConfig({"--artifacts=/x/y"})->server.artifacts, "/x/y");
  EXPECT_FALSE(ParseConfig({"--artifacts=gs://bucket"}).ok());
  const std::string url = "postgres://me:hunter2@db/quantd";
  EXPECT_EQ(ParseConfig({"--store", url})->server.database, url);
  EXPECT_THAT(std::string(ParseConfig({"--store", "mysql://me:hunter2@db"}).status().message()),
              Not(HasSubstr("hunter2")));
  EXPECT_THAT(ParseConfig({"--help"})->print_and_exit, HasSubstr("--listen"));
}

}  // namespace
}  // namespace quantd
