// Sweeps: planned into jobs in one transaction, cancelled and retried as one.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/spec_checks.h"
#include "server/scheduler/sweep_planner.h"
#include "server/scheduler/tenants.h"

namespace quantd {

v1::Sweep PresentSweep(const SweepRow& row, const std::vector<JobRow>& jobs) {
  v1::Sweep sweep = row.record;
  sweep.set_name(row.name);
  absl::flat_hash_map<std::string, v1::JobState> states;
  for (const JobRow& job : jobs) states[job.name] = job.state;
  for (v1::Sweep::Cell& cell : *sweep.mutable_cells()) {
    for (v1::Sweep::Stage& stage : *cell.mutable_stages()) stage.set_state(states[stage.job()]);
  }
  return sweep;
}

absl::StatusOr<v1::Sweep> PresentWholeSweep(ReadTxn& txn, const SweepRow& row) {
  QD_ASSIGN_OR_RETURN(const auto jobs, txn.SweepJobs(row.seq));
  v1::Sweep sweep = PresentSweep(row, jobs);
  QD_ASSIGN_OR_RETURN(*sweep.mutable_spec(), txn.GetSweepSpec(row.seq));
  return sweep;
}

namespace bodies {
namespace {

// The jobs whose results a comparison reads, by the comparison's name: when one of them runs again,
// it has to be made again.
using Comparisons = std::map<std::string, std::vector<std::string>>;
Comparisons ComparisonsOf(const v1::Sweep& record) {
  Comparisons comparisons;
  std::vector<std::string> baseline;  // Of the model of the cells that follow.
  for (const v1::Sweep::Cell& cell : record.cells()) {
    std::vector<std::string> jobs = cell.baseline() ? std::vector<std::string>() : baseline;
    for (const v1::Sweep::Stage& stage : cell.stages()) {
      if (stage.kind() == kCompareStage) {
        comparisons[stage.job()] = jobs;
        continue;
      }
      jobs.push_back(stage.job());
      comparisons[record.report_job()].push_back(stage.job());
    }
    if (cell.baseline()) baseline = std::move(jobs);
  }
  return comparisons;
}

absl::StatusOr<SweepRow> InsertSweepRow(QueueOperation& op, const std::string& tenant,
                                        const v1::SweepSpec& spec, const SweepPlan& plan) {
  SweepRow row;
  row.name = SweepName(tenant, IdFromBits(op.Random()));
  row.tenant = tenant;
  row.max_parallel = spec.max_parallel();
  row.record.set_state(v1::JOB_STATE_RUNNING);
  *row.record.mutable_create_time() = ToProto(op.now);
  row.record.set_report_job(JobName(tenant, plan.report_id));
  for (const v1::Sweep::Cell& planned : plan.cells) {
    v1::Sweep::Cell& cell = *row.record.add_cells() = planned;
    for (v1::Sweep::Stage& stage : *cell.mutable_stages()) {
      stage.set_job(ResolveJob(tenant, stage.job()));
    }
  }
  QD_RETURN_IF_ERROR(op.txn.InsertSweep(&row, spec));
  return row;
}

}  // namespace

absl::StatusOr<v1::SubmitSweepResponse> SubmitSweep(
    QueueOperation& op, const Submission<v1::SubmitSweepRequest>& submission) {
  const v1::SubmitSweepRequest& request = submission.request;
  QD_ASSIGN_OR_RETURN(const std::string tenant, ParseParent(request.parent()));
  QD_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  const SubmissionDigests digests = DigestsOf(submission);
  QD_ASSIGN_OR_RETURN(const std::string earlier,
                      FindReplay(op, tenant, request.request_id(), digests));
  v1::SubmitSweepResponse response;
  if (!earlier.empty()) {
    QD_ASSIGN_OR_RETURN(const SweepRow row, op.txn.GetSweep(earlier));
    QD_ASSIGN_OR_RETURN(*response.mutable_sweep(), PresentWholeSweep(op.txn, row));
    return response;
  }
  QD_RETURN_IF_ERROR(submission.refusal);
  QD_RETURN_IF_ERROR(CheckSweepSpec(request.spec()));
  QD_ASSIGN_OR_RETURN(const SweepPlan plan,
                      PlanSweep(request.spec(), [&] { return IdFromBits(op.Random()); }));
  QD_RETURN_IF_ERROR(
      CheckQueuedQuota(op.txn, op.options.tenants, tenant, static_cast<int64_t>(plan.jobs.size())));
  QD_RETURN_IF_ERROR(CheckArtifactQuota(op.txn, op.options.tenants, tenant, 0));
  QD_ASSIGN_OR_RETURN(const SweepRow row, InsertSweepRow(op, tenant, request.spec(), plan));
  for (const PlannedJob& job : plan.jobs) {
    QD_ASSIGN_OR_RETURN(const JobRow inserted,
                        InsertJob(op, tenant, JobName(tenant, job.id), job.spec, &row),
                        "planning the sweep's ", job.kind, " job");
    if (!request.validate_only()) continue;
    v1::Job& shown = *response.add_jobs() = PresentJob(inserted);
    *shown.mutable_spec() = job.spec;
  }
  QD_RETURN_IF_ERROR(RememberRequest(op, tenant, request.request_id(), digests, row.name));
  QD_ASSIGN_OR_RETURN(*response.mutable_sweep(), PresentWholeSweep(op.txn, row));
  return response;
}

absl::StatusOr<v1::Sweep> CancelSweep(QueueOperation& op, const v1::CancelSweepRequest& request) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "sweeps").status());
  QD_ASSIGN_OR_RETURN(SweepRow sweep, op.txn.GetSweep(request.name()));
  QD_ASSIGN_OR_RETURN(auto jobs, op.txn.SweepJobs(sweep.seq));
  for (JobRow& job : jobs) {
    QD_RETURN_IF_ERROR(
        op.Change(&job, JobCommand::kCancel,
                  request.reason().empty() ? "the sweep was cancelled" : request.reason()));
  }
  QD_RETURN_IF_ERROR(op.Settle());
  QD_ASSIGN_OR_RETURN(sweep, op.txn.GetSweep(sweep.seq));
  return PresentWholeSweep(op.txn, sweep);
}

