// A thread turns two neighbouring pairs, or copies two numbers. Bound by memory.
#include <algorithm>

#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/rope_heads.h"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;

// T(a * b) of the lower or upper halves of two words.
template <typename Type>
__device__ inline float Product(uint32_t a, uint32_t b, int which) {
  const float x = Type::ToFloat(static_cast<uint16_t>(a >> (16 * which)));
  const float y = Type::ToFloat(static_cast<uint16_t>(b >> (16 * which)));
  return Type::ToFloat(Type::FromFloat(x * y));
}

__device__ inline uint32_t Two(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}

__device__ inline uint32_t Word(const uint16_t* from) {
  return *reinterpret_cast<const uint32_t*>(from);
}

template <typename Type>
__device__ inline void TurnTwo(const RopeHeads& args, const uint16_t* x, const uint16_t* cos,
                               const uint16_t* sin, int64_t i, uint16_t* y) {
  const int64_t half = args.turned / 2;
  const uint32_t low = Word(x + i), high = Word(x + i + half);
  const uint32_t cos_low = Word(cos + i), cos_high = Word(cos + i + half);
  const uint32_t sin_low = Word(sin + i), sin_high = Word(sin + i + half);
  uint16_t first[2], second[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    first[k] = Type::FromFloat(Product<Type>(low, cos_low, k) - Product<Type>(high, sin_low, k));
    second[k] = Type::FromFloat(Product<Type>(high, cos_high, k) + Product<Type>(low, sin_high, k));
  }
  *reinterpret_cast<uint32_t*>(y + i) = Two(first[0], first[1]);
  *reinterpret_cast<uint32_t*>(y + i + half) = Two(second[0], second[1]);
}

// Index is 32 bits wide where that is enough: most of what a thread does is to divide by sizes.
template <typename Type, typename Index>
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeHeads args, Index items) {
  const Index pairs = static_cast<Index>(args.turned / 4);
  const Index of_head = pairs + static_cast<Index>((args.dim - args.turned) / 2);
  const Index threads = static_cast<Index>(gridDim.x) * kThreads;
  for (Index item = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += threads) {
    const Index heads = item / of_head, tokens = heads / static_cast<Index>(args.heads);
    const int64_t place = item - heads * of_head;
    const int64_t head = heads - tokens * static_cast<Index>(args.heads);
    const int64_t b = tokens / static_cast<Index>(args.tokens);
    const int64_t token = tokens - b * args.tokens;
    const uint16_t* const x =
        args.input + b * args.from.batch + head * args.from.head + token * args.from.token;
    uint16_t* const y =
        args.output + b * args.to.batch + head * args.to.head + token * args.to.token;
    const int64_t table = b * args.table_batch_stride + token * args.turned;
    if (place < pairs) {
      TurnTwo<Type>(args, x, args.cos + table, args.sin + table, 2 * place, y);
    } else {
      const int64_t i = args.turned + 2 * (place - pairs);
      *reinterpret_cast<uint32_t*>(y + i) = Word(x + i);
    }
  }
}

template <typename Index>
void Run(const RopeHeads& args, Index items) {
  constexpr Index kBlocksMax = 1 << 20;  // The kernel strides over what is left.
  const Index blocks = std::min<Index>((items + kThreads - 1) / kThreads, kBlocksMax);
  const auto kernel = args.bfloat16 ? RopeKernel<Bfloat, Index> : RopeKernel<Half, Index>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, Stream(args)>>>(args, items);
}

}  // namespace

void RopeHeadsCuda(const RopeHeads& args) {
  const int64_t items =
      args.batch * args.heads * args.tokens * (args.turned / 4 + (args.dim - args.turned) / 2);
  if (items == 0) return;
  // A stride past the last item must fit, too.
  items <= int64_t{1} << 30 ? Run(args, static_cast<uint32_t>(items)) : Run(args, items);
}

}  // namespace quantd::kernels
