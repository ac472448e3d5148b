// What the products on Hopper's tensor cores share. They compute the transpose of the output in
// tiles of 256 outputs by 16 ... 128 rows of input: one warp copies, two groups of four warps
// compute. Where the tiles are fewer than the processors, the columns are split among blocks, and
// the last block of a tile adds the parts in order.
#pragma once

#include <cuda.h>

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
constexpr int kSplitsMax = 16;
constexpr int64_t kCounterBytes = 1 << 20;  // At the workspace's front.
// Barriers, a flag; what follows is aligned for the copy engine.
constexpr int kTileFixedBytes = 1024;
// A tile of the output on its way out, 64 outputs a row; padded so that rows start in other banks.
constexpr int kStagingRowBytes = 64 * 2 + 16;

// How a product's columns, in chunks of 128, are split.
struct Split {
  int chunks;
  int splits;
};

struct Part {
  int64_t row;     // The first output of the block.
  int m;           // The first row of input.
  int begin, end;  // Chunks.
};

template <int kRowsOfInput>
__device__ inline Part PartOfBlock(const Split& split) {
  const int index = static_cast<int>(blockIdx.z);
  return {static_cast<int64_t>(blockIdx.x) * kTileRows, static_cast<int>(blockIdx.y) * kRowsOfInput,
          split.chunks * index / split.splits, split.chunks * (index + 1) / split.splits};
}

// The accumulators of a thread: block of 64 outputs, element.
template <typename Sum, int kRowsOfInput>
using TileSums = Sum[kBlocksOfGroup][kRowsOfInput / 2];

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

// Adds the other blocks' parts of this tile, in the order of the columns. False for all blocks of a
// tile but the one that comes last. `flag` is in shared memory.
template <int kRowsOfInput, typename Sum>
__device__ inline bool AddParts(void* workspace, int splits, volatile unsigned* flag,
                                TileSums<Sum, kRowsOfInput>& sums) {
  if (splits == 1) return true;
  struct alignas(16) Four {
    Sum value[4];
  };
  constexpr int kFours = kBlocksOfGroup * kRowsOfInput / 8;
  constexpr int kFoursOfBlock = kRowsOfInput / 8;
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  auto* counter = static_cast<unsigned*>(workspace) + tile;
  auto* parts = reinterpret_cast<uint4*>(static_cast<char*>(workspace) + kCounterBytes) +
                tile * splits * kFours * kGroups * 128;
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const auto place = [&](int split, int four) {
    return parts + (static_cast<int64_t>(split) * kFours + four) * kGroups * 128 + thread;
  };
#pragma unroll
  for (int four = 0; four < kFours; ++four) {
    Four own;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      own.value[j] = sums[four / kFoursOfBlock][four % kFoursOfBlock * 4 + j];
    }
    __stcg(place(blockIdx.z, four), *reinterpret_cast<const uint4*>(&own));
  }
  __threadfence();
  SyncComputing();
  const auto last = static_cast<unsigned>(splits) - 1;
  if (thread == 0) {
    *flag = atomicAdd(counter, 1);
    if (*flag == last) *counter = 0;  // As it was found.
    __threadfence();
  }
  SyncComputing();
  if (*flag != last) return false;
  // Several at a time, so that their latencies overlap; all of them would take too many registers.
  constexpr int kAtATime = kFours < 8 ? kFours : 8;
#pragma unroll
  for (int first = 0; first < kFours; first += kAtATime) {
    Four sum[kAtATime] = {};
    for (int split = 0; split < splits; ++split) {
      uint4 part[kAtATime];
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) part[i] = __ldcg(place(split, first + i));
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const Four& four = *reinterpret_cast<const Four*>(&part[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i].value[j] += four.value[j];
      }
    }
#pragma unroll
    for (int i = 0; i < kAtATime; ++i) {
      const int four = first + i;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[four / kFoursOfBlock][four % kFoursOfBlock * 4 + j] = sum[i].value[j];
      }
    }
  }
  return true;
}

// The output [m_count, rows] of a product.
struct TileOutput {
  int64_t m_count;
  int64_t rows;
  uint16_t* data;
};

// 64 outputs of all rows of input at a time go through `staging`, so that memory is written in whole
// lines. value(sum, m, row) makes a sum the 16 bits that are stored; it is not called outside the
// output.
template <int kRowsOfInput, typename Sum, typename Value>
__device__ inline void WriteTile(const TileOutput& output, const Part& part, int group,
                                 const TileSums<Sum, kRowsOfInput>& sums, char* staging,
                                 const Value& value) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int block = 0; block < kBlocksOfGroup; ++block) {
    const int64_t first_row = part.row + (group * kBlocksOfGroup + block) * 64;
#pragma unroll
    for (int i = 0; i < kRowsOfInput / 2; ++i) {
      // Element i of a lane: row lane / 4 (+ 8), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
      const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
      const int m = i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (first_row + row < output.rows && part.m + m < output.m_count) {
        *reinterpret_cast<uint16_t*>(staging + m * kStagingRowBytes + row * 2) =
            value(sums[block][i], part.m + m, first_row + row);
      }
    }
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
    const bool wide = output.rows % 8 == 0;
    for (int item = threadIdx.x % 128; item < kRowsOfInput * 8; item += 128) {
      const int m = item / 8;
      const int64_t row = first_row + item % 8 * 8;
      if (part.m + m >= output.m_count || row >= output.rows) continue;
      const char* from = staging + m * kStagingRowBytes + item % 8 * 16;
      uint16_t* to = output.data + (part.m + m) * output.rows + row;
      if (wide) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int i = 0; i < 8 && row + i < output.rows; ++i) {
          to[i] = reinterpret_cast<const uint16_t*>(from)[i];
        }
      }
    }
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
  }
}

// How many rows of input a tile takes, as a power of two from 16 on.
inline int TileWidth(int64_t m) {
  int width = 0;
  while (width < 3 && (16 << width) < m) ++width;
  return width;
}

// Into how many parts the columns are split: rounds of blocks over the processors, each as long as a
// part's columns and what starting, ending and adding up cost, in units of 128 columns.
inline int ChooseSplits(int64_t tiles, int chunks, int64_t part_bytes, int processors) {
  constexpr int kEnds = 5, kAdding = 3;
  int best = 1;
  int64_t best_cost = 0;
  if (tiles * 4 > kCounterBytes) return 1;
  for (int splits = 1; splits <= kSplitsMax && splits <= chunks; ++splits) {
    if (splits > 1 && tiles * splits * part_bytes > kW4WorkspaceBytes - kCounterBytes) break;
    const int64_t rounds = (tiles * splits + processors - 1) / processors;
    const int64_t cost =
        rounds * ((chunks + splits - 1) / splits + kEnds + (splits > 1 ? kAdding : 0));
    if (splits == 1 || cost < best_cost) {
      best = splits;
      best_cost = cost;
    }
  }
  return best;
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
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
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
