// Why jobs wait, and at which place: for one job or for a page of them, of which the parts that
// they share are read once. Lives as long as the transaction.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduler/fairness.h"
#include "server/scheduler/queue.h"
#include "server/scheduler/tenants.h"
#include "server/store/job_store.h"

namespace quantd {

class Waiting {
 public:
  Waiting(ReadTxn* txn, const QueueOptions* options, absl::Time now)
      : txn_(*txn), options_(*options), now_(now) {}

  // Sets queue_position and waiting_reason; clears them for a job that runs or has ended. Cheapest
  // when jobs come the newest first.
  absl::Status Fill(const JobRow& row, v1::Job* job);

 private:
  struct Fit {
    std::string unfit;     // What no alive worker offers, in words; empty when one fits.
    bool only_gpu = true;  // All that fit have a GPU.
  };
  absl::StatusOr<const Fit*> FitOf(int64_t needs);
  absl::StatusOr<std::string> Dependencies(const JobRow& row);
  absl::StatusOr<std::string> Queued(const JobRow& row, int64_t place);
  absl::StatusOr<int64_t> Place(const JobRow& row);

  ReadTxn& txn_;
  const QueueOptions& options_;
  const absl::Time now_;
  // Each is read when it is first needed.
  std::optional<std::vector<WorkerRow>> workers_;
  std::map<int64_t, Fit> fits_;  // By needs.
  std::optional<std::vector<SweepLoad>> sweeps_;
  std::optional<std::vector<TenantCount>> counts_;
  std::optional<Shares> shares_;
  std::optional<TenantLoads> loads_;
  // By tenant and priority: a job that was looked at, and how many come from it on.
  std::map<std::pair<std::string, int64_t>, std::pair<int64_t, int64_t>> from_;
};

}  // namespace quantd
