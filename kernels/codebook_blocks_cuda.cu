// A warp takes a block of numbers: its largest magnitude, then every number's rank among the
// bounds. Bound by memory for tables of 16 entries.
#include "kernels/codebook_blocks.h"
#include "kernels/module_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kEntriesMax = 256;

// A Codebook that travels with the launch.
struct Book {
  int entries = 0;
  float bounds[kEntriesMax - 1] = {};
  uint8_t codes[kEntriesMax] = {};
};

Book BookOf(const Codebook& from) {
  Book book = {.entries = from.entries};
  for (int i = 0; i + 1 < from.entries; ++i) book.bounds[i] = from.bounds[i];
  for (int i = 0; i < from.entries; ++i) book.codes[i] = from.codes[i];
  return book;
}

__global__ void __launch_bounds__(kThreads) QuantizeKernel(QuantizeCodebook args, Book book) {
  __shared__ float bounds[kEntriesMax - 1];
  __shared__ uint8_t codes[kEntriesMax];
  for (int i = threadIdx.x; i < book.entries; i += kThreads) {
    if (i + 1 < book.entries) bounds[i] = book.bounds[i];
    codes[i] = book.codes[i];
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const int64_t blocks = (args.count + args.block_size - 1) / args.block_size;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t block = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; block < blocks;
       block += warps) {
    const int64_t begin = block * args.block_size;
    const int64_t left = args.count - begin;
    const int64_t count = left < args.block_size ? left : args.block_size;
    const float* const values = args.values + begin;
    // As bits, magnitudes compare like integers.
    uint32_t bits = 0;
    for (int64_t i = lane; i < count; i += 32) {
      bits = max(bits, __float_as_uint(values[i]) & 0x7fffffff);
    }
    const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, bits));
    if (lane == 0) args.absmax[block] = largest;
    const float inverse = 1.0f / (largest > 1e-38f ? largest : 1e-38f);
    for (int64_t i = lane; i < count; i += 32) {
      const float value = values[i] * inverse;  // Beyond [-1, 1] no bound is left to pass.
      int low = 0, high = book.entries - 1;
      while (low < high) {
        const int middle = (low + high) / 2;
        if (bounds[middle] < value) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      args.codes[begin + i] = codes[low];
    }
  }
}

__global__ void __launch_bounds__(kThreads) DequantizeKernel(DequantizeCodebook args) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.count;
       i += threads) {
    args.values[i] = __ldg(args.table + args.codes[i]) * args.absmax[i / args.block_size];
  }
}

unsigned BlocksOf(int64_t items, int64_t items_per_block) {
  constexpr int64_t kBlocksMax = 1 << 20;  // Kernels stride over what is left.
  const int64_t blocks = (items + items_per_block - 1) / items_per_block;
  return static_cast<unsigned>(blocks < kBlocksMax ? blocks : kBlocksMax);
}

}  // namespace

void QuantizeCodebookCuda(const QuantizeCodebook& args) {
  if (args.count == 0) return;
  const int64_t blocks = (args.count + args.block_size - 1) / args.block_size;
  QuantizeKernel<<<BlocksOf(blocks, kWarps), kThreads, 0, Stream(args)>>>(args,
                                                                          BookOf(*args.codebook));
}

void DequantizeCodebookCuda(const DequantizeCodebook& args) {
  if (args.count == 0) return;
  DequantizeKernel<<<BlocksOf(args.count, kThreads), kThreads, 0, Stream(args)>>>(args);
}

}  // namespace quantd::kernels
