// A job's place on this worker's disk: what goes into the engine, what it writes, and the
// checkpoint that outlives attempts. A local checkpoint is kept when it is at least as new as the
// stored one, which is so when the stored one was made here; otherwise another worker has come
// further and its files replace ours.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/quantd/v1/worker.pb.h"
#include "workers/agent/blob_cache.h"
#include "workers/agent/transfer.h"

namespace quantd {

// What was announced as checkpoint in this folder, kept beside it so that it survives the worker.
struct CheckpointRecord {
  std::set<std::string> paths;      // Relative to the work folder.
  std::set<std::string> manifests;  // Digests of the stored checkpoints that these files include.
};

class JobFolder {
 public:
  // `job` is the job's name; below `data` a folder is made for it.
  JobFolder(const std::string& data, const std::string& job);

  const std::string& path() const { return path_; }
  std::string inputs() const { return path_ + "/inputs"; }
  std::string output() const { return path_ + "/output"; }
  std::string work() const { return path_ + "/work"; }
  std::string stage() const { return path_ + "/stage"; }
  std::string spec_file() const { return path_ + "/spec.json"; }
  std::string inputs_file() const { return path_ + "/inputs.json"; }

  // Empty folders for a new attempt; the work folder keeps a checkpoint that is there.
  absl::Status Begin();
  // Makes the work folder hold the latest checkpoint known, local or stored.
  absl::Status RestoreCheckpoint(const v1::Manifest& stored, BlobCache& cache,
                                 BlobTransfer& transfer, const TransferControl& control);
  CheckpointRecord ReadRecord() const;
  absl::Status WriteRecord(const CheckpointRecord& record) const;

  // Removes everything, or all but the checkpoint.
  absl::Status End(bool keep_checkpoint);

 private:
  std::string path_;
};

// Removes the oldest job folders below `data` until at most `keep` are left, `current` not counted.
absl::Status PruneJobFolders(const std::string& data, const std::string& current, size_t keep);

// Brings the inputs' files here and returns the engine's inputs document: reference → {path,
// result, spec, state, failure}. One file of role "data" is given as the file itself.
absl::StatusOr<nlohmann::json> PrepareInputs(const v1::LeaseJobResponse& lease,
                                             const JobFolder& folder, BlobCache& cache,
                                             BlobTransfer& transfer,
                                             const TransferControl& control);
// What PrepareInputs and RestoreCheckpoint would have to download.
int64_t MissingInputBytes(const v1::LeaseJobResponse& lease, BlobCache& cache);

}  // namespace quantd
