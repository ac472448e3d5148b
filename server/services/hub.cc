// Listeners are called without the hub's lock, so that they may add and remove themselves.
#include "server/services/hub.h"

#include <algorithm>

#include "base/clock.h"

namespace quantd {
namespace {
// Fine enough for long polls' ends; a thousand listeners cost microseconds a round.
constexpr absl::Duration kTick = absl::Milliseconds(200);
}  // namespace

Hub::Hub(int64_t listeners_max) : listeners_max_(listeners_max), thread_([this] { Loop(); }) {}

Hub::~Hub() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

bool Hub::Add(const std::string& key, const std::shared_ptr<Listener>& listener) {
  absl::MutexLock lock(&mutex_);
  if (count_ >= listeners_max_) return false;
  ++count_;
  entries_[key].push_back({listener.get(), listener});
  return true;
}

void Hub::Remove(const std::string& key, const Listener* listener) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  auto& list = found->second;
  const auto gone = std::remove_if(list.begin(), list.end(),
                                   [&](const Entry& entry) { return entry.identity == listener; });
  count_ -= list.end() - gone;
  list.erase(gone, list.end());
  if (list.empty()) entries_.erase(found);
}

int64_t Hub::listeners() const {
  absl::MutexLock lock(&mutex_);
  return count_;
}

void Hub::WakeKey(const std::string& key) {
  std::vector<std::shared_ptr<Listener>> woken;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return;
    for (const Entry& entry : found->second) {
      if (auto listener = entry.listener.lock()) woken.push_back(std::move(listener));
    }
  }
  for (const auto& listener : woken) listener->Wake();
}

void Hub::Notice(const std::string& key) {
  absl::MutexLock lock(&mutex_);
  if (entries_.contains(key)) news_.insert(key);
}

void Hub::JobChanged(const std::string& job, const std::string& sweep, int64_t, v1::JobState) {
  Notice(job);
  if (!sweep.empty()) Notice(sweep);
}

void Hub::JobsRunnable() { Notice(kRunnable); }

std::vector<std::shared_ptr<Listener>> Hub::Everyone() {
  std::vector<std::shared_ptr<Listener>> all;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, list] : entries_) {
    for (const Entry& entry : list) {
      if (auto listener = entry.listener.lock()) all.push_back(std::move(listener));
    }
  }
  return all;
}

void Hub::AnythingChanged() {
  for (const auto& listener : Everyone()) listener->Wake();
}

void Hub::Drain() {
  draining_ = true;
  AnythingChanged();
}

void Hub::Loop() {
  absl::Duration ticked = Clock::Real().Monotonic();
  for (;;) {
    absl::flat_hash_set<std::string> news;
    {
      absl::MutexLock lock(&mutex_);
      const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stop_ || !news_.empty();
      };
      mutex_.AwaitWithTimeout(absl::Condition(&woken), ticked + kTick - Clock::Real().Monotonic());
      if (stop_) return;
      news.swap(news_);
    }
    for (const std::string& key : news) WakeKey(key);
    const absl::Duration now = Clock::Real().Monotonic();
    if (now - ticked < kTick) continue;
    ticked = now;
    for (const auto& listener : Everyone()) listener->Tick(now);
  }
}

}  // namespace quantd
