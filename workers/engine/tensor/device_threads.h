// A thread a device: lets the host side of several devices' work go on side by side.
#pragma once

#include <c10/core/Device.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace quantd::engine {

// Threads stay, because libtorch keeps handles and thread pools by thread. Not thread-safe.
class DeviceThreads {
 public:
  explicit DeviceThreads(absl::Span<const at::Device> devices);
  ~DeviceThreads();
  DeviceThreads(const DeviceThreads&) = delete;
  DeviceThreads& operator=(const DeviceThreads&) = delete;

  // work(i) for every device at the same time, with device i in use, device 0 in the calling
  // thread; returns when all are done. Of several errors the first that is not want of memory:
  // others cannot be helped by making room.
  absl::Status Run(absl::FunctionRef<absl::Status(size_t)> work);
  // Work goes to these from now on; as many as before.
  void Move(absl::Span<const at::Device> devices);

 private:
  void Loop(size_t index);
  absl::Status Do(size_t index) const;

  std::vector<at::Device> devices_;
  std::vector<absl::Status> results_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  const absl::FunctionRef<absl::Status(size_t)>* work_ = nullptr;
  int64_t round_ = 0;
  size_t running_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantd::engine
