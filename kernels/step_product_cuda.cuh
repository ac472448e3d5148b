// The kernel of step_product.h. A block owns row tiles (16 outputs; of two weights at once where an
// activation joins them) and all columns, which its warps take in turn. Each thread copies the very
// bytes of the weights that it will feed to mma.sync, several items ahead, into slots of shared
// memory that no other thread looks at: nothing waits for anything but its own copies. The copies
// begin before the kernel in front has ended; the inputs, which it may still be writing, are staged
// for the whole block after that, normed or rounded on the way.
#pragma once

#include <algorithm>

#include "kernels/int8_code.h"
#include "kernels/step_weights_cuda.cuh"

namespace quantd::kernels::step {

// What this thread copies next.
template <typename Format>
struct Feeder {
  const StepProduct& args;
  const Plan& plan;
  uint32_t ring;  // This thread's first 16 bytes.
  int group = 0;
  int item = 0;
  int weight[kSlots] = {};
  typename Format::Source source[kSlots];

  __device__ bool Done() const { return group >= plan.groups || item >= plan.items; }
  __device__ void Begin() {
    item = threadIdx.x / 32;
    if (Done()) return;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot >= plan.slots) break;
      const Tile tile = TileOf(args, plan, group, slot);
      weight[slot] = tile.weight;
      source[slot] = Format::Begin(args, plan, tile, item);
    }
  }
  __device__ void Fetch(int stage) {
    if (!Done()) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        if (slot >= plan.slots) break;
        Format::Fetch(args, plan, source[slot], item,
                      ring + (stage * plan.slots + slot) * plan.slot_bytes);
        Format::Advance(plan, weight[slot], source[slot]);
      }
      item += kWarps;
      if (item >= plan.items) {
        group += gridDim.x;
        Begin();
      }
    }
    CopyAsyncCommit();
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

// One row's share of a thread while it is staged: its first eights are read once and held.
template <typename Type>
class RowShare {
 public:
  __device__ RowShare(const StepProduct& args, int64_t row, int part, int threads)
      : args_(args), part_(part), threads_(threads) {
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
      Widen<Type>(__ldg(reinterpret_cast<const uint4*>(args_.norm) + place), weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = Rounded<Type>(weight[i] * Rounded<Type>(x[i] * inverse_));
      }
    }
    visit(place, x);
  }

  const StepProduct& args_;
  const int part_, threads_;
  int eights_ = 0;
  const uint16_t* from_ = nullptr;
  float inverse_ = 1;
  bool normed_ = false;
  uint4 held_[kHeld];
};

// Puts x into `staged`, zeros behind its last column, and the scales of int8 rows into `scales`.
template <typename Format, typename Type>
__device__ inline void StageInput(const StepProduct& args, const Plan& plan, char* staged,
                                  float* scales, float* shared) {
  const int threads = kThreads / plan.rows_at_once;
  const int part = threadIdx.x % threads;
  const auto sum = [](float a, float b) { return a + b; };
  const auto larger = [](float a, float b) { return a != a || a > b ? a : b; };
  for (int first = 0; first < args.m; first += plan.rows_at_once) {
    const int row = first + threadIdx.x / threads;
    RowShare<Type> share(args, row, part, threads);
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

// Adds up the warps' sums in a fixed order and writes the outputs of one group. `both` has room for
// the sums of two input tiles, which are used in turn: one meeting of the warps is enough for each.
template <typename Format, typename Type, int kInputTiles>
__device__ inline void Finish(const StepProduct& args, const Plan& plan, int group,
                              typename Format::Sum (&sums)[kSlots][kInputTiles][4],
                              typename Format::Sum* both, const float* scales, int* turn) {
  using Sum = typename Format::Sum;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
    if (i * 8 >= args.m) break;
    Sum* const shared = both + *turn * kWarps * plan.slots * 128;
    *turn ^= 1;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot >= plan.slots) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        shared[((warp * plan.slots + slot) * 4 + j) * 32 + lane] = sums[slot][i][j];
        sums[slot][i][j] = 0;
      }
    }
    __syncthreads();
    const int j = warp % 4;
    const int row_of_tile = lane / 4 + j / 2 * 8;
    const int m = i * 8 + lane % 4 * 2 + j % 2;
    const Tile tile = TileOf(args, plan, group, 0);
    const StepWeight& weight = args.weights[tile.weight];
    const int64_t row = tile.index * 16 + row_of_tile;
    if (warp < 4 && m < args.m && row < weight.rows) {
      Sum total[kSlots] = {};
#pragma unroll
      for (int other = 0; other < kWarps; ++other) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
          if (slot < plan.slots) {
            total[slot] += shared[((other * plan.slots + slot) * 4 + j) * 32 + lane];
          }
        }
      }
      const float scale = Format::kInt8 ? scales[m] : 0;
      float y = Result<Type>(weight, total[0], row, scale);
      if (plan.slots == 2) {
        y = Rounded<Type>(Activate(args.activation, y)) *
            Result<Type>(args.weights[1], total[1], row, scale);
      }
      const int64_t at = m * plan.output_columns + tile.column + row;
      if (args.residual != nullptr) {
        y += Type::ToFloat(__ldcg(reinterpret_cast<const unsigned short*>(args.residual) + at));
      }
      if (args.wide != nullptr) {
        args.wide[at] = Rounded<Type>(y);
      } else {
        args.output[at] = Type::FromFloat(y);
      }
    }
  }
}

