// The quantizers' operations in which every group or code stands for itself: find_params, rtn_rows,
// dequantize_rows, pack_bits, unpack_bits. Bound by memory, apart from the search of scales.
#include "kernels/module_cuda.cuh"
#include "kernels/search_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;

int Blocks(int64_t items, int64_t items_per_block = kThreads) {
  constexpr int64_t kBlocksMax = 1 << 20;  // Kernels stride over what is left.
  const int64_t blocks = (items + items_per_block - 1) / items_per_block;
  return static_cast<int>(blocks < kBlocksMax ? blocks : kBlocksMax);
}

__global__ void __launch_bounds__(kThreads) FindParamsKernel(FindParams args, int64_t groups) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  for (int64_t item = first; item < args.rows * groups; item += warps) {
    const int64_t row = item / groups;
    const int64_t group = item % groups;
    const int64_t begin = group * args.group_columns;
    const int64_t left = args.columns - begin;
    const float* column_weights = args.column_weights;
    const GroupParams params =
        FindWarpParams(args.weight + row * args.weight_stride + begin,
                       left < args.group_columns ? left : args.group_columns,
                       {args.bits, args.symmetric, args.search_steps,
                        column_weights == nullptr ? nullptr : column_weights + begin});
    if (threadIdx.x % 32 == 0) {
      args.scales[row * args.params_stride + group] = params.scale;
      args.zeros[row * args.params_stride + group] = params.zero;
    }
  }
}

__global__ void __launch_bounds__(kThreads) RtnRowsKernel(RtnRows args) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < args.rows * args.columns; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = i / args.columns;
    const int64_t column = i % args.columns;
    const int64_t param = row * args.params_stride + column / args.group_columns;
    const float zero = args.zeros[param];
    float steps = args.weight[row * args.weight_stride + column] / HalfToFloat(args.scales[param]);
    steps = steps < -zero ? -zero : steps;
    steps = steps > code_max - zero ? code_max - zero : steps;
    args.codes[row * args.codes_stride + column] =
        static_cast<uint8_t>(static_cast<int>(RoundHalfEven(steps) + zero));
  }
}

__global__ void __launch_bounds__(kThreads) DequantizeRowsKernel(DequantizeRows args) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < args.rows * args.columns; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = i / args.columns;
    const int64_t column = i % args.columns;
    const int64_t param = row * args.params_stride + args.group_index[column];
    const int steps = args.codes[row * args.codes_stride + column] - args.zeros[param];
    args.weight[row * args.weight_stride + column] =
        HalfToFloat(args.scales[param]) * static_cast<float>(steps);
  }
}

// One thread a word. Bits of a word come from at most 17 codes.
__global__ void __launch_bounds__(kThreads) PackBitsKernel(PackBits args, int64_t words) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.runs * words;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    // Neighbouring threads take neighbouring runs when those lie closer than a run's words do.
    const bool runs_first = args.words_run_stride < args.word_stride;
    const int64_t run = runs_first ? i % args.runs : i / words;
    const int64_t word = runs_first ? i / args.runs : i % words;
    const uint8_t* codes = args.codes + run * args.run_stride;
    uint32_t bits = 0;
    for (int64_t code = word * 32 / args.bits; code * args.bits < (word + 1) * 32; ++code) {
      const int64_t shift = code * args.bits - word * 32;
      const uint32_t value = codes[code * args.code_stride];
      bits |= shift >= 0 ? value << shift : value >> -shift;
    }
    args.words[run * args.words_run_stride + word * args.word_stride] = bits;
  }
}

__global__ void __launch_bounds__(kThreads) UnpackBitsKernel(UnpackBits args) {
  const uint64_t mask = (uint64_t{1} << args.bits) - 1;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < args.runs * args.codes_per_run; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t run = i / args.codes_per_run;
    const int64_t code = i % args.codes_per_run;
    const uint32_t* words = args.words + run * args.words_run_stride;
    const int64_t bit = code * args.bits;
    uint64_t value = words[bit / 32 * args.word_stride];
    if (bit % 32 + args.bits > 32) {
      value |= static_cast<uint64_t>(words[(bit / 32 + 1) * args.word_stride]) << 32;
    }
    args.codes[run * args.run_stride + code * args.code_stride] =
        static_cast<uint8_t>(value >> (bit % 32) & mask);
  }
}

}  // namespace

void FindParamsCuda(const FindParams& args) {
  const int64_t groups = (args.columns + args.group_columns - 1) / args.group_columns;
  if (args.rows * groups == 0) return;
  FindParamsKernel<<<Blocks(args.rows * groups, kThreads / 32), kThreads, 0, Stream(args)>>>(
      args, groups);
}

void RtnRowsCuda(const RtnRows& args) {
  if (args.rows * args.columns == 0) return;
  RtnRowsKernel<<<Blocks(args.rows * args.columns), kThreads, 0, Stream(args)>>>(args);
}

void DequantizeRowsCuda(const DequantizeRows& args) {
  if (args.rows * args.columns == 0) return;
  DequantizeRowsKernel<<<Blocks(args.rows * args.columns), kThreads, 0, Stream(args)>>>(args);
}

void PackBitsCuda(const PackBits& args) {
  const int64_t words = args.codes_per_run * args.bits / 32;
  if (args.runs * words == 0) return;
  PackBitsKernel<<<Blocks(args.runs * words), kThreads, 0, Stream(args)>>>(args, words);
}

void UnpackBitsCuda(const UnpackBits& args) {
  if (args.runs * args.codes_per_run == 0) return;
  UnpackBitsKernel<<<Blocks(args.runs * args.codes_per_run), kThreads, 0, Stream(args)>>>(args);
}

}  // namespace quantd::kernels
