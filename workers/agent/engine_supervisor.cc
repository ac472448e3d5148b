// One poll loop on the thread that started the child.
#include "workers/agent/engine_supervisor.h"

#include <google/protobuf/util/json_util.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/agent/line_splitter.h"

namespace quantd {
namespace {

constexpr size_t kEventBytesMax = size_t{1} << 20;
constexpr absl::Duration kSampleTime = absl::Seconds(1);
constexpr size_t kReadBytes = 16'384;  // The outbox may be overrun by what one read brings.
constexpr int kQuotedBytes = 200;
constexpr size_t kLastLineBytesMax = 1'024;  // 40 of them travel in a failure's details.

class Supervisor {
 public:
  Supervisor(ChildProcess& child, const EngineHooks& hooks, StopSwitch& stop,
             const EngineGrace& grace, EngineEnd* end)
      : child_(child),
        hooks_(hooks),
        stop_(stop),
        grace_(grace),
        end_(end),
        log_lines_(
            kLogLineBytesMax,
            [this](std::string line, int64_t dropped) { LogLine(std::move(line), dropped); }),
        event_lines_(kEventBytesMax,
                     [this](std::string line, int64_t dropped) { EventLine(line, dropped); }) {}

  void Run() {
    while (true) {
      Escalate();
      Sample();
      const std::optional<ChildExit> exit = child_.TryReap();
      if (exit.has_value()) {
        // Nobody holds the write ends any more: what is in the pipes is all there will ever be.
        while (ReadSome(child_.output_fd(), &log_lines_, &output_open_)) {
        }
        while (ReadSome(child_.events_fd(), &event_lines_, &events_open_)) {
        }
        log_lines_.Finish();
        event_lines_.Finish();
        end_->exit = *exit;
        return;
      }
      WaitAndRead();
    }
  }

 private:
  bool Stopping() const { return stop_time_ < absl::InfiniteDuration(); }

  void WaitAndRead() {
    const bool paused = !Stopping() && hooks_.full();
    pollfd waiting[3] = {
        {.fd = output_open_ && !paused ? child_.output_fd() : -1, .events = POLLIN, .revents = 0},
        {.fd = events_open_ && !paused ? child_.events_fd() : -1, .events = POLLIN, .revents = 0},
        {.fd = stop_.fd(), .events = POLLIN, .revents = 0}};
    // Closed pipes mean that the end is near.
    const int timeout_ms = output_open_ || events_open_ ? 200 : 5;
    if (poll(waiting, 3, timeout_ms) <= 0) return;
    if (waiting[1].revents != 0) ReadSome(child_.events_fd(), &event_lines_, &events_open_);
    if (waiting[0].revents != 0) ReadSome(child_.output_fd(), &log_lines_, &output_open_);
    eventfd_t ignored;
    if (waiting[2].revents != 0) eventfd_read(stop_.fd(), &ignored);
  }

  // True when there may be more.
  bool ReadSome(int fd, LineSplitter* lines, bool* open) {
    char buffer[kReadBytes];
    const ssize_t got = *open ? read(fd, buffer, sizeof(buffer)) : 0;
    if (got > 0) lines->Add(absl::string_view(buffer, static_cast<size_t>(got)));
    if (got == 0) *open = false;
    return got > 0;
  }

  void Escalate() {
    const StopReason reason = stop_.reason();
    if (reason == StopReason::kNone) return;
    const absl::Duration now = Clock::Real().Monotonic();
    if (!Stopping()) {
      stop_time_ = now;
      end_->asked_to_stop = true;
      child_.Signal(SIGTERM);
    }
    absl::Duration grace = grace_.cancel;
    if (reason == StopReason::kDraining) grace = grace_.drain;
    if (reason == StopReason::kLeaseLost) grace = grace_.lease_lost;
    if (stop_.hurry() || now - stop_time_ >= grace) {
      end_->killed_by_us = true;
      child_.Signal(SIGKILL);
    }
  }

  void Sample() {
    const absl::Duration now = Clock::Real().Monotonic();
    if (now - sampled_ < kSampleTime) return;
    sampled_ = now;
    const ProcessMemory memory = ReadProcessMemory(child_.pid());
    if (memory.resident_bytes < 0) return;  // Ended, not yet reaped.
    end_->memory = memory;
    if (hooks_.memory) hooks_.memory(memory);
  }

  void LogLine(std::string line, int64_t dropped_bytes) {
    std::string text = ReplaceInvalidUtf8(hooks_.redactor.Apply(line));
    if (dropped_bytes > 0) absl::StrAppend(&text, " [cut: ", dropped_bytes, " bytes more]");
    last_lines_.push_back(ReplaceInvalidUtf8(absl::string_view(text).substr(0, kLastLineBytesMax)));
    if (last_lines_.size() > kLastLinesMax) last_lines_.pop_front();
    end_->last_lines.assign(last_lines_.begin(), last_lines_.end());
    hooks_.log(v1::LogLine::ENGINE, text);
  }

  void RefuseEvent(absl::string_view why, const std::string& line) {
    hooks_.log(v1::LogLine::WORKER,
               ReplaceInvalidUtf8(absl::StrCat("an event of the engine was left out: ", why, ": ",
                                               line.substr(0, kQuotedBytes))));
  }

