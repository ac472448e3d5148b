// Waiting first, then time, then what went another way than asked.
#include "client/render/explanation.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/trace.h"
#include "client/render/board.h"
#include "client/render/failure.h"

namespace quantd {
namespace {

constexpr int kBarCells = 20;

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

// What a state is spent on until the next event says more.
std::string WaitOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_PENDING:
      return "waiting for other jobs";
    case v1::JOB_STATE_QUEUED:
      return "waiting in the queue";
    case v1::JOB_STATE_RUNNING:
      return "starting";
    case v1::JOB_STATE_CANCELLING:
      return "stopping";
    default:
      return "";
  }
}

std::string ClockTime(absl::Time time) {
  return absl::FormatTime("%H:%M:%S", time, absl::LocalTimeZone());
}

std::string WorkerCounts(const std::vector<v1::Worker>& workers) {
  std::map<v1::Worker::State, int> counts;
  for (const v1::Worker& worker : workers) ++counts[worker.state()];
  std::vector<std::string> parts;
  for (const auto& [state, count] : counts) {
    parts.push_back(absl::StrCat(count, " ", absl::AsciiStrToLower(v1::Worker::State_Name(state))));
  }
  return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
}

void Waiting(const ExplainedJob& explained, absl::Time now, std::vector<std::string>* lines) {
  const v1::Job& job = explained.job;
  if (job.state() != v1::JOB_STATE_PENDING && job.state() != v1::JOB_STATE_QUEUED) return;
  lines->push_back(absl::StrCat("why:      ", job.waiting_reason().empty()
                                                  ? "the scheduler gives no reason"
                                                  : OneLine(job.waiting_reason())));
  if (job.queue_position() > 0) {
    lines->push_back(absl::StrCat("place:    ", job.queue_position(), " in the queue, priority ",
                                  job.spec().priority()));
  }
  for (const v1::Job& other : explained.dependencies) {
    if (IsEnded(other.state())) continue;
    const std::string progress = ProgressText(other.progress());
    lines->push_back(absl::StrCat("after:    ", ShortName(other.name()), ", ",
                                  StateWord(other.state()), progress.empty() ? "" : ": ",
                                  OneLine(progress)));
  }
  if (job.has_not_before() && TimeOf(job.not_before()) > now) {
    lines->push_back(absl::StrCat("retry in: ", ShortDuration(TimeOf(job.not_before()) - now)));
  }
  lines->push_back(absl::StrCat("workers:  ", WorkerCounts(explained.workers)));
}

void Running(const ExplainedJob& explained, absl::Time now, std::vector<std::string>* lines) {
  const v1::Job& job = explained.job;
  if (job.state() != v1::JOB_STATE_RUNNING && job.state() != v1::JOB_STATE_CANCELLING) return;
  const std::string progress = ProgressText(job.progress());
  lines->push_back(absl::StrCat("now:      ", progress.empty() ? "starting" : OneLine(progress),
                                ", attempt ", job.attempt(), " on ", OneLine(job.worker())));
  for (const v1::Worker& worker : explained.workers) {
    if (worker.name() != job.worker()) continue;
    const absl::Duration seen = now - TimeOf(worker.last_seen_time());
    lines->push_back(absl::StrCat("worker:   heard of ", ShortDuration(seen), " ago"));
  }
  const v1::JobEvent* last = nullptr;
  for (const v1::JobEvent& event : explained.events) {
    if (event.has_progress() || event.has_checkpoint()) last = &event;
  }
  if (last != nullptr) {
    lines->push_back(absl::StrCat("progress: the last one ",
                                  ShortDuration(now - TimeOf(last->time())), " ago, at ",
                                  ClockTime(TimeOf(last->time()))));
  }
}

