// The Hub's HTTP interface: what a repository holds, what a file is, and its bytes, with retries
// and with errors that say what to do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/http.h"
#include "workers/engine/hub/hub.h"

namespace quantd {

struct HubRevision {
  std::string commit;
  std::vector<std::string> files;
};

struct HubFile {
  std::string commit;
  std::string name;
  std::string etag;  // A safe file name. SHA-256 for large files, git's SHA-1 for the others.
  int64_t size_bytes = 0;
};

// Thread-safe.
class HubClient {
 public:
  // `options` must outlive the client.
  HubClient(const HubModel& model, const HubOptions& options) : model_(model), options_(options) {}

  absl::StatusOr<HubRevision> List() const;
  absl::StatusOr<HubFile> Describe(const std::string& commit, const std::string& file) const;
  // One attempt to get the bytes from `offset_bytes` on; fills url, token and limits of `request`.
  absl::StatusOr<HttpResponse> Get(const HubFile& file, HttpRequest request) const;

  // Calls `attempt` until it succeeds, fails for good, or has failed kAttempts times in a row
  // without `moved` saying that it got further. Waits in between: as long as the server's
  // Retry-After says, or twice as long every time.
  absl::Status Retry(const std::function<absl::StatusOr<HttpResponse>()>& attempt,
                     const std::function<bool()>& moved, absl::string_view what,
                     HttpResponse* response) const;

 private:
  std::string FileUrl(const std::string& commit, const std::string& name) const;
  absl::StatusOr<HttpResponse> Ask(HttpRequest request, absl::string_view what) const;
  absl::Status AnswerStatus(const HttpResponse& response, absl::string_view what) const;
  absl::Duration Pause(const HttpResponse* response, int failures) const;

  const HubModel model_;
  const HubOptions& options_;
};

}  // namespace quantd
