// Runs one engine child to its end: reads its log and its events, samples its memory, stops it when
// asked (with a signal first, by force after a grace), and tells how it ended.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/redact.h"
#include "proto/quantd/v1/job.pb.h"
#include "workers/agent/child_process.h"
#include "workers/agent/machine_state.h"
#include "workers/agent/stop_switch.h"

namespace quantd {

inline constexpr size_t kLogLineBytesMax = 16'384;
inline constexpr size_t kLastLinesMax = 40;

struct EngineHooks {
  // Everything but result and failure, which are the run's end.
  std::function<void(v1::JobEvent)> event;
  // Valid UTF-8 of at most kLogLineBytesMax bytes and a mark.
  std::function<void(v1::LogLine::Source, const std::string&)> log;
  // True: the pipes are left alone until StopSwitch::Wake, so that the engine waits.
  std::function<bool()> full;
  // What it takes out goes neither into events nor into the log.
  Redactor redactor;
  // About once a second.
  std::function<void(const ProcessMemory&)> memory;
};

struct EngineEnd {
  ChildExit exit;
  bool killed_by_us = false;  // SIGKILL, after the grace.
  bool asked_to_stop = false;
  std::optional<v1::Result> result;
  std::optional<v1::Failure> failure;
  std::vector<std::string> last_lines;
  ProcessMemory memory;  // The last sample.
  MachineState before;
  MachineState after;
};

struct EngineGrace {
  absl::Duration cancel = absl::Seconds(20);
  absl::Duration drain = absl::Seconds(15);
  absl::Duration lease_lost = absl::Seconds(5);
};

// `stop` decides when to stop early. The error is that the engine could not be started.
absl::StatusOr<EngineEnd> RunEngine(const ChildCommand& command, const EngineHooks& hooks,
                                    StopSwitch& stop, const EngineGrace& grace);

// The failure that the end stands for when it is neither success nor a stop that we asked for: the
// engine's own words if it left any, otherwise a crash report with the signal, the last lines and
// the machine's state.
v1::Failure DescribeFailure(const EngineEnd& end);

}  // namespace quantd
