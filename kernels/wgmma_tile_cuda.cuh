// What the products on Hopper's tensor cores share. They compute the transpose of the output in
// tiles of 256 outputs by 16 ... 128 rows of input: one warp copies, two groups of four warps
// compute. Where the tiles are fewer than the processors, the columns are split among the blocks of
// a cluster, which add up each other's parts.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/wgmma_cuda.cuh"

namespace quantd::kernels {

constexpr int kGroups = 2;         // Of warps that compute.
constexpr int kBlocksOfGroup = 2;  // Of 64 outputs each.
constexpr int kTileRows = kGroups * kBlocksOfGroup * 64;
constexpr int kTileThreads = (kGroups + 1) * 128;
constexpr int kTileStagesMax = 8;
constexpr int kSplitsMax = 8;  // Larger clusters are not possible everywhere.
// Barriers; what follows is aligned for the copy engine.
constexpr int kTileFixedBytes = 1024;
// Sums on their way out, those of a row of input together; padded so that rows start in other
// banks.
constexpr int kStagingRowBytes = kTileRows * 4 + 16;

// How a product's columns, in chunks of 128, are split: among the blocks of a cluster and, where
// `halves` is 2, in turn among the two groups of warps of a block, whose tile then has half the
// outputs. A step is as many chunks as a block takes at a time.
struct Split {
  int chunks;
  int splits;
  int halves;
  int input_blocks;  // Tiles along the rows of input.
};
// Tiles are taken along the rows of input first, so many at a time that their inputs stay in the
// cache while the weights pass once.
constexpr int kInputBlocksAtATime = 8;

struct Part {
  int64_t row;     // The first output of the block.
  int m;           // The first row of input.
  int begin, end;  // Steps.
};

template <int kRowsOfInput>
__device__ inline Part PartOfBlock(const Split& split) {
  const int index = static_cast<int>(blockIdx.z);
  const int steps = (split.chunks + split.halves - 1) / split.halves;
  const int row_blocks = static_cast<int>(gridDim.x) / split.input_blocks;
  const int group = static_cast<int>(blockIdx.x) / (kInputBlocksAtATime * row_blocks);
  const int first = group * kInputBlocksAtATime;
  const int count = min(kInputBlocksAtATime, split.input_blocks - first);
  const int place = static_cast<int>(blockIdx.x) - first * row_blocks;
  return {static_cast<int64_t>(place / count) * (kTileRows / split.halves),
          (first + place % count) * kRowsOfInput, steps * index / split.splits,
          steps * (index + 1) / split.splits};
}

// Of this thread: 0 or 1. Computed so that the compiler knows it to be the same for a whole warp.
__device__ inline int GroupOfWarp() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
}

// The accumulators of a thread: block of 64 outputs, element.
template <typename Sum, int kRowsOfInput>
using TileSums = Sum[kBlocksOfGroup][kRowsOfInput / 2];

// The compiler may not move what writes or reads the sums across this, into the products' pipeline.
template <typename Sum, int kRowsOfInput>
__device__ inline void FenceSums(TileSums<Sum, kRowsOfInput>& sums) {
#pragma unroll
  for (auto& block : sums) {
#pragma unroll
    for (Sum& sum : block) {
      if constexpr (std::is_same_v<Sum, float>) {
        asm volatile("" : "+f"(sum)::"memory");
      } else {
        asm volatile("" : "+r"(sum)::"memory");
      }
    }
  }
}

// A box of a matrix, by the copy engine; elements outside the matrix are zero.
__device__ inline void CopyBox(uint32_t to, const CUtensorMap* map, int column, int row,
                               uint32_t barrier) {
#if QD_WGMMA
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
#endif
}

__device__ inline void SyncComputing() {
  asm volatile("bar.sync 1, %0;" ::"n"(kGroups * 128) : "memory");
}

// The output [m_count, rows] of a product.
struct TileOutput {
  int64_t m_count;
  int64_t rows;
  uint16_t* data;
};

// Eight neighbouring sums of a row of input.
template <typename Sum>
struct alignas(16) Eight {
  Sum value[8];
};

