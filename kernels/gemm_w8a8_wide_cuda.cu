// int8 products of many rows of input on Hopper: a block takes one tile after the other, and while
// the sums of one leave its registers, straight to the output, the copying warp fills the ring for
// the next. A tile is 128 rows of input by 256 outputs, or by 128 where those share out better.
#include "kernels/eight_cuda.cuh"
#include "kernels/wgmma_tile_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kM = 128;      // Rows of input of a tile.
constexpr int kChunk = 128;  // Columns of a stage: one row of the swizzle.
constexpr int kInputBytes = kM * kChunk;
// A tile of so many outputs, as the transpose, so that a thread's neighbouring sums are
// neighbouring outputs: each of the groups of warps computes 64 rows of input.
template <int kRows>
constexpr Tile kTile = {kRows, 2, 1, 40, 232};
constexpr int kThreads = kTile<256>.threads();
template <int kRows>
constexpr int kStageBytes = kInputBytes + kRows* kChunk;
template <int kRows>
constexpr int kStages = kRows > 128 ? 4 : 6;
// Shared memory: barriers | each group's scales of the tile's outputs | ring.
template <int kRows>
constexpr int kRingAt = kTileFixedBytes + kTile<kRows>.groups* kRows * 4;
template <int kRows>
constexpr int kSharedBytes = kRingAt<kRows> + kStages<kRows>* kStageBytes<kRows>;
static_assert(kRingAt<128> % 1024 == 0 && kStages<128> <= kTileStagesMax);

struct Plan {
  int input_tiles, row_tiles, chunks;
  QD_HOST_DEVICE int tiles() const { return input_tiles * row_tiles; }
};
Plan PlanOf(const GemmW8A8& args, int tile_rows) {
  const auto count = [](int64_t all, int of) { return static_cast<int>((all + of - 1) / of); };
  return {count(args.m, kM), count(args.rows, tile_rows), count(args.columns, kChunk)};
}

// The first row of input and the first output of a tile. Tiles are taken along the rows of input
// first, so many at a time that their inputs stay in the cache while the weights pass once.
struct Place {
  int m, row;
};
template <int kRows>
__device__ inline Place PlaceOf(const Plan& plan, int tile) {
  constexpr int kAtATime = 16;
  const int first = tile / (kAtATime * plan.row_tiles) * kAtATime;
  const int count = min(kAtATime, plan.input_tiles - first);
  const int place = tile - first * plan.row_tiles;
  return {(first + place % count) * kM, place / count * kRows};
}

// The copying warp's one thread. What lies beyond the matrices comes as zeros.
template <int kRows>
__device__ inline void Produce(const GemmW8A8& args, const Plan& plan,
                               const CUtensorMap* weight_map, const CUtensorMap* input_map,
                               uint32_t ring, uint32_t full, uint32_t empty) {
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int steps = (plan.tiles() - block + blocks - 1) / blocks * plan.chunks;
  const auto place_of = [&](int step) {
    return PlaceOf<kRows>(plan, block + step / plan.chunks * blocks);
  };
  const auto weights = [&](int step) {
    const int stage = step % kStages<kRows>;
    BarrierExpect(full + stage * 8, kStageBytes<kRows>);
    CopyBox(ring + stage * kStageBytes<kRows> + kInputBytes, weight_map,
            step % plan.chunks * kChunk, place_of(step).row, full + stage * 8);
  };
  const auto input = [&](int step) {
    const int stage = step % kStages<kRows>;
    CopyBox(ring + stage * kStageBytes<kRows>, input_map, step % plan.chunks * kChunk,
            place_of(step).m, full + stage * 8);
  };
  const int first = min(steps, kStages<kRows>);
  if (!args.weight_is_settled) WaitForPrevious();
  for (int step = 0; step < first; ++step) weights(step);
  WaitForPrevious();
  for (int step = 0; step < first; ++step) input(step);
  for (int step = first; step < steps; ++step) {
    BarrierWait(empty + step % kStages<kRows> * 8, (step / kStages<kRows> - 1) & 1);
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
template <typename Type, int kRows, bool kBiased, bool kAdds>
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
    if constexpr (kAdds) {
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
          if (kBiased && row + column < args.rows) {
            low += Type::ToFloat(args.bias[row + column]);
            high += Type::ToFloat(args.bias[row + column + 1]);
          }
          words[k] = Type::Bits(Type::Make(low, high));
        }
        TransposeFour(words);
        if (!inside(j, half)) continue;
        uint4 eight = {words[0], words[1], words[2], words[3]};
        if constexpr (kAdds) eight = Added<Type>(eight, residual[j - begin][half]);
        *reinterpret_cast<uint4*>(args.output + offset(j, half)) = eight;
      }
    }
  }
}

