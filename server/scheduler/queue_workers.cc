// Workers come, go and are listed.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {

constexpr size_t kPastInstancesMax = 16;  // A late message from further back is not to be expected.
constexpr size_t kInstanceIdMax = 64;

absl::Status CheckWorkerName(absl::string_view name) {
  constexpr absl::string_view kPrefix = "workers/";
  const absl::string_view id = name.substr(std::min(name.size(), kPrefix.size()));
  const bool good = name.substr(0, kPrefix.size()) == kPrefix && !id.empty() && id.size() <= 63 &&
                    std::all_of(id.begin(), id.end(), [](char c) {
                      return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
                    });
  if (good) return absl::OkStatus();
  return FieldError(
      "worker.name",
      "is not of the form workers/{worker}, with 1 to 63 letters, digits, '-', '.', '_'");
}

absl::Status CheckInstanceId(absl::string_view id) {
  const bool good =
      !id.empty() && id.size() <= kInstanceIdMax &&
      std::all_of(id.begin(), id.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (good) return absl::OkStatus();
  return FieldError("instance_id", "has to be 1 to 64 printable characters without spaces");
}

absl::Status Replaced(const std::string& name) {
  return WithReason(absl::AbortedError(absl::StrCat("another process took over the name ", name,
                                                    "; give every worker a name of its own")),
                    kReasonInstanceReplaced);
}

// What the worker held is given back: its process is gone.
absl::Status ReclaimLeases(QueueOperation& op, const std::string& worker) {
  QD_ASSIGN_OR_RETURN(auto leases, op.txn.WorkerLeases(worker));
  for (JobRow& row : leases) {
    v1::Failure failure;
    failure.set_error_class(v1::ERROR_CLASS_WORKER_LOST);
    failure.set_code(static_cast<int>(absl::StatusCode::kUnavailable));
    failure.set_message(absl::StrCat(worker, " was started anew while it worked on the job"));
    failure.set_remedy("look at the worker's log for the reason; the job is tried again");
    QD_RETURN_IF_ERROR(op.EndAttempt(&row, std::move(failure)));
  }
  return absl::OkStatus();
}

template <typename Infos>
void AddMissing(const Infos& more, Infos* all) {
  for (const auto& info : more) {
    const bool known = std::any_of(all->begin(), all->end(),
                                   [&](const auto& other) { return other.name() == info.name(); });
    if (!known) *all->Add() = info;
  }
}

void SortByName(v1::Catalog* catalog) {
  const auto by_name = [](const auto& a, const auto& b) { return a.name() < b.name(); };
  std::sort(catalog->mutable_methods()->begin(), catalog->mutable_methods()->end(), by_name);
  std::sort(catalog->mutable_formats()->begin(), catalog->mutable_formats()->end(), by_name);
  std::sort(catalog->mutable_tasks()->begin(), catalog->mutable_tasks()->end(), by_name);
  std::sort(catalog->mutable_architectures()->begin(), catalog->mutable_architectures()->end(),
            by_name);
  std::sort(catalog->mutable_kinds()->begin(), catalog->mutable_kinds()->end());
}

v1::Worker Present(const WorkerRow& row, const std::string& job, absl::Duration lease_time,
                   absl::Time now) {
  v1::Worker worker = row.record;
  worker.set_disk_free_bytes(row.disk_free_bytes);
  worker.set_job(job);
  *worker.mutable_last_seen_time() = ToProto(row.last_seen);
  *worker.mutable_register_time() = ToProto(row.register_time);
  worker.set_state(!IsAlive(row, lease_time, now) ? v1::Worker::LOST
                   : row.draining                 ? v1::Worker::DRAINING
                   : !job.empty()                 ? v1::Worker::BUSY
                                                  : v1::Worker::IDLE);
  return worker;
}

absl::StatusOr<std::vector<v1::Worker>> PresentAll(ReadTxn& txn, absl::Duration lease_time,
                                                   absl::Time now) {
  QD_ASSIGN_OR_RETURN(const auto rows, txn.Workers());
  std::vector<v1::Worker> workers;
  for (const WorkerRow& row : rows) {
    QD_ASSIGN_OR_RETURN(const auto leases, txn.WorkerLeases(row.name));
    workers.push_back(Present(row, leases.empty() ? "" : leases.front().name, lease_time, now));
  }
  return workers;
}

}  // namespace

bool IsAlive(const WorkerRow& worker, absl::Duration lease_time, absl::Time now) {
  return worker.last_seen > now - lease_time;
}

