// Files to and from the artifact store, resumable both ways, SHA-256 checked. A download lands in
// "{path}.partial" and gets its name only when size and digest are right, so a file that is there
// is whole.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/scheduler.h"

namespace quantd {

// Uploads one file (skipped where the store has it) and puts a manifest over it. Returns
// "artifacts/{sha256}".
absl::StatusOr<std::string> UploadFile(Scheduler* scheduler, const std::string& parent,
                                       const std::string& path);

// SHA-256 over the canonical listing of artifact.proto; files must be ordered by path.
std::string ManifestDigest(const v1::Manifest& manifest);

struct DownloadRequest {
  v1::Manifest manifest;
  std::string folder;
  // Only this file; empty: all.
  std::string only;
};

struct DownloadSummary {
  int files = 0;
  // Those that were there already, whole.
  int files_skipped = 0;
  int64_t bytes = 0;
};

// Called after each chunk with the bytes received so far, from two threads but never at once.
using DownloadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Two files at a time. A cut connection is taken up where it broke. Refused before the first byte:
// paths that leave `folder`, NotFound for `only`, and a disk without room. DataLoss when the bytes
// are not what the manifest says.
absl::StatusOr<DownloadSummary> DownloadManifest(Scheduler* scheduler,
                                                 const DownloadRequest& request,
                                                 const DownloadProgress& progress);

}  // namespace quantd
