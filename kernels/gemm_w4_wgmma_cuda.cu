// More rows of input on Hopper: weights are decoded into the registers of wgmma's left operand
// while the tensor cores work on those before, inputs come through the copy engine as the right
// operand.
#include "kernels/wgmma_tile_cuda.cuh"

namespace quantd::kernels {
namespace {

// What a block takes: by how many rows of input there are, the first four with many warps to
// decode. Codes that take few instructions want two groups with two blocks each, one being decoded
// while the tensor cores work on the other. Where outputs are so few that their columns would be
// split among eight blocks, half as many outputs a block leave less to add up.
constexpr Tile kTiles[] = {
    {16, 4, 1, 32, 112}, {32, 4, 1, 32, 112}, {64, 4, 1, 32, 112}, {128, 2, 2, 40, 232},
    {16, 2, 2, 40, 232}, {32, 2, 2, 40, 232}, {64, 2, 2, 40, 232}, {64, 2, 1, 40, 232},
};
constexpr int kPaired = 4;
constexpr int kFewOutputs = 7;

// The fastest of them as measured; columns below this are too few for tiles that split them less.
int WhichTile(const GemmW4A16& args) {
  constexpr int64_t kPairedColumnsMin = 4096;
  constexpr int kOf64 = 2;
  const W4Shape& shape = args.shape;
  const int width = TileWidth(args.m);
  if (width == kOf64) {
    const int splits = shape.columns < kPairedColumnsMin ? 4 : 8;
    if (FewOutputs(kTiles[width], shape.rows, splits)) return kFewOutputs;
    return IsTable(shape.kind) ? width : kPaired + width;
  }
  const bool paired = shape.kind == W4Kind::kSymmetric && shape.columns >= kPairedColumnsMin;
  return width < kOf64 && paired ? kPaired + width : width;
}

// Whether WhichTile may say so.
constexpr bool IsUsed(W4Kind kind, int which) {
  if (which < kPaired || which == kFewOutputs) return which != 2 || IsTable(kind);
  return kind == W4Kind::kSymmetric || (which == kPaired + 2 && !IsTable(kind));
}

// Products that are on their way while the next operand is decoded.
template <Tile kTile>
constexpr int kInFlight = kTile.rows_of_input == 64 ? 2 : 1;

template <Tile kTile>
constexpr int kRowTiles = kTile.rows() / kW4TileRows;
constexpr int kSwizzleColumns = 64;  // 128 bytes.

struct Plan {
  Split split;
  int stages;
  int tile_bytes;
  int tile_groups;
  int row_tiles_stored;
  int weight_bytes;  // Of one stage, rounded up to where the swizzle repeats.
  int stage_bytes;
};

// The copying warp's one thread.
template <Tile kTile>
__device__ inline void Produce(const GemmW4A16& args, const CUtensorMap* map, const Plan& plan,
                               uint32_t ring, uint32_t full, uint32_t empty) {
  const Part part = PartOfBlock<kTile>(plan.split);
  constexpr uint32_t kBoxBytes = kTile.rows_of_input * kSwizzleColumns * 2;
  const int slices = plan.split.slices;
  const auto first_tile = static_cast<int>(part.row / kW4TileRows);
  const int slice_tiles = kRowTiles<kTile> / slices;
  const int tiles = min(slice_tiles, plan.row_tiles_stored - first_tile);
  // Of a step; the last one may have fewer chunks.
  const auto chunk = [&](int index) { return (part.begin + index) * slices; };
  const auto chunks = [&](int index) { return min(slices, plan.split.chunks - chunk(index)); };
  const auto weights = [&](int index) {
    const int stage = index % plan.stages;
    BarrierExpect(full + stage * 8, chunks(index) * (tiles * plan.tile_bytes + 2 * kBoxBytes));
    for (int slice = 0; slice < chunks(index); ++slice) {
      const int64_t tile =
          static_cast<int64_t>(chunk(index) + slice) * plan.row_tiles_stored + first_tile;
      BulkCopy(ring + stage * plan.stage_bytes + slice * slice_tiles * plan.tile_bytes,
               static_cast<const char*>(args.packed) + tile * plan.tile_bytes,
               tiles * plan.tile_bytes, full + stage * 8);
    }
  };
  const auto input = [&](int index) {
    const int stage = index % plan.stages;
    for (int slice = 0; slice < chunks(index); ++slice) {
      const int column = (chunk(index) + slice) * kW4TileColumns;
      const uint32_t to =
          ring + stage * plan.stage_bytes + plan.weight_bytes + slice * 2 * kBoxBytes;
      CopyBox(to, map, column, part.m, full + stage * 8);
      CopyBox(to + kBoxBytes, map, column + kSwizzleColumns, part.m, full + stage * 8);
    }
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
      a[pair] = Type::Bits(__hfma2(value, row.scale[pair % 2], __hmul2(value, row.rest[pair % 2])));
    } else {
      a[pair] = Type::Bits(__hmul2(value, row.scale[pair % 2]));
    }
  }
}

// One stage: 128 columns of the group's rows times the inputs. `release` is called when nothing of
// the stage before is read any more.
template <W4Kind kKind, typename Type, Tile kTile, typename Release>
__device__ inline void ComputeStage(const char* weights, uint32_t input, const Plan& plan,
                                    const uint32_t* table, TileSums<float, kTile>& sums,
                                    const Release& release) {
  constexpr int kBlocks = kTile.blocks;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const char* tile[kBlocks];
  uint32_t words[kBlocks][8];
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    tile[block] = weights + (block * 4 + warp) * plan.tile_bytes;
    *reinterpret_cast<uint4*>(words[block]) =
        *reinterpret_cast<const uint4*>(tile[block] + lane * 16);
    *reinterpret_cast<uint4*>(words[block] + 4) =
        *reinterpret_cast<const uint4*>(tile[block] + 512 + lane * 16);
  }
  RowParams<Type> params[kBlocks];
  // Sets of registers: one is decoded into while the tensor cores read the others. As many as
  // divide the steps, so that the next stage begins with one that is no longer read.
  constexpr int kSets = 2 * kInFlight<kTile>;
  uint32_t a[kSets][kBlocks][4];
#pragma unroll
  for (int step = 0; step < 8; ++step) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (step % 2 == 0) {
        LoadParams<kKind, Type>(tile[block] + kW4CodeBytes, plan.tile_groups,
                                step / 2 * plan.tile_groups / 4, params[block]);
      }
      if constexpr (kTable<kKind>) {
        DecodeWord(words[block][step], table, a[step % kSets][block]);
      } else {
        DecodeWord<kKind>(words[block][step], params[block].zero, a[step % kSets][block], Type());
      }
      Scale<Type>(params[block], a[step % kSets][block]);
    }
    WgmmaFence();
    const uint64_t b =
        WgmmaMatrix(input + step / 4 * kTile.rows_of_input * kSwizzleColumns * 2 + step % 4 * 32);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      Wgmma<Type, kTile.rows_of_input>(sums[block], a[step % kSets][block], b);
    }
    WgmmaCommit();
    WgmmaWait<kInFlight<kTile>>();
    if (step == kInFlight<kTile> - 1) release();
  }
}

