// int8 products: on Hopper both operands come through the copy engine for wgmma, on other GPUs
// plain tiles and dot products of four. The scales are applied where the sums leave the registers.
#include "kernels/eight_cuda.cuh"
#include "kernels/wgmma_tile_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kChunk = 128;  // Columns of a stage: one row of the swizzle.
// What a block takes, by how many rows of input there are; the last one is for few outputs.
constexpr Tile kTiles[] = {{16, 2, 2, 40, 232},  {32, 2, 2, 40, 232},  {64, 2, 2, 40, 232},
                           {128, 2, 2, 40, 232}, {256, 2, 1, 40, 232}, {64, 2, 1, 40, 232}};
template <Tile kTile>
constexpr int kWeightBytes = kTile.rows() * kChunk;

struct Plan {
  Split split;
  int stages;
  int stage_bytes;
};

template <typename Type>
__device__ inline uint16_t Finish(const GemmW8A8& args, int32_t sum, int64_t m, int64_t row) {
  float value = static_cast<float>(sum) * (args.input_scales[m] * args.weight_scales[row]);
  if (args.bias != nullptr) value += Type::ToFloat(args.bias[row]);
  if (args.residual != nullptr) {
    value = Rounded<Type>(value) + Type::ToFloat(args.residual[m * args.rows + row]);
  }
  return Type::FromFloat(value);
}

