// What tests and benchmarks need to use the CUDA column on plain vectors: memory that frees itself,
// and a skip where there is no GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/table.h"

namespace quantd::kernels {

// The device's copy of a vector.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    if (size_ > 0) ops_.copy(data_, values.data(), size_ * sizeof(T));
  }
  // Poisoned, so that an element that nobody writes is seen.
  explicit OnDevice(size_t size)
      : ops_(LoadCudaModule(nullptr)->device),
        size_(size),
        data_(static_cast<T*>(ops_.allocate(size * sizeof(T)))) {
    ops_.fill(data_, 0xc3, size * sizeof(T));
  }
  ~OnDevice() { ops_.release(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    if (size_ > 0) ops_.copy(values.data(), data_, size_ * sizeof(T));
    return values;
  }

 private:
  const DeviceOps& ops_;
  size_t size_;
  T* data_;
};

// Fails where a kernel did not run; to be called after each use of the column.
inline void ExpectNoDeviceError() {
  EXPECT_EQ(LoadCudaModule(nullptr)->device.take_error(nullptr), "");
}

#define QD_SKIP_WITHOUT_GPU() \
  std::string why_no_gpu;     \
  if (LoadCudaModule(&why_no_gpu) == nullptr) GTEST_SKIP() << why_no_gpu

}  // namespace quantd::kernels