// Shared memory: zero row | scales | a number a warp | sums | table | staged inputs | ring.
template <typename Format, typename Type, int kInputTiles>
__global__ void __launch_bounds__(kThreads, 2)
    ProductKernel(const __grid_constant__ StepProduct args, const __grid_constant__ Plan plan,
                  const __grid_constant__ TableValues values) {
  extern __shared__ __align__(128) char shared[];
  char* const zero_row = shared;
  auto* const scales = reinterpret_cast<float*>(shared + kZeroRowBytes);
  float* const of_warp = scales + kRowsMax;
  auto* const sums_of_warps = reinterpret_cast<typename Format::Sum*>(shared + kFixedBytes);
  char* const after_sums = shared + kFixedBytes + kSumsBytes * plan.slots;
  auto* const table = reinterpret_cast<uint32_t*>(after_sums);
  char* const staged = after_sums + (Format::kTable ? kTableBytes : 0);
  char* const mine = staged + args.m * plan.input_bytes + threadIdx.x * 16;
  const int lane = threadIdx.x % 32;

  LetNextStart();
  Feeder<Format> feeder = {args, plan, SharedAddress(mine), static_cast<int>(blockIdx.x)};
  feeder.Begin();
  for (int stage = 0; stage < plan.stages - 1; ++stage) feeder.Fetch(stage);
  if (threadIdx.x < kZeroRowBytes / 4) reinterpret_cast<uint32_t*>(zero_row)[threadIdx.x] = 0;
  if constexpr (Format::kTable) FillTable<Type>(table, values);
  WaitForPrevious();
  StageInput<Format, Type>(args, plan, staged, scales, of_warp);

  typename Format::Sum sums[kSlots][kInputTiles][4] = {};
  int stage = 0, turn = 0;
  for (int group = blockIdx.x; group < plan.groups; group += gridDim.x) {
    for (int item = threadIdx.x / 32; item < plan.items; item += kWarps) {
      CopyAsyncWait(plan.stages - 2);
      feeder.Fetch(stage == 0 ? plan.stages - 1 : stage - 1);
      const char* input[kInputTiles];
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
        const int row = i * 8 + Format::InputRow();
        input[i] = row < args.m ? staged + row * plan.input_bytes +
                                      item * Format::kItemColumns * Format::kElement
                                : zero_row;
      }
      Format::template Item<Type, kInputTiles>(plan, mine + stage * plan.slots * plan.slot_bytes,
                                               input, table + lane, sums);
      if (++stage == plan.stages) stage = 0;
    }
    Finish<Format, Type, kInputTiles>(args, plan, group, sums, sums_of_warps, scales, &turn);
  }
}

// Launches it, in pieces where the rows of input do not all fit shared memory.
template <typename Format>
const char* Run(StepProduct args, int slot_bytes) {
  const Gpu& gpu = CurrentGpu();
  const W4Shape& packed = args.weights[0].shape;
  const bool tiled = args.weights[0].kind == StepKind::kW4;
  Plan plan = {.slots = args.activation == Activation::kNone ? 1 : 2,
               .slot_bytes = slot_bytes,
               .output_columns = StepOutputColumns(args),
               .tile_groups = tiled ? static_cast<int>(W4TileGroups(packed)) : 0,
               .tile_bytes = tiled ? static_cast<int>(W4TileBytes(packed)) : 0};
  for (int i = 0; i < args.count; ++i) {
    plan.column_bytes[i] = W4RowTiles(args.weights[i].shape) * plan.tile_bytes;
    plan.tiles[i] = static_cast<int>((args.weights[i].rows + 15) / 16);
    if (plan.slots == 1 || i == 0) plan.groups += plan.tiles[i];
  }
  plan.items = static_cast<int>((args.columns + Format::kItemColumns - 1) / Format::kItemColumns);
  plan.input_bytes = plan.items * Format::kItemColumns * Format::kElement + Format::kPad;
  const int stage_bytes = plan.slots * plan.slot_bytes;
  const int fixed = kFixedBytes + kSumsBytes * plan.slots + (Format::kTable ? kTableBytes : 0);
  const int64_t fitting = (gpu.shared_bytes_max - fixed - 2 * stage_bytes) / plan.input_bytes;
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
    while (plan.rows_at_once < some.m && plan.rows_at_once < kWarps) plan.rows_at_once *= 2;
    // Half of the shared memory, so that the kernel behind this one may begin beside it, unless
    // that leaves too few copies on their way.
    constexpr int kStagesWanted = 3;
    const int used = fixed + static_cast<int>(some.m) * plan.input_bytes;
    plan.stages = (gpu.shared_bytes_max / 2 - 1024 - used) / stage_bytes;
    if (plan.stages < kStagesWanted) plan.stages = (gpu.shared_bytes_max - used) / stage_bytes;
    plan.stages = std::min(plan.stages, kStagesMax);
    const int bytes = used + plan.stages * stage_bytes;
    const bool half = bytes <= gpu.shared_bytes_max / 2 - 1024;
    const auto kernel =
        args.bfloat16
            ? (some.m > 8 ? ProductKernel<Format, Bfloat, 4> : ProductKernel<Format, Bfloat, 1>)
            : (some.m > 8 ? ProductKernel<Format, Half, 4> : ProductKernel<Format, Half, 1>);
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    const int blocks = std::min(plan.groups, gpu.processors * (half ? 2 : 1));
    if (const char* text =
            LaunchEarly(kernel, {static_cast<unsigned>(blocks), kThreads, bytes, Stream(args)},
                        some, plan, values)) {
      return text;
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels::step
