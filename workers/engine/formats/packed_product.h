// Quantized layers as kernels multiply with them (on a GPU kernels/gemm_w4a16.h and gemm_w8a8.h, on
// the CPU gemm_w4a32.h): repacked once, when a model is loaded; files keep their layouts.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "workers/engine/methods/quantized_linear.h"
#include "workers/engine/models/packed_weight.h"

namespace quantd::engine {

// `weight` for products in `dtype` on `device`. Null where no kernel takes it without rounding
// anything anew: it is then decoded (Dequantize) and multiplied in `dtype`. In 16 bits on a GPU
// there are kernels for 4-bit integers in groups of 32, 64 or a multiple of 128 neighbouring
// inputs, or of a whole row (desc_act's order too); NF4 and FP4 in such blocks; 8-bit rows with
// inputs rounded to 8 bits. In float32 on the CPU for 4-bit integers with integer zeros in such
// groups.
absl::StatusOr<std::shared_ptr<const PackedWeight>> PackForProducts(const QuantizedWeight& weight,
                                                                    at::Device device,
                                                                    at::ScalarType dtype);

}  // namespace quantd::engine
