// quantctl report: the report of a sweep, or of a report job, as Markdown, CSV, JSON or one HTML
// page.
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/outcome.h"
#include "client/render/board.h"
#include "client/transfer.h"

namespace quantd {
namespace {

struct Flags {
  std::string name, output, format;
};

struct Form {
  const char* name;
  const char* file;
};
constexpr Form kForms[] = {{"markdown", "report.md"},
                           {"csv", "summary.csv"},
                           {"json", "report.json"},
                           {"html", "report.html"}};

const char* FileOf(const std::string& format) {
  for (const Form& form : kForms) {
    if (format == form.name) return form.file;
  }
  return nullptr;
}

absl::StatusOr<v1::Job> GetJob(Session& session, const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  return session.scheduler().Call(request);
}

// The report job that a sweep's or the job's own name leads to.
absl::StatusOr<v1::Job> FindReport(Session& session, const std::string& text) {
  if (!absl::StrContains(text, "jobs/")) {
    v1::GetSweepRequest request;
    QD_ASSIGN_OR_RETURN(*request.mutable_name(), session.SweepName(text));
    const absl::StatusOr<v1::Sweep> sweep = session.scheduler().Call(request);
    if (sweep.ok()) return GetJob(session, sweep->report_job());
    if (!absl::IsNotFound(sweep.status()) || absl::StrContains(text, "sweeps/")) {
      return sweep.status();
    }
  }
  QD_ASSIGN_OR_RETURN(const std::string name, session.JobName(text));
  QD_ASSIGN_OR_RETURN(const v1::Job job, GetJob(session, name));
  if (!job.spec().has_report()) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, " is no report job; quantctl compare puts jobs side by side"));
  }
  return job;
}

absl::StatusOr<std::string> ReadReport(Session& session, const v1::Job& job, const char* file) {
  std::string folder = (std::filesystem::temp_directory_path() / "quantctl-report-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return ErrnoStatus(errno, "creating ", folder);
  const absl::Status fetched =
      DownloadManifest(&session.scheduler(), {job.output(), folder, file}, nullptr).status();
  const absl::StatusOr<std::string> text =
      fetched.ok() ? ReadFile(absl::StrCat(folder, "/", file)) : fetched;
  QD_RETURN_IF_ERROR(RemoveTree(folder));
  return text;
}

int Run(Session& session, const Flags& flags) {
  const absl::StatusOr<v1::Job> job = FindReport(session, flags.name);
  if (!job.ok()) return session.Fail(job.status());
  if (job->state() == v1::JOB_STATE_FAILED) return TellJob(session, *job);
  if (job->state() != v1::JOB_STATE_SUCCEEDED) {
    return session.Fail(absl::FailedPreconditionError(absl::StrCat(
        "the report of ", flags.name, " is ", StateWord(job->state()),
        ": it is made when every job of the sweep has ended (quantctl sweeps watch)")));
  }
  if (!flags.output.empty()) {
    const absl::Status status = BringHome(session, job->output(), flags.output);
    if (!status.ok()) return session.Fail(status);
    if (flags.format.empty()) return kExitOk;
  }
  const std::string format = !flags.format.empty() ? flags.format
                             : session.json()      ? "json"
                                                   : "markdown";
  const absl::StatusOr<std::string> text = ReadReport(session, *job, FileOf(format));
  if (!text.ok()) return session.Fail(text.status());
  session.out() << *text << std::flush;
  return kExitOk;
}

}  // namespace

Action DeclareReport(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("SWEEP", flags->name, "Sweep, or a report job (jobs/ID)")->required();
  app->add_option("-o,--output", flags->output, "All four files into this folder")
      ->type_name("DIR");
  app->add_option("--format", flags->format, "Print it as markdown (default), csv, json or html")
      ->check([](const std::string& text) {
        return FileOf(text) != nullptr ? "" : text + " is none of markdown, csv, json, html";
      });
  return [flags](Session& session) { return Run(session, *flags); };
}

}  // namespace quantd
