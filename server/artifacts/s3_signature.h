// Requests to S3-compatible storage, signed as AWS Signature Version 4 has it: the key signs
// method, host, path, query and the SHA-256 of the body. libcurl's own --aws-sigv4 does not sort
// query parameters in the version that Debian 12 has.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/artifacts/s3_config.h"

namespace quantd {

struct S3ToSign {
  absl::string_view method;
  absl::string_view host;
  absl::string_view path;                         // Escaped.
  std::map<std::string, std::string> query = {};  // Not escaped.
  std::string body_sha256 = {};
  absl::Time time;
};

// "name=value&..." in the order that is signed.
std::string S3Query(const std::map<std::string, std::string>& query);

// The header lines that make it a signed one.
std::vector<std::string> SignS3(const S3Keys& keys, absl::string_view region,
                                const S3ToSign& request);

// The query of a link that anyone may follow for so long. `request.body_sha256` is not used.
std::string PresignS3(const S3Keys& keys, absl::string_view region, S3ToSign request,
                      absl::Duration valid);

}  // namespace quantd
