// What clients do to single jobs.
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"
#include "server/scheduler/matching.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/references.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/spec_checks.h"
#include "server/scheduler/tenants.h"

namespace quantd {
namespace {

struct Waited {
  std::string field;
  v1::Dependency::Condition condition;
};

// The jobs that a spec waits for, by name: those it declares and those it refers to.
absl::StatusOr<std::map<std::string, Waited>> WaitedFor(const std::string& tenant,
                                                        const v1::JobSpec& spec) {
  std::map<std::string, Waited> waited;
  for (int i = 0; i < spec.dependencies_size(); ++i) {
    const std::string field = absl::StrCat("spec.dependencies[", i, "].job");
    const std::string name = ResolveJob(tenant, spec.dependencies(i).job());
    if (name.empty()) {
      return FieldError(field, absl::StrCat("\"", spec.dependencies(i).job(),
                                            "\" names no job of this tenant (\"jobs/{job}\")"));
    }
    auto& entry = waited.try_emplace(name, Waited{field, v1::Dependency::FINISHED}).first->second;
    // Declared twice: the stricter one holds.
    if (spec.dependencies(i).condition() != v1::Dependency::FINISHED) {
      entry.condition = v1::Dependency::SUCCEEDED;
    }
  }
  for (const SpecReference& reference : ReferencesOf(spec)) {
    if (IsArtifactReference(reference.reference)) continue;
    const std::string name = ResolveJob(tenant, reference.reference);
    if (name.empty()) {
      return FieldError(reference.field,
                        absl::StrCat("\"", reference.reference, "\" names no job of this tenant"));
    }
    waited.try_emplace(name, Waited{reference.field, reference.condition});
  }
  return waited;
}

}  // namespace

absl::StatusOr<JobRow> InsertJob(QueueOperation& op, const std::string& tenant,
                                 const std::string& name, v1::JobSpec spec, const SweepRow* sweep) {
  QD_ASSIGN_OR_RETURN(const auto waited, WaitedFor(tenant, spec));
  std::vector<DependencyRow> dependencies;
  bool ready = true;
  for (const auto& [job, how] : waited) {
    auto on = op.txn.GetJob(job);
    if (absl::IsNotFound(on.status())) return FieldError(how.field, on.status().message());
    QD_RETURN_IF_ERROR(on.status());
    dependencies.push_back(
        {.job = 0, .on = on->seq, .condition = how.condition, .state = on->state});
    ready = ready && (on->state == v1::JOB_STATE_SUCCEEDED ||
                      (IsEnded(on->state) && how.condition == v1::Dependency::FINISHED));
  }
  JobRow row;
  row.name = name;
  row.tenant = tenant;
  row.priority = spec.priority();
  *row.record.mutable_create_time() = ToProto(op.now);
  SetKind(spec, row.record.mutable_spec());
  *row.record.mutable_spec()->mutable_limits() = spec.limits();
  *row.record.mutable_spec()->mutable_retry() = spec.retry();
  if (sweep != nullptr) {
    row.sweep_seq = sweep->seq;
    row.record.set_sweep(sweep->name);
  }
  QD_ASSIGN_OR_RETURN(row.needs, op.txn.InternNeeds(NeedsKey(spec)));
  row.state = ready ? v1::JOB_STATE_QUEUED : v1::JOB_STATE_PENDING;
  if (ready) {
    row.queued_time = op.now;
    row.clock_due = ClockDue(row);
    op.effects.runnable = true;
  }
  QD_RETURN_IF_ERROR(KeepReachable(op.txn, ArtifactKeys(tenant, spec)));
  QD_RETURN_IF_ERROR(op.txn.InsertJob(&row, spec));
  for (DependencyRow& dependency : dependencies) {
    dependency.job = row.seq;
    QD_RETURN_IF_ERROR(op.txn.InsertDependency(dependency));
  }
  v1::JobEvent event;
  event.mutable_state()->set_state(row.state);
  QD_RETURN_IF_ERROR(op.Append(&row, std::move(event)));
  QD_RETURN_IF_ERROR(op.Save(&row));
  QD_RETURN_IF_ERROR(op.Evaluate(&row));
  ++op.effects.counters.jobs_submitted[KindOf(spec)];
  return row;
}

absl::StatusOr<std::string> FindReplay(QueueOperation& op, const std::string& tenant,
                                       const std::string& request_id,
                                       const SubmissionDigests& digests) {
  if (request_id.empty()) return "";
  QD_ASSIGN_OR_RETURN(const auto earlier, op.txn.GetRequest(tenant, request_id));
  if (!earlier.has_value()) return "";
  // Schedulers of before kept the digest of what they had resolved.
  if (earlier->body_digest != digests.sent && earlier->body_digest != digests.resolved) {
    return WithReason(absl::AlreadyExistsError(absl::StrCat(
                          "request_id ", request_id, " was used for another request (",
                          earlier->resource, "); give every new request an id of its own")),
                      kReasonRequestIdReused, {{"resource", earlier->resource}});
  }
  ++op.effects.counters.idempotent_replays;
  return earlier->resource;
}

absl::Status RememberRequest(QueueOperation& op, const std::string& tenant,
                             const std::string& request_id, const SubmissionDigests& digests,
                             const std::string& resource) {
  if (request_id.empty()) return absl::OkStatus();
  return op.txn.InsertRequest({.tenant = tenant,
                               .request_id = request_id,
                               .body_digest = digests.sent,
                               .resource = resource,
                               .time = op.now});
}

namespace bodies {

absl::StatusOr<v1::SubmitJobResponse> SubmitJob(
    QueueOperation& op, const Submission<v1::SubmitJobRequest>& submission) {
  const v1::SubmitJobRequest& request = submission.request;
  QD_ASSIGN_OR_RETURN(const std::string tenant, ParseParent(request.parent()));
  QD_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  const SubmissionDigests digests = DigestsOf(submission);
  QD_ASSIGN_OR_RETURN(const std::string earlier,
                      FindReplay(op, tenant, request.request_id(), digests));
  v1::SubmitJobResponse response;
  JobRow row;
  if (earlier.empty()) {
    QD_RETURN_IF_ERROR(submission.refusal);
    QD_RETURN_IF_ERROR(CheckJobSpec(request.spec()));
    QD_RETURN_IF_ERROR(CheckQueuedQuota(op.txn, op.options.tenants, tenant, 1));
    QD_RETURN_IF_ERROR(CheckArtifactQuota(op.txn, op.options.tenants, tenant, 0));
    QD_ASSIGN_OR_RETURN(row, InsertJob(op, tenant, JobName(tenant, IdFromBits(op.Random())),
                                       request.spec(), nullptr));
    QD_RETURN_IF_ERROR(RememberRequest(op, tenant, request.request_id(), digests, row.name));
  } else {
    QD_ASSIGN_OR_RETURN(row, op.txn.GetJob(earlier));
  }
  QD_ASSIGN_OR_RETURN(*response.mutable_job(), PresentWholeJob(op.txn, row, op.options, op.now));
  return response;
}

absl::StatusOr<v1::Job> CancelJob(QueueOperation& op, const v1::CancelJobRequest& request) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "jobs").status());
  QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(request.name()));
  QD_RETURN_IF_ERROR(op.Change(&row, JobCommand::kCancel,
                               request.reason().empty() ? "cancelled" : request.reason()));
  return PresentWholeJob(op.txn, row, op.options, op.now);
}

absl::StatusOr<v1::Job> RetryJob(QueueOperation& op, const v1::RetryJobRequest& request) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "jobs").status());
  QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(request.name()));
  QD_RETURN_IF_ERROR(NextState(row.state, JobCommand::kRetry).status(), "retrying ", row.name);
  if (IsEnded(row.state)) {
    QD_ASSIGN_OR_RETURN(const auto dependencies, op.txn.Dependencies(row.seq));
    for (const DependencyRow& dependency : dependencies) {
      if (dependency.condition == v1::Dependency::FINISHED || !IsEnded(dependency.state) ||
          dependency.state == v1::JOB_STATE_SUCCEEDED) {
        continue;
      }
      QD_ASSIGN_OR_RETURN(const JobRow on, op.txn.GetJob(dependency.on));
      return absl::FailedPreconditionError(
          absl::StrCat("retrying ", row.name, ": it needs ", on.name, ", which is ",
                       StateWord(on.state), "; retry that one first, or the whole sweep"));
    }
    QD_RETURN_IF_ERROR(op.Requeue(&row, JobCommand::kRetry));
  }
  return PresentWholeJob(op.txn, row, op.options, op.now);
}

}  // namespace bodies
}  // namespace quantd