template <W4Kind kKind, typename Type, Tile kTile>
__device__ inline void Consume(const GemmW4A16& args, const Plan& plan, char* ring, uint32_t full,
                               uint32_t empty, const uint32_t* table) {
  const Part part = PartOfBlock<kTile>(plan.split);
  const int group = GroupOfWarp();
  TileSums<float, kTile> sums = {};
  FenceSums<float, kTile>(sums);
  const int slices = plan.split.slices;
  const int slice = group * slices / kTile.groups;
  int stage = 0;
  uint32_t parity = 0;
  // The last step may have no chunk for the last groups.
  const int end = min(part.end, (plan.split.chunks - slice + slices - 1) / slices);
  for (int index = part.begin; index < end; ++index) {
    BarrierWait(full + stage * 8, parity);
    char* const weights = ring + stage * plan.stage_bytes;
    const int before = stage == 0 ? plan.stages - 1 : stage - 1;
    ComputeStage<kKind, Type, kTile>(weights + group * kTile.blocks * 4 * plan.tile_bytes,
                                     SharedAddress(weights + plan.weight_bytes) +
                                         slice * kTile.rows_of_input * kW4TileColumns * 2,
                                     plan, table, sums, [&] {
                                       if (index > part.begin && threadIdx.x % 128 == 0)
                                         BarrierArrive(empty + before * 8);
                                     });
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  WgmmaWait<0>();
  FenceSums<float, kTile>(sums);
  WaitForPrevious();
  // The ring is free: all groups are past their last stage once they meet here.
  SyncComputing<kTile.groups * 128>();
  const int64_t rows = args.shape.rows;
  WriteTile<kTile, float>(
      {args.m, rows, args.output}, part, plan.split, ring, sums, [&](int64_t row) {
        const int64_t left = rows - row;
        const bool biased = args.bias != nullptr && left > 0;
        const Eight<float> bias = LoadRow<Type>(biased ? args.bias + row : nullptr, left);
        return [=](Eight<float>& sum, int64_t m) {
          const bool residual = args.residual != nullptr;
          const Eight<float> more =
              LoadRow<Type>(residual ? args.residual + m * rows + row : nullptr, left);
#pragma unroll
          for (int i = 0; i < 8; ++i) sum.value[i] = sum.value[i] + bias.value[i] + more.value[i];
          return Store<Type>(sum.value);
        };
      });
}

// For kTiles[kWhich]. Shared memory: barriers | ring | table.
template <W4Kind kKind, typename Type, int kWhich>
__global__ void __launch_bounds__(kTiles[kWhich].threads(), 1)
    WgmmaKernel(GemmW4A16 args, Plan plan, TableValues values,
                const __grid_constant__ CUtensorMap map) {
#if QD_WGMMA
  constexpr Tile kTile = kTiles[kWhich];
  extern __shared__ __align__(1024) char shared[];
  char* const ring = shared + kTileFixedBytes;
  char* const table = ring + plan.stages * plan.stage_bytes;
  const uint32_t full = SharedAddress(shared);
  const uint32_t empty = full + kTileStagesMax * 8;
  LetNextStart();
  if (threadIdx.x == 0) {
    FetchMap(&map);
    InitStages(kTile.groups, plan.stages, full, empty);
  }
  if constexpr (kTable<kKind>) FillTable<Type>(reinterpret_cast<uint32_t*>(table), values);
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kTile.copy_registers));
    if (threadIdx.x == 0) {
      Produce<kTile>(args, &map, plan, SharedAddress(ring), full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kTile.compute_registers));
    Consume<kKind, Type, kTile>(args, plan, ring, full, empty,
                                reinterpret_cast<uint32_t*>(table) + threadIdx.x % 32);
  }