// The same work in all attempts together, longest first.
void Times(const std::vector<Span>& spans, const Style& style, std::vector<std::string>* lines) {
  std::map<std::string, absl::Duration> by_work;
  absl::Duration total;
  int attempts = 0;
  for (const Span& span : spans) {
    by_work[span.what] += span.time;
    total += span.time;
    attempts = std::max(attempts, span.attempt);
  }
  if (by_work.empty()) return;
  std::vector<std::pair<std::string, absl::Duration>> sorted(by_work.begin(), by_work.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  lines->push_back(
      style.Bold(absl::StrCat("where ", ShortDuration(total), " went",
                              attempts > 1 ? absl::StrCat(", ", attempts, " attempts") : "")));
  size_t width = 0;
  for (const auto& [what, time] : sorted) width = std::max(width, DisplayWidth(what));
  for (const auto& [what, time] : sorted) {
    const double share = total == absl::ZeroDuration() ? 0 : absl::FDivDuration(time, total);
    const auto cells = static_cast<size_t>(std::lround(share * kBarCells));
    lines->push_back(absl::StrCat("  ", what, std::string(width - DisplayWidth(what), ' '), "  ",
                                  std::string(cells, '#'), std::string(kBarCells - cells, '.'),
                                  "  ", std::lround(share * 100), "%  ", ShortDuration(time)));
  }
}

void Incidents(const ExplainedJob& explained, const Style& style, std::vector<std::string>* lines) {
  const v1::CheckpointSaved* checkpoint = nullptr;
  for (const v1::JobEvent& event : explained.events) {
    if (event.has_checkpoint()) checkpoint = &event.checkpoint();
    if (event.has_fallback()) {
      lines->push_back(style.Warn(absl::StrCat("fallback: ", OneLine(event.fallback().kind()),
                                               event.fallback().module().empty() ? "" : " ",
                                               OneLine(event.fallback().module()), ": ",
                                               OneLine(event.fallback().description()))));
    }
    if (event.has_failure()) {
      lines->push_back(style.Bad(absl::StrCat("attempt ", event.failure().attempt(), " failed: ",
                                              ErrorClassWord(event.failure().error_class()), ": ",
                                              OneLine(event.failure().message()))));
      if (!event.failure().remedy().empty()) {
        lines->push_back(absl::StrCat("  -> ", OneLine(event.failure().remedy())));
      }
    }
  }
  if (checkpoint != nullptr && !IsEnded(explained.job.state())) {
    lines->push_back(absl::StrCat("safe:     ", checkpoint->blocks_done(), " of ",
                                  checkpoint->blocks_total(),
                                  " blocks are stored; a crash costs the block in flight"));
  }
}

}  // namespace

std::vector<Span> SpansOf(const std::vector<v1::JobEvent>& events, absl::Time now) {
  std::vector<Span> spans;
  Span current;
  absl::Time since;
  const auto change = [&](absl::Time at, const std::string& what, int attempt) {
    if (!current.what.empty() && at > since) {
      current.time = at - since;
      if (!spans.empty() && spans.back().what == current.what &&
          spans.back().attempt == current.attempt) {
        spans.back().time += current.time;
      } else {
        spans.push_back(current);
      }
    }
    current = {what, attempt, absl::ZeroDuration(), at};
    since = at;
  };
  for (const v1::JobEvent& event : events) {
    const absl::Time at = TimeOf(event.time());
    if (event.has_state()) {
      const v1::JobState state = event.state().state();
      const bool waits = state == v1::JOB_STATE_PENDING || state == v1::JOB_STATE_QUEUED;
      change(at, WaitOf(state), waits ? 0 : event.attempt());
    } else if (event.has_progress() && event.progress().phase() != current.what) {
      change(at, OneLine(event.progress().phase()), event.attempt());
    }
  }
  if (!current.what.empty()) change(now, "", 0);
  return spans;
}

std::vector<std::string> ExplanationLines(const ExplainedJob& explained, absl::Time now,
                                          const Style& style) {
  const v1::Job& job = explained.job;
  std::string title = absl::StrCat(ShortName(job.name()), "  ");
  if (!job.spec().display_name().empty()) {
    absl::StrAppend(&title, OneLine(job.spec().display_name()), "  ");
  }
  std::vector<std::string> lines = {style.Bold(absl::StrCat(title, StateWord(job.state())))};
  lines.push_back(absl::StrCat("trace:    ", TraceId(job.name())));
  Waiting(explained, now, &lines);
  Running(explained, now, &lines);
  Times(SpansOf(explained.events, now), style, &lines);
  Incidents(explained, style, &lines);
  return lines;
}

}  // namespace quantd
