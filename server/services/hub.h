// Wakes who waits: watch streams when their job or sweep has news, long polls when there may be
// work, all of them a few times a second for their clocks, and once more when the server drains. It
// holds no events: a woken stream reads the durable log itself.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/scheduler/queue.h"

namespace quantd {

// Methods are called on the hub's thread: they must be short.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void Wake() = 0;
  // `now` is Clock::Monotonic().
  virtual void Tick(absl::Duration now) = 0;
};

class Hub : public QueueObserver {
 public:
  // Key of listeners that wait for runnable jobs.
  static constexpr char kRunnable[] = "";

  // At most so many listen at a time.
  explicit Hub(int64_t listeners_max);
  ~Hub() override;

  // Until the listener is gone or Remove is called. `key`: a job's or sweep's name, or kRunnable.
  // False: there are too many already.
  [[nodiscard]] bool Add(const std::string& key, const std::shared_ptr<Listener>& listener);
  void Remove(const std::string& key, const Listener* listener);
  // From now on draining() holds; everyone is woken.
  void Drain();
  bool draining() const { return draining_; }
  int64_t listeners() const;

  void JobChanged(const std::string& job, const std::string& sweep, int64_t last_sequence,
                  v1::JobState state) override;
  void JobsRunnable() override;
  void AnythingChanged() override;

 private:
  struct Entry {
    const Listener* identity;
    std::weak_ptr<Listener> listener;
  };
  // On the hub's thread: who commits must not wait for those who watch.
  void Notice(const std::string& key);
  void WakeKey(const std::string& key);
  std::vector<std::shared_ptr<Listener>> Everyone();
  void Loop();

  const int64_t listeners_max_;
  mutable absl::Mutex mutex_;
  int64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, std::vector<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> news_ ABSL_GUARDED_BY(mutex_);  // Keys with listeners.
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> draining_{false};
  std::thread thread_;
};

}  // namespace quantd
