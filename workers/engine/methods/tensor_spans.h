// Raw pointers for the kernels out of ATen's tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::engine {

// binary16 values as the bits that kernels/ works with.
inline const uint16_t* HalfBits(const at::Tensor& half) {
  return reinterpret_cast<const uint16_t*>(half.const_data_ptr<at::Half>());
}
inline uint16_t* MutableHalfBits(const at::Tensor& half) {
  return reinterpret_cast<uint16_t*>(half.mutable_data_ptr<at::Half>());
}

}  // namespace quantd::engine
