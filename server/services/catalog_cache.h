// The union of the workers' catalogs, read from the queue at most every few seconds and whenever a
// worker comes or goes: a thousand submits a second must not merge it a thousand times.
#pragma once

#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

class CatalogCache {
 public:
  explicit CatalogCache(std::function<absl::StatusOr<v1::Catalog>()> read)
      : read_(std::move(read)) {}

  // May read the database. Without any worker the catalog has no kinds. Thread-safe.
  absl::StatusOr<std::shared_ptr<const v1::Catalog>> Get();
  // The next Get reads again.
  void Invalidate();

 private:
  const std::function<absl::StatusOr<v1::Catalog>()> read_;
  absl::Mutex mutex_;
  std::shared_ptr<const v1::Catalog> catalog_ ABSL_GUARDED_BY(mutex_);
  absl::Duration read_at_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
