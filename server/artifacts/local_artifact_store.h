// An ArtifactStore in a folder: blobs/ab/abcd..., partials/{sha256}-{size}.partial,
// manifests/{tenant}/{sha256}. A blob is renamed to its name only after its digest was checked and
// its bytes were synced, so that a name in blobs/ is a promise. Names come from digests and checked
// ids alone, never from a client's text. Writes are refused while less than a watermark of the disk
// is free, so that the queue's database always has room.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/sha256.h"
#include "server/artifacts/artifact_store.h"

namespace quantd {

struct LocalArtifactStoreOptions {
  std::string folder;
  // Below this much free space nothing is taken in.
  int64_t free_bytes_min = int64_t{512} << 20;
  // Uploads untouched for so long are discarded.
  absl::Duration upload_time = absl::Hours(24);
  // Signs the names of uploads; empty: one of this folder's own.
  std::string secret = {};
};

class LocalArtifactStore final : public ArtifactStore {
 public:
  // Creates the folders and discards stale uploads.
  static absl::StatusOr<std::unique_ptr<LocalArtifactStore>> Open(LocalArtifactStoreOptions options,
                                                                  absl::Time now);

  absl::StatusOr<bool> Has(const v1::Blob& blob) override;
  absl::StatusOr<UploadState> StartUpload(const v1::Blob& blob) override;
  absl::StatusOr<UploadState> Append(const UploadChunk& chunk) override;
  absl::StatusOr<std::shared_ptr<BlobReader>> Open(absl::string_view sha256) override;
  absl::Status PutArtifact(const v1::Artifact& artifact) override;
  absl::StatusOr<v1::Artifact> GetArtifact(absl::string_view tenant,
                                           absl::string_view sha256) override;
  absl::StatusOr<std::vector<v1::Artifact>> ListArtifacts(absl::string_view tenant,
                                                          absl::string_view after_sha256,
                                                          int64_t limit) override;
  absl::StatusOr<std::vector<v1::Blob>> ListBlobs(absl::string_view after_sha256,
                                                  int64_t limit) override;
  absl::StatusOr<std::vector<std::string>> ListNames(absl::string_view after_name,
                                                     int64_t limit) override;
  absl::Status RemoveBlob(absl::string_view sha256) override;
  absl::Status RemoveArtifact(absl::string_view tenant, absl::string_view sha256) override;
  absl::Status Sweep(absl::Time now) override;
  absl::Status Health() override;
  ArtifactUsage Usage() override;

  // For a store that keeps whole blobs elsewhere and lets them gather here.
  // What an upload's name stands for.
  absl::StatusOr<v1::Blob> ParseUploadName(absl::string_view name) const;
  // The file with the blob's bytes, whole or not. It may be renamed while it is open.
  std::string FileOf(const v1::Blob& blob) const;
  // RemoveBlob for all that were whole before then.
  absl::Status RemoveBlobsBefore(absl::Time time);

 private:
  // One per blob under way, shared by everyone who uploads it.
  struct Upload {
    absl::Mutex mutex;
    // Hash of the bytes so far, while they all came through this object; null: to be hashed from
    // the file.
    std::unique_ptr<Sha256> hash ABSL_GUARDED_BY(mutex);
    int64_t hashed_bytes ABSL_GUARDED_BY(mutex) = 0;
  };

  LocalArtifactStore(LocalArtifactStoreOptions options, std::string secret);

  std::string BlobPath(absl::string_view sha256) const;
  std::string PartialPath(const v1::Blob& blob) const;
  // A name that only this store can make: "uploads/{mac}/{sha256}/{size}".
  std::string UploadName(const v1::Blob& blob) const;
  absl::Status CheckRoom(int64_t more_bytes);
  std::shared_ptr<Upload> Find(const v1::Blob& blob);
  // The partial's size; 0 when there is none.
  absl::StatusOr<int64_t> CommittedBytes(const v1::Blob& blob) const;
  absl::Status Write(const v1::Blob& blob, int64_t offset_bytes, absl::string_view data);
  absl::Status Finish(const v1::Blob& blob, Upload* upload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload->mutex);
  void Discard(const v1::Blob& blob, Upload* upload) ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload->mutex);

  const LocalArtifactStoreOptions options_;
  const std::string secret_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Upload>> uploads_ ABSL_GUARDED_BY(mutex_);
  ArtifactUsage usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
