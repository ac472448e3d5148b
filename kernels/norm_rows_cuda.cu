// Rows of up to 1024 numbers (a head's) belong to a warp, longer ones to a block. Bound by memory:
// a row is held between its sum and its output.
#include "kernels/norm_rows.h"
#include "kernels/row_output_cuda.cuh"

namespace quantd::kernels {
namespace {

// The same sum in all threads that share a row.
template <int kThreads>
__device__ inline float SumOfRow(float sum) {
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
  if constexpr (kThreads > 32) {
    __shared__ float of_warp[kThreads / 32];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (const float other : of_warp) sum += other;
  }
  return sum;
}

template <typename Type, int kThreads>
__global__ void __launch_bounds__(RowThreads<kThreads>::kOfBlock) NormKernel(NormRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = RowThreads<kThreads>::Row();
  if (row >= args.rows) return;
  const uint16_t* const input = args.input + row * args.columns;
  const auto load = [&](int64_t place) { return LoadFresh(input + place * 8); };
  HeldRow<kThreads> held(args.columns, load);
  float sum = 0;
  held.ForEach(load, [&](int64_t, const uint4& eight) {
    float x[8];
    Widen<Type>(eight, x);
#pragma unroll
    for (const float value : x) sum += value * value;
  });
  sum = SumOfRow<kThreads>(sum);
  const float inverse = rsqrtf(sum / static_cast<float>(args.columns) + args.eps);
  const auto* const weights = reinterpret_cast<const uint4*>(args.weight);
  const auto norm = [&](int64_t place, const uint4& eight) {
    float x[8], weight[8];
    Widen<Type>(eight, x);
    Widen<Type>(__ldg(weights + place), weight);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float scaled = x[i] * inverse;
      x[i] = args.plus_one ? scaled * (1 + weight[i]) : weight[i] * Rounded<Type>(scaled);
    }
    return Narrow<Type>(x);
  };
#pragma unroll
  for (int i = 0; i < HeldRow<kThreads>::kHeld; ++i) {
    const int64_t place = held.thread + i * kThreads;
    if (place < held.eights) held.held[i] = norm(place, held.held[i]);
  }
  WriteRow<Type>(args, row, held, [&](int64_t place) { return norm(place, load(place)); });
}

template <int kThreads>
void Run(const NormRows& args) {
  using Threads = RowThreads<kThreads>;
  LaunchEarly(args.bfloat16 ? NormKernel<Bfloat, kThreads> : NormKernel<Half, kThreads>,
              {Threads::Blocks(args.rows), Threads::kOfBlock, 0, Stream(args)}, args);
}

}  // namespace

void NormRowsCuda(const NormRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  if (args.columns <= HeldRow<32>::kColumns) return Run<32>(args);
  args.columns <= HeldRow<128>::kColumns ? Run<128>(args) : Run<512>(args);
}

}  // namespace quantd::kernels
