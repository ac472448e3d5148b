// The kernel of step_product.h. A block owns row tiles (16 outputs; of two weights at once where an
// activation joins them) and all columns, which its warps take in turn. Each thread loads the very
// bytes of the weights that it will feed to mma.sync into registers, several items ahead; the first
// are on their way before the kernel in front has ended. The inputs, which that one may still be
// writing, are staged in shared memory for the whole block after that, normed or rounded on the
// way.
#pragma once

#include <algorithm>

#include "kernels/int8_code.h"
#include "kernels/step_weights_cuda.cuh"

namespace quantd::kernels::step {

// What this thread loads next: of each of its warp's turns a piece of every slot.
template <typename Format, int kWarps, int kSlots>
struct Feeder {
  const StepProduct& args;
  const Plan& plan;
  int group = 0;
  int item = 0;
  typename Format::Source source[kSlots];

  __device__ void Begin() {
    item = threadIdx.x / 32;
    if (group >= plan.groups) return;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      source[slot] = Format::Begin(args, plan, TileOf<kSlots>(args, plan, group, slot), item);
    }
  }
  // The next item, the `place`-th of a turn; groups begin with turns.
  __device__ void Load(int place, typename Format::Piece (&pieces)[kSlots]) {
    if (group >= plan.groups) return;
    if (item < plan.items) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        Format::Load(plan, source[slot], kWarps, pieces[slot]);
      }
    }
    item += kWarps;
    if (place == kAhead - 1 && item - static_cast<int>(threadIdx.x / 32) >= plan.items) {
      group += gridDim.x;
      Begin();
    }
  }
};

// The same in all threads of a row, which are whole warps. `shared` has a number for each warp.
template <typename Combine>
__device__ inline float OverRow(float value, int threads_of_row, float* shared,
                                const Combine& combine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kWarp, value, offset));
  }
  const int warps = threads_of_row / 32;
  if (warps == 1) return value;
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const int first = threadIdx.x / threads_of_row * warps;
  value = shared[first];
  for (int other = 1; other < warps; ++other) value = combine(value, shared[first + other]);
  return value;
}

// One row's share of a thread while it is staged: its first eights are read once and held. `norm`:
// its weights in shared memory.
template <typename Type>
class RowShare {
 public:
  __device__ RowShare(const StepProduct& args, const char* norm, int64_t row, int part, int threads)
      : norm_(reinterpret_cast<const uint4*>(norm)), part_(part), threads_(threads) {
    if (row >= args.m) return;
    from_ = args.input + row * args.columns;
    eights_ = static_cast<int>(args.columns / 8);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (part_ + i * threads_ < eights_) held_[i] = LoadFresh(from_ + (part_ + i * threads_) * 8);
    }
  }

  // visit(place, x[8]) for each of its eights; once there is an inverse, of the normed row.
  template <typename Visit>
  __device__ void ForEach(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (part_ + i * threads_ < eights_) VisitOne(part_ + i * threads_, held_[i], visit);
    }
    for (int place = part_ + kHeld * threads_; place < eights_; place += threads_) {
      VisitOne(place, LoadFresh(from_ + place * 8), visit);
    }
  }
  __device__ void Norm(float inverse) {
    inverse_ = inverse;
    normed_ = true;
  }

 private:
  static constexpr int kHeld = 4;

  template <typename Visit>
  __device__ void VisitOne(int place, const uint4& eight, const Visit& visit) const {
    float x[8];
    Widen<Type>(eight, x);
    if (normed_) {
      float weight[8];
      Widen<Type>(norm_[place], weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = Rounded<Type>(weight[i] * Rounded<Type>(x[i] * inverse_));
      }
    }
    visit(place, x);
  }

  const uint4* const norm_;
  const int part_, threads_;
  int eights_ = 0;
  const uint16_t* from_ = nullptr;
  float inverse_ = 1;
  bool normed_ = false;
  uint4 held_[kHeld];
};