// The copying warp's one thread. What lies beyond the last column comes as zeros.
template <Tile kTile>
__device__ inline void Produce(const GemmW8A8& args, const CUtensorMap* weight_map,
                               const CUtensorMap* input_map, const Plan& plan, uint32_t ring,
                               uint32_t full, uint32_t empty) {
  const Part part = PartOfBlock<kTile>(plan.split);
  constexpr int kWeights = kWeightBytes<kTile>;
  const int slices = plan.split.slices;
  const auto weights = [&](int index) {
    const int stage = index % plan.stages;
    BarrierExpect(full + stage * 8, plan.stage_bytes);
    for (int slice = 0; slice < slices; ++slice) {
      CopyBox(ring + stage * plan.stage_bytes + slice * (kWeights / slices), weight_map,
              ((part.begin + index) * slices + slice) * kChunk, static_cast<int>(part.row),
              full + stage * 8);
    }
  };
  const auto input = [&](int index) {
    const int stage = index % plan.stages;
    for (int slice = 0; slice < slices; ++slice) {
      CopyBox(ring + stage * plan.stage_bytes + kWeights + slice * kTile.rows_of_input * kChunk,
              input_map, ((part.begin + index) * slices + slice) * kChunk, part.m,
              full + stage * 8);
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

template <typename Type, Tile kTile>
__device__ inline void Consume(const GemmW8A8& args, const Plan& plan, char* ring, uint32_t full,
                               uint32_t empty) {
  const Part part = PartOfBlock<kTile>(plan.split);
  const int group = GroupOfWarp();
  TileSums<int32_t, kTile> sums = {};
  FenceSums<int32_t, kTile>(sums);
  const int slice = group * plan.split.slices / kTile.groups;
  int stage = 0;
  uint32_t parity = 0;
  for (int index = part.begin; index < part.end; ++index) {
    BarrierWait(full + stage * 8, parity);
    const uint32_t weights = SharedAddress(ring + stage * plan.stage_bytes);
    const uint32_t input = weights + kWeightBytes<kTile> + slice * kTile.rows_of_input * kChunk;
    WgmmaFence();
#pragma unroll
    for (int step = 0; step < kChunk / 32; ++step) {
      const uint64_t b = WgmmaMatrix(input + step * 32);
#pragma unroll
      for (int block = 0; block < kTile.blocks; ++block) {
        const uint64_t a =
            WgmmaMatrix(weights + (group * kTile.blocks + block) * 64 * kChunk + step * 32);
        WgmmaInt8<kTile.rows_of_input>(sums[block], a, b);
      }
    }
    WgmmaCommit();
    // The stage before this one is no longer read.
    WgmmaWait<1>();
    if (index > part.begin && threadIdx.x % 128 == 0) {
      BarrierArrive(empty + (stage == 0 ? plan.stages - 1 : stage - 1) * 8);
    }
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  WgmmaWait<0>();
  FenceSums<int32_t, kTile>(sums);
  WaitForPrevious();
  // The ring is free: all groups are past their last stage once they meet here.
  SyncComputing<kTile.groups * 128>();
  WriteTile<kTile, int32_t>(
      {args.m, args.rows, args.output}, part, plan.split, ring, sums, [&](int64_t row) {
        const int64_t left = args.rows - row;
        const bool biased = args.bias != nullptr && left > 0;
        const Eight<float> bias = LoadRow<Type>(biased ? args.bias + row : nullptr, left);
        Eight<float> scale = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (i < left) scale.value[i] = args.weight_scales[row + i];
        }
        return [=](const Eight<int32_t>& sum, int64_t m) {
          const float input_scale = args.input_scales[m];
          float value[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            value[i] = static_cast<float>(sum.value[i]) * (input_scale * scale.value[i]);
            if (biased) value[i] += bias.value[i];
          }
          if (args.residual != nullptr && left > 0) {
            const Eight<float> residual = LoadRow<Type>(args.residual + m * args.rows + row, left);
#pragma unroll
            for (int i = 0; i < 8; ++i) value[i] = Rounded<Type>(value[i]) + residual.value[i];
          }
          return Store<Type>(value);
        };
      });
}

// For kTiles[kWhich]. Shared memory: barriers | ring.
template <typename Type, int kWhich>
__global__ void __launch_bounds__(kTiles[kWhich].threads(), 1)
    Int8Kernel(GemmW8A8 args, Plan plan, const __grid_constant__ CUtensorMap weight_map,
               const __grid_constant__ CUtensorMap input_map) {
#if QD_WGMMA
  constexpr Tile kTile = kTiles[kWhich];
  extern __shared__ __align__(1024) char shared[];
  char* const ring = shared + kTileFixedBytes;
  const uint32_t full = SharedAddress(shared);
  const uint32_t empty = full + kTileStagesMax * 8;
  LetNextStart();
  if (threadIdx.x == 0) {
    FetchMap(&weight_map);
    FetchMap(&input_map);
    InitStages(kTile.groups, plan.stages, full, empty);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kTile.copy_registers));
    if (threadIdx.x == 0) {
      Produce<kTile>(args, &weight_map, &input_map, plan, SharedAddress(ring), full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kTile.compute_registers));
    Consume<Type, kTile>(args, plan, ring, full, empty);
  }
#endif
}

using Kernel = void (*)(GemmW8A8, Plan, CUtensorMap, CUtensorMap);

// One for each of kTiles.
template <typename Type>
constexpr Kernel kKernels[] = {Int8Kernel<Type, 0>, Int8Kernel<Type, 1>, Int8Kernel<Type, 2>,
                               Int8Kernel<Type, 3>, Int8Kernel<Type, 4>, Int8Kernel<Type, 5>};

// Tiles of 256 rows of input read less from shared memory for each sum; of 128 where those would
// be half empty.
int WhichTile(const GemmW8A8& args) {
  constexpr int64_t kManyRows = 1024;
  constexpr int kOf64 = 2, kOf256 = 4, kFewOutputs = 5;
  const bool whole = (args.m + 127) / 128 % 2 == 0;
  if (whole || args.m > kManyRows) return kOf256;
  const int width = TileWidth(args.m);
  return width == kOf64 && FewOutputs(kTiles[width], args.rows, 4) ? kFewOutputs : width;
}

const char* OnWgmma(const GemmW8A8& args) {
  const Gpu& gpu = CurrentGpu();
  const int which = WhichTile(args);
  const Tile& tile = kTiles[which];
  const int rows_of_input = tile.rows_of_input;
  const auto chunks = static_cast<int>((args.columns + kChunk - 1) / kChunk);
  const Kernel kernel = args.bfloat16 ? kKernels<Bfloat>[which] : kKernels<Half>[which];
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, gpu.shared_bytes_max);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  Plan plan = {
      .split = ChooseSplit(reinterpret_cast<const void*>(kernel), tile, args.rows, args.m, chunks)};
  plan.stage_bytes = (tile.rows() + plan.split.slices * rows_of_input) * kChunk;
  plan.stages =
      std::min((gpu.shared_bytes_max - kTileFixedBytes) / plan.stage_bytes, kTileStagesMax);
  CUtensorMap weight_map, input_map;
  constexpr auto kBytes = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const int weight_box = tile.rows() / plan.split.slices;
  if (!DescribeMatrix({kBytes, 1, args.weight, args.rows, args.columns, weight_box}, &weight_map) ||
      !DescribeMatrix({kBytes, 1, args.input, args.m, args.columns, rows_of_input}, &input_map)) {
    return "gemm_w8a8: no tensor map for the operands";
  }
  return LaunchEarly(
      kernel,
      {GridOf(plan.split, tile, args.rows), tile.threads(),
       kTileFixedBytes + plan.stages * plan.stage_bytes, Stream(args), plan.split.splits},
      args, plan, weight_map, input_map);
}

