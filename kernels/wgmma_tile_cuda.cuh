// What the products on Hopper's tensor cores share. They compute the transpose of the output in
// tiles of 256 outputs by 16 ... 128 rows of input, or 128 by 256: one warp copies, groups of four
// warps compute. Where the tiles are fewer than the processors, the columns are split among the
// blocks of a cluster, which add up each other's parts.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/wgmma_cuda.cuh"

namespace quantd::kernels {

// The outputs that a block makes, of so many rows of input, and how they are shared out.
struct Tile {
  int rows_of_input;
  int groups;             // Of warps that compute.
  int blocks;             // Of 64 outputs, of a group.
  int copy_registers;     // Of a thread that copies,
  int compute_registers;  // and of one that computes.
  QD_HOST_DEVICE constexpr int rows() const { return groups * blocks * 64; }
  QD_HOST_DEVICE constexpr int threads() const { return (groups + 1) * 128; }
};
constexpr int kTileStagesMax = 8;
constexpr int kSplitsMax = 8;  // Larger clusters are not possible everywhere.
// Barriers; what follows is aligned for the copy engine.
constexpr int kTileFixedBytes = 1024;
// Sums on their way out, those of a row of input together; padded so that rows start in other
// banks.
template <Tile kTile>
constexpr int kStagingRowBytes = kTile.rows() * 4 + 16;

// How a product's columns, in chunks of 128, are split: among the blocks of a cluster and in turn
// among `slices` sets of a block's groups of warps, whose tile then has as many times fewer
// outputs. A step is as many chunks as a block takes at a time.
struct Split {
  int chunks;
  int splits;
  int slices;
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

template <Tile kTile>
__device__ inline Part PartOfBlock(const Split& split) {
  const int index = static_cast<int>(blockIdx.z);
  const int steps = (split.chunks + split.slices - 1) / split.slices;
  const auto block = static_cast<int>(blockIdx.x);
  const int row_blocks = static_cast<int>(gridDim.x) / split.input_blocks;
  const int first = block / (kInputBlocksAtATime * row_blocks) * kInputBlocksAtATime;
  const int count = min(kInputBlocksAtATime, split.input_blocks - first);
  const int place = block - first * row_blocks;
  return {static_cast<int64_t>(place / count) * (kTile.rows() / split.slices),
          (first + place % count) * kTile.rows_of_input, steps * index / split.splits,
          steps * (index + 1) / split.splits};
}

// Of this thread: 0 or 1. Computed so that the compiler knows it to be the same for a whole warp.
__device__ inline int GroupOfWarp() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
}

// The accumulators of a thread: block of 64 outputs, element.
template <typename Sum, Tile kTile>
using TileSums = Sum[kTile.blocks][kTile.rows_of_input / 2];

// The compiler may not move what writes or reads the sums across this, into the products' pipeline.
template <typename Sum, Tile kTile>
__device__ inline void FenceSums(TileSums<Sum, kTile>& sums) {
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

// Reads a map into the cache of the copy engine.
__device__ inline void FetchMap(const CUtensorMap* map) {
#if QD_WGMMA
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

template <int kThreads>
__device__ inline void SyncComputing() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// The output [m_count, rows] of a product.
struct TileOutput {
  int64_t m_count;
  int64_t rows;
  uint16_t* data;
};

// 16 bytes of results, of which `count` numbers are inside the matrix. `wide`: they are aligned.
__device__ inline void StoreEight(const uint4& value, uint16_t* to, int64_t count, bool wide) {
  if (wide) {
    *reinterpret_cast<uint4*>(to) = value;
    return;
  }
  const uint32_t words[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) to[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
  }
}

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

// Barriers of the stages: one that counts what arrives, one that counts who has read it.
__device__ inline void InitStages(int groups, int stages, uint32_t full, uint32_t empty) {
  for (int stage = 0; stage < stages; ++stage) {
    BarrierInit(full + stage * 8, 1);
    BarrierInit(empty + stage * 8, groups);
  }
  BarrierInitDone();
}
template <typename Sum>
__device__ inline Eight<Sum> ReadEight(uint32_t address) {
  Eight<Sum> eight;
  auto* const words = reinterpret_cast<uint4*>(&eight);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                 : "r"(address + i * 16)
                 : "memory");
  }
  return eight;
}
// The same shared address of another block of the cluster, and what lies there.
__device__ inline uint32_t AddressInCluster(uint32_t address, int block) {
  uint32_t there = 0;
#if QD_WGMMA
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
#endif
  return there;
}
template <typename Sum>
__device__ inline Eight<Sum> ReadEightInCluster(uint32_t address) {
  Eight<Sum> eight = {};
#if QD_WGMMA
  auto* const words = reinterpret_cast<uint4*>(&eight);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                 : "r"(address + i * 16)
                 : "memory");
  }
