// One HTTP request through libcurl, with what transfers of many gigabytes need: a byte range, a
// body that is read as it goes, a timeout by lack of progress instead of by total time,
// cancellation, connections that are used again, and redirects that never carry the token to
// another host.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
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

// Open connections that wait for the next request to their host. Thread-safe; outlives its
// requests.
class HttpConnections {
 public:
  HttpConnections() = default;
  ~HttpConnections();
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;

 private:
  friend class HttpHandle;
  absl::Mutex mutex_;
  std::vector<void*> idle_ ABSL_GUARDED_BY(mutex_);  // libcurl's handles.
};

struct HttpBody {
  int64_t size_bytes = 0;
  // Fills `out` from the offset; asked again from an earlier one when a connection broke. Null: no
  // body.
  std::function<absl::Status(int64_t offset_bytes, char* out, size_t size_bytes)> read;
};
// `text` outlives the request.
HttpBody TextBody(absl::string_view text);

struct HttpRequest {
  std::string url;
  std::string method = "GET";
  std::vector<std::string> headers = {};  // "Name: value".
  HttpBody body = {};                     // Of PUT and POST.
  std::string token;         // Sent as a bearer token to the host of `url` only; may be empty.
  int64_t offset_bytes = 0;  // With a limit, or above 0: asks for the bytes from here on.
  int64_t limit_bytes = 0;   // 0: to the end.
  // Whether a redirect to another host is followed; otherwise it is the answer.
  bool leave_host = true;
  absl::Duration connect = absl::Seconds(30);  // Gives up when there is no connection by then.
  absl::Duration stall = absl::Seconds(60);    // Gives up after so long without a byte.
  std::string authorities;                     // PEM file in place of the system's; may be empty.
  HttpConnections* connections = nullptr;      // Null: a connection of its own.
  std::function<bool()> cancelled;             // Asked about once a second; may be empty.
  // Both take a successful answer (200, 206): its headers before the first byte, then its bytes. An
  // error ends the request and is its result. Without them the body is kept.
  std::function<absl::Status(const HttpResponse&)> begin;
  std::function<absl::Status(absl::string_view)> sink;
};

// Any status of the server is an answer. Unavailable for a connection that fails or stalls,
// Cancelled when `cancelled` says so. Thread-safe.
absl::StatusOr<HttpResponse> PerformHttp(const HttpRequest& request);

// Bytes of a file on a server, as they come.
struct HttpRange {
  std::string url;
  int64_t offset_bytes = 0;
  int64_t limit_bytes = 0;               // 0: to the end.
  std::function<bool()> cancelled = {};  // May be empty.
};
// An error of `sink` ends it and is its result. Unavailable unless the server gives exactly these
// bytes, though fewer may come.
absl::Status FetchHttp(const HttpRange& range,
                       const std::function<absl::Status(absl::string_view)>& sink);

// `text` with everything but letters, digits and "-._~" as %XX.
std::string UrlEscape(absl::string_view text);

}  // namespace quantd
