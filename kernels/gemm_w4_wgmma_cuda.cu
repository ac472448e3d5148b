// More rows of input on Hopper: weights are decoded into the registers of wgmma's left operand while
// the tensor cores work on those before, inputs come through the copy engine as the right operand.
// What is computed is the transpose of the output: 256 outputs a block by 16 ... 128 rows of input.
//
// One warp copies, two groups of four warps compute. Where the tiles of the output are fewer than
// the processors, the columns are split among blocks; the last of a tile adds the parts in order.
#include <cuda.h>

#include <type_traits>

#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/wgmma_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kGroups = 2;        // Of warps that compute.
constexpr int kBlocksOfGroup = 2;  // Of 64 rows each.
constexpr int kTileRows = kGroups * kBlocksOfGroup * 64;
constexpr int kRowTiles = kTileRows / kW4TileRows;
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kStagesMax = 8;
constexpr int kSwizzleColumns = 64;  // 128 bytes.
constexpr int kSplitsMax = 16;
constexpr int64_t kCounterBytes = 1 << 20;
// A tile of the output on its way out, 64 outputs a row; padded so that rows start in other banks.
constexpr int kStagingRowBytes = 64 * 2 + 16;

struct Plan {
  int stages;
  int splits;
  int tile_bytes;
  int tile_groups;
  int column_tiles;
  int row_tiles_stored;
  int weight_bytes;  // Of one stage, rounded up to where the swizzle repeats.
  int stage_bytes;
};

struct Part {
  int row_tile;  // The first of the block.
  int m;         // The first row of input.
  int begin, end;  // Column tiles.
};

template <int kRowsOfInput>
__device__ inline Part PartOfBlock(const Plan& plan) {
  const int split = static_cast<int>(blockIdx.z);
  return {static_cast<int>(blockIdx.x) * kRowTiles, static_cast<int>(blockIdx.y) * kRowsOfInput,
          plan.column_tiles * split / plan.splits, plan.column_tiles * (split + 1) / plan.splits};
}

__device__ inline void CopyInput(uint32_t to, const CUtensorMap* map, int column, int row,
                                 uint32_t barrier) {
#if QD_WGMMA
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
#endif
}

// The copying warp's one thread.
template <int kRowsOfInput>
__device__ inline void Produce(const GemmW4A16& args, const CUtensorMap* map, const Plan& plan,
                               uint32_t ring, uint32_t full, uint32_t empty) {
  const Part part = PartOfBlock<kRowsOfInput>(plan);
  constexpr uint32_t kBoxBytes = kRowsOfInput * kSwizzleColumns * 2;
  const int tiles = min(kRowTiles, plan.row_tiles_stored - part.row_tile);
  const auto weights = [&](int index) {
    const int stage = index % plan.stages;
    BarrierExpect(full + stage * 8, tiles * plan.tile_bytes + 2 * kBoxBytes);
    const int64_t tile =
        static_cast<int64_t>(part.begin + index) * plan.row_tiles_stored + part.row_tile;
    BulkCopy(ring + stage * plan.stage_bytes,
             static_cast<const char*>(args.packed) + tile * plan.tile_bytes,
             tiles * plan.tile_bytes, full + stage * 8);
  };
  const auto input = [&](int index) {
    const int stage = index % plan.stages;
    const int column = (part.begin + index) * kW4TileColumns;
    const uint32_t to = ring + stage * plan.stage_bytes + plan.weight_bytes;
    CopyInput(to, map, column, part.m, full + stage * 8);
    CopyInput(to + kBoxBytes, map, column + kSwizzleColumns, part.m, full + stage * 8);
  };
  const int count = part.end - part.begin;
  const int first = min(count, plan.stages);
  if (!args.weight_is_settled) WaitForPrevious();
  for (int index = 0; index < first; ++index) weights(index);
  WaitForPrevious();
  for (int index = 0; index < first; ++index) input(index);
  for (int index = first; index < count; ++index) {
    BarrierWait(empty + index % plan.stages * 8, (index / plan.stages - 1) & 1);
    weights(index);
    input(index);
  }
}

