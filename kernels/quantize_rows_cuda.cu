// A block takes a row: its largest element first, then its codes, for which the row comes out of
// the cache. Bound by memory: 2 bytes read and 1 written an element.
#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 512;
constexpr unsigned kWarp = 0xffffffffu;

// As bits, absolute values compare like integers, and NaN and infinity above all numbers.
__device__ inline uint32_t LargestBits(uint32_t bits) {
  __shared__ uint32_t of_warp[kThreads / 32];
  bits = __reduce_max_sync(kWarp, bits);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
  __syncthreads();
  return __reduce_max_sync(kWarp, of_warp[threadIdx.x % (kThreads / 32)]);
}

template <typename Type>
__device__ inline int8_t Code(uint16_t value, float inverse) {
  const float code = rintf(Type::ToFloat(value) * inverse);
  return isnan(code) ? 0 : static_cast<int8_t>(fminf(fmaxf(code, -127.0f), 127.0f));
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) QuantizeRowsKernel(QuantizeRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x;
  const auto* input = reinterpret_cast<const uint4*>(args.input + row * args.columns);
  const int64_t eights = args.columns / 8;
  uint32_t bits = 0;
  for (int64_t i = threadIdx.x; i < eights; i += kThreads) {
    const uint4 eight = input[i];
    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (const uint32_t word : words) bits = max(bits, max(word & 0x7fff, word >> 16 & 0x7fff));
  }
  const float largest = Type::ToFloat(static_cast<uint16_t>(LargestBits(bits)));
  const bool finite = isfinite(largest);
  if (threadIdx.x == 0) {
    args.scales[row] = !finite        ? __int_as_float(0x7fc00000)
                       : largest == 0 ? 1.0f
                                      : largest / 127.0f;
  }
  const float inverse = finite && largest > 0 ? 127.0f / largest : 0;
  auto* codes = reinterpret_cast<uint2*>(args.codes + row * args.columns);
  for (int64_t i = threadIdx.x; i < eights; i += kThreads) {
    const uint4 eight = input[i];
    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
    uint32_t out[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const auto value = static_cast<uint16_t>(words[k / 2] >> (k % 2 * 16));
      const auto code = static_cast<uint8_t>(inverse > 0 ? Code<Type>(value, inverse) : 0);
      out[k / 4] |= static_cast<uint32_t>(code) << (k % 4 * 8);
    }
    codes[i] = make_uint2(out[0], out[1]);
  }
}

}  // namespace

void QuantizeRowsCuda(const QuantizeRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  LaunchEarly(args.bfloat16 ? QuantizeRowsKernel<Bfloat> : QuantizeRowsKernel<Half>,
              {static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)}, args);
}

}  // namespace quantd::kernels