constexpr int kPlainTile = 32;

// 32 x 32 outputs a block, 64 columns at a time.
template <typename Type>
__global__ void __launch_bounds__(kPlainTile* kPlainTile) PlainInt8Kernel(GemmW8A8 args) {
  __shared__ int32_t input[kPlainTile][17], weight[kPlainTile][17];
  const int x = threadIdx.x % kPlainTile, y = threadIdx.x / kPlainTile;
  const int64_t first_m = static_cast<int64_t>(blockIdx.y) * kPlainTile;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kPlainTile;
  int32_t sum = 0;
  for (int64_t begin = 0; begin < args.columns; begin += 64) {
    if (x < 16) {
      const bool inside = begin + x * 4 < args.columns;
      const auto load = [&](const int8_t* matrix, int64_t row, int64_t rows) {
        return inside && row < rows
                   ? *reinterpret_cast<const int32_t*>(matrix + row * args.columns + begin + x * 4)
                   : 0;
      };
      input[y][x] = load(args.input, first_m + y, args.m);
      weight[y][x] = load(args.weight, first_row + y, args.rows);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 16; ++k) sum = __dp4a(input[y][k], weight[x][k], sum);
    __syncthreads();
  }
  const int64_t m = first_m + y, row = first_row + x;
  if (m < args.m && row < args.rows) {
    args.output[m * args.rows + row] = Finish<Type>(args, sum, m, row);
  }
}

}  // namespace

const char* GemmW8A8Cuda(const GemmW8A8& args) {
  if (args.m == 0 || args.rows == 0) return nullptr;
  if (args.columns % 16 != 0 || args.columns > 1 << 17) {
    return "gemm_w8a8: the columns are not a multiple of 16, or more than 2^17";
  }
  if (CurrentGpu().capability == 90) {
    return TakesGemmW8A8Wide(args) ? GemmW8A8Wide(args) : OnWgmma(args);
  }
  const dim3 grid(static_cast<unsigned>((args.rows + kPlainTile - 1) / kPlainTile),
                  static_cast<unsigned>((args.m + kPlainTile - 1) / kPlainTile));
  (args.bfloat16 ? PlainInt8Kernel<Bfloat>
                 : PlainInt8Kernel<Half>)<<<grid, kPlainTile * kPlainTile, 0, Stream(args)>>>(args);
  return nullptr;
}

}  // namespace quantd::kernels
