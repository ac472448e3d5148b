// A deque of events whose front is what the scheduler has not confirmed yet.
#include "workers/agent/outbox.h"

#include <algorithm>
#include <utility>

namespace quantd {
namespace {

// What an event takes in memory beyond its bytes, so that a flood of empty lines is bounded too.
constexpr int64_t kOverheadBytes = 256;

int64_t Cost(const v1::JobEvent& event) {
  return static_cast<int64_t>(event.ByteSizeLong()) + kOverheadBytes;
}

}  // namespace

void Outbox::Push(v1::JobEvent event, absl::Duration now) {
  Entry entry;
  entry.size_bytes = Cost(event);
  entry.event = std::move(event);
  entry.added = now;
  bytes_ += entry.size_bytes;
  events_.push_back(std::move(entry));
}

void Outbox::ReleaseProgress(absl::Duration now, bool force) {
  if (!pending_progress_.has_value()) return;
  if (!force && now - last_progress_ < options_.progress_interval) return;
  // An older progress event that nobody has seen yet says nothing that this one does not.
  if (queued_progress_.has_value() && *queued_progress_ >= first_ + static_cast<int64_t>(sent_)) {
    const auto old = events_.begin() + (*queued_progress_ - first_);
    bytes_ -= old->size_bytes;
    events_.erase(old);
  }
  Push(*std::exchange(pending_progress_, std::nullopt), now);
  queued_progress_ = first_ + static_cast<int64_t>(events_.size()) - 1;
  last_progress_ = now;
}

void Outbox::Add(v1::JobEvent event, absl::Duration now) {
  if (event.event_case() == v1::JobEvent::kProgress) {
    pending_progress_ = std::move(event);
    ReleaseProgress(now, /*force=*/false);
    return;
  }
  // The end of the work comes after its last progress.
  if (event.has_result()) ReleaseProgress(now, /*force=*/true);
  Push(std::move(event), now);
}

void Outbox::FlushProgress(absl::Duration now) { ReleaseProgress(now, /*force=*/true); }

Outbox::Batch Outbox::Take(absl::Duration now, size_t events_max) {
  ReleaseProgress(now, /*force=*/false);
  Batch batch;
  batch.first_event = first_;
  int64_t bytes = 0;
  for (const Entry& entry : events_) {
    if (batch.events.size() >= events_max) break;
    if (!batch.events.empty() && bytes + entry.size_bytes > options_.batch_bytes) break;
    bytes += entry.size_bytes;
    batch.events.push_back(entry.event);
  }
  sent_ = std::max(sent_, batch.events.size());
  return batch;
}

bool Outbox::Accept(int64_t accepted_events) {
  if (accepted_events < first_ - 1 || accepted_events > first_ - 1 + static_cast<int64_t>(sent_)) {
    return false;
  }
  while (first_ <= accepted_events) {
    bytes_ -= events_.front().size_bytes;
    events_.pop_front();
    ++first_;
    --sent_;
  }
  return true;
}

void Outbox::ReplaceFront(const std::string& words) {
  if (events_.empty()) return;
  Entry& front = events_.front();
  v1::JobEvent event;
  *event.mutable_time() = front.event.time();
  event.mutable_log()->set_source(v1::LogLine::WORKER);
  event.mutable_log()->set_text(words);
  bytes_ -= front.size_bytes;
  front.event = std::move(event);
  front.size_bytes = Cost(front.event);
  bytes_ += front.size_bytes;
}

std::optional<absl::Duration> Outbox::OldestUnsent() const {
  if (sent_ < events_.size()) return events_[sent_].added;
  if (pending_progress_.has_value()) return last_progress_ + options_.progress_interval;
  return std::nullopt;
}

}  // namespace quantd
