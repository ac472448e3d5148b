// See head_codes.h.
#include "workers/engine/models/head_codes.h"

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

constexpr double kSmallestScale = 1e-7;  // A head of equal values keeps a tiny scale, not none.

}  // namespace

HeadCodes EncodeHeads(const at::Tensor& heads, int bits) {
  const at::Tensor wide = heads.to(at::kFloat);
  const double levels = (1 << bits) - 1;
  HeadCodes made;
  made.low = wide.amin(-1, /*keepdim=*/true);
  made.scale = ((wide.amax(-1, /*keepdim=*/true) - made.low) / levels).clamp_min(kSmallestScale);
  made.codes = ((wide - made.low) / made.scale).round().clamp(0, levels).to(at::kByte);
  if (bits == 4) {
    const at::Tensor pairs = made.codes.unflatten(-1, {-1, 2});
    made.codes = pairs.select(-1, 0).bitwise_or(pairs.select(-1, 1).mul(16)).contiguous();
  }
  return made;
}

at::Tensor DecodeHeads(const HeadCodes& codes, int bits, at::ScalarType dtype) {
  at::Tensor values = codes.codes;
  if (bits == 4) {
    values = at::stack({values.bitwise_and(15), values.bitwise_right_shift(4)}, -1).flatten(-2);
  }
  return (values.to(at::kFloat) * codes.scale + codes.low).to(dtype);
}

}  // namespace quantd::engine
