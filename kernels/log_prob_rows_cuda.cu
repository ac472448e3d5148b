// A block a row, which it reads once: every thread keeps the largest of its logits and the sum
// relative to it, and threads add theirs up in a fixed order.
#include "kernels/eight_cuda.cuh"
#include "kernels/log_prob_rows.h"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 512;
constexpr unsigned kWarp = 0xffffffffu;

// The sum of exp(x) is sum * exp(largest); over nothing, largest is -infinity and sum 0.
struct ExpSum {
  float largest;
  float sum;
};

// What is subtracted in the exponent: -infinity less itself would be NaN.
__device__ inline float Shift(float largest) { return largest == -INFINITY ? 0 : largest; }

__device__ inline ExpSum Add(const ExpSum& a, const ExpSum& b) {
  const float largest = fmaxf(a.largest, b.largest);
  const float shift = Shift(largest);
  return {largest, a.sum * expf(a.largest - shift) + b.sum * expf(b.largest - shift)};
}

template <int kCount>
__device__ inline void AddValues(const float (&x)[kCount], ExpSum& total) {
  float largest = total.largest;
#pragma unroll
  for (const float value : x) largest = fmaxf(largest, value);
  const float shift = Shift(largest);
  if (largest != total.largest) total.sum *= expf(total.largest - shift);
  total.largest = largest;
#pragma unroll
  for (const float value : x) total.sum += expf(value - shift);
}

// The sum over the block, for thread 0.
__device__ inline ExpSum OfBlock(ExpSum total) {
  const auto of_warp = [&total](int first) {
    for (int offset = first; offset > 0; offset /= 2) {
      const ExpSum other = {__shfl_xor_sync(kWarp, total.largest, offset),
                            __shfl_xor_sync(kWarp, total.sum, offset)};
      total = Add(total, other);
    }
  };
  constexpr int kWarps = kThreads / 32;
  __shared__ ExpSum sums[kWarps];
  of_warp(16);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x >= 32) return total;
  total = sums[threadIdx.x % kWarps];
  of_warp(kWarps / 2);
  return total;
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) LogProbKernel(LogProbRows args) {
  const int64_t row = blockIdx.x;
  const uint16_t* logits = args.logits + row * args.columns;
  const int64_t target = args.targets[row];
  const float wanted = Type::ToFloat(logits[target]);
  ExpSum total = {-INFINITY, 0};
  bool beaten = false;
  const auto take = [&](const auto& x, int64_t first) {
    AddValues(x, total);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(x) / sizeof(float)); ++i) {
      beaten |= x[i] > wanted || (x[i] == wanted && first + i < target);
    }
  };
  const auto take_one = [&](int64_t i) {
    const float x[1] = {Type::ToFloat(logits[i])};
    take(x, i);
  };
  // Eights are aligned; what is before and behind them goes one by one.
  const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(logits) % 16 / 2);
  const int64_t before = min((8 - misaligned) % 8, args.columns);
  const int64_t eights = (args.columns - before) / 8;
  if (threadIdx.x < before) take_one(threadIdx.x);
  const auto* body = reinterpret_cast<const uint4*>(logits + before);
  for (int64_t place = threadIdx.x; place < eights; place += kThreads) {
    float x[8];
    Widen<Type>(__ldcs(body + place), x);
    take(x, before + place * 8);
  }
  const int64_t behind = before + eights * 8 + threadIdx.x;
  if (behind < args.columns) take_one(behind);

  beaten = __syncthreads_or(beaten);
  total = OfBlock(total);
  if (threadIdx.x != 0) return;
  const float log_prob = wanted - total.largest - logf(total.sum);
  args.log_probs[row] = log_prob;
  args.greedy[row] = !beaten && !isnan(log_prob) ? 1 : 0;
}

}  // namespace

void LogProbRowsCuda(const LogProbRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  const auto kernel = args.bfloat16 ? LogProbKernel<Bfloat> : LogProbKernel<Half>;
  kernel<<<static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)>>>(args);
}

}  // namespace quantd::kernels
