// An ArtifactStore in a bucket of S3-compatible storage: blobs/ab/abcd..., manifests/{tenant}/
// {sha256} below a prefix, as in a LocalArtifactStore's folder. Uploads gather in a local folder,
// resumable and checked as there; parts of large ones go up meanwhile, and a blob is announced only
// when the bucket has it whole, with the digest that it is named by. A crash at any moment leaves
// what the next request for the blob goes on with. Several schedulers share a bucket, each with a
// folder of its own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "server/artifacts/artifact_store.h"
#include "server/artifacts/local_artifact_store.h"
#include "server/artifacts/s3_client.h"
#include "server/artifacts/s3_upload.h"

namespace quantd {

class S3ArtifactStore final : public ArtifactStore {
 public:
  // Writes and reads a probe, so that a wrong bucket or key is found at start. `local.secret` has
  // to be the same on all schedulers of a bucket, for an upload begun at one to go on at another.
  static absl::StatusOr<std::unique_ptr<S3ArtifactStore>> Open(S3Config config,
                                                               LocalArtifactStoreOptions local,
                                                               absl::Time now);
  ~S3ArtifactStore() override;

  absl::StatusOr<bool> Has(const v1::Blob& blob) override;
  absl::StatusOr<UploadState> StartUpload(const v1::Blob& blob) override;
  absl::StatusOr<UploadState> Append(const UploadChunk& chunk) override;
  absl::StatusOr<std::shared_ptr<BlobReader>> Open(absl::string_view sha256) override;
  absl::Status PutArtifact(const v1::Artifact& artifact) override;
  // Callers may be in a transaction: fails within seconds when the bucket cannot be reached.
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
  void Forget() override;
  // The folder's part at once, the bucket's in the background.
  absl::Status Sweep(absl::Time now) override;
  // The bucket's part: aborts uploads that nobody goes on with, and looks at what is there.
  absl::Status SweepBucket(absl::Time now);
  absl::Status Health() override;
  ArtifactUsage Usage() override;

 private:
  S3ArtifactStore(S3Config config, LocalArtifactStoreOptions options,
                  std::unique_ptr<LocalArtifactStore> local);

  std::shared_ptr<S3Upload> Find(const v1::Blob& blob);
  // Sends a blob that is whole in the local folder up, and removes it there.
  absl::Status SendUp(const v1::Blob& blob, S3Upload* upload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(upload->mutex);
  // What is known without asking; what the bucket says.
  std::optional<int64_t> KnownSize(const std::string& sha256);
  absl::StatusOr<std::optional<int64_t>> BlobSize(const std::string& sha256);
  // Remembers a size that was asked for when `forgets_` was so.
  void Remember(const std::string& sha256, int64_t size_bytes, int64_t forgets);
  std::string JournalOf(const v1::Blob& blob) const;
  absl::Status AbortOwnStale(absl::Time now);
  absl::Status AbortForeignStale(absl::Time now);
  absl::Status AddUp();
  absl::Status Probe();
  // Probes, and sweeps when told to, until the end.
  void Keep();

  const LocalArtifactStoreOptions options_;
  const std::shared_ptr<S3Client> client_;
  const std::unique_ptr<LocalArtifactStore> local_;
  absl::Mutex mutex_;
  // What the bucket is known to have.
  absl::flat_hash_map<std::string, int64_t> sizes_ ABSL_GUARDED_BY(mutex_);
  // Manifests never change: those read lately, by name.
  absl::flat_hash_map<std::string, v1::Artifact> manifests_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::shared_ptr<S3Upload>> uploads_ ABSL_GUARDED_BY(mutex_);
  int64_t forgets_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bucket_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status probe_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> sweep_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread keeper_;
};

}  // namespace quantd
