// Rows of up to 1024 numbers (a head's) belong to a warp, longer ones to a block. Bound by memory:
// the second look at a row finds it in the cache.
#include "kernels/eight_cuda.cuh"
#include "kernels/norm_rows.h"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kWarp = 0xffffffffu;
constexpr int64_t kWarpColumnsMax = 1024;

// The same sum in all threads that share a row.
template <int kThreadsOfRow>
__device__ inline float SumOfRow(float sum) {
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWarp, sum, offset);
  if constexpr (kThreadsOfRow > 32) {
    __shared__ float of_warp[kThreadsOfRow / 32];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (const float other : of_warp) sum += other;
  }
  return sum;
}

template <typename Type, int kThreadsOfRow>
__global__ void __launch_bounds__(kThreads) NormKernel(NormRows args) {
  constexpr int kRowsOfBlock = kThreads / kThreadsOfRow;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kThreadsOfRow;
  if (row >= args.rows) return;
  const int thread = threadIdx.x % kThreadsOfRow;
  const int64_t eights = args.columns / 8;
  const auto* input = reinterpret_cast<const uint4*>(args.input + row * args.columns);
  const auto* weights = reinterpret_cast<const uint4*>(args.weight);
  auto* output = reinterpret_cast<uint4*>(args.output + row * args.columns);
  float sum = 0;
  for (int64_t place = thread; place < eights; place += kThreadsOfRow) {
    float x[8];
    Widen<Type>(input[place], x);
#pragma unroll
    for (const float value : x) sum += value * value;
  }
  sum = SumOfRow<kThreadsOfRow>(sum);
  const float inverse = rsqrtf(sum / static_cast<float>(args.columns) + args.eps);
  for (int64_t place = thread; place < eights; place += kThreadsOfRow) {
    float x[8], weight[8];
    Widen<Type>(input[place], x);
    Widen<Type>(__ldg(weights + place), weight);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float scaled = x[i] * inverse;
      x[i] = args.plus_one ? scaled * (1 + weight[i]) : weight[i] * Rounded<Type>(scaled);
    }
    output[place] = Narrow<Type>(x);
  }
}

template <int kThreadsOfRow>
void Run(const NormRows& args) {
  constexpr int kRowsOfBlock = kThreads / kThreadsOfRow;
  const auto blocks = static_cast<unsigned>((args.rows + kRowsOfBlock - 1) / kRowsOfBlock);
  const auto kernel =
      args.bfloat16 ? NormKernel<Bfloat, kThreadsOfRow> : NormKernel<Half, kThreadsOfRow>;
  kernel<<<blocks, kThreads, 0, Stream(args)>>>(args);
}

}  // namespace

void NormRowsCuda(const NormRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  args.columns <= kWarpColumnsMax ? Run<32>(args) : Run<kThreads>(args);
}

}  // namespace quantd::kernels
