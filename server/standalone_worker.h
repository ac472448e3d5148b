// The quant-worker of --standalone: a child process with our address, started again with a growing
// pause when it dies, and stopped with us. It gets SIGTERM when this process is killed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd {

class StandaloneWorker {
 public:
  // `command`: the program and its arguments; `environment`: "NAME=value", besides our own.
  explicit StandaloneWorker(std::vector<std::string> command,
                            std::vector<std::string> environment = {});
  // Stops it.
  ~StandaloneWorker();

  // SIGTERM, and SIGKILL after `grace`. Idempotent.
  void Stop(absl::Duration grace = absl::Seconds(12));
  // How often the child has died in a row soon after its start.
  int deaths() const { return deaths_; }

 private:
  void Loop();
  // Returns when the child has ended.
  void RunOnce();

  const std::vector<std::string> command_;
  const std::vector<std::string> environment_;
  std::atomic<int> deaths_{0};
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration grace_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace quantd
