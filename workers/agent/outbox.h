// The events of one attempt on their way to the scheduler: numbered from 1, kept until they are
// acknowledged, bounded in memory. Progress is conflated (only the latest matters); nothing else is
// ever dropped, so that who fills the box has to stop reading the engine's pipes while Full().
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/quantd/v1/job.pb.h"

namespace quantd {

// Not thread-safe. All times are monotonic.
class Outbox {
 public:
  struct Options {
    int64_t limit_bytes = int64_t{16} << 20;   // Minutes of an ordinary log without a scheduler.
    int64_t batch_bytes = int64_t{768} << 10;  // Well below the 1 MiB that a request may hold.
    absl::Duration progress_interval = absl::Milliseconds(250);
  };
  struct Batch {
    int64_t first_event = 1;
    std::vector<v1::JobEvent> events;
  };

  Outbox() : Outbox(Options()) {}
  explicit Outbox(const Options& options) : options_(options) {}

  void Add(v1::JobEvent event, absl::Duration now);
  // The oldest unacknowledged events, at most `events_max`; the same ones, and perhaps more, when
  // taken again.
  Batch Take(absl::Duration now, size_t events_max = 10'000);
  // Events up to this number are durable at the scheduler. False: it knows fewer or more than can
  // be, so the two sides no longer speak of the same attempt.
  bool Accept(int64_t accepted_events);
  // Puts a log line in the place of the oldest event, which the scheduler will never take.
  void ReplaceFront(const std::string& words);
  // Lets held-back progress go out with the next batch.
  void FlushProgress(absl::Duration now);

  bool Full() const { return bytes_ >= options_.limit_bytes; }
  bool Empty() const { return events_.empty() && !pending_progress_.has_value(); }
  // When the oldest unsent event came; nothing when all have been sent once or there are none.
  std::optional<absl::Duration> OldestUnsent() const;
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    v1::JobEvent event;
    int64_t size_bytes = 0;
    absl::Duration added;
  };
  void Push(v1::JobEvent event, absl::Duration now);
  void ReleaseProgress(absl::Duration now, bool force);

  const Options options_;
  std::deque<Entry> events_;
  int64_t first_ = 1;  // Number of events_.front().
  size_t sent_ = 0;    // That many from the front have been in a request: they no longer change.
  int64_t bytes_ = 0;
  std::optional<v1::JobEvent> pending_progress_;
  absl::Duration last_progress_ = -absl::InfiniteDuration();
  std::optional<int64_t> queued_progress_;  // Number of the progress event among the unsent ones.
};

}  // namespace quantd
