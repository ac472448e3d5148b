// Events folded and drawn.
#include "client/render/board.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/render/failure.h"

namespace quantd {
namespace {

constexpr size_t kBarWidthMax = 30;
constexpr size_t kMetricColumnsMax = 4;
// Stages in the order in which a cell goes through them; others follow.
constexpr absl::string_view kStageOrder[] = {"quantize", "verify", "evaluate", "benchmark"};
constexpr absl::string_view kCompareStage = "compare";

absl::Duration DurationOf(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string RateText(double rate) { return rate > 0 ? absl::StrCat(ShortNumber(rate), "/s") : ""; }

double ShareOf(const v1::Progress& progress) {
  if (progress.total() <= 0) return -1;
  return std::clamp(static_cast<double>(progress.done()) / static_cast<double>(progress.total()),
                    0.0, 1.0);
}

std::string Bar(double share, size_t width) {
  const size_t full = static_cast<size_t>(std::floor(share * static_cast<double>(width)));
  std::string bar(full, '=');
  if (full < width) bar += full > 0 || share > 0 ? ">" : " ";
  bar.resize(width, ' ');
  return absl::StrCat("[", bar, "]");
}

}  // namespace

std::string StateWord(v1::JobState state) {
  constexpr size_t kPrefixBytes = sizeof("JOB_STATE_") - 1;
  const std::string name = v1::JobState_Name(state);
  if (name.size() <= kPrefixBytes) return "unknown";
  return absl::AsciiStrToLower(name.substr(kPrefixBytes));
}

std::string StatePaint(v1::JobState state, const Style& style) {
  const std::string word = StateWord(state);
  switch (state) {
    case v1::JOB_STATE_SUCCEEDED:
      return style.Good(word);
    case v1::JOB_STATE_FAILED:
      return style.Bad(word);
    case v1::JOB_STATE_CANCELLED:
    case v1::JOB_STATE_CANCELLING:
    case v1::JOB_STATE_SKIPPED:
      return style.Warn(word);
    default:
      return word;
  }
}

bool IsEnded(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_SKIPPED;
}

std::string ProgressText(const v1::Progress& progress) {
  std::string text = OneLine(progress.phase());
  if (progress.total() > 0) {
    absl::StrAppend(&text, " ", progress.done(), "/", progress.total());
  } else if (progress.done() > 0) {
    absl::StrAppend(&text, " ", progress.done());
  }
  if (!progress.unit().empty() && (progress.total() > 0 || progress.done() > 0)) {
    absl::StrAppend(&text, " ", OneLine(progress.unit()));
  }
  if (progress.rate() > 0) absl::StrAppend(&text, ", ", RateText(progress.rate()));
  if (progress.has_remaining()) {
    absl::StrAppend(&text, ", ", ShortDuration(DurationOf(progress.remaining())), " left");
  }
  return text;
}

void JobBoard::Apply(const v1::JobEvent& event) {
  if (event.attempt() > 0) attempt = event.attempt();
  switch (event.event_case()) {
    case v1::JobEvent::kState:
      if (event.state().state() != state) progress.Clear();
      state = event.state().state();
      worker = event.state().worker();
      reason = event.state().reason();
      break;
    case v1::JobEvent::kProgress:
      progress = event.progress();
      break;
    case v1::JobEvent::kMetric: {
      if (!event.metric().labels().empty()) break;
      const auto same = [&](const auto& metric) { return metric.first == event.metric().name(); };
      const auto found = std::find_if(metrics.begin(), metrics.end(), same);
      if (found != metrics.end()) {
        found->second = event.metric().value();
      } else {
        metrics.emplace_back(event.metric().name(), event.metric().value());
      }
      break;
    }
    default:
      break;
  }
}

double JobBoard::Share() const { return ShareOf(progress); }

std::vector<std::string> JobBoard::Lines(size_t width, const Style& style) const {
  std::string head = absl::StrCat(OneLine(title), "  ", StateWord(state));
  if (!worker.empty()) absl::StrAppend(&head, " on ", OneLine(worker));
  if (attempt > 1) absl::StrAppend(&head, ", attempt ", attempt);
  if (!reason.empty()) absl::StrAppend(&head, " (", OneLine(reason), ")");
  std::vector<std::string> lines = {style.Bold(Clip(head, width))};
  if (IsEnded(state) || progress.phase().empty()) return lines;
  const double share = Share();
  std::string text = ProgressText(progress);
  if (share >= 0) {
    const size_t bar_width = std::min(kBarWidthMax, width / 3);
    text = absl::StrCat(Bar(share, bar_width), absl::StrFormat(" %3.0f%%  ", share * 100), text);
  }
  lines.push_back(Clip("  " + text, width));
  return lines;
}

SweepBoard::SweepBoard(const v1::Sweep& sweep) : name_(ShortName(sweep.name())) {
  std::map<std::string, int> models;
  for (const v1::Sweep::Cell& cell : sweep.cells()) ++models[cell.model()];
  for (const absl::string_view kind : kStageOrder) {
    for (const v1::Sweep::Cell& cell : sweep.cells()) {
      for (const v1::Sweep::Stage& stage : cell.stages()) {
        const bool fresh = std::find(kinds_.begin(), kinds_.end(), stage.kind()) == kinds_.end();
        if (stage.kind() == kind && fresh) kinds_.push_back(stage.kind());
      }
    }
  }
  for (const v1::Sweep::Cell& cell : sweep.cells()) {
    Row row;
    row.name = cell.name();
    if (models.size() > 1) {
      const std::vector<std::string> parts = absl::StrSplit(cell.model(), '/');
      row.name = absl::StrCat(parts.back(), " ", cell.name());
    }
    row.jobs.resize(kinds_.size());
    if (!cell.baseline() && !cell.stages().empty()) {
      last_stages_[cell.stages().rbegin()->job()] = cell;
    }
    for (const v1::Sweep::Stage& stage : cell.stages()) {
      JobBoard board(absl::StrCat(row.name, " ", stage.kind()));
      board.state = stage.state();
      jobs_.emplace(stage.job(), board);
      if (stage.kind() == kCompareStage) comparisons_.insert(stage.job());
      const auto kind = std::find(kinds_.begin(), kinds_.end(), stage.kind());
      if (kind != kinds_.end()) row.jobs[static_cast<size_t>(kind - kinds_.begin())] = stage.job();
    }
    rows_.push_back(std::move(row));
  }
  if (!sweep.report_job().empty()) jobs_.emplace(sweep.report_job(), JobBoard("report"));
}

void SweepBoard::Apply(const v1::JobEvent& event) {
  const auto found = jobs_.find(event.job());
  if (found != jobs_.end()) found->second.Apply(event);
}

std::string SweepBoard::TitleOf(const std::string& job) const {
  const auto found = jobs_.find(job);
  return found == jobs_.end() ? job : found->second.title;
}

const v1::Sweep::Cell* SweepBoard::CellEndedBy(const v1::JobEvent& event) const {
  if (!event.has_state() || !IsEnded(event.state().state())) return nullptr;
  const auto found = last_stages_.find(event.job());
  return found == last_stages_.end() ? nullptr : &found->second;
}

std::string SweepBoard::CellText(const std::string& job) const {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return "-";
  const JobBoard& board = found->second;
  if (board.state == v1::JOB_STATE_SUCCEEDED) return "done";
  if (board.state == v1::JOB_STATE_PENDING || board.state == v1::JOB_STATE_UNSPECIFIED) return ".";
  if (board.state != v1::JOB_STATE_RUNNING) return StateWord(board.state);
  const double share = board.Share();
  std::string text = board.progress.phase().empty() ? "running" : board.progress.phase();
  if (share >= 0) absl::StrAppend(&text, absl::StrFormat(" %.0f%%", share * 100));
  if (board.progress.has_remaining()) {
    absl::StrAppend(&text, " ", ShortDuration(DurationOf(board.progress.remaining())));
  }
  return text;
}

std::vector<std::string> SweepBoard::Lines(size_t width, size_t height, absl::Duration elapsed,
                                           const Style& style) const {
  size_t ended = 0, failed = 0;
  for (const auto& [name, job] : jobs_) {
    ended += IsEnded(job.state) ? 1 : 0;
    failed += job.state == v1::JOB_STATE_FAILED ? 1 : 0;
  }
  std::string head =
      absl::StrCat(name_, "  ", ended, "/", jobs_.size(), " jobs, ", ShortDuration(elapsed));
  if (failed > 0) absl::StrAppend(&head, ", ", failed, " failed");
  std::vector<std::string> lines = {style.Bold(Clip(head, width == 0 ? head.size() : width))};

  std::vector<std::string> metric_names;
  for (const Row& row : rows_) {
    for (const std::string& job : row.jobs) {
      const auto found = jobs_.find(job);
      if (found == jobs_.end() || !absl::EndsWith(found->second.title, " evaluate")) continue;
      for (const auto& [name, value] : found->second.metrics) {
        const bool fresh =
            std::find(metric_names.begin(), metric_names.end(), name) == metric_names.end();
        if (fresh && metric_names.size() < kMetricColumnsMax) metric_names.push_back(name);
      }
    }
  }
  std::vector<Table::Column> columns = {{"variant"}};
  for (const std::string& kind : kinds_) columns.push_back({kind});
  int drop_order = 1;
  for (const std::string& name : metric_names) {
    columns.push_back({name, Align::kRight, drop_order++});
  }
  Table table(columns);
  for (const Row& row : rows_) {
    std::vector<std::string> cells = {row.name};
    for (const std::string& job : row.jobs) cells.push_back(job.empty() ? "-" : CellText(job));
    for (const std::string& name : metric_names) {
      std::string text;
      for (const std::string& job : row.jobs) {
        const auto found = jobs_.find(job);
        if (found == jobs_.end()) continue;
        for (const auto& [metric, value] : found->second.metrics) {
          if (metric == name) text = ShortNumber(value);
        }
      }
      cells.push_back(text);
    }
    table.AddRow(std::move(cells));
  }
  for (std::string& line : table.Render(width, style)) lines.push_back(std::move(line));
  if (height > 2 && lines.size() > height) {
    const size_t hidden = lines.size() - height + 1;
    lines.resize(height - 1);
    lines.push_back(absl::StrCat("... and ", hidden, " more"));
  }
  return lines;
}

std::vector<std::string> Transcript::Lines(const v1::JobEvent& event, const std::string& title,
                                           const Style& style) {
  std::vector<std::string> lines;
  switch (event.event_case()) {
    case v1::JobEvent::kState: {
      std::string text = StatePaint(event.state().state(), style);
      if (!event.state().worker().empty())
        absl::StrAppend(&text, " on ", OneLine(event.state().worker()));
      if (event.attempt() > 1) absl::StrAppend(&text, ", attempt ", event.attempt());
      if (!event.state().reason().empty())
        absl::StrAppend(&text, ": ", OneLine(event.state().reason()));
      phases_.erase(event.job());
      lines.push_back(text);
      break;
    }
    case v1::JobEvent::kProgress: {
      if (live_) break;
      Phase& phase = phases_[event.job()];
      const double share = ShareOf(event.progress());
      const int tenth = share < 0 ? 0 : static_cast<int>(std::floor(share * 10));
      if (phase.name == event.progress().phase() && tenth <= phase.tenth) break;
      phase = {event.progress().phase(), tenth};
      lines.push_back(ProgressText(event.progress()));
      break;
    }
    case v1::JobEvent::kMetric:
      // Labels mean one module or sample of many: the log and --json have them.
      if (event.metric().labels().empty()) {
        lines.push_back(
            absl::StrCat(OneLine(event.metric().name()), " = ", ShortNumber(event.metric().value()),
                         event.metric().unit().empty() ? "" : " ", OneLine(event.metric().unit())));
      }
      break;
    case v1::JobEvent::kFallback:
      lines.push_back(style.Warn(absl::StrCat("fallback ", OneLine(event.fallback().kind()),
                                              event.fallback().module().empty() ? "" : " in ",
                                              OneLine(event.fallback().module()), ": ",
                                              OneLine(event.fallback().description()))));
      break;
    case v1::JobEvent::kFailure:
      lines = FailureLines(event.failure(), style);
      break;
    default:
      break;
  }
  if (!title.empty()) {
    for (std::string& line : lines) line = absl::StrCat("[", OneLine(title), "] ", line);
  }
  return lines;
}

}  // namespace quantd
