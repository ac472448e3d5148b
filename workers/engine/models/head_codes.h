// Keys and values of the cache in few bits (QuaRot, Ashkboos et al. 2024, section 4.4): every head
// of every token has a scale and a smallest value of its own.
#pragma once

#include <ATen/core/Tensor.h>

namespace quantd::engine {

// head ~ scale * code + low.
struct HeadCodes {
  at::Tensor codes;  // uint8 [..., D * bits / 8]; of 4 bits the earlier element is the lower half.
  at::Tensor scale, low;  // float32 [..., 1]
};

// `heads` [..., D] of a floating type, D even; `bits` 4 or 8. Halves go to even. Throws what
// libtorch throws.
HeadCodes EncodeHeads(const at::Tensor& heads, int bits);
at::Tensor DecodeHeads(const HeadCodes& codes, int bits, at::ScalarType dtype);

}  // namespace quantd::engine