#endif
}

using Kernel = void (*)(GemmW4A16, Plan, TableValues, CUtensorMap);

template <W4Kind kKind, typename Type, int kWhich>
constexpr Kernel KernelOf() {
  if constexpr (IsUsed(kKind, kWhich)) {
    return WgmmaKernel<kKind, Type, kWhich>;
  } else {
    return nullptr;
  }
}

// One for each of kTiles.
template <W4Kind kKind, typename Type>
constexpr Kernel kKernels[] = {KernelOf<kKind, Type, 0>(), KernelOf<kKind, Type, 1>(),
                               KernelOf<kKind, Type, 2>(), KernelOf<kKind, Type, 3>(),
                               KernelOf<kKind, Type, 4>(), KernelOf<kKind, Type, 5>(),
                               KernelOf<kKind, Type, 6>(), KernelOf<kKind, Type, 7>()};

template <W4Kind kKind>
Kernel Choose(bool bfloat16, int which) {
  return bfloat16 ? kKernels<kKind, Bfloat>[which] : kKernels<kKind, Half>[which];
}

}  // namespace

const char* GemmW4Wgmma(const GemmW4A16& args) {
  const W4Shape& shape = args.shape;
  const Gpu& gpu = CurrentGpu();
  const int which = WhichTile(args);
  const Tile& tile = kTiles[which];
  const int rows_of_input = tile.rows_of_input;
  TableValues values = {};
  if (IsTable(shape.kind)) {
    for (int code = 0; code < 16; ++code) values.value[code] = W4Table(shape.kind)[code];
  }
  const Kernel kernel =
      shape.kind == W4Kind::kSymmetric   ? Choose<W4Kind::kSymmetric>(args.bfloat16, which)
      : shape.kind == W4Kind::kZeroPoint ? Choose<W4Kind::kZeroPoint>(args.bfloat16, which)
                                         : Choose<W4Kind::kNf4>(args.bfloat16, which);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, gpu.shared_bytes_max);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  Plan plan = {.split = ChooseSplit(reinterpret_cast<const void*>(kernel), tile, shape.rows, args.m,
                                    static_cast<int>(W4ColumnTiles(shape))),
               .tile_bytes = static_cast<int>(W4TileBytes(shape)),
               .tile_groups = static_cast<int>(W4TileGroups(shape)),
               .row_tiles_stored = static_cast<int>(W4RowTiles(shape))};
  plan.weight_bytes = (tile.rows() / kW4TileRows * plan.tile_bytes + 1023) / 1024 * 1024;
  plan.stage_bytes = plan.weight_bytes + plan.split.slices * rows_of_input * kW4TileColumns * 2;
  const int fixed = kTileFixedBytes + (IsTable(shape.kind) ? kTableBytes : 0);
  plan.stages = std::min((gpu.shared_bytes_max - fixed) / plan.stage_bytes, kTileStagesMax);
  const int shared_bytes = fixed + plan.stages * plan.stage_bytes;
  CUtensorMap map;
  const auto type =
      args.bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  if (!DescribeMatrix({type, 2, args.input, args.m, shape.columns, rows_of_input}, &map)) {
    return "gemm_w4a16: no tensor map for the input";
  }
  return LaunchEarly(kernel,
                     {GridOf(plan.split, tile, shape.rows), tile.threads(), shared_bytes,
                      Stream(args), plan.split.splits},
                     args, plan, values, map);
}

}  // namespace quantd::kernels