#endif
  return eight;
}

// Eight neighbouring outputs of a thread: the sums of the pieces of a tile that are theirs, of some
// rows of input and of some pieces at a time, as one read waits as long as several.
template <int kRowBytes, typename Sum>
struct Gather {
  const Split& split;
  uint32_t at;      // Of the first row of input and the first piece,
  int slice_bytes;  // and from one slice's to the next.
  int step;         // Between the thread's rows of input.

  template <int kRows, int kPieces>
  __device__ void Add(int m, int end, Eight<Sum> (&sum)[kRows]) const {
    const int pieces = split.splits * split.slices;
    for (int piece = 0; piece < pieces; piece += kPieces) {
      Eight<Sum> eight[kPieces][kRows] = {};
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        if (piece + p >= pieces) break;
        const int block = (piece + p) / split.slices;
        const uint32_t from = at + (piece + p) % split.slices * slice_bytes;
        const bool here = block == static_cast<int>(blockIdx.z);
        const uint32_t there = here ? from : AddressInCluster(from, block);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (m + i * step >= end) break;
          const int offset = (m + i * step) * kRowBytes;
          eight[p][i] =
              here ? ReadEight<Sum>(there + offset) : ReadEightInCluster<Sum>(there + offset);
        }
      }
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int k = 0; k < 8; ++k) sum[i].value[k] += eight[p][i].value[k];
        }
      }
    }
  }
};

// The rows of input [m, end) of a tile, every `step`th of them.
template <int kRows, int kPieces, int kRowBytes, typename Sum, typename Finish>
__device__ inline void WriteRows(const Gather<kRowBytes, Sum>& gather, int m, int end,
                                 int64_t first, int64_t row, const TileOutput& output,
                                 const Finish& finish) {
  for (; m < end; m += kRows * gather.step) {
    Eight<Sum> sum[kRows] = {};
    gather.template Add<kRows, kPieces>(m, end, sum);
    uint4 stored[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      stored[i] = finish(sum[i], first + min(m + i * gather.step, end - 1));
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (m + i * gather.step >= end) break;
      StoreEight(stored[i], output.data + (first + m + i * gather.step) * output.rows + row,
                 output.rows - row, output.rows % 8 == 0);
    }
  }
}