// The blocks that share a tile are a cluster, whose blocks can read each other's shared memory.
__device__ inline void MeetInCluster() {
#if QD_WGMMA
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// 16 bytes at the same shared `address` of another block of the cluster.
__device__ inline uint4 ReadInCluster(uint32_t address, int block) {
  uint4 value = {};
#if QD_WGMMA
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [there];\n"
      "}\n"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "r"(address), "r"(block)
      : "memory");
#endif
  return value;
}

// Makes a tile's sums the output: they go through the ring, which is no longer in use by this
// block, so that memory is written in whole lines. finish(eight, m, row) makes eight sums the 16
// bytes that are stored; rows beyond the output may be asked for. Where the columns are split,
// every block adds up a share of the tile, always in the same order.
template <int kRowsOfInput, typename Sum, typename Finish>
__device__ inline void WriteTile(const TileOutput& output, const Part& part, const Split& split,
                                 char* ring, const TileSums<Sum, kRowsOfInput>& sums,
                                 const Finish& finish) {
  const int eights = kTileRows / 8 / split.halves;
  const int lane = threadIdx.x % 32;
  const int thread = static_cast<int>(threadIdx.x) - 128;
#pragma unroll
  for (int block = 0; block < kBlocksOfGroup; ++block) {
    // Element i of a lane: row lane / 4 (+ 8), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
    const int row =
        thread / 128 * kBlocksOfGroup * 64 + block * 64 + thread / 32 % 4 * 16 + lane / 4;
    char* const to = ring + lane % 4 * 2 * kStagingRowBytes + row * 4;
#pragma unroll
    for (int i = 0; i < kRowsOfInput / 2; ++i) {
      *reinterpret_cast<Sum*>(to + (i / 4 * 8 + i % 2) * kStagingRowBytes + i / 2 % 2 * 32) =
          sums[block][i];
    }
  }
  SyncComputing();
  const int64_t left = output.m_count - part.m;
  const int items = static_cast<int>(left < kRowsOfInput ? left : kRowsOfInput) * eights;
  const int index = static_cast<int>(blockIdx.z);
  const int begin = items * index / split.splits, end = items * (index + 1) / split.splits;
  if (split.splits > 1) MeetInCluster();
  const bool wide = output.rows % 8 == 0;
  for (int item = begin + thread; item < end; item += kGroups * 128) {
    Eight<Sum> sum = {};
#pragma unroll 4
    for (int piece = 0; piece < split.splits * split.halves; ++piece) {
      const int other = piece / split.halves;
      char* const at = ring + item / eights * kStagingRowBytes + item % eights * 32 +
                       piece % split.halves * (kTileRows / 2 * 4);
      Eight<Sum> eight;
      auto* const words = reinterpret_cast<uint4*>(&eight);
      if (other == index) {
        words[0] = reinterpret_cast<const uint4*>(at)[0];
        words[1] = reinterpret_cast<const uint4*>(at)[1];
      } else {
        words[0] = ReadInCluster(SharedAddress(at), other);
        words[1] = ReadInCluster(SharedAddress(at) + 16, other);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.value[i] += eight.value[i];
    }
    const int64_t m = part.m + item / eights;
    const int64_t row = part.row + item % eights * 8;
    if (row >= output.rows) continue;
    const uint4 stored = finish(sum, m, row);
    uint16_t* const to = output.data + m * output.rows + row;
    if (wide) {
      *reinterpret_cast<uint4*>(to) = stored;
    } else {
      const uint32_t words[4] = {stored.x, stored.y, stored.z, stored.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (row + i < output.rows) to[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
      }
    }
  }
  // The others read this block's memory.
  __syncwarp();
  if (split.splits > 1) MeetInCluster();
}

// Eight floats as stored.
template <typename Type>
__device__ inline uint4 Store(const float (&value)[8]) {
  return {Type::Bits(Type::Make(value[0], value[1])), Type::Bits(Type::Make(value[2], value[3])),
          Type::Bits(Type::Make(value[4], value[5])), Type::Bits(Type::Make(value[6], value[7]))};
}

// Adds up to eight 16-bit numbers of a row that ends after `count` of them.
template <typename Type>
__device__ inline void AddRow(const uint16_t* row, int64_t count, float (&value)[8]) {
  if (row == nullptr) return;
  if (count >= 8 && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    const uint4 all = *reinterpret_cast<const uint4*>(row);
    const uint32_t words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      value[i] += Type::ToFloat(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) value[i] += Type::ToFloat(row[i]);
  }
}

// How many rows of input a tile takes, as a power of two from 16 on.
inline int TileWidth(int64_t m) {
  int width = 0;
  while (width < 3 && (16 << width) < m) ++width;
  return width;
}

// How many clusters of so many blocks, each of which fills a processor, run at the same time.
inline int ClustersAtATime(const void* kernel, int blocks) {
  static int known[kSplitsMax + 1];
  int& clusters = known[blocks];
  if (clusters == 0) {
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {1, 1, static_cast<unsigned>(blocks)};
    cudaLaunchConfig_t config = {};
    config.gridDim = {1, 1, static_cast<unsigned>(blocks)};
    config.blockDim = {kTileThreads, 1, 1};
    config.dynamicSmemBytes = CurrentGpu().shared_bytes_max;
    config.attrs = &cluster;
    config.numAttrs = 1;
    // Written alike by every thread that comes here first.
    int found = 0;
    if (cudaOccupancyMaxActiveClusters(&found, kernel, &config) != cudaSuccess) cudaGetLastError();
    clusters = std::max(found, 1);
  }
  return clusters;
}

// The split that takes the shortest time: rounds of clusters, each as long as its steps and what
// starting, ending and adding up cost, in units of a step. `kernel` may use all shared memory.
inline Split ChooseSplit(const void* kernel, int64_t rows, int64_t m, int rows_of_input,
                         int chunks) {
  constexpr int kEnds = 4, kAdding = 2;
  const int64_t input_blocks = (m + rows_of_input - 1) / rows_of_input;
  // More inputs a step would leave room for too few of them.
  const int halves_max = rows_of_input <= 64 ? 2 : 1;
  Split best = {chunks, 1, 1, static_cast<int>(input_blocks)};
  int64_t best_cost = -1;
  for (int halves = 1; halves <= halves_max; ++halves) {
    const int steps = (chunks + halves - 1) / halves;
    const int tile_rows = kTileRows / halves;
    const int64_t tiles = (rows + tile_rows - 1) / tile_rows * input_blocks;
    for (int splits = 1; splits <= kSplitsMax && splits <= steps; ++splits) {
      const int at_a_time = ClustersAtATime(kernel, splits);
      const int64_t rounds = (tiles + at_a_time - 1) / at_a_time;
      const int64_t cost =
          rounds * ((steps + splits - 1) / splits + kEnds + (splits > 1 ? kAdding : 0));
      if (best_cost >= 0 && cost >= best_cost) continue;
      best.splits = splits;
      best.halves = halves;
      best_cost = cost;
    }
  }
  return best;
}

inline dim3 GridOf(const Split& split, int64_t rows) {
  const int tile_rows = kTileRows / split.halves;
  return {static_cast<unsigned>((rows + tile_rows - 1) / tile_rows * split.input_blocks), 1u,
          static_cast<unsigned>(split.splits)};
}

// A row-major matrix for the copy engine, in boxes of 128 bytes by box_rows, swizzled.
struct BoxedMatrix {
  CUtensorMapDataType type;
  int element_bytes;
  const void* data;
  int64_t rows;
  int64_t columns;
  int box_rows;
};

inline bool DescribeMatrix(const BoxedMatrix& matrix, CUtensorMap* map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(entry)
               : nullptr;
  }();
  if (encode == nullptr) return false;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(matrix.columns),
                               static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[1] = {sizes[0] * matrix.element_bytes};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / matrix.element_bytes),
                             static_cast<cuuint32_t>(matrix.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return encode(map, matrix.type, 2, const_cast<void*>(matrix.data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace quantd::kernels