// Puts x into `staged`, zeros behind its last column, and the scales of int8 rows into `scales`.
template <typename Format, typename Type, int kThreads>
__device__ inline void StageInput(const StepProduct& args, const Plan& plan, const char* norm,
                                  char* staged, float* scales, float* shared) {
  const int threads = kThreads / plan.rows_at_once;
  const int part = threadIdx.x % threads;
  const auto sum = [](float a, float b) { return a + b; };
  const auto larger = [](float a, float b) { return a != a || a > b ? a : b; };
  for (int first = 0; first < args.m; first += plan.rows_at_once) {
    const int row = first + threadIdx.x / threads;
    RowShare<Type> share(args, norm, row, part, threads);
    if (args.norm != nullptr) {
      float squares = 0;
      share.ForEach([&](int, const float(&x)[8]) {
#pragma unroll
        for (const float value : x) squares += value * value;
      });
      squares = OverRow(squares, threads, shared, sum);
      share.Norm(rsqrtf(squares / static_cast<float>(args.columns) + args.eps));
    }
    char* const to = staged + row * plan.input_bytes;
    if constexpr (Format::kInt8) {
      const float given = args.weights[0].input_scale;
      Int8Scaling scaling = {given, 0};
      if (given == 0) {
        float largest = 0;
        share.ForEach([&](int, const float(&x)[8]) {
#pragma unroll
          for (const float value : x) largest = larger(fabsf(value), largest);
        });
        scaling = Int8ScalingOf(OverRow(largest, threads, shared, larger));
      }
      if (part == 0 && row < args.m) scales[row] = scaling.scale;
      share.ForEach([&](int place, const float(&x)[8]) {
        uint32_t words[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const auto code = given != 0 ? StaticInt8Code(x[i], given)
                                       : static_cast<int8_t>(Int8Code(x[i], scaling.inverse));
          words[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(code)) << (i % 4 * 8);
        }
        *reinterpret_cast<uint2*>(to + place * 8) = make_uint2(words[0], words[1]);
      });
    } else {
      share.ForEach([&](int place, const float(&x)[8]) {
        *reinterpret_cast<uint4*>(to + place * 16) = Narrow<Type>(x);
      });
    }
    if (row < args.m) {
      const int width = plan.input_bytes - Format::kPad;
      for (int byte = static_cast<int>(args.columns) * Format::kElement + part * 4; byte < width;
           byte += threads * 4) {
        *reinterpret_cast<uint32_t*>(to + byte) = 0;
      }
    }
  }
  __syncthreads();
}

// y of one weight, rounded.
template <typename Type, typename Sum>
__device__ inline float Result(const StepWeight& weight, Sum sum, int64_t row, float input_scale) {
  float value;
  if constexpr (std::is_same_v<Sum, int32_t>) {
    value = static_cast<float>(sum) * (input_scale * weight.scales[row]);
  } else {
    value = sum;
  }
  if (weight.bias != nullptr) value += Type::ToFloat(weight.bias[row]);
  return Rounded<Type>(value);
}

// The outputs that a thread of the first four warps writes of a group: of each tile of eight input
// rows one, at the place that mma.sync gives number j of a lane's sums.
template <int kInputTiles>
struct Outputs {
  int weight;
  int64_t row;  // Of the weight; one behind its last: none.
  int64_t at;   // Of row 0 of the output.
  uint16_t residual[kInputTiles];

  static __device__ int Row(int tile) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return tile * 8 + lane % 4 * 2 + warp % 2;
  }
  template <int kSlots>
  static __device__ Outputs Of(const StepProduct& args, const Plan& plan, int group) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Tile tile = TileOf<kSlots>(args, plan, group, 0);
    Outputs outputs = {tile.weight, tile.index * 16 + lane / 4 + warp / 2 % 2 * 8};
    outputs.at = tile.column + outputs.row;
    if (warp >= 4) outputs.row = args.weights[tile.weight].rows;
    if (args.residual == nullptr || outputs.row >= args.weights[tile.weight].rows) return outputs;
#pragma unroll
    for (int i = 0; i < kInputTiles; ++i) {
      if (Row(i) >= args.m) break;
      outputs.residual[i] = __ldcg(reinterpret_cast<const unsigned short*>(args.residual) +
                                   Row(i) * plan.output_columns + outputs.at);
    }
    return outputs;
  }
};

// Adds up the warps' sums in a fixed order and writes the outputs of one group. `both` has room for
// the sums of two input tiles, which are used in turn: one meeting of the warps is enough for each.
template <typename Format, typename Type, int kWarps, int kInputTiles, int kSlots>
__device__ inline void Finish(const StepProduct& args, const Plan& plan,
                              const Outputs<kInputTiles>& outputs,
                              typename Format::Sum (&sums)[kSlots][kInputTiles][4],
                              typename Format::Sum* both, const float* scales, int* turn) {
  using Sum = typename Format::Sum;
  using OfWarp = Sum[kSlots][4][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
    if (i * 8 >= args.m) break;
    OfWarp* const held = reinterpret_cast<OfWarp*>(both) + *turn * kWarps;
    *turn ^= 1;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        held[warp][slot][j][lane] = sums[slot][i][j];
        sums[slot][i][j] = 0;
      }
    }
    __syncthreads();
    const int m = Outputs<kInputTiles>::Row(i);
    const StepWeight& weight = args.weights[outputs.weight];
    if (m >= args.m || outputs.row >= weight.rows) continue;
    Sum total[kSlots] = {};
