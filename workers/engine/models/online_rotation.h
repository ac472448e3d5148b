// Hadamard rotations of activations while the model runs: QuaRot's of what the down projection
// reads (R4) and of queries and keys (R3). Sylvester matrices in blocks, which every runtime that
// knows compressed-tensors' transforms has, and which need no table.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace quantd::engine {

// The order of the blocks in which `width` columns are rotated: the largest power of two that
// divides it.
int64_t OnlineBlock(int64_t width);

// x [..., K] -> x (I (x) H_block / sqrt(block)), K a multiple of `block`, a power of two; x itself
// for block 1 and 0. Symmetric and its own inverse: W rotated so undoes it on the other side of a
// product. Returned in x's dtype on its device, float64 computed in float64 and all else in
// float32: before its one rounding to 16 bits an element is within the bound of
// kernels/hadamard_rows.h. Throws what libtorch throws.
at::Tensor RotateOnline(const at::Tensor& x, int64_t block);

}  // namespace quantd::engine
