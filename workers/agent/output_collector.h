// Carries an attempt's files to the artifact store while the engine still runs: outputs as they are
// announced, checkpoints as the engine saves them. At the end the whole output folder is held
// against what was announced.
//
// A checkpoint's files are linked aside the moment they are announced, so that the engine may go
// on; checkpoints that wait are merged, for only the newest place to resume from matters. No
// failure to store a checkpoint fails the job: the next one carries the files again.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/quantd/v1/job.pb.h"
#include "workers/agent/blob_cache.h"
#include "workers/agent/job_folder.h"
#include "workers/agent/lease_keeper.h"
#include "workers/agent/manifest.h"
#include "workers/agent/metrics.h"
#include "workers/agent/transfer.h"

namespace quantd {

// Add… on one thread, Finish and Settle after the last of them.
class OutputCollector {
 public:
  struct Parts {  // Not owned.
    JobFolder* folder = nullptr;
    BlobCache* cache = nullptr;
    BlobTransfer* transfer = nullptr;
    LeaseKeeper* keeper = nullptr;
    AgentMetrics* metrics = nullptr;
    TransferControl control;
  };
  // `stored`: the checkpoint that the store has.
  OutputCollector(Parts parts, const v1::Manifest& stored);
  // Ends what is under way.
  ~OutputCollector();

  void AddArtifact(const v1::ManifestFile& file);
  void AddCheckpoint(v1::CheckpointSaved checkpoint);
  // Waits until everything announced has been stored or given up, or the control's scope is
  // cancelled.
  void Settle();
  // The manifest of the whole output folder, every blob of it in the store and in the cache.
  // Internal: the folder is not what the engine announced.
  absl::StatusOr<v1::Manifest> Finish();

 private:
  struct Stored {
    v1::ManifestFile file;
    int64_t changed_ns = 0;
  };
  struct Task {
    std::optional<v1::ManifestFile> artifact;
    std::optional<v1::CheckpointSaved> checkpoint;
  };
  void Run();
  absl::Status StoreArtifact(const v1::ManifestFile& file, bool announce);
  absl::Status StoreCheckpoint(v1::CheckpointSaved checkpoint);
  absl::Status StoreBlob(const std::string& folder, const std::string& relative, v1::Blob* blob);
  std::string StagePath(const std::string& relative) const;

  const Parts parts_;
  FileMap checkpoint_files_;  // Of the worker thread, once it runs.
  CheckpointRecord record_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex mutex_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> announced_ ABSL_GUARDED_BY(mutex_);  // Path → role.
  std::map<std::string, Stored> stored_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quantd