#pragma unroll
    for (int other = 0; other < kWarps; ++other) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) total[slot] += held[other][slot][warp][lane];
    }
    const float scale = Format::kInt8 ? scales[m] : 0;
    float y = Result<Type>(weight, total[0], outputs.row, scale);
    if constexpr (kSlots == 2) {
      y = Rounded<Type>(Activate(args.activation, y)) *
          Result<Type>(args.weights[1], total[1], outputs.row, scale);
    }
    const int64_t at = m * plan.output_columns + outputs.at;
    if (args.residual != nullptr) y += Type::ToFloat(outputs.residual[i]);
    if (args.wide != nullptr) {
      args.wide[at] = Rounded<Type>(y);
    } else {
      args.output[at] = Type::FromFloat(y);
    }
  }
}

// Bytes of the sums of all warps of a block, for each row tile of a group.
QD_HOST_DEVICE constexpr int SumsBytes(int warps) { return 2 * warps * 512; }

// Shared memory: zero row | scales | a number a warp | sums | table | norm | staged inputs.
template <typename Format, typename Type, int kWarps, int kInputTiles, int kSlots>
__global__ void __launch_bounds__(kWarps * 32, kInputTiles == 1 ? 16 / kWarps : 1)
    ProductKernel(const __grid_constant__ StepProduct args, const __grid_constant__ Plan plan,
                  const __grid_constant__ TableValues values) {
  extern __shared__ __align__(128) char shared[];
  char* const zero_row = shared;
  auto* const scales = reinterpret_cast<float*>(shared + kZeroRowBytes);
  float* const of_warp = scales + kRowsMax;
  auto* const sums_of_warps = reinterpret_cast<typename Format::Sum*>(shared + kFixedBytes);
  char* const after_sums = shared + kFixedBytes + SumsBytes(kWarps) * kSlots;
  auto* const table = reinterpret_cast<uint32_t*>(after_sums);
  char* const norm = after_sums + (Format::kTable ? kTableBytes : 0);
  char* const staged = norm + plan.norm_bytes;

  Feeder<Format, kWarps, kSlots> feeder = {args, plan, static_cast<int>(blockIdx.x)};
  typename Format::Piece pieces[kAhead][kSlots];
  feeder.Begin();
#pragma unroll
  for (int ahead = 0; ahead < kAhead; ++ahead) feeder.Load(ahead, pieces[ahead]);
  if (threadIdx.x < kZeroRowBytes / 4) reinterpret_cast<uint32_t*>(zero_row)[threadIdx.x] = 0;
  if constexpr (Format::kTable) FillTable<Type>(table, values);
  for (int i = threadIdx.x * 16; i < plan.norm_bytes; i += kWarps * 512) {
    *reinterpret_cast<uint4*>(norm + i) =
        __ldg(reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(args.norm) + i));
  }
  __syncthreads();
  WaitForPrevious();
  // Not before: blocks that only wait take the room of those that work, and what is two kernels
  // ahead has been written for sure.
  LetNextStart();
  StageInput<Format, Type, kWarps * 32>(args, plan, norm, staged, scales, of_warp);

  const char* inputs[kInputTiles];
  int input_step[kInputTiles];  // From one item to the next.
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
    const int row = i * 8 + Format::InputRow();
    const bool there = row < args.m;
    inputs[i] = (there ? staged + row * plan.input_bytes : zero_row) + Format::InputByte();
    input_step[i] = there ? Format::kItemColumns * Format::kElement : 0;
  }
  typename Format::Sum sums[kSlots][kInputTiles][4] = {};
  const int warp = threadIdx.x / 32;
  int turn = 0;
  for (int group = blockIdx.x; group < plan.groups; group += gridDim.x) {
    const auto outputs = Outputs<kInputTiles>::template Of<kSlots>(args, plan, group);
    for (int first = warp; first - warp < plan.items; first += kAhead * kWarps) {
#pragma unroll
      for (int place = 0; place < kAhead; ++place) {
        const int item = first + place * kWarps;
        if (item < plan.items) {
          const char* input[kInputTiles];
#pragma unroll
          for (int i = 0; i < kInputTiles; ++i) input[i] = inputs[i] + item * input_step[i];
#pragma unroll
          for (int slot = 0; slot < kSlots; ++slot) {
            Format::template Item<Type, kInputTiles>(pieces[place][slot], input,
                                                     table + threadIdx.x % 32, sums[slot]);
          }
        }
        feeder.Load(place, pieces[place]);
      }
    }
    Finish<Format, Type, kWarps, kInputTiles, kSlots>(args, plan, outputs, sums, sums_of_warps,
                                                      scales, &turn);
  }
}