template <typename Type, int kRows, bool kBiased, bool kAdds>
__device__ inline void Consume(const GemmW8A8& args, const Plan& plan, char* shared, uint32_t full,
                               uint32_t empty) {
  const int group = GroupOfWarp(), thread = threadIdx.x % 128;
  const int row_of_tile = group * 64 + thread / 32 * 16 + thread % 32 / 4;
  const uint32_t ring = SharedAddress(shared + kRingAt<kRows>);
  auto* const scales = reinterpret_cast<float*>(shared + kTileFixedBytes) + group * kRows;
  int stage = 0;
  uint32_t parity = 0;
  WaitForPrevious();
  for (int tile = blockIdx.x; tile < plan.tiles(); tile += gridDim.x) {
    const Place place = PlaceOf<kRows>(plan, tile);
    const int64_t m = place.m + row_of_tile;
    // On their way while the products run.
    float input_scale[2], weight_scale[kRows / 128];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      input_scale[i] = m + i * 8 < args.m ? __ldcg(args.input_scales + m + i * 8) : 0;
    }
#pragma unroll
    for (int i = 0; i < kRows / 128; ++i) {
      const int64_t row = place.row + thread + i * 128;
      weight_scale[i] = row < args.rows ? __ldg(args.weight_scales + row) : 0;
    }
    TileSums<int32_t, kTile<kRows>> sums = {};
    FenceSums<int32_t, kTile<kRows>>(sums);
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      BarrierWait(full + stage * 8, parity);
      const uint32_t input = ring + stage * kStageBytes<kRows> + group * 64 * kChunk;
      const uint32_t weights = ring + stage * kStageBytes<kRows> + kInputBytes;
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kChunk / 32; ++step) {
        WgmmaInt8<kRows>(sums[0], WgmmaMatrix(input + step * 32), WgmmaMatrix(weights + step * 32));
      }
      WgmmaCommit();
      // The stage before this one is no longer read.
      WgmmaWait<1>();
      if (chunk > 0 && thread == 0)
        BarrierArrive(empty + (stage + kStages<kRows> - 1) % kStages<kRows> * 8);
      if (++stage == kStages<kRows>) {
        stage = 0;
        parity ^= 1;
      }
    }
    WgmmaWait<0>();
    if (thread == 0) BarrierArrive(empty + (stage + kStages<kRows> - 1) % kStages<kRows> * 8);
    FenceSums<int32_t, kTile<kRows>>(sums);
    SyncGroup(group);  // Nobody reads the last tile's scales any more.
#pragma unroll
    for (int i = 0; i < kRows / 128; ++i) scales[thread + i * 128] = weight_scale[i];
    SyncGroup(group);
    WriteSums<Type, kRows, kBiased, kAdds>(args, m, place.row, input_scale, scales, sums[0]);
  }
}

template <typename Type, int kRows, bool kBiased, bool kAdds>
__global__ void __launch_bounds__(kThreads, 1)
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
    InitStages(kTile<kRows>.groups, kStages<kRows>, full, empty);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kTile<kRows>.copy_registers));
    if (threadIdx.x == 0) {
      Produce<kRows>(args, plan, &weight_map, &input_map, SharedAddress(shared + kRingAt<kRows>),
                     full, empty);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kTile<kRows>.compute_registers));
    Consume<Type, kRows, kBiased, kAdds>(args, plan, shared, full, empty);
  }
#endif
}

template <typename Type, int kRows>
auto KernelOf(const GemmW8A8& args) {
  if (args.residual != nullptr) {
    return args.bias != nullptr ? WideInt8Kernel<Type, kRows, true, true>
                                : WideInt8Kernel<Type, kRows, false, true>;
  }
  return args.bias != nullptr ? WideInt8Kernel<Type, kRows, true, false>
                              : WideInt8Kernel<Type, kRows, false, false>;
}

template <int kRows>
const char* Run(const GemmW8A8& args) {
  const Plan plan = PlanOf(args, kRows);
  const auto kernel = args.bfloat16 ? KernelOf<Bfloat, kRows>(args) : KernelOf<Half, kRows>(args);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kRows>);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  CUtensorMap weight_map, input_map;
  constexpr auto kBytes = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  if (!DescribeMatrix({kBytes, 1, args.weight, args.rows, args.columns, kRows}, &weight_map) ||
      !DescribeMatrix({kBytes, 1, args.input, args.m, args.columns, kM}, &input_map)) {
    return "gemm_w8a8: no tensor map for the operands";
  }
  const int blocks = std::min(plan.tiles(), CurrentGpu().processors);
  return LaunchEarly(kernel,
                     {static_cast<unsigned>(blocks), kThreads, kSharedBytes<kRows>, Stream(args)},
                     args, plan, weight_map, input_map);
}

// Cycles of an H100, roughly: rounds of tiles, each of its steps and its end, and the start. Narrow
// tiles read more for each sum.
int64_t CostOf(const GemmW8A8& args, int tile_rows) {
  constexpr int64_t kStart = 4000;
  const Plan plan = PlanOf(args, tile_rows);
  const int64_t processors = CurrentGpu().processors;
  const int64_t rounds = (plan.tiles() + processors - 1) / processors;
  return kStart + rounds * (tile_rows > 128 ? plan.chunks * 1040 + 3000 : plan.chunks * 600 + 1500);
}

}  // namespace

// Few rows of input by many columns are split better among the blocks of clusters.
bool TakesGemmW8A8Wide(const GemmW8A8& args) {
  constexpr int64_t kFewestInputs = 256, kManyInputs = 1024;
  constexpr int kFewChunks = 32;
  if (args.m < kFewestInputs || args.rows % 8 != 0) return false;
  const Plan plan = PlanOf(args, 128);
  return plan.chunks <= kFewChunks ||
         (args.m >= kManyInputs && plan.tiles() * 2 >= CurrentGpu().processors);
}

const char* GemmW8A8Wide(const GemmW8A8& args) {
  return CostOf(args, 128) < CostOf(args, 256) ? Run<128>(args) : Run<256>(args);
}

}  // namespace quantd::kernels