template <W4Kind kKind>
constexpr bool kTable = kKind == W4Kind::kNf4;

// Scales and zeros of a lane's two rows, as pairs. A bfloat16 holds a scale in two pieces.
template <typename Type>
struct RowParams {
  typename Type::Pair scale[2];
  typename Type::Pair rest[2];
  typename Type::Pair zero[2];
};

template <W4Kind kKind, typename Type>
__device__ inline void LoadParams(const char* params, int tile_groups, int group,
                                  RowParams<Type>& row) {
  const int lane = threadIdx.x % 32;
  float scale[2];
  if constexpr (kTable<kKind>) {
    *reinterpret_cast<float2*>(scale) =
        *reinterpret_cast<const float2*>(params + group * kW4TileRows * 4 + lane / 4 * 8);
  } else {
    const half2 scales =
        *reinterpret_cast<const half2*>(params + group * kW4TileRows * 2 + lane / 4 * 4);
    scale[0] = __low2float(scales);
    scale[1] = __high2float(scales);
    if constexpr (kKind == W4Kind::kZeroPoint) {
      const half2 zeros = *reinterpret_cast<const half2*>(
          params + (tile_groups + group) * kW4TileRows * 2 + lane / 4 * 4);
      row.zero[0] = Type::Both(__low2float(zeros));
      row.zero[1] = Type::Both(__high2float(zeros));
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    row.scale[i] = Type::Both(scale[i]);
    if constexpr (std::is_same_v<Type, Bfloat>) {
      row.rest[i] = Type::Both(scale[i] - __low2float(row.scale[i]));
    }
  }
}

template <typename Type>
__device__ inline void Scale(const RowParams<Type>& row, uint32_t (&a)[4]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const typename Type::Pair value = Type::FromBits(a[pair]);
    if constexpr (std::is_same_v<Type, Bfloat>) {
      a[pair] = Type::Bits(
          __hfma2(value, row.scale[pair % 2], __hmul2(value, row.rest[pair % 2])));
    } else {
      a[pair] = Type::Bits(__hmul2(value, row.scale[pair % 2]));
    }
  }
}

// One stage: 128 columns of the group's rows times the inputs. `release` is called when nothing of
// the stage before is read any more.
template <W4Kind kKind, typename Type, int kRowsOfInput, typename Release>
__device__ inline void ComputeStage(const char* weights, uint32_t input, const Plan& plan,
                                    const uint32_t* table,
                                    float (&sums)[kBlocksOfGroup][kRowsOfInput / 2],
                                    const Release& release) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const char* tile[kBlocksOfGroup];
  uint32_t words[kBlocksOfGroup][8];
#pragma unroll
  for (int block = 0; block < kBlocksOfGroup; ++block) {
    tile[block] = weights + (block * 4 + warp) * plan.tile_bytes;
    *reinterpret_cast<uint4*>(words[block]) =
        *reinterpret_cast<const uint4*>(tile[block] + lane * 16);
    *reinterpret_cast<uint4*>(words[block] + 4) =
        *reinterpret_cast<const uint4*>(tile[block] + 512 + lane * 16);
  }
  RowParams<Type> params[kBlocksOfGroup];
  // Two sets of registers: one is decoded into while the tensor cores read the other.
  uint32_t a[2][kBlocksOfGroup][4];
#pragma unroll
  for (int step = 0; step < 8; ++step) {
#pragma unroll
    for (int block = 0; block < kBlocksOfGroup; ++block) {
      if (step % 2 == 0) {
        LoadParams<kKind, Type>(tile[block] + kW4CodeBytes, plan.tile_groups,
                                step / 2 * plan.tile_groups / 4, params[block]);
      }
      if constexpr (kTable<kKind>) {
        DecodeWord(words[block][step], table, a[step % 2][block]);
      } else {
        DecodeWord<kKind>(words[block][step], params[block].zero, a[step % 2][block], Type());
      }
      Scale<Type>(params[block], a[step % 2][block]);
    }
    WgmmaFence();
    const uint64_t b = WgmmaMatrix(input + step / 4 * kRowsOfInput * kSwizzleColumns * 2 +
                                   step % 4 * 32);
#pragma unroll
    for (int block = 0; block < kBlocksOfGroup; ++block) {
      Wgmma<Type, kRowsOfInput>(sums[block], a[step % 2][block], b);
    }
    WgmmaCommit();
    WgmmaWait<1>();
    if (step == 0) release();
  }
}

