// Where a bucket is and with what keys it is reached: "s3://bucket/prefix?endpoint=URL&..." with
// what it leaves out taken from the environment variables that all S3 tools know. Keys never come
// in the URL, which is logged: they are in the environment or in a file of the AWS tools' format.
// Roles of cloud machines (instance metadata, web identities) are not asked for keys.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd {

struct S3Keys {
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // Of temporary keys.
  friend bool operator==(const S3Keys&, const S3Keys&) = default;
};

struct S3Config {
  std::string bucket;
  std::string prefix;    // "" or "some/folder/"; goes before every key.
  std::string endpoint;  // "https://host[:port]", without a path.
  std::string region = "us-east-1";
  // endpoint/bucket/key; otherwise the bucket is a part of the host's name.
  bool path_style = true;
  S3Keys keys;
  std::string keys_file;  // They come from there and are read again when they are refused.
  std::string profile = "default";  // Section of that file.
  std::string authorities;          // PEM file in place of the system's; may be empty.
  int64_t part_bytes = int64_t{16} << 20;
  // A request that moves nothing for so long is given up, and tried again.
  absl::Duration stall = absl::Seconds(20);
  int attempts = 5;
  std::string Place() const { return "s3://" + bucket + "/" + prefix; }  // For logs and errors.
};

bool IsS3Url(absl::string_view text);

// A variable's value; empty when it is not set.
using S3Environment = std::function<std::string(const char* name)>;
std::string ProcessEnvironment(const char* name);

// InvalidArgument names the part that is wrong, or says which keys are missing; reads the keys'
// file. Variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or
// AWS_SHARED_CREDENTIALS_FILE with AWS_PROFILE; AWS_REGION, AWS_DEFAULT_REGION;
// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL; AWS_CA_BUNDLE. The URL's parameters win: endpoint,
// region, path-style=on|off, credentials=FILE.
absl::StatusOr<S3Config> ParseS3Url(absl::string_view url, const S3Environment& environment);

// The profile's keys in a file as ~/.aws/credentials.
absl::StatusOr<S3Keys> ReadS3Keys(const std::string& path, absl::string_view profile);

}  // namespace quantd