// Makes a tile's sums the output: they go through the ring, which is no longer in use by this
// block, so that memory is written in whole lines. `finish_for(row)` gives what makes eight sums
// the 16 bytes that are stored, finish(eight, m). Where the columns are split, every block adds up
// a share of the tile, always in the same order.
template <Tile kTile, typename Sum, typename FinishFor>
__device__ inline void WriteTile(const TileOutput& output, const Part& part, const Split& split,
                                 char* ring, const TileSums<Sum, kTile>& sums,
                                 const FinishFor& finish_for) {
  constexpr int kRowBytes = kStagingRowBytes<kTile>;
  constexpr int kThreads = kTile.groups * 128;
  const int lane = threadIdx.x % 32;
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int eights = kTile.rows() / 8 / split.slices;
  const int64_t row = part.row + thread % eights * 8;
  const auto finish = finish_for(row);
#pragma unroll
  for (int block = 0; block < kTile.blocks; ++block) {
    // Element i of a lane: row lane / 4 (+ 8), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
    const int to_row = (thread / 128 * kTile.blocks + block) * 64 + thread / 32 % 4 * 16 + lane / 4;
    char* const to = ring + lane % 4 * 2 * kRowBytes + to_row * 4;
#pragma unroll
    for (int i = 0; i < kTile.rows_of_input / 2; ++i) {
      *reinterpret_cast<Sum*>(to + (i / 4 * 8 + i % 2) * kRowBytes + i / 2 % 2 * 32) =
          sums[block][i];
    }
  }
  SyncComputing<kThreads>();
  if (split.splits > 1) MeetInCluster();
  const int64_t left = output.m_count - part.m;
  const int count = static_cast<int>(left < kTile.rows_of_input ? left : kTile.rows_of_input);
  const int index = static_cast<int>(blockIdx.z);
  const int begin = count * index / split.splits + thread / eights;
  const int end = row < output.rows ? count * (index + 1) / split.splits : 0;
  const Gather<kRowBytes, Sum> gather = {split, SharedAddress(ring) + thread % eights * 32,
                                         eights * 32, kThreads / eights};
  if (split.splits * split.slices == 1) {
    WriteRows<4, 1>(gather, begin, end, part.m, row, output, finish);
  } else if (split.splits * split.slices == 2) {
    WriteRows<4, 2>(gather, begin, end, part.m, row, output, finish);
  } else {
    WriteRows<1, 4>(gather, begin, end, part.m, row, output, finish);
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

// Up to eight 16-bit numbers of a row that ends after `count` of them; zeros beyond, and for null.
template <typename Type>
__device__ inline Eight<float> LoadRow(const uint16_t* row, int64_t count) {
  Eight<float> eight = {};
  if (row == nullptr) return eight;
  if (count >= 8 && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    const uint4 all = *reinterpret_cast<const uint4*>(row);
    const uint32_t words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      eight.value[i] = Type::ToFloat(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
    }
    return eight;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) eight.value[i] = Type::ToFloat(row[i]);
  }
  return eight;
}

// How many rows of input a tile takes, up to 128: 16 << width.
inline int TileWidth(int64_t m) {
  int width = 0;
  while (width < 3 && (16 << width) < m) ++width;
  return width;
}

// Whether so few tiles cover the outputs that each would be split `splits` times.
inline bool FewOutputs(const Tile& tile, int64_t rows, int splits) {
  return (rows + tile.rows() - 1) / tile.rows() * splits <= CurrentGpu().processors;
}

// How many clusters of so many blocks, each of which fills a processor, run at the same time.
inline int ClustersAtATime(const void* kernel, int threads, int blocks) {
  static int known[kSplitsMax + 1];
  int& clusters = known[blocks];
  if (clusters == 0) {
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {1, 1, static_cast<unsigned>(blocks)};
    cudaLaunchConfig_t config = {};
    config.gridDim = {1, 1, static_cast<unsigned>(blocks)};
    config.blockDim = {static_cast<unsigned>(threads), 1, 1};
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
inline Split ChooseSplit(const void* kernel, const Tile& tile, int64_t rows, int64_t m,
                         int chunks) {
  constexpr int kEnds = 7, kAdding = 2;
  const int rows_of_input = tile.rows_of_input;
  const int64_t input_blocks = (m + rows_of_input - 1) / rows_of_input;
  Split best = {chunks, 1, 1, static_cast<int>(input_blocks)};
  int64_t best_cost = -1;
  // More inputs a step would leave room for too few of them.
  const int slices_max =
      rows_of_input > 128 ? 1 : std::min(tile.groups, rows_of_input > 32 ? 2 : 4);
  for (int slices = 1; slices <= slices_max; slices *= 2) {
    const int steps = (chunks + slices - 1) / slices;
    const int tile_rows = tile.rows() / slices;
    const int64_t tiles = (rows + tile_rows - 1) / tile_rows * input_blocks;
    // Two stages alone do not hide all of what a step waits for.
    const bool crowded = slices * rows_of_input > 128;
    for (int splits = 1; splits <= kSplitsMax && splits <= steps; ++splits) {
      const int at_a_time = ClustersAtATime(kernel, tile.threads(), splits);
      const int64_t rounds = (tiles + at_a_time - 1) / at_a_time;
      const int64_t step = (steps + splits - 1) / splits;
      const int64_t cost =
          rounds * (step + (crowded ? step / 4 : 0) + kEnds + (splits - 1) * kAdding);
      if (best_cost >= 0 && cost >= best_cost) continue;
      best.splits = splits;
      best.slices = slices;
      best_cost = cost;
    }
  }
  return best;
}

inline dim3 GridOf(const Split& split, const Tile& tile, int64_t rows) {
  const int tile_rows = tile.rows() / split.slices;
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
