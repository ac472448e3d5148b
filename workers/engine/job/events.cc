// Composes JobEvents and measures progress; the sinks only write.
#include "workers/engine/job/events.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "workers/engine/job/failure.h"

namespace quantd::engine {
namespace {

// The rate is that of the last moments: long enough to be calm, short enough to follow a change.
constexpr absl::Duration kRateWindow = absl::Seconds(20);
// Outside a terminal a line this often keeps a log readable.
constexpr absl::Duration kPlainLineInterval = absl::Seconds(5);
// Of a bar on a terminal.
constexpr int kBarCells = 24;

nlohmann::json Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Text(const nlohmann::json& json, const char* field) {
  auto found = json.find(field);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

// 64-bit integers are strings in proto3-JSON.
int64_t Integer(const nlohmann::json& json, const char* field) {
  int64_t value = 0;
  return absl::SimpleAtoi(Text(json, field), &value) ? value : 0;
}

}  // namespace

void EventSink::Emit(nlohmann::json event) {
  event["time"] = absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", clock_.Now(), absl::UTCTimeZone());
  absl::MutexLock lock(&mutex_);
  Write(event);
}

bool EventSink::Measure(const ProgressUpdate& update, nlohmann::json* progress) {
  absl::MutexLock lock(&mutex_);
  const absl::Duration now = clock_.Monotonic();
  const bool first =
      update.phase != phase_ || (!samples_.empty() && update.done < samples_.back().done);
  if (first) {
    phase_ = update.phase;
    samples_.clear();
  }
  samples_.push_back({now, update.done});
  // One sample older than the window stays: the window is measured from it.
  while (samples_.size() > 2 && now - samples_[1].at >= kRateWindow) samples_.pop_front();
  const bool last = update.total > 0 && update.done >= update.total;
  if (Throttled() && !first && !last && now - last_sent_ < kProgressInterval) {
    // Without this, a million small steps would be a million samples.
    if (samples_.size() > 2) samples_.pop_back();
    return false;
  }
  last_sent_ = now;
  const double seconds = absl::ToDoubleSeconds(now - samples_.front().at);
  const int64_t units = update.done - samples_.front().done;
  if (seconds > 0 && units > 0) {
    const double rate = static_cast<double>(units) / seconds;
    (*progress)["rate"] = rate;
    if (update.total > update.done) {
      (*progress)["remaining"] =
          absl::StrFormat("%.3fs", static_cast<double>(update.total - update.done) / rate);
    } else if (update.total > 0) {
      (*progress)["remaining"] = "0s";
    }
  }
  return true;
}

void EventSink::Progress(const ProgressUpdate& update) {
  nlohmann::json progress = {{"phase", update.phase},
                             {"done", absl::StrCat(update.done)},
                             {"total", absl::StrCat(update.total)},
                             {"unit", update.unit}};
  if (Measure(update, &progress)) Emit({{"progress", std::move(progress)}});
}

void EventSink::Metric(absl::string_view name, double value, absl::string_view unit,
                       const std::map<std::string, std::string>& labels) {
  nlohmann::json metric = {{"name", std::string(name)}, {"value", Number(value)}};
  if (!unit.empty()) metric["unit"] = std::string(unit);
  if (!labels.empty()) metric["labels"] = labels;
  Emit({{"metric", std::move(metric)}});
}

void EventSink::Artifact(absl::string_view path, absl::string_view role) {
  Emit({{"artifact", {{"file", {{"path", std::string(path)}, {"role", std::string(role)}}}}}});
}

void EventSink::Checkpoint(int blocks_done, int blocks_total,
                           const std::vector<std::string>& paths) {
  Emit({{"checkpoint",
         {{"blocksDone", blocks_done}, {"blocksTotal", blocks_total}, {"paths", paths}}}});
}

void EventSink::Fallback(absl::string_view kind, absl::string_view module,
                         absl::string_view description) {
  Emit({{"fallback",
         {{"kind", std::string(kind)},
          {"module", std::string(module)},
          {"description", std::string(description)}}}});
}

void EventSink::Result(const nlohmann::json& values) { Emit({{"result", {{"values", values}}}}); }

void EventSink::Failure(const absl::Status& status) { Emit({{"failure", FailureToJson(status)}}); }

void FdSink::Write(const nlohmann::json& event) {
  if (broken_) return;
  const std::string line = Dump(event) + "\n";
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t count = write(fd_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      broken_ = true;
      cancel_.Cancel();
      return;
    }
    written += static_cast<size_t>(count);
  }
}

TerminalSink::TerminalSink() : terminal_(isatty(STDERR_FILENO) != 0) {}

void TerminalSink::ClearLine() {
  if (line_open_) absl::FPrintF(stderr, "\r\033[K");
  line_open_ = false;
}

void TerminalSink::Write(const nlohmann::json& event) {
  if (auto progress = event.find("progress"); progress != event.end()) {
    const int64_t done = Integer(*progress, "done");
    const int64_t total = Integer(*progress, "total");
    const std::string phase = Text(*progress, "phase");
    const double rate = progress->value("rate", 0.0);
    std::string line =
        absl::StrFormat("%-20s %d/%d %s", phase, done, total, Text(*progress, "unit"));
    if (rate > 0) {
      absl::StrAppendFormat(&line, ", %.3g/s, %s left", rate, Text(*progress, "remaining"));
    }
    if (terminal_) {
      const int64_t cells = total > 0 ? done * kBarCells / total : 0;
      ClearLine();
      absl::FPrintF(stderr, "[%s%s] %s", std::string(static_cast<size_t>(cells), '#'),
                    std::string(static_cast<size_t>(kBarCells - cells), '.'), line);
      line_open_ = true;
      return;
    }
    const absl::Time now = absl::Now();
    if (phase != last_phase_ || done >= total || now - last_plain_line_ >= kPlainLineInterval) {
      absl::FPrintF(stderr, "%s\n", line);
      last_plain_line_ = now;
      last_phase_ = phase;
    }
    return;
  }
  ClearLine();
  if (auto metric = event.find("metric"); metric != event.end()) {
    // Running values are for machines; people see the final ones.
    if (metric->contains("labels") && (*metric)["labels"].contains("partial")) return;
    absl::FPrintF(stderr, "%s = %s %s\n", Text(*metric, "name"), Dump((*metric)["value"]),
                  Text(*metric, "unit"));
  } else if (auto fallback = event.find("fallback"); fallback != event.end()) {
    absl::FPrintF(stderr, "fallback (%s) %s: %s\n", Text(*fallback, "kind"),
                  Text(*fallback, "module"), Text(*fallback, "description"));
  } else if (auto artifact = event.find("artifact"); artifact != event.end()) {
    absl::FPrintF(stderr, "wrote %s\n", Text((*artifact)["file"], "path"));
  } else if (auto failure = event.find("failure"); failure != event.end()) {
    absl::FPrintF(stderr, "failed: %s\n  %s\n", Text(*failure, "message"),
                  Text(*failure, "remedy"));
  }
}

std::vector<nlohmann::json> RecordingSink::Events(absl::string_view kind) const {
  absl::MutexLock lock(&events_mutex_);
  std::vector<nlohmann::json> result;
  for (const nlohmann::json& event : events_) {
    if (kind.empty() || event.contains(std::string(kind))) result.push_back(event);
  }
  return result;
}

void RecordingSink::Write(const nlohmann::json& event) {
  absl::MutexLock lock(&events_mutex_);
  events_.push_back(event);
}

}  // namespace quantd::engine
