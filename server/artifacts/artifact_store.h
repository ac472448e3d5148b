// Where blobs (files named by their SHA-256) and manifests (names put to them) are kept. A blob is
// either absent or whole, durable and checked; an upload may break off anywhere and go on later, on
// another connection or after a restart. Implementations: LocalArtifactStore, S3ArtifactStore.
//
// Errors: InvalidArgument (a name, size or digest that is wrong; a digest mismatch also discards
// the upload), OutOfRange + UPLOAD_GAP (metadata committed_bytes), NotFound, Unavailable (+
// DISK_LOW, or what a storage elsewhere says). Methods block on disk or network and are
// thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.pb.h"

namespace quantd {

struct UploadState {
  std::string upload;  // To be named in Append.
  int64_t committed_bytes = 0;
  bool complete = false;
};

struct UploadChunk {
  absl::string_view upload;
  int64_t offset_bytes = 0;
  absl::string_view data;
  bool finish = false;  // This is the last chunk: check, publish.
};

// An open blob. Thread-safe.
class BlobReader {
 public:
  virtual ~BlobReader() = default;
  virtual int64_t size_bytes() const = 0;
  // Up to `limit_bytes` from the offset; empty at the end.
  virtual absl::StatusOr<std::string> Read(int64_t offset_bytes, int64_t limit_bytes) const = 0;
  // Where anyone may fetch it for a while with GET and ranges; empty when there is no such place.
  virtual std::string Link() const { return ""; }
};

struct ArtifactUsage {
  int64_t blob_bytes = 0;      // In whole blobs.
  int64_t uploaded_bytes = 0;  // Taken in since the start.
  int64_t verify_failures = 0;
  int64_t disk_free_bytes = 0;
};

class ArtifactStore {
 public:
  virtual ~ArtifactStore() = default;

  // Whether the blob is there, whole, with this size.
  virtual absl::StatusOr<bool> Has(const v1::Blob& blob) = 0;
  virtual absl::StatusOr<UploadState> StartUpload(const v1::Blob& blob) = 0;
  // Bytes below the committed offset are ignored; a gap is refused. With `finish` the blob is
  // durable on return.
  virtual absl::StatusOr<UploadState> Append(const UploadChunk& chunk) = 0;
  virtual absl::StatusOr<std::shared_ptr<BlobReader>> Open(absl::string_view sha256) = 0;

  // Manifests, per tenant. `artifact.name` says where; the same name again replaces nothing and is
  // fine.
  virtual absl::Status PutArtifact(const v1::Artifact& artifact) = 0;
  virtual absl::StatusOr<v1::Artifact> GetArtifact(absl::string_view tenant,
                                                   absl::string_view sha256) = 0;
  // Ordered by digest; those after `after_sha256`, at most `limit`.
  virtual absl::StatusOr<std::vector<v1::Artifact>> ListArtifacts(absl::string_view tenant,
                                                                  absl::string_view after_sha256,
                                                                  int64_t limit) = 0;

  // For whoever removes what nothing leads to (server/garbage). Whole blobs, ordered by digest:
  // those after `after_sha256`, at most `limit`.
  virtual absl::StatusOr<std::vector<v1::Blob>> ListBlobs(absl::string_view after_sha256,
                                                          int64_t limit) = 0;
  // The names of all tenants' artifacts, ordered: those after `after_name`, at most `limit`.
  virtual absl::StatusOr<std::vector<std::string>> ListNames(absl::string_view after_name,
                                                             int64_t limit) = 0;
  // Fine when they are not there. Who has a blob open reads on, as far as the storage lets him.
  virtual absl::Status RemoveBlob(absl::string_view sha256) = 0;
  virtual absl::Status RemoveArtifact(absl::string_view tenant, absl::string_view sha256) = 0;
  // Another process has removed something: what is remembered of the storage may be wrong.
  virtual void Forget() {}

  // Discards uploads that nobody has touched for a day. Called at start and now and then; may go on
  // in the background.
  virtual absl::Status Sweep(absl::Time now) = 0;
  // Unavailable when writes would be refused. Does not wait for a network.
  virtual absl::Status Health() = 0;
  virtual ArtifactUsage Usage() = 0;
};

// Checks digest and size of a blob in a request; InvalidArgument says what is wrong.
absl::Status CheckBlob(const v1::Blob& blob);
// Checks every path, blob and role, that no path comes twice or is another's folder, and total and
// digest; fills in a total and digest that are left out.
absl::Status ResolveManifest(v1::Manifest* manifest);

}  // namespace quantd
