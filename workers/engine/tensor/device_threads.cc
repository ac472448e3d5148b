// See device_threads.h.
#include "workers/engine/tensor/device_threads.h"

#include <ATen/Parallel.h>

#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {

DeviceThreads::DeviceThreads(absl::Span<const at::Device> devices)
    : devices_(devices.begin(), devices.end()), results_(devices.size()) {
  for (size_t i = 1; i < devices_.size(); ++i) {
    threads_.emplace_back([this, i, inner = at::get_num_threads()] {
      at::set_num_threads(inner);  // libtorch counts by thread.
      Loop(i);
    });
  }
}

DeviceThreads::~DeviceThreads() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DeviceThreads::Move(absl::Span<const at::Device> devices) {
  devices_.assign(devices.begin(), devices.end());
}

absl::Status DeviceThreads::Do(size_t index) const {
  QD_RETURN_IF_ERROR(UseDevice(devices_[index]));
  return (*work_)(index);
}

void DeviceThreads::Loop(size_t index) {
  std::unique_lock lock(mutex_);
  for (int64_t seen = 0;;) {
    changed_.wait(lock, [&] { return stop_ || round_ > seen; });
    if (stop_) return;
    seen = round_;
    lock.unlock();
    results_[index] = Do(index);
    lock.lock();
    if (--running_ == 0) changed_.notify_all();
  }
}

absl::Status DeviceThreads::Run(absl::FunctionRef<absl::Status(size_t)> work) {
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    running_ = threads_.size();
    ++round_;
  }
  changed_.notify_all();
  results_[0] = Do(0);
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return running_ == 0; });
    work_ = nullptr;
  }
  absl::Status first;
  for (const absl::Status& result : results_) {
    if (result.ok() || (!first.ok() && !IsOutOfMemory(first))) continue;
    if (first.ok() || !IsOutOfMemory(result)) first = result;
  }
  return first;
}

}  // namespace quantd::engine
