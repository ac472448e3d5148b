// A block takes a row: its largest element first, then its codes, for which the threads hold the
// row. Bound by memory: 2 bytes read and 1 (codes) or 2 (rounded) written an element.
#include "kernels/eight_cuda.cuh"
#include "kernels/int8_code.h"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kHeld = 4;
constexpr unsigned kWarp = 0xffffffffu;

// As bits, absolute values compare like integers, and NaN and infinity above all numbers.
__device__ inline uint32_t LargestBits(uint32_t bits) {
  __shared__ uint32_t of_warp[kThreads / 32];
  bits = __reduce_max_sync(kWarp, bits);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
  __syncthreads();
  return __reduce_max_sync(kWarp, of_warp[threadIdx.x % (kThreads / 32)]);
}

// The codes of eight numbers, or the numbers that they stand for, at `place` of the row's eights.
template <typename Type>
__device__ inline void Write(const QuantizeRows& args, int64_t row, int64_t place,
                             const uint4& eight, const Int8Scaling& scaling) {
  const int64_t at = row * (args.columns / 8) + place;
  float x[8];
  Widen<Type>(eight, x);
#pragma unroll
  for (float& value : x) value = Int8Code(value, scaling.inverse);
  if (args.rounded != nullptr) {
#pragma unroll
    for (float& value : x) value *= scaling.scale;
    reinterpret_cast<uint4*>(args.rounded)[at] = Narrow<Type>(x);
    return;
  }
  uint32_t out[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const auto code = static_cast<uint8_t>(static_cast<int8_t>(x[k]));
    out[k / 4] |= static_cast<uint32_t>(code) << (k % 4 * 8);
  }
  reinterpret_cast<uint2*>(args.codes)[at] = make_uint2(out[0], out[1]);
}

__device__ inline uint32_t LargestBitsOf(const uint4& eight) {
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
  uint32_t bits = 0;
#pragma unroll
  for (const uint32_t word : words) bits = max(bits, max(word & 0x7fff, word >> 16 & 0x7fff));
  return bits;
}

// A thread holds up to kHeld times eight numbers; wider rows are read again.
template <typename Type>
__global__ void __launch_bounds__(kThreads) QuantizeRowsKernel(QuantizeRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x;
  const auto* input = reinterpret_cast<const uint4*>(args.input + row * args.columns);
  const int64_t eights = args.columns / 8;
  uint4 held[kHeld];
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t place = threadIdx.x + i * kThreads;
    held[i] = place < eights ? input[place] : uint4{};
  }
#pragma unroll
  for (const uint4& eight : held) bits = max(bits, LargestBitsOf(eight));
  for (int64_t i = threadIdx.x + kHeld * kThreads; i < eights; i += kThreads) {
    bits = max(bits, LargestBitsOf(input[i]));
  }
  const float largest = Type::ToFloat(static_cast<uint16_t>(LargestBits(bits)));
  const Int8Scaling scaling = Int8ScalingOf(largest);
  if (threadIdx.x == 0 && args.rounded == nullptr) args.scales[row] = scaling.scale;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t place = threadIdx.x + i * kThreads;
    if (place < eights) Write<Type>(args, row, place, held[i], scaling);
  }
  for (int64_t i = threadIdx.x + kHeld * kThreads; i < eights; i += kThreads) {
    Write<Type>(args, row, i, input[i], scaling);
  }
}

}  // namespace

void QuantizeRowsCuda(const QuantizeRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  LaunchEarly(args.bfloat16 ? QuantizeRowsKernel<Bfloat> : QuantizeRowsKernel<Half>,
              {static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)}, args);
}

}  // namespace quantd::kernels