// Adds the other blocks' parts of this tile, in the order of the columns. False for all blocks of a
// tile but the one that comes last.
template <int kRowsOfInput>
__device__ inline bool AddParts(const GemmW4A16& args, const Plan& plan,
                                volatile unsigned* arrived,
                                float (&sums)[kBlocksOfGroup][kRowsOfInput / 2]) {
  if (plan.splits == 1) return true;
  constexpr int kFours = kBlocksOfGroup * kRowsOfInput / 8;
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  auto* counter = static_cast<unsigned*>(args.workspace) + tile;
  auto* parts = reinterpret_cast<float4*>(static_cast<char*>(args.workspace) + kCounterBytes) +
                tile * plan.splits * kFours * kGroups * 128;
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const auto place = [&](int split, int four) -> float4& {
    return parts[(static_cast<int64_t>(split) * kFours + four) * kGroups * 128 + thread];
  };
#pragma unroll
  for (int four = 0; four < kFours; ++four) {
    const float* from = &sums[four / (kRowsOfInput / 8)][four % (kRowsOfInput / 8) * 4];
    __stcg(&place(blockIdx.z, four), make_float4(from[0], from[1], from[2], from[3]));
  }
  __threadfence();
  asm volatile("bar.sync 1, %0;" ::"n"(kGroups * 128) : "memory");
  if (thread == 0) {
    *arrived = atomicAdd(counter, 1);
    if (*arrived == static_cast<unsigned>(plan.splits) - 1) *counter = 0;  // As it was found.
    __threadfence();
  }
  asm volatile("bar.sync 1, %0;" ::"n"(kGroups * 128) : "memory");
  if (*arrived != static_cast<unsigned>(plan.splits) - 1) return false;
#pragma unroll
  for (int four = 0; four < kFours; ++four) {
    float4 sum = {};
    for (int split = 0; split < plan.splits; ++split) {
      const float4 part = __ldcg(&place(split, four));
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    float* to = &sums[four / (kRowsOfInput / 8)][four % (kRowsOfInput / 8) * 4];
    to[0] = sum.x;
    to[1] = sum.y;
    to[2] = sum.z;
    to[3] = sum.w;
  }
  return true;
}

// 64 outputs of all rows of input at a time go through shared memory, so that memory is written in
// whole lines.
template <typename Type, int kRowsOfInput>
__device__ inline void WriteOutput(const GemmW4A16& args, const Part& part, int group,
                                   float (&sums)[kBlocksOfGroup][kRowsOfInput / 2], char* staging) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const int64_t rows = args.shape.rows;
#pragma unroll
  for (int block = 0; block < kBlocksOfGroup; ++block) {
    const int64_t first_row =
        static_cast<int64_t>(part.row_tile) * kW4TileRows + (group * kBlocksOfGroup + block) * 64;
#pragma unroll
    for (int i = 0; i < kRowsOfInput / 2; ++i) {
      // Element i of a lane: row lane / 4 (+ 8), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
      const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
      const int m = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float value = sums[block][i];
      if (args.bias != nullptr && first_row + row < rows) {
        value += Type::ToFloat(args.bias[first_row + row]);
      }
      if (args.residual != nullptr && first_row + row < rows && part.m + m < args.m) {
        value += Type::ToFloat(args.residual[(part.m + m) * rows + first_row + row]);
      }
      *reinterpret_cast<uint16_t*>(staging + m * kStagingRowBytes + row * 2) =
          Type::FromFloat(value);
    }
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
    const bool wide = rows % 8 == 0;
    for (int item = threadIdx.x % 128; item < kRowsOfInput * 8; item += 128) {
      const int m = item / 8;
      const int64_t row = first_row + item % 8 * 8;
      if (part.m + m >= args.m || row >= rows) continue;
      const char* from = staging + m * kStagingRowBytes + item % 8 * 16;
      uint16_t* to = args.output + (part.m + m) * rows + row;
      if (wide) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int i = 0; i < 8 && row + i < rows; ++i) {
          to[i] = reinterpret_cast<const uint16_t*>(from)[i];
        }
      }
    }
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
  }
}

