// Outcomes in words.
#include "client/outcome.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/render/board.h"
#include "client/render/comparison.h"
#include "client/render/failure.h"
#include "client/transfer.h"

namespace quantd {
namespace {

// Fallbacks told of one job; the log has all.
constexpr size_t kFallbacksMax = 8;

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

// Where the last attempt ran and what was done another way on the way, from the job's events. What
// cannot be asked any more is left out: a failure is told in any case.
FailureAccount AccountOf(Session& session, const std::string& title, const v1::Job& job) {
  FailureAccount account{title, job.failure(), "", {}};
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  for (const char* kind : {"state", "fallback"}) watch.add_kinds(kind);
  watch.set_snapshot(true);
  std::string worker;
  session.scheduler()
      .Stream(watch,
              [&](const v1::JobEvent& event) {
                if (!event.state().worker().empty()) worker = event.state().worker();
                if (event.has_fallback() && account.tried.size() < kFallbacksMax) {
                  account.tried.push_back(absl::StrCat(
                      event.fallback().kind(), event.fallback().module().empty() ? "" : " in ",
                      event.fallback().module(), ": ", event.fallback().description()));
                }
                return true;
              })
      .IgnoreError();
  if (worker.empty()) return account;
  account.machine = OneLine(worker);
  const absl::StatusOr<v1::ListWorkersResponse> workers =
      session.scheduler().Call(v1::ListWorkersRequest());
  if (!workers.ok()) return account;
  for (const v1::Worker& each : workers->workers()) {
    if (each.name() == worker) account.machine = MachineText(each);
  }
  return account;
}

// Every failed stage of a cell, by its model: a sweep may have several.
absl::StatusOr<std::vector<std::string>> FailedStages(Session& session,
                                                      const v1::Sweep::Cell& cell) {
  std::vector<std::string> lines;
  for (const v1::Sweep::Stage& stage : cell.stages()) {
    QD_ASSIGN_OR_RETURN(const v1::Job job, GetJob(session, stage.job()));
    if (job.state() != v1::JOB_STATE_FAILED) continue;
    const std::string title =
        absl::StrCat(cell.model().substr(cell.model().rfind('/') + 1), " ", cell.name(), " ",
                     stage.kind(), " (", ShortName(job.name()), ")");
    for (std::string& line : AccountLines(AccountOf(session, title, job), session.style())) {
      lines.push_back(std::move(line));
    }
  }
  return lines;
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
    const auto failed = [](const auto& stage) { return stage.state() == v1::JOB_STATE_FAILED; };
    if (std::none_of(cell.stages().begin(), cell.stages().end(), failed)) continue;
    const absl::StatusOr<std::vector<std::string>> lines = FailedStages(session, cell);
    if (!lines.ok()) return session.Fail(lines.status());
    Print(session, *lines);
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

std::vector<std::string> TellCell(Session& session, const v1::Sweep::Cell& cell) {
  absl::StatusOr<std::vector<std::string>> failed = FailedStages(session, cell);
  if (!failed.ok()) return {absl::StrCat(cell.name(), ": ", OneLine(failed.status().message()))};
  if (!failed->empty() || cell.stages().empty()) return *std::move(failed);
  const absl::StatusOr<v1::Job> last = GetJob(session, cell.stages().rbegin()->job());
  if (!last.ok() || last->state() != v1::JOB_STATE_SUCCEEDED) return {};
  return VariantLines(last->result(), session.style());
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

}  // namespace quantd
