// Outcomes in words.
#include "client/outcome.h"

#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/render/board.h"
#include "client/render/comparison.h"
#include "client/transfer.h"

namespace quantd {
namespace {

std::string Id(const std::string& name) { return name.substr(name.rfind('/') + 1); }

absl::StatusOr<v1::Job> GetJob(Session& session, const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  return session.scheduler().Call(request);
}

void Print(Session& session, const std::vector<std::string>& lines, absl::string_view indent = "") {
  for (const std::string& line : lines) session.out() << indent << line << "\n";
}

// A result's numbers, nested names joined with '/'. Lists and texts are left to --json.
void FlattenNumbers(const google::protobuf::Struct& object, const std::string& prefix,
                    std::map<std::string, double>* numbers) {
  for (const auto& [name, value] : object.fields()) {
    const std::string full = prefix.empty() ? name : absl::StrCat(prefix, "/", name);
    if (value.has_number_value()) (*numbers)[full] = value.number_value();
    if (value.has_struct_value()) FlattenNumbers(value.struct_value(), full, numbers);
  }
}

std::string ValueText(absl::string_view name, double value) {
  return absl::EndsWith(name, "Bytes") ? FormatBytes(static_cast<int64_t>(value))
                                       : ShortNumber(value);
}

// An evaluation's metrics: {"metrics": {name: {"value", "stderr", "samples", ...}}}.
void PrintMetrics(Session& session, const google::protobuf::Struct& result) {
  const auto found = result.fields().find("metrics");
  if (found == result.fields().end()) return;
  std::map<std::string, std::map<std::string, double>> metrics;
  for (const auto& [name, metric] : found->second.struct_value().fields()) {
    FlattenNumbers(metric.struct_value(), "", &metrics[name]);
  }
  Table table(
      {{"metric"}, {"value", Align::kRight}, {"+/-", Align::kRight}, {"samples", Align::kRight}});
  for (const auto& [name, numbers] : metrics) {
    const auto text = [&numbers = numbers](const char* field) {
      const auto number = numbers.find(field);
      return number == numbers.end() ? std::string() : ShortNumber(number->second);
    };
    table.AddRow({name, text("value"), text("stderr"), text("samples")});
  }
  if (table.rows() > 0) session.PrintTable(table);
}

void PrintResult(Session& session, const google::protobuf::Struct& result) {
  const std::vector<std::string> comparison =
      ComparisonLines(result, session.width(), session.style());
  if (!comparison.empty()) return Print(session, comparison);
  PrintMetrics(session, result);
  std::map<std::string, double> numbers;
  FlattenNumbers(result, "", &numbers);
  Table table({{"result"}, {"value", Align::kRight}});
  for (const auto& [name, value] : numbers) {
    if (!absl::StartsWith(name, "metrics/")) table.AddRow({name, ValueText(name, value)});
  }
  if (table.rows() > 0) session.PrintTable(table);
}

void PrintFiles(Session& session, const v1::Job& job) {
  if (job.output().files().empty()) return;
  session.out() << job.output().files_size() << " files, "
                << FormatBytes(job.output().total_bytes()) << ": quantctl artifacts get "
                << Id(job.name()) << " -o DIR\n";
}

int CodeOf(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED ? kExitOk : kExitJobFailed;
}

// A folder name for each cell: its name, below its model's where the sweep has several.
std::map<std::string, const v1::Sweep::Cell*> Folders(const v1::Sweep& sweep) {
  std::set<std::string> models;
  for (const v1::Sweep::Cell& cell : sweep.cells()) models.insert(cell.model());
  std::map<std::string, const v1::Sweep::Cell*> folders;
  for (const v1::Sweep::Cell& cell : sweep.cells()) {
    const std::vector<std::string> parts = absl::StrSplit(cell.model(), '/');
    std::string folder =
        models.size() > 1 ? absl::StrCat(parts.back(), "/", cell.name()) : cell.name();
    while (folders.count(folder) > 0) folder += "-2";
    folders[folder] = &cell;
  }
  return folders;
}

}  // namespace

int TellJob(Session& session, const v1::Job& job) {
  if (session.json()) {
    session.PrintJson("job", job);
    return CodeOf(job.state());
  }
  if (job.state() == v1::JOB_STATE_FAILED) {
    Print(session, FailureLines(job.failure(), session.style()));
    session.out() << "  log: quantctl jobs logs " << Id(job.name())
                  << "   again: quantctl jobs retry " << Id(job.name()) << "\n";
  } else if (job.state() != v1::JOB_STATE_SUCCEEDED) {
    session.out() << ShortName(job.name()) << " " << StatePaint(job.state(), session.style());
    if (!job.waiting_reason().empty()) session.out() << ": " << OneLine(job.waiting_reason());
    session.out() << "\n";
  }
  PrintResult(session, job.result());
  PrintFiles(session, job);
  session.out().flush();
  return CodeOf(job.state());
}

int TellSweep(Session& session, const v1::Sweep& sweep) {
  if (session.json()) session.PrintJson("sweep", sweep);
  if (!sweep.report_job().empty()) {
    const absl::StatusOr<v1::Job> report = GetJob(session, sweep.report_job());
    if (!report.ok()) return session.Fail(report.status());
    if (session.json()) {
      session.PrintJson("job", *report);
    } else {
      session.out() << "\n";
      PrintResult(session, report->result());
      if (!report->output().files().empty()) {
        session.out() << "report: quantctl artifacts get " << Id(sweep.report_job()) << " -o DIR\n";
      }
      if (report->state() == v1::JOB_STATE_FAILED) {
        session.out() << "the report failed:\n";
        Print(session, FailureLines(report->failure(), session.style()), "  ");
      }
    }
  }
  if (session.json()) return CodeOf(sweep.state());
  for (const v1::Sweep::Cell& cell : sweep.cells()) {
    for (const v1::Sweep::Stage& stage : cell.stages()) {
      if (stage.state() != v1::JOB_STATE_FAILED) continue;
      const absl::StatusOr<v1::Job> job = GetJob(session, stage.job());
      if (!job.ok()) return session.Fail(job.status());
      session.out() << cell.name() << " " << stage.kind() << " (" << ShortName(job->name())
                    << "):\n";
      Print(session, FailureLines(job->failure(), session.style()), "  ");
    }
  }
  if (sweep.state() == v1::JOB_STATE_FAILED) {
    session.out() << "some jobs did not succeed; run them again with: quantctl sweeps retry "
                  << Id(sweep.name()) << "\n";
  }
  for (const v1::Sweep::Cell& cell : sweep.cells()) {
    for (const v1::Sweep::Stage& stage : cell.stages()) {
      if (stage.kind() != "quantize" || stage.state() != v1::JOB_STATE_SUCCEEDED) continue;
      session.out() << "  " << OneLine(cell.name()) << ": quantctl artifacts get "
                    << Id(stage.job()) << " -o DIR\n";
    }
  }
  session.out().flush();
  return CodeOf(sweep.state());
}

absl::Status BringHome(Session& session, const v1::Manifest& manifest, const std::string& folder,
                       const std::string& only) {
  const bool live = session.terminal();
  const absl::Time start = absl::Now();
  absl::Time drawn = absl::InfinitePast();
  const auto progress = [&](int64_t done, int64_t total) {
    const absl::Time now = absl::Now();
    if (!live || now - drawn < absl::Milliseconds(100)) return;
    drawn = now;
    const double seconds = std::max(0.001, absl::ToDoubleSeconds(now - start));
    session.out() << "\r\x1b[K"
                  << Clip(
                         absl::StrCat(
                             "download ", FormatBytes(done), " / ", FormatBytes(total), ", ",
                             FormatBytes(static_cast<int64_t>(static_cast<double>(done) / seconds)),
                             "/s"),
                         session.width())
                  << std::flush;
  };
  const absl::StatusOr<DownloadSummary> summary =
      DownloadManifest(&session.scheduler(), {manifest, folder, only}, progress);
  if (live) session.out() << "\r\x1b[K";
  if (!summary.ok()) return summary.status();
  if (!session.json()) {
    session.out() << folder << ": " << summary->files << " files, " << FormatBytes(summary->bytes);
    if (summary->files_skipped > 0)
      session.out() << ", " << summary->files_skipped << " there already";
    session.out() << std::endl;
  }
  return absl::OkStatus();
}

absl::Status BringHome(Session& session, const v1::Sweep& sweep, const std::string& folder) {
  for (const auto& [name, cell] : Folders(sweep)) {
    QD_RETURN_IF_ERROR(CheckRelativePath(name), "the sweep has a variant whose name is refused");
    for (const v1::Sweep::Stage& stage : cell->stages()) {
      if (stage.kind() != "quantize" || stage.state() != v1::JOB_STATE_SUCCEEDED) continue;
      QD_ASSIGN_OR_RETURN(const v1::Job job, GetJob(session, stage.job()));
      QD_RETURN_IF_ERROR(BringHome(session, job.output(), absl::StrCat(folder, "/", name)));
    }
  }
  if (sweep.report_job().empty()) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const v1::Job report, GetJob(session, sweep.report_job()));
  if (report.output().files().empty()) return absl::OkStatus();
  return BringHome(session, report.output(), folder);
}

}  // namespace quantd