template <W4Kind kKind, typename Type, int kRowsOfInput>
__device__ inline void Consume(const GemmW4A16& args, const Plan& plan, char* ring, uint32_t full,
                               uint32_t empty, const uint32_t* table, unsigned* arrived) {
  const Part part = PartOfBlock<kRowsOfInput>(plan);
  const int group = static_cast<int>(threadIdx.x) / 128 - 1;
  float sums[kBlocksOfGroup][kRowsOfInput / 2] = {};
  int stage = 0;
  uint32_t parity = 0;
  for (int index = part.begin; index < part.end; ++index) {
    BarrierWait(full + stage * 8, parity);
    char* const weights = ring + stage * plan.stage_bytes;
    const int before = stage == 0 ? plan.stages - 1 : stage - 1;
    ComputeStage<kKind, Type, kRowsOfInput>(
        weights + group * kBlocksOfGroup * 4 * plan.tile_bytes,
        SharedAddress(weights + plan.weight_bytes), plan, table, sums, [&] {
          if (index > part.begin && threadIdx.x % 128 == 0) BarrierArrive(empty + before * 8);
        });
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  WgmmaWait<0>();
  WaitForPrevious();
  if (!AddParts<kRowsOfInput>(args, plan, arrived, sums)) return;
  // The ring is free: both groups are past their last stage once they meet here.
  asm volatile("bar.sync 1, %0;" ::"n"(kGroups * 128) : "memory");
  WriteOutput<Type, kRowsOfInput>(args, part, group, sums,
                                  ring + group * kRowsOfInput * kStagingRowBytes);
}

// Shared memory: barriers | how many parts arrived | table | ring, from the next multiple of 1024 on.
template <W4Kind kKind, typename Type, int kRowsOfInput>
__global__ void __launch_bounds__(kThreads, 1)
    WgmmaKernel(GemmW4A16 args, Plan plan, TableValues values,
                const __grid_constant__ CUtensorMap map) {
#if QD_WGMMA
  extern __shared__ __align__(1024) char shared[];
  auto* const arrived = reinterpret_cast<unsigned*>(shared + 2 * kStagesMax * 8);
  char* const table = shared + 512;
  char* const ring = shared + (kTable<kKind> ? 1024 + kTableBytes : 1024);
  const uint32_t full = SharedAddress(shared);
  const uint32_t empty = full + kStagesMax * 8;
  LetNextStart();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < plan.stages; ++stage) {
      BarrierInit(full + stage * 8, 1);
      BarrierInit(empty + stage * 8, kGroups);
    }
    BarrierInitDone();
  }
  if constexpr (kTable<kKind>) FillTable<Type>(reinterpret_cast<uint32_t*>(table), values);
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      Produce<kRowsOfInput>(args, &map, plan, SharedAddress(ring), full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    Consume<kKind, Type, kRowsOfInput>(args, plan, ring, full, empty,
                                       reinterpret_cast<uint32_t*>(table) + threadIdx.x % 32,
                                       arrived);
  }
#endif
}

using Kernel = void (*)(GemmW4A16, Plan, TableValues, CUtensorMap);

template <W4Kind kKind, typename Type>
constexpr Kernel kKernels[] = {WgmmaKernel<kKind, Type, 16>, WgmmaKernel<kKind, Type, 32>,
                               WgmmaKernel<kKind, Type, 64>, WgmmaKernel<kKind, Type, 128>};

template <W4Kind kKind>
Kernel Choose(bool bfloat16, int width) {
  return bfloat16 ? kKernels<kKind, Bfloat>[width] : kKernels<kKind, Half>[width];
}

