// int8 products of so many tiles that every processor has one, on Hopper: a block takes one tile
// after the other, and while the sums of one leave its registers, straight to the output, the
// copying warp fills the ring for the next. A tile is 128 rows of input by 256 outputs.
#include "kernels/eight_cuda.cuh"
#include "kernels/wgmma_tile_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kM = 128, kRows = 256;
constexpr int kChunk = 128;  // Columns of a stage: one row of the swizzle.
constexpr int kGroups = 2;   // Of four warps, each of which computes 64 rows of input.
// Of the transpose, so that a thread's neighbouring sums are neighbouring outputs.
constexpr Tile kSumsTile = {.rows_of_input = kRows,
                            .groups = kGroups,
                            .blocks = 1,
                            .copy_registers = 40,
                            .compute_registers = 232};
constexpr int kInputBytes = kM * kChunk;
constexpr int kStageBytes = kInputBytes + kRows * kChunk;
constexpr int kStages = 4;
// Shared memory: barriers | each group's scales of the tile's outputs | ring.
constexpr int kRingAt = kTileFixedBytes + kGroups * kRows * 4;
constexpr int kSharedBytes = kRingAt + kStages * kStageBytes;
static_assert(kRingAt % 1024 == 0 && kStages <= kTileStagesMax);

struct Plan {
  int input_tiles, row_tiles, chunks;
  QD_HOST_DEVICE int tiles() const { return input_tiles * row_tiles; }
};
Plan PlanOf(const GemmW8A8& args) {
  const auto count = [](int64_t all, int of) { return static_cast<int>((all + of - 1) / of); };
  return {count(args.m, kM), count(args.rows, kRows), count(args.columns, kChunk)};
}

// The first row of input and the first output of a tile. Tiles are taken along the rows of input
// first, so many at a time that their inputs stay in the cache while the weights pass once.
struct Place {
  int m, row;
};
__device__ inline Place PlaceOf(const Plan& plan, int tile) {
  constexpr int kAtATime = 16;
  const int first = tile / (kAtATime * plan.row_tiles) * kAtATime;
  const int count = min(kAtATime, plan.input_tiles - first);
  const int place = tile - first * plan.row_tiles;
  return {(first + place % count) * kM, place / count * kRows};
}

// The copying warp's one thread. What lies beyond the matrices comes as zeros.
__device__ inline void Produce(const GemmW8A8& args, const Plan& plan,
                               const CUtensorMap* weight_map, const CUtensorMap* input_map,
                               uint32_t ring, uint32_t full, uint32_t empty) {
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int steps = (plan.tiles() - block + blocks - 1) / blocks * plan.chunks;
  const auto place_of = [&](int step) {
    return PlaceOf(plan, block + step / plan.chunks * blocks);
  };
  const auto weights = [&](int step) {
    const int stage = step % kStages;
    BarrierExpect(full + stage * 8, kStageBytes);
    CopyBox(ring + stage * kStageBytes + kInputBytes, weight_map, step % plan.chunks * kChunk,
            place_of(step).row, full + stage * 8);
  };
  const auto input = [&](int step) {
    const int stage = step % kStages;
    CopyBox(ring + stage * kStageBytes, input_map, step % plan.chunks * kChunk, place_of(step).m,
            full + stage * 8);
  };
  const int first = min(steps, kStages);
  if (!args.weight_is_settled) WaitForPrevious();
  for (int step = 0; step < first; ++step) weights(step);
  WaitForPrevious();
  for (int step = 0; step < first; ++step) input(step);
  for (int step = first; step < steps; ++step) {
    BarrierWait(empty + step % kStages * 8, (step / kStages - 1) & 1);
    weights(step);
    input(step);
  }
}

__device__ inline void SyncGroup(int group) {
  asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

// Of four neighbouring lanes: word k of lane i becomes word i of lane k.
__device__ inline void TransposeFour(uint32_t (&word)[4]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if ((low & bit) != 0) continue;
      const uint32_t sent = upper ? word[low] : word[low | bit];
      const uint32_t got = __shfl_xor_sync(0xffffffffu, sent, bit);
      (upper ? word[low] : word[low | bit]) = got;
    }
  }
}

// Makes outputs of a thread's sums: two rows of input, m and m + 8, by two of every eight outputs,
// which its three neighbours and it exchange until each has eight of every 32.
template <typename Type>
__device__ inline void WriteSums(const GemmW8A8& args, int64_t m, int64_t row,
                                 const float (&input_scale)[2], const float* weight_scales,
                                 const int32_t (&sums)[kRows / 2]) {
  constexpr int kAtATime = 4;  // Residuals on their way.
  const int lane = threadIdx.x % 4;
  const auto inside = [&](int j, int half) {
    return m + half * 8 < args.m && row + j * 32 + lane * 8 < args.rows;
  };
  const auto offset = [&](int j, int half) {
    return (m + half * 8) * args.rows + row + j * 32 + lane * 8;
  };
#pragma unroll
  for (int begin = 0; begin < kRows / 32; begin += kAtATime) {
    uint4 residual[kAtATime][2];
    if (args.residual != nullptr) {
#pragma unroll
      for (int i = 0; i < kAtATime * 2; ++i) {
        const int j = begin + i / 2;
        if (inside(j, i % 2)) residual[i / 2][i % 2] = LoadFresh(args.residual + offset(j, i % 2));
      }
    }
#pragma unroll
    for (int j = begin; j < begin + kAtATime; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int column = (j * 4 + k) * 8 + lane * 2;
          const float2 scale = *reinterpret_cast<const float2*>(weight_scales + column);
          const int32_t* const sum = sums + (j * 4 + k) * 4 + half * 2;
          float low = static_cast<float>(sum[0]) * (input_scale[half] * scale.x);
          float high = static_cast<float>(sum[1]) * (input_scale[half] * scale.y);
          if (args.bias != nullptr && row + column < args.rows) {
            low += Type::ToFloat(args.bias[row + column]);
            high += Type::ToFloat(args.bias[row + column + 1]);
          }
          words[k] = Type::Bits(Type::Make(low, high));
        }
        TransposeFour(words);
        if (!inside(j, half)) continue;
        uint4 eight = {words[0], words[1], words[2], words[3]};
        if (args.residual != nullptr) eight = Added<Type>(eight, residual[j - begin][half]);
        *reinterpret_cast<uint4*>(args.output + offset(j, half)) = eight;
      }
    }
  }
}