using Kernel = void (*)(StepProduct, Plan, TableValues);

template <typename Format, typename Type, int kSlots>
Kernel Choose(int64_t m, int warps) {
  return m > 8       ? ProductKernel<Format, Type, 8, 4, kSlots>
         : warps > 8 ? ProductKernel<Format, Type, 16, 1, kSlots>
                     : ProductKernel<Format, Type, 8, 1, kSlots>;
}

// Launches it, in pieces where the rows of input do not all fit shared memory.
template <typename Format, int kSlots>
const char* RunSlots(const StepProduct& args) {
  const Gpu& gpu = CurrentGpu();
  const W4Shape& packed = args.weights[0].shape;
  const bool tiled = args.weights[0].kind == StepKind::kW4;
  Plan plan = {.norm_bytes = args.norm == nullptr ? 0 : static_cast<int>(args.columns) * 2,
               .output_columns = StepOutputColumns(args),
               .tile_groups = tiled ? static_cast<int>(W4TileGroups(packed)) : 0,
               .tile_bytes = tiled ? static_cast<int>(W4TileBytes(packed)) : 0};
  for (int i = 0; i < args.count; ++i) {
    plan.column_bytes[i] = W4RowTiles(args.weights[i].shape) * plan.tile_bytes;
    plan.tiles[i] = static_cast<int>((args.weights[i].rows + 15) / 16);
    if (kSlots == 1 || i == 0) plan.groups += plan.tiles[i];
  }
  plan.items = static_cast<int>((args.columns + Format::kItemColumns - 1) / Format::kItemColumns);
  plan.input_bytes = plan.items * Format::kItemColumns * Format::kElement + Format::kPad;
  // Where a processor has one group at most, all its warps work on it.
  const int warps = plan.groups <= gpu.processors && args.m <= 8 ? kWarpsMax : 8;
  const int fixed = kFixedBytes + SumsBytes(warps) * kSlots + (Format::kTable ? kTableBytes : 0) +
                    plan.norm_bytes;
  const int64_t fitting = (gpu.shared_bytes_max - fixed) / plan.input_bytes;
  if (fitting < 1) return "step_product: too little shared memory for a row of so many columns";
  TableValues values = {};
  if constexpr (Format::kTable) {
    for (int code = 0; code < 16; ++code) {
      values.value[code] = W4Table(packed.kind)[code];
    }
  }
  const int64_t pieces_of = std::min<int64_t>(fitting, kRowsMax);
  const int64_t pieces = (args.m + pieces_of - 1) / pieces_of;
  const int64_t total = args.m;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t begin = total * piece / pieces, end = total * (piece + 1) / pieces;
    StepProduct some = args;
    some.m = end - begin;
    some.input += begin * args.columns;
    if (args.residual != nullptr) some.residual += begin * plan.output_columns;
    if (args.output != nullptr) some.output += begin * plan.output_columns;
    if (args.wide != nullptr) some.wide += begin * plan.output_columns;
    plan.rows_at_once = 1;
    while (plan.rows_at_once < some.m && plan.rows_at_once < 8) plan.rows_at_once *= 2;
    const int bytes = fixed + static_cast<int>(some.m) * plan.input_bytes;
    const Kernel kernel = args.bfloat16 ? Choose<Format, Bfloat, kSlots>(some.m, warps)
                                        : Choose<Format, Half, kSlots>(some.m, warps);
    const int threads = (some.m > 8 ? 8 : warps) * 32;
    int beside = 0;  // Blocks of a processor.
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess) {
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&beside, kernel, threads,
                                                            static_cast<size_t>(bytes));
    }
    if (error != cudaSuccess) return cudaGetErrorString(error);
    const auto blocks = static_cast<unsigned>(std::min(plan.groups, gpu.processors * beside));
    if (const char* text =
            LaunchEarly(kernel, {blocks, threads, bytes, Stream(args)}, some, plan, values)) {
      return text;
    }
  }
  return nullptr;
}

template <typename Format>
const char* Run(const StepProduct& args) {
  return args.activation == Activation::kNone ? RunSlots<Format, 1>(args)
                                              : RunSlots<Format, 2>(args);
}

}  // namespace quantd::kernels::step