  void EventLine(const std::string& said, int64_t dropped_bytes) {
    const std::string line = hooks_.redactor.Apply(said);
    if (dropped_bytes > 0) {
      RefuseEvent(absl::StrCat("longer than ", FormatBytes(kEventBytesMax)), line);
      return;
    }
    if (line.empty()) return;
    v1::JobEvent event;
    google::protobuf::util::JsonParseOptions options;
    options.ignore_unknown_fields = true;  // An engine newer than the worker.
    const auto parsed = google::protobuf::util::JsonStringToMessage(line, &event, options);
    if (!parsed.ok()) {
      RefuseEvent(absl::StrCat("not a JobEvent (", std::string(parsed.message()), ")"), line);
      return;
    }
    switch (event.event_case()) {
      case v1::JobEvent::kResult:
        end_->result = event.result();
        return;
      case v1::JobEvent::kFailure:
        end_->failure = event.failure();
        return;
      case v1::JobEvent::kState:
      case v1::JobEvent::kKeepAlive:
      case v1::JobEvent::EVENT_NOT_SET:
        RefuseEvent("of a kind that is not an engine's", line);
        return;
      case v1::JobEvent::kProgress:
      case v1::JobEvent::kMetric:
      case v1::JobEvent::kLog:
      case v1::JobEvent::kArtifact:
      case v1::JobEvent::kCheckpoint:
      case v1::JobEvent::kFallback:
        hooks_.event(std::move(event));
        return;
    }
  }

  ChildProcess& child_;
  const EngineHooks& hooks_;
  StopSwitch& stop_;
  const EngineGrace& grace_;
  EngineEnd* const end_;
  LineSplitter log_lines_;
  LineSplitter event_lines_;
  bool output_open_ = true;
  bool events_open_ = true;
  absl::Duration stop_time_ = absl::InfiniteDuration();
  absl::Duration sampled_ = -absl::InfiniteDuration();
  std::deque<std::string> last_lines_;
};

// Whether the kernel ended the engine for want of memory: a SIGKILL that was not ours, and a trace
// of it.
bool LooksOutOfMemory(const EngineEnd& end) {
  if (end.exit.signal != SIGKILL || end.killed_by_us) return false;
  if (end.after.oom_kills > end.before.oom_kills) return true;
  // Without a counter (some containers): the engine held nearly all of what there is.
  constexpr double kNearlyAll = 0.9;
  return end.after.oom_kills < 0 && end.after.memory_total_bytes > 0 &&
         static_cast<double>(end.memory.resident_peak_bytes) >
             kNearlyAll * static_cast<double>(end.after.memory_total_bytes);
}

void AddDetails(const EngineEnd& end, v1::Failure* failure) {
  auto& details = *failure->mutable_details();
  const auto bytes = [&](const char* name, int64_t value) {
    if (value >= 0) details[name] = absl::StrCat(value);
  };
  bytes("engine.resident_bytes", end.memory.resident_bytes);
  bytes("engine.resident_peak_bytes", end.memory.resident_peak_bytes);
  bytes("machine.memory_total_bytes", end.after.memory_total_bytes);
  bytes("machine.memory_available_bytes", end.after.memory_available_bytes);
  bytes("machine.disk_free_bytes", end.after.disk_free_bytes);
  if (end.after.oom_kills >= 0 && end.before.oom_kills >= 0) {
    details["machine.oom_kills_during_run"] =
        absl::StrCat(end.after.oom_kills - end.before.oom_kills);
  }
  details["machine.load"] = end.after.load;
  details["engine.exit"] = DescribeExit(end.exit);
  details["log.last_lines"] = absl::StrJoin(end.last_lines, "\n");
}

}  // namespace

absl::StatusOr<EngineEnd> RunEngine(const ChildCommand& command, const EngineHooks& hooks,
                                    StopSwitch& stop, const EngineGrace& grace) {
  EngineEnd end;
  end.before = MachineState::Read(command.working_folder);
  QD_ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child, ChildProcess::Start(command));
  Supervisor(*child, hooks, stop, grace, &end).Run();
  end.after = MachineState::Read(command.working_folder);
  return end;
}

v1::Failure DescribeFailure(const EngineEnd& end) {
  v1::Failure failure;
  if (end.failure.has_value() && end.failure->error_class() == v1::ERROR_CLASS_CANCELLED) {
    // Nobody asked here, so it is no cancellation: somebody on the machine has stopped the engine.
    failure.set_error_class(v1::ERROR_CLASS_ENGINE_CRASH);
    failure.set_message("the engine was told to stop by somebody else than its worker");
  } else if (end.failure.has_value()) {
    failure = *end.failure;
    if (failure.error_class() == v1::ERROR_CLASS_UNSPECIFIED) {
      failure.set_error_class(v1::ERROR_CLASS_INTERNAL);
    }
  } else if (LooksOutOfMemory(end)) {
    failure.set_error_class(v1::ERROR_CLASS_OUT_OF_MEMORY);
    failure.set_message(
        absl::StrCat("the kernel killed the engine because the machine ran out of memory; it held ",
                     FormatBytes(end.memory.resident_peak_bytes), " at most"));
    failure.set_remedy(
        "set runtime.host_memory_bytes below what the machine has, or use a larger one");
  } else if (end.exit.signal == 0 && end.exit.code == 2) {
    failure.set_error_class(v1::ERROR_CLASS_INTERNAL);
    failure.set_message("the engine did not understand how the worker called it (exit code 2)");
    failure.set_remedy("use a worker and an engine of the same version");
  } else {
    failure.set_error_class(v1::ERROR_CLASS_ENGINE_CRASH);
    failure.set_message(absl::StrCat("the engine ended with ", DescribeExit(end.exit),
                                     " and without a word about why"));
    failure.set_remedy("see the last log lines; a crash is tried again by itself");
  }
  if (failure.code() == 0) failure.set_code(static_cast<int>(absl::StatusCode::kInternal));
  AddDetails(end, &failure);
  return failure;
}

}  // namespace quantd
