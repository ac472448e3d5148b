// What a job says while it runs: JobEvent messages (job.proto) in proto3-JSON form, to a file
// descriptor for the agent, to a terminal for people, or into memory for tests. The rate and the
// remaining time of progress are computed here, once.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "workers/engine/job/cancel.h"

namespace quantd::engine {

// More often than this tells nobody anything; first and last of a phase are always sent.
constexpr absl::Duration kProgressInterval = absl::Milliseconds(250);

struct ProgressUpdate {
  std::string phase;  // "load", "quantize", "evaluate arc", ...
  int64_t done = 0;
  int64_t total = 0;
  std::string unit;  // "block", "sample", "window", "byte", "repetition".
};

// Thread-safe.
class EventSink {
 public:
  explicit EventSink(const Clock& clock = Clock::Real()) : clock_(clock) {}
  virtual ~EventSink() = default;

  // One event: an object with exactly one of JobEvent's oneof fields. `time` is added here.
  void Emit(nlohmann::json event);

  void Progress(const ProgressUpdate& update);
  // A value that is not finite is sent as proto3-JSON's "NaN", "Infinity", "-Infinity".
  void Metric(absl::string_view name, double value, absl::string_view unit = "",
              const std::map<std::string, std::string>& labels = {});
  // `path` is relative to the output folder, `role` as in ManifestFile.
  void Artifact(absl::string_view path, absl::string_view role);
  // `paths` are relative to the work folder: the files of this block, without earlier blocks'.
  void Checkpoint(int blocks_done, int blocks_total, const std::vector<std::string>& paths);
  void Fallback(absl::string_view kind, absl::string_view module, absl::string_view description);
  // The last event is one of these two.
  void Result(const nlohmann::json& values);
  void Failure(const absl::Status& status);

 protected:
  // Called with one whole event at a time.
  virtual void Write(const nlohmann::json& event) = 0;
  // Whether progress that comes sooner than kProgressInterval is held back.
  virtual bool Throttled() const { return true; }

 private:
  struct Sample {
    absl::Duration at;
    int64_t done;
  };
  // Fills rate and remaining; false when the update is to be held back.
  bool Measure(const ProgressUpdate& update, nlohmann::json* progress);

  const Clock& clock_;
  absl::Mutex mutex_;
  std::string phase_;           // Guarded by mutex_, as are the next two.
  std::deque<Sample> samples_;  // Of this phase, over the last moments.
  absl::Duration last_sent_;
};

// One line of JSON an event, written at once. When nobody reads any more (EPIPE) the job is
// cancelled: its agent is gone.
class FdSink : public EventSink {
 public:
  // Neither is owned.
  FdSink(int fd, const CancelToken& cancel) : fd_(fd), cancel_(cancel) {}

 private:
  void Write(const nlohmann::json& event) override;
  int fd_;
  const CancelToken& cancel_;
  bool broken_ = false;
};

// For people: a line that is rewritten on a terminal, plain lines with pauses elsewhere; metrics,
// fallbacks and files as they come. Writes to stderr, so that results alone are on stdout.
class TerminalSink : public EventSink {
 public:
  TerminalSink();

 private:
  void Write(const nlohmann::json& event) override;
  void ClearLine();
  bool terminal_;
  bool line_open_ = false;
  std::string last_phase_;
  absl::Time last_plain_line_ = absl::InfinitePast();
};

// Keeps all, for tests.
class RecordingSink : public EventSink {
 public:
  using EventSink::EventSink;
  // Events that have the oneof field `kind` ("progress"); empty: all.
  std::vector<nlohmann::json> Events(absl::string_view kind = "") const;

 private:
  void Write(const nlohmann::json& event) override;
  bool Throttled() const override { return false; }
  mutable absl::Mutex events_mutex_;
  std::vector<nlohmann::json> events_;
};

}  // namespace quantd::engine
