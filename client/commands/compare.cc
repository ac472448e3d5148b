// quantctl compare: a sweep's report again, or jobs put side by side by a compare job.
#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/outcome.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::vector<std::string> names;
  SubmitFlags submit;
};

// The model that a job is about: the one it wrote, for a quantize job.
std::string SubjectOf(const v1::Job& job) {
  switch (job.spec().kind_case()) {
    case v1::JobSpec::kQuantize:
      return ShortName(job.name());
    case v1::JobSpec::kEvaluate:
      return ShortName(job.spec().evaluate().model());
    case v1::JobSpec::kBenchmark:
      return ShortName(job.spec().benchmark().model());
    case v1::JobSpec::kVerify:
      return ShortName(job.spec().verify().model());
    default:
      return "";
  }
}

absl::StatusOr<v1::Job> Get(Session& session, const std::string& text) {
  v1::GetJobRequest request;
  QD_ASSIGN_OR_RETURN(*request.mutable_name(), session.JobName(text));
  return session.scheduler().Call(request);
}

// One variant a model, in the order of the jobs; the first is the baseline.
absl::StatusOr<v1::JobSpec> Spec(Session& session, const std::vector<v1::Job>& jobs) {
  v1::JobSpec spec;
  std::map<std::string, int> indices;
  for (const v1::Job& job : jobs) {
    const std::string subject = SubjectOf(job);
    if (subject.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          ShortName(job.name()), " is no quantize, evaluate, benchmark or verify job"));
    }
    const auto [found, fresh] = indices.emplace(subject, spec.compare().variants_size());
    if (fresh) {
      v1::CompareSpec::Variant* variant = spec.mutable_compare()->add_variants();
      variant->set_name(subject);
      variant->set_baseline(spec.compare().variants_size() == 1);
    }
    v1::CompareSpec::Variant* variant = spec.mutable_compare()->mutable_variants(found->second);
    variant->add_jobs(ShortName(job.name()));
    if (job.spec().has_quantize() && !job.spec().display_name().empty()) {
      variant->set_name(job.spec().display_name());
    }
    spec.add_dependencies()->set_job(job.name());
    spec.mutable_dependencies()->rbegin()->set_condition(v1::Dependency::FINISHED);
  }
  return spec;
}

int CompareSweep(Session& session, const std::string& name, const std::string& output) {
  v1::GetSweepRequest request;
  request.set_name(name);
  const absl::StatusOr<v1::Sweep> sweep = session.scheduler().Call(request);
  if (!sweep.ok()) return session.Fail(sweep.status());
  const int exit_code = TellSweep(session, *sweep);
  if (output.empty()) return exit_code;
  const absl::StatusOr<v1::Job> report = Get(session, sweep->report_job());
  if (!report.ok()) return session.Fail(report.status());
  const absl::Status status = BringHome(session, report->output(), output);
  return status.ok() ? exit_code : session.Fail(status);
}

int Run(Session& session, const Flags& flags) {
  if (flags.names.size() == 1) {
    const bool sweep = absl::StrContains(flags.names[0], "sweeps/");
    const absl::StatusOr<v1::Job> job =
        sweep ? absl::NotFoundError("") : Get(session, flags.names[0]);
    if (!job.ok()) {
      // A bare id may be a sweep's.
      const absl::StatusOr<std::string> name = session.SweepName(flags.names[0]);
      if (absl::IsNotFound(job.status()) && name.ok()) {
        return CompareSweep(session, *name, flags.submit.output);
      }
      return session.Fail(job.status());
    }
    if (job->spec().has_compare() || job->spec().has_report()) return TellJob(session, *job);
    return session.Fail(
        absl::InvalidArgumentError("one job alone cannot be compared; name two or more"));
  }
  std::vector<v1::Job> jobs;
  for (const std::string& text : flags.names) {
    absl::StatusOr<v1::Job> job = Get(session, text);
    if (!job.ok()) return session.Fail(job.status());
    jobs.push_back(*std::move(job));
  }
  absl::StatusOr<v1::JobSpec> spec = Spec(session, jobs);
  if (spec.ok() && !flags.submit.output.empty()) {
    // Only a report has files to bring home.
    v1::ReportSpec report;
    *report.mutable_variants() = spec->compare().variants();
    *spec->mutable_report() = std::move(report);
  }
  return spec.ok() ? RunJob(session, *spec, flags.submit) : session.Fail(spec.status());
}

}  // namespace

Action DeclareCompare(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("JOB|SWEEP", flags->names,
                  "Jobs, the baseline first; or one sweep or compare job")
      ->required();
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
