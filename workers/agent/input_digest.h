// Everything that a job's result follows from, as one digest: the spec's kind and runtime, the
// contents of every file that it reads, the results of jobs that it builds on, the engine and the
// machine's devices. Jobs with equal digests have equal results, so that only the first is worked
// out.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

// One for all of a worker's attempts: remembers the digests of files by size, time and inode, so
// that a sweep reads its model once. Thread-safe.
class InputDigest {
 public:
  // `engine` is the program's path.
  InputDigest(std::string engine, v1::Catalog catalog)
      : engine_(std::move(engine)), catalog_(std::move(catalog)) {}

  // 64 hex digits. Empty where the result is not to be used again: a benchmark measures, a
  // comparison is cheap, JobSpec.fresh asks for it, or something is read whose content nobody can
  // tell beforehand (a name on the Hub without a commit). Errors come from reading files. `wanted`
  // is asked before each file of a folder, which may have gigabytes; Cancelled when it says no.
  absl::StatusOr<std::string> Of(const v1::LeaseJobResponse& lease,
                                 const std::function<bool()>& wanted);

 private:
  // Size, modification time, inode and device.
  using Stamp = std::tuple<int64_t, int64_t, uint64_t, uint64_t>;
  absl::StatusOr<std::string> OfFile(const std::string& path);
  absl::StatusOr<std::string> OfPath(const std::string& path, const std::function<bool()>& wanted);

  const std::string engine_;
  const v1::Catalog catalog_;
  absl::Mutex mutex_;
  std::map<std::string, std::pair<Stamp, std::string>> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
