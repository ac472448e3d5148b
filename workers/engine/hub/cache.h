// The Hugging Face cache on disk, laid out as every other tool expects it:
//
//   models--org--name/blobs/<etag>              the bytes, once
//   models--org--name/snapshots/<commit>/<file> -> ../../blobs/<etag>
//   models--org--name/refs/<revision>           the commit that a branch or tag pointed to
//   .locks/models--org--name/<etag>.lock        held (flock) while a blob is written
//
// Data sets lie beside them as datasets--org--name.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd {

// "org/name@revision".
struct HubModel {
  std::string repository;         // "org/name"
  std::string revision = "main";  // A branch, a tag or a commit.
  bool dataset = false;           // Of the Hub's data sets instead of its models.
};

// InvalidArgument, with the rule, for what is not "org/name" or "org/name@revision".
absl::StatusOr<HubModel> ParseHubModel(absl::string_view text);

class HubCache {
 public:
  HubCache(std::string folder, const HubModel& model);

  const std::string& folder() const { return folder_; }
  std::string SnapshotFolder(absl::string_view commit) const;
  std::string BlobPath(absl::string_view etag) const;
  std::string IncompletePath(absl::string_view etag) const;

  // The commit that the revision pointed to when it was last seen; nullopt when never.
  std::optional<std::string> ReadRef() const;
  absl::Status WriteRef(absl::string_view commit) const;
  // Makes `file` of the commit point to the blob; replaces what is there.
  absl::Status Link(absl::string_view commit, absl::string_view file, absl::string_view etag) const;

 private:
  const std::string folder_;      // The cache's.
  const std::string repository_;  // The repository's in it.
  const std::string locks_;
  const HubModel model_;
  friend class BlobLock;
};

// Holds a blob against other threads and processes that download it. Released on destruction.
class BlobLock {
 public:
  // Waits for as long as another holds it, asking `cancelled` in between.
  static absl::StatusOr<BlobLock> Acquire(const HubCache& cache, absl::string_view etag,
                                          const std::function<bool()>& cancelled);
  BlobLock(BlobLock&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  BlobLock& operator=(BlobLock&&) = delete;
  ~BlobLock();

 private:
  explicit BlobLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

// Whether the bytes of `path` are those that `etag` names: a SHA-256 (64 digits, large files) or
// the SHA-1 of git's blob (40 digits). DataLoss when they are not; any other etag says nothing.
absl::Status CheckBlob(const std::string& path, absl::string_view etag);

// Whether the snapshot has a configuration and all weights that it names itself. FailedPrecondition
// names what is missing.
absl::Status CheckSnapshot(const std::string& folder);

}  // namespace quantd