absl::StatusOr<v1::Sweep> RetrySweep(QueueOperation& op, const v1::RetrySweepRequest& request) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "sweeps").status());
  QD_ASSIGN_OR_RETURN(SweepRow sweep, op.txn.GetSweep(request.name()));
  QD_ASSIGN_OR_RETURN(auto jobs, op.txn.SweepJobs(sweep.seq));
  const Comparisons comparisons = ComparisonsOf(sweep.record);
  std::set<std::string> again;
  // In the order of submission, so that a job finds those it waits for back in the queue already.
  for (JobRow& job : jobs) {
    if (!IsEnded(job.state)) continue;
    const auto compares = comparisons.find(job.name);
    const bool compared = compares != comparisons.end();
    const bool stale =
        compared && std::any_of(compares->second.begin(), compares->second.end(),
                                [&](const std::string& read) { return again.count(read) > 0; });
    if (job.state == v1::JOB_STATE_SUCCEEDED && !stale) continue;
    again.insert(job.name);
    QD_RETURN_IF_ERROR(op.Requeue(&job, compared ? JobCommand::kRedo : JobCommand::kRetry));
  }
  QD_RETURN_IF_ERROR(op.Settle());
  QD_ASSIGN_OR_RETURN(sweep, op.txn.GetSweep(sweep.seq));
  return PresentWholeSweep(op.txn, sweep);
}

}  // namespace bodies

absl::StatusOr<v1::Sweep> Queue::GetSweep(const v1::GetSweepRequest& request) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "sweeps").status());
  v1::Sweep sweep;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const SweepRow row, txn.GetSweep(request.name()));
    QD_ASSIGN_OR_RETURN(sweep, PresentWholeSweep(txn, row));
    return absl::OkStatus();
  }));
  return sweep;
}

absl::StatusOr<v1::ListSweepsResponse> Queue::ListSweeps(const v1::ListSweepsRequest& request) {
  QD_ASSIGN_OR_RETURN(const std::string tenant, ParseParent(request.parent()));
  QD_ASSIGN_OR_RETURN(const int64_t size, PageSize(request.page_size()));
  const std::string filter = absl::StrCat("sweeps of ", tenant);
  QD_ASSIGN_OR_RETURN(const int64_t before, ParsePageToken(request.page_token(), filter));
  v1::ListSweepsResponse response;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(auto rows, txn.ListSweeps(tenant, before, size + 1));
    if (static_cast<int64_t>(rows.size()) > size) {
      rows.resize(size);
      response.set_next_page_token(MakePageToken(filter, rows.back().seq));
    }
    for (const SweepRow& row : rows) {
      v1::Sweep& sweep = *response.add_sweeps() = PresentSweep(row, {});
      sweep.clear_cells();
      QD_ASSIGN_OR_RETURN(*sweep.mutable_spec(), txn.GetSweepSpec(row.seq));
    }
    return absl::OkStatus();
  }),
                     "listing sweeps");
  return response;
}

absl::StatusOr<SweepEventPage> Queue::ReadSweepEvents(const v1::WatchSweepRequest& request,
                                                      int64_t limit) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "sweeps").status());
  EventFilter filter;
  QD_ASSIGN_OR_RETURN(filter.kinds, EventKinds(request.kinds()));
  const std::string owner = absl::StrCat("events of ", request.name());
  if (!request.resume_token().empty()) {
    auto after = ParsePageToken(request.resume_token(), owner);
    if (!after.ok()) {
      return absl::InvalidArgumentError("resume_token: is not one of this sweep's events");
    }
    filter.after = *after;
  }
  filter.limit = limit;
  filter.bytes_max = kPageBytes;
  SweepEventPage page;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const SweepRow sweep, txn.GetSweep(request.name()));
    QD_ASSIGN_OR_RETURN(auto rows, txn.ReadSweepEvents(sweep.seq, filter));
    page.next_token = request.resume_token();
    for (EventRow& row : rows) {
      v1::SweepEvent& event = page.events.emplace_back();
      event.mutable_event()->Swap(&row.event);
      event.set_resume_token(MakePageToken(owner, row.position));
    }
    if (!rows.empty()) page.next_token = page.events.back().resume_token();
    // A page that is full by count or by bytes may have more behind it.
    page.at_end = rows.empty();
    QD_ASSIGN_OR_RETURN(const int64_t unended, txn.UnendedSweepJobs(sweep.seq));
    page.finished = page.at_end && unended == 0;
    return absl::OkStatus();
  }));
  return page;
}

}  // namespace quantd
