// Blobs on this worker's disk, named by their SHA-256, so that a model that one job wrote or
// fetched costs the next one no download. Bounded in size; the least recently used blobs go first,
// never one that is in use.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.pb.h"
#include "workers/agent/transfer.h"

namespace quantd {

// Disk that is never filled: the engine, the log and the machine need some too.
inline constexpr int64_t kDiskReserveBytes = int64_t{256} << 20;

// Thread-safe.
class BlobCache {
 public:
  // Reads what `folder` holds. Partial downloads older than a day are removed.
  static absl::StatusOr<std::unique_ptr<BlobCache>> Open(const std::string& folder,
                                                         int64_t limit_bytes);

  // Puts the blob at `target` (a hard link, or a copy across file systems), downloading it first if
  // need be. FailedPrecondition: it does not fit on this disk.
  absl::Status Place(const v1::Blob& blob, const std::string& target, BlobTransfer& transfer,
                     const TransferControl& control);
  // Takes over a file that is known to hold the blob and will not change any more.
  absl::Status Adopt(const std::string& path, const v1::Blob& blob);
  bool Contains(const std::string& sha256);
  // Evicts until `bytes` more fit on the disk; FailedPrecondition says what is missing.
  absl::Status MakeRoom(int64_t bytes);
  int64_t size_bytes();

 private:
  struct Entry {
    int64_t size_bytes = 0;
    int pins = 0;
    absl::Time last_use;
  };
  BlobCache(std::string folder, int64_t limit_bytes)
      : folder_(std::move(folder)), limit_bytes_(limit_bytes) {}
  std::string PathOf(const std::string& sha256) const;
  absl::Status Load();
  void Insert(const v1::Blob& blob) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool EvictOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Fetch(const v1::Blob& blob, BlobTransfer& transfer, const TransferControl& control);

  const std::string folder_;
  const int64_t limit_bytes_;
  absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> fetching_ ABSL_GUARDED_BY(mutex_);
  int64_t size_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A hard link at `target`, or a copy where a link cannot be; makes the folders above it.
absl::Status LinkOrCopy(const std::string& source, const std::string& target);

}  // namespace quantd