namespace bodies {

absl::StatusOr<v1::RegisterWorkerResponse> RegisterWorker(
    QueueOperation& op, const v1::RegisterWorkerRequest& request) {
  QD_RETURN_IF_ERROR(CheckWorkerName(request.worker().name()));
  QD_RETURN_IF_ERROR(CheckInstanceId(request.instance_id()));
  QD_ASSIGN_OR_RETURN(auto known, op.txn.GetWorker(request.worker().name()));
  WorkerRow row = known.value_or(WorkerRow());
  if (known.has_value() && row.instance_id != request.instance_id()) {
    std::vector<std::string> past = absl::StrSplit(row.past_instances, ' ', absl::SkipEmpty());
    // A late message of a process that was replaced must not take the name back.
    if (std::find(past.begin(), past.end(), request.instance_id()) != past.end()) {
      return Replaced(row.name);
    }
    past.insert(past.begin(), row.instance_id);
    past.resize(std::min(past.size(), kPastInstancesMax));
    QD_RETURN_IF_ERROR(ReclaimLeases(op, row.name));
    row = WorkerRow();
    row.past_instances = absl::StrJoin(past, " ");
  }
  row.name = request.worker().name();
  row.instance_id = request.instance_id();
  row.record = request.worker();
  row.draining = false;
  row.disk_free_bytes = request.worker().disk_free_bytes();
  row.register_time = row.last_seen = op.now;
  QD_RETURN_IF_ERROR(op.txn.PutWorker(row));
  op.effects.runnable = true;
  v1::RegisterWorkerResponse response;
  *response.mutable_lease_time() = ToProto(op.options.lease_time);
  return response;
}

absl::StatusOr<v1::DeregisterWorkerResponse> DeregisterWorker(
    QueueOperation& op, const v1::DeregisterWorkerRequest& request) {
  QD_ASSIGN_OR_RETURN(const auto worker, op.txn.GetWorker(request.worker()));
  if (!worker.has_value()) return v1::DeregisterWorkerResponse();
  if (worker->instance_id != request.instance_id()) return Replaced(request.worker());
  QD_ASSIGN_OR_RETURN(auto leases, op.txn.WorkerLeases(worker->name));
  for (JobRow& row : leases) QD_RETURN_IF_ERROR(GiveBack(op, &row, "the worker left"));
  QD_RETURN_IF_ERROR(op.txn.DeleteWorker(worker->name));
  return v1::DeregisterWorkerResponse();
}

}  // namespace bodies

absl::StatusOr<v1::ListWorkersResponse> Queue::ListWorkers(const v1::ListWorkersRequest& request,
                                                           absl::Time now) {
  QD_ASSIGN_OR_RETURN(const int64_t size, PageSize(request.page_size()));
  QD_ASSIGN_OR_RETURN(const int64_t start, ParsePageToken(request.page_token(), "workers"));
  std::vector<v1::Worker> workers;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(workers, PresentAll(txn, options_.lease_time, now));
    return absl::OkStatus();
  }),
                     "listing workers");
  v1::ListWorkersResponse response;
  const int64_t count = static_cast<int64_t>(workers.size());
  for (int64_t i = start; i < std::min(count, start + size); ++i) {
    response.add_workers()->Swap(&workers[i]);
  }
  if (start + size < count) response.set_next_page_token(MakePageToken("workers", start + size));
  return response;
}

absl::StatusOr<v1::Catalog> Queue::GetCatalog(absl::Time now) {
  std::vector<WorkerRow> workers;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(workers, txn.Workers());
    return absl::OkStatus();
  }),
                     "reading the workers' catalogs");
  std::stable_sort(workers.begin(), workers.end(), [](const WorkerRow& a, const WorkerRow& b) {
    return a.register_time > b.register_time;
  });
  v1::Catalog all;
  for (const WorkerRow& worker : workers) {
    if (!IsAlive(worker, options_.lease_time, now)) continue;
    const v1::Catalog& catalog = worker.record.catalog();
    if (all.engine_version().empty()) all.set_engine_version(catalog.engine_version());
    for (const std::string& kind : catalog.kinds()) {
      if (std::find(all.kinds().begin(), all.kinds().end(), kind) == all.kinds().end()) {
        all.add_kinds(kind);
      }
    }
    AddMissing(catalog.methods(), all.mutable_methods());
    AddMissing(catalog.formats(), all.mutable_formats());
    AddMissing(catalog.tasks(), all.mutable_tasks());
    AddMissing(catalog.architectures(), all.mutable_architectures());
    all.mutable_devices()->MergeFrom(catalog.devices());
    all.mutable_libraries()->insert(catalog.libraries().begin(), catalog.libraries().end());
  }
  SortByName(&all);
  return all;
}

absl::StatusOr<QueueStatistics> Queue::Statistics(absl::Time now) {
  QueueStatistics statistics;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const std::vector<JobCount> counts, txn.CountJobs());
    for (const JobCount& jobs : counts) {
      v1::JobSpec needs;
      if (!needs.ParseFromString(jobs.needs_key)) continue;
      statistics.jobs[{KindOf(needs), jobs.state}] += jobs.count;
    }
    QD_ASSIGN_OR_RETURN(const auto workers, PresentAll(txn, options_.lease_time, now));
    for (const v1::Worker& worker : workers) {
      statistics.workers_idle += worker.state() == v1::Worker::IDLE;
      statistics.workers_busy += worker.state() == v1::Worker::BUSY;
      statistics.workers_draining += worker.state() == v1::Worker::DRAINING;
      statistics.workers_lost += worker.state() == v1::Worker::LOST;
    }
    return absl::OkStatus();
  }),
                     "counting jobs and workers");
  return statistics;
}

}  // namespace quantd
