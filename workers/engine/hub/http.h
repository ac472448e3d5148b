// One HTTP request through libcurl, with what downloads of many gigabytes need: a byte range, a
// timeout by lack of progress instead of by total time, cancellation, and redirects that never
// carry the token to another host.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd {

struct HttpResponse {
  int status = 0;
  absl::flat_hash_map<std::string, std::string> headers;  // Names in lower case.
  std::string body;  // Of an answer that no sink took; at most kHttpBodyLimitBytes.

  // Empty when there is no such header.
  std::string Header(absl::string_view name) const;
};

constexpr int64_t kHttpBodyLimitBytes = 64 << 20;

struct HttpRequest {
  std::string url;
  bool head = false;
  std::string token;         // Sent as a bearer token to the host of `url` only; may be empty.
  int64_t offset_bytes = 0;  // Above 0: asks for the bytes from here on.
  // Whether a redirect to another host is followed; otherwise it is the answer.
  bool leave_host = true;
  absl::Duration stall = absl::Seconds(60);  // Gives up after so long without a byte.
  std::function<bool()> cancelled;           // Asked about once a second; may be empty.
  // Both take a successful answer (200, 206): its headers before the first byte, then its bytes. An
  // error ends the request and is its result. Without them the body is kept.
  std::function<absl::Status(const HttpResponse&)> begin;
  std::function<absl::Status(absl::string_view)> sink;
};

// Any status of the server is an answer. Unavailable for a connection that fails or stalls,
// Cancelled when `cancelled` says so. Thread-safe.
absl::StatusOr<HttpResponse> PerformHttp(const HttpRequest& request);

// `text` with everything but letters, digits and "-._~" as %XX.
std::string UrlEscape(absl::string_view text);

}  // namespace quantd