template <typename Type>
__device__ inline void Consume(const GemmW8A8& args, const Plan& plan, char* shared, uint32_t full,
                               uint32_t empty) {
  const int group = GroupOfWarp(), thread = threadIdx.x % 128;
  const int row_of_tile = group * 64 + thread / 32 * 16 + thread % 32 / 4;
  const uint32_t ring = SharedAddress(shared + kRingAt);
  auto* const scales = reinterpret_cast<float*>(shared + kTileFixedBytes) + group * kRows;
  int stage = 0;
  uint32_t parity = 0;
  WaitForPrevious();
  for (int tile = blockIdx.x; tile < plan.tiles(); tile += gridDim.x) {
    const Place place = PlaceOf(plan, tile);
    const int64_t m = place.m + row_of_tile;
    // On their way while the products run.
    float input_scale[2], weight_scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = place.row + thread + i * 128;
      input_scale[i] = m + i * 8 < args.m ? __ldcg(args.input_scales + m + i * 8) : 0;
      weight_scale[i] = row < args.rows ? __ldg(args.weight_scales + row) : 0;
    }
    TileSums<int32_t, kSumsTile> sums = {};
    FenceSums<int32_t, kSumsTile>(sums);
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      BarrierWait(full + stage * 8, parity);
      const uint32_t input = ring + stage * kStageBytes + group * 64 * kChunk;
      const uint32_t weights = ring + stage * kStageBytes + kInputBytes;
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kChunk / 32; ++step) {
        WgmmaInt8<kRows>(sums[0], WgmmaMatrix(input + step * 32), WgmmaMatrix(weights + step * 32));
      }
      WgmmaCommit();
      // The stage before this one is no longer read.
      WgmmaWait<1>();
      if (chunk > 0 && thread == 0) BarrierArrive(empty + (stage + kStages - 1) % kStages * 8);
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    WgmmaWait<0>();
    if (thread == 0) BarrierArrive(empty + (stage + kStages - 1) % kStages * 8);
    FenceSums<int32_t, kSumsTile>(sums);
    SyncGroup(group);  // Nobody reads the last tile's scales any more.
#pragma unroll
    for (int i = 0; i < 2; ++i) scales[thread + i * 128] = weight_scale[i];
    SyncGroup(group);
    WriteSums<Type>(args, m, place.row, input_scale, scales, sums[0]);
  }
}

template <typename Type>
__global__ void __launch_bounds__(kSumsTile.threads(), 1)
    WideInt8Kernel(GemmW8A8 args, Plan plan, const __grid_constant__ CUtensorMap weight_map,
                   const __grid_constant__ CUtensorMap input_map) {
#if QD_WGMMA
  extern __shared__ __align__(1024) char shared[];
  const uint32_t full = SharedAddress(shared);
  const uint32_t empty = full + kTileStagesMax * 8;
  LetNextStart();
  if (threadIdx.x == 0) {
    FetchMap(&weight_map);
    FetchMap(&input_map);
    InitStages(kGroups, kStages, full, empty);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kSumsTile.copy_registers));
    if (threadIdx.x == 0) {
      Produce(args, plan, &weight_map, &input_map, SharedAddress(shared + kRingAt), full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kSumsTile.compute_registers));
    Consume<Type>(args, plan, shared, full, empty);
  }
#endif
}

}  // namespace

bool TakesGemmW8A8Wide(const GemmW8A8& args) {
  constexpr int64_t kFewestInputs = 256;
  return args.m >= kFewestInputs && args.rows % 8 == 0 &&
         PlanOf(args).tiles() * 4 >= CurrentGpu().processors * 3;
}

const char* GemmW8A8Wide(const GemmW8A8& args) {
  const Plan plan = PlanOf(args);
  const auto kernel = args.bfloat16 ? WideInt8Kernel<Bfloat> : WideInt8Kernel<Half>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  CUtensorMap weight_map, input_map;
  constexpr auto kBytes = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  if (!DescribeMatrix({kBytes, 1, args.weight, args.rows, args.columns, kRows}, &weight_map) ||
      !DescribeMatrix({kBytes, 1, args.input, args.m, args.columns, kM}, &input_map)) {
    return "gemm_w8a8: no tensor map for the operands";
  }
  const int blocks = std::min(plan.tiles(), CurrentGpu().processors);
  return LaunchEarly(
      kernel, {static_cast<unsigned>(blocks), kSumsTile.threads(), kSharedBytes, Stream(args)},
      args, plan, weight_map, input_map);
}

}  // namespace quantd::kernels