// Into how many parts the columns are split: rounds of blocks over the processors, each as long as a
// part's columns and what starting, ending and adding up cost, in units of 128 columns.
int ChooseSplits(int64_t tiles, int column_tiles, int64_t part_bytes, int processors) {
  constexpr int kEnds = 5, kAdding = 3;
  int best = 1;
  int64_t best_cost = 0;
  for (int splits = 1; splits <= kSplitsMax && splits <= column_tiles; ++splits) {
    if (splits > 1 && tiles * splits * part_bytes > kW4WorkspaceBytes - kCounterBytes) break;
    const int64_t rounds = (tiles * splits + processors - 1) / processors;
    const int64_t cost =
        rounds * ((column_tiles + splits - 1) / splits + kEnds + (splits > 1 ? kAdding : 0));
    if (splits == 1 || cost < best_cost) {
      best = splits;
      best_cost = cost;
    }
  }
  return best;
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled Encoder() {
  static const EncodeTiled encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<EncodeTiled>(entry)
               : nullptr;
  }();
  return encode;
}

bool DescribeInput(const GemmW4A16& args, int rows_of_input, CUtensorMap* map) {
  const EncodeTiled encode = Encoder();
  if (encode == nullptr) return false;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(args.shape.columns),
                               static_cast<cuuint64_t>(args.m)};
  const cuuint64_t strides[1] = {sizes[0] * 2};
  const cuuint32_t box[2] = {kSwizzleColumns, static_cast<cuuint32_t>(rows_of_input)};
  const cuuint32_t steps[2] = {1, 1};
  return encode(map,
                args.bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, const_cast<uint16_t*>(args.input), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

const char* GemmW4Wgmma(const GemmW4A16& args) {
  const W4Shape& shape = args.shape;
  const Gpu& gpu = CurrentGpu();
  int width = 0;
  while (width < 3 && (16 << width) < args.m) ++width;
  const int rows_of_input = 16 << width;
  Plan plan = {.tile_bytes = static_cast<int>(W4TileBytes(shape)),
               .tile_groups = static_cast<int>(W4TileGroups(shape)),
               .column_tiles = static_cast<int>(W4ColumnTiles(shape)),
               .row_tiles_stored = static_cast<int>(W4RowTiles(shape))};
  plan.weight_bytes = (kRowTiles * plan.tile_bytes + 1023) / 1024 * 1024;
  plan.stage_bytes = plan.weight_bytes + rows_of_input * kW4TileColumns * 2;
  const int fixed = 1024 + (IsTable(shape.kind) ? kTableBytes : 0);
  plan.stages = (gpu.shared_bytes_max - fixed) / plan.stage_bytes;
  if (plan.stages > kStagesMax) plan.stages = kStagesMax;
  const int64_t row_blocks = (shape.rows + kTileRows - 1) / kTileRows;
  const int64_t input_blocks = (args.m + rows_of_input - 1) / rows_of_input;
  const int64_t part_bytes = int64_t{4} * kTileRows * rows_of_input;
  plan.splits =
      ChooseSplits(row_blocks * input_blocks, plan.column_tiles, part_bytes, gpu.processors);
  if (args.workspace == nullptr || row_blocks * input_blocks * 4 > kCounterBytes) plan.splits = 1;
  CUtensorMap map;
  if (!DescribeInput(args, rows_of_input, &map)) return "gemm_w4a16: no tensor map for the input";
  TableValues values = {};
  if (IsTable(shape.kind)) {
    for (int code = 0; code < 16; ++code) values.value[code] = W4Table(shape.kind)[code];
  }
  const Kernel kernel = shape.kind == W4Kind::kSymmetric
                            ? Choose<W4Kind::kSymmetric>(args.bfloat16, width)
                        : shape.kind == W4Kind::kZeroPoint
                            ? Choose<W4Kind::kZeroPoint>(args.bfloat16, width)
                            : Choose<W4Kind::kNf4>(args.bfloat16, width);
  const int shared_bytes = fixed + plan.stages * plan.stage_bytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const dim3 grid(static_cast<unsigned>(row_blocks), static_cast<unsigned>(input_blocks),
                  static_cast<unsigned>(plan.splits));
  return LaunchEarly(kernel, {grid, kThreads, shared_bytes, Stream(args)}, args, plan, values, map);
}

}  // namespace quantd::kernels
