// What the products on Hopper's tensor cores share. They compute the transpose of the output in
// tiles of 256 outputs by 16 ... 128 rows of input: one warp copies, two groups of four warps
// compute. Where the tiles are fewer than the processors, the columns are split among blocks, which
// add up each other's parts.
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
constexpr int kSplitsMax = 16;
constexpr int64_t kCounterBytes = 1 << 16;  // At the workspace's front.
// Barriers; what follows is aligned for the copy engine.
constexpr int kTileFixedBytes = 1024;
// Sums on their way out, those of a row of input together; padded so that rows start in other
// banks.
constexpr int kStagingRowBytes = kTileRows * 4 + 16;
template <int kRowsOfInput>
constexpr int64_t kPartBytes = int64_t{4} * kTileRows* kRowsOfInput;

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

// Where the parts of a tile meet: in the workspace, at its front counters.
struct Meeting {
  unsigned* arrived;
  unsigned* left;
  char* parts;
};

// Until all blocks of the tile have written their parts. They all run at the same time: a product
// is split only where the blocks are no more than the processors.
__device__ inline void Meet(const Meeting& meeting, unsigned splits) {
  __threadfence();
  SyncComputing();
  if (threadIdx.x == 128) {
    atomicAdd(meeting.arrived, 1);
    while (*const_cast<volatile unsigned*>(meeting.arrived) != splits) {
    }
    __threadfence();
  }
  SyncComputing();
}

// The counters as they were found, once no block reads them any more.
__device__ inline void Leave(const Meeting& meeting, unsigned splits) {
  SyncComputing();
  if (threadIdx.x != 128) return;
  if (atomicAdd(meeting.left, 1) != splits - 1) return;
  *meeting.arrived = 0;
  *meeting.left = 0;
}

// Makes a tile's sums the output: they go through the ring, which is no longer in use by this
// block, so that memory is written in whole lines. finish(eight, m, row) makes eight sums the 16
// bytes that are stored; rows beyond the output may be asked for. Where the columns are split,
// every block adds up a share of the tile, in the order of the columns.
template <int kRowsOfInput, typename Sum, typename Finish>
__device__ inline void WriteTile(const TileOutput& output, const Part& part, const Split& split,
                                 void* workspace, char* ring,
                                 const TileSums<Sum, kRowsOfInput>& sums, const Finish& finish) {
  constexpr int kEights = kTileRows / 8;
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
  const int items = static_cast<int>(left < kRowsOfInput ? left : kRowsOfInput) * kEights;
  const auto own = [&](int item) -> Eight<Sum>& {
    return *reinterpret_cast<Eight<Sum>*>(ring + item / kEights * kStagingRowBytes +
                                          item % kEights * 32);
  };
  const int tile = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
  auto* const counters = static_cast<unsigned*>(workspace) + 2 * tile;
  const Meeting meeting = {
      counters, counters + 1,
      static_cast<char*>(workspace) + kCounterBytes +
          static_cast<int64_t>(tile) * split.splits * kPartBytes<kRowsOfInput>};
  const auto part_of = [&](int other, int item) {
    return reinterpret_cast<uint4*>(meeting.parts + other * kPartBytes<kRowsOfInput> + item * 32);
  };
  const int index = static_cast<int>(blockIdx.z);
  const int begin = items * index / split.splits, end = items * (index + 1) / split.splits;
  if (split.splits > 1) {
    for (int item = thread; item < items; item += kGroups * 128) {
      if (item >= begin && item < end) continue;
      const auto* from = reinterpret_cast<const uint4*>(&own(item));
      __stcg(part_of(index, item), from[0]);
      __stcg(part_of(index, item) + 1, from[1]);
    }
    Meet(meeting, split.splits);
  }
  const bool wide = output.rows % 8 == 0;
  for (int item = begin + thread; item < end; item += kGroups * 128) {
    Eight<Sum> sum = {};
#pragma unroll 4
    for (int other = 0; other < split.splits; ++other) {
      Eight<Sum> eight;
      if (other == index) {
        eight = own(item);
      } else {
        auto* words = reinterpret_cast<uint4*>(&eight);
        words[0] = __ldcg(part_of(other, item));
        words[1] = __ldcg(part_of(other, item) + 1);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.value[i] += eight.value[i];
    }
    const int64_t m = part.m + item / kEights;
    const int64_t row = part.row + item % kEights * 8;
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
  if (split.splits > 1) Leave(meeting, split.splits);
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
  if (const char* forced = getenv("QD_WIDTH")) return atoi(forced);
  int width = 0;
  while (width < 3 && (16 << width) < m) ++width;
  return width;
}

// Into how many parts the columns are split, so that all blocks run at the same time.
inline int ChooseSplits(int64_t tiles, int chunks, int processors) {
  if (const char* forced = getenv("QD_SPLITS"))
    return atoi(forced) < chunks ? atoi(forced) : chunks;
  const int64_t most = std::min<int64_t>({processors / tiles, kSplitsMax, chunks});
  // What meeting costs, in units of 128 columns.
  constexpr int kMeeting = 3;
  int best = 1;
  for (int splits = 2; splits <= most; ++splits) {
    const auto cost = [&](int n) { return (chunks + n - 1) / n + (n > 1 ? kMeeting : 0); };
    if (cost(splits) < cost(best)) best = splits;
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
