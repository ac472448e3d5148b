// One small GET through libcurl, for checks only: the engine downloads with its own client.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace quantd {

struct HttpAnswer {
  long status = 0;
  std::string body;  // At most 4 MiB; a longer one is an error.
};

// Any status of the server is an answer; Unavailable with the reason when none comes within ten
// seconds. `token`: sent as a bearer token unless empty, and never to another host.
absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, const std::string& token = "");

}  // namespace quantd
