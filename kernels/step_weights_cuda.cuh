// The weights of step_product.h as its kernel reads them: which bytes a thread copies, and how it
// multiplies with them.
#pragma once

#include <type_traits>

#include "kernels/eight_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/step_product.h"

namespace quantd::kernels::step {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kSlots = 2;  // Row tiles side by side, at most.
constexpr int kStagesMax = 8;
constexpr int kPiece = kThreads * 16;  // Bytes of one copy of all threads.
constexpr int kZeroRowBytes = 256;
constexpr int kRowsMax = 32;                  // Rows of input of one launch.
constexpr int kSumsBytes = 2 * kWarps * 512;  // For each row tile of a group.
constexpr int kFixedBytes = kZeroRowBytes + kRowsMax * 4 + kWarps * 4 + 96;
constexpr unsigned kWarp = 0xffffffffu;

struct Plan {
  int stages;
  int slots;
  int slot_bytes;
  int groups;        // Row tiles, or pairs of them: a block's unit of work.
  int items;         // Pieces of columns of one unit.
  int input_bytes;   // Of a staged row, with what keeps rows apart in the banks.
  int rows_at_once;  // That are staged side by side, a power of two.
  int tiles[kStepWeightsMax];
  int64_t output_columns;
  // kW4:
  int tile_groups;
  int tile_bytes;
  int64_t column_bytes[kStepWeightsMax];  // From one column of tiles to the next.
};

struct Tile {
  int weight;
  int index;       // Row tile of that weight.
  int64_t column;  // Of the output, where the weight's begin.
};

__device__ inline Tile TileOf(const StepProduct& args, const Plan& plan, int group, int slot) {
  if (plan.slots == 2) return {slot, group, 0};
  Tile tile = {0, group, 0};
  while (tile.weight + 1 < args.count && tile.index >= plan.tiles[tile.weight]) {
    tile.index -= plan.tiles[tile.weight];
    tile.column += args.weights[tile.weight].rows;
    ++tile.weight;
  }
  return tile;
}

// Weights in rows of plain numbers. An item is 128 bytes of each row: a thread has two times 16
// bytes of rows lane / 4 and lane / 4 + 8. Which columns those are is of no account as long as the
// inputs are read alike.
template <bool kIsInt8>
struct Rows {
  static constexpr bool kInt8 = kIsInt8;
  static constexpr bool kTable = false;
  static constexpr int kElement = kIsInt8 ? 1 : 2;
  static constexpr int kItemColumns = 128 / kElement;
  static constexpr int kPad = 64;  // Keeps 16-byte reads of eight lanes apart.
  using Sum = std::conditional_t<kIsInt8, int32_t, float>;

  struct Source {
    const char* at;
    int left;  // Rows from this thread's first one on.
  };

  static __device__ Source Begin(const StepProduct& args, const Plan&, const Tile& tile, int item) {
    const StepWeight& weight = args.weights[tile.weight];
    const int lane = threadIdx.x % 32;
    const int64_t row = tile.index * 16 + lane / 4;
    return {static_cast<const char*>(weight.data) +
                (weight.first_row + row) * args.columns * kElement + item * 128 + lane % 4 * 16,
            static_cast<int>(weight.rows - row)};
  }
  static __device__ void Advance(const Plan&, int, Source& source) { source.at += kWarps * 128; }
  static __device__ void Fetch(const StepProduct& args, const Plan&, const Source& source, int item,
                               uint32_t to) {
    const int64_t row_bytes = args.columns * kElement;
    const int64_t first = item * 128 + threadIdx.x % 4 * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool inside = first + half * 64 < row_bytes;
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        const bool there = inside && source.left > low * 8;
        const char* from = source.at + half * 64 + low * 8 * row_bytes;
        CopyAsync16OrZero(to + (half * 2 + low) * kPiece, there ? from : args.weights[0].data,
                          there);
      }
    }
  }

  static __device__ void Multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  auto type) {
    decltype(type)::Multiply(d, a, b0, b1);
  }
  static __device__ void Multiply(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  auto) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // One item of all slots; `input` of each tile of eight rows is its row lane % 8 at this item.
  template <typename Type, int kInputTiles>
  static __device__ void Item(const Plan& plan, const char* mine,
                              const char* const (&input)[kInputTiles], const uint32_t*,
                              Sum (&sums)[kSlots][kInputTiles][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 b[kInputTiles];
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
        b[i] = *reinterpret_cast<const uint4*>(input[i] + half * 64 + threadIdx.x % 4 * 16);
      }
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        if (slot >= plan.slots) break;
        const char* pieces = mine + slot * plan.slot_bytes + half * 2 * kPiece;
        const uint4 upper = *reinterpret_cast<const uint4*>(pieces);
        const uint4 lower = *reinterpret_cast<const uint4*>(pieces + kPiece);
        const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
        const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
          Multiply(sums[slot][i], first, b[i].x, b[i].y, Type());
          Multiply(sums[slot][i], second, b[i].z, b[i].w, Type());
        }
      }
    }
  }
  // The row of an input tile that a lane reads.
  static __device__ int InputRow() { return threadIdx.x % 32 / 4; }
};

// Packed 4-bit weights. An item is a tile of 16 x 128; a thread has two times four words and the
// scales (and zeros) of its two rows.
template <W4Kind kKind>
struct Tiles {
  static constexpr bool kInt8 = false;
  static constexpr bool kTable = kKind == W4Kind::kNf4;
  static constexpr int kElement = 2;
  static constexpr int kItemColumns = kW4TileColumns;
  static constexpr int kPad = 16;
  static constexpr int kParamBytes = kTable ? 8 : 4;  // Of two rows.
  using Sum = float;

  struct Source {
    const char* at;  // The tile.
  };

  static __device__ Source Begin(const StepProduct& args, const Plan& plan, const Tile& tile,
                                 int item) {
    const StepWeight& weight = args.weights[tile.weight];
    return {static_cast<const char*>(weight.data) + item * plan.column_bytes[tile.weight] +
            (weight.first_row / kW4TileRows + tile.index) * plan.tile_bytes};
  }
  static __device__ void Advance(const Plan& plan, int weight, Source& source) {
    source.at += kWarps * plan.column_bytes[weight];
  }
  static __device__ void Fetch(const StepProduct&, const Plan& plan, const Source& source, int,
                               uint32_t to) {
    const int lane = threadIdx.x % 32;
    CopyAsync16(to, source.at + lane * 16);
    CopyAsync16(to + kPiece, source.at + 512 + lane * 16);
    // Where this thread's parameters lie: behind its pieces, for each group those of all threads.
    const uint32_t params = to + 2 * kPiece - threadIdx.x * (16 - kParamBytes);
    const int groups = plan.tile_groups * (kKind == W4Kind::kZeroPoint ? 2 : 1);
    const char* from = source.at + kW4CodeBytes + lane / 4 * kParamBytes;
    for (int group = 0; group < groups; ++group) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(params + group * kThreads *
                                                                                  kParamBytes),
                   "l"(from + group * 8 * kParamBytes), "n"(kParamBytes)
                   : "memory");
    }
  }

  template <typename Type>
  struct Params {
    float scale[2];
    typename Type::Pair zero[2];
  };
  template <typename Type>
  static __device__ Params<Type> ParamsOf(const char* mine, int group, int groups) {
    const char* at =
        mine + 2 * kPiece - threadIdx.x * (16 - kParamBytes) + group * kThreads * kParamBytes;
    Params<Type> params;
    if constexpr (kTable) {
      *reinterpret_cast<float2*>(params.scale) = *reinterpret_cast<const float2*>(at);
    } else {
      const half2 scales = *reinterpret_cast<const half2*>(at);
      params.scale[0] = __low2float(scales);
      params.scale[1] = __high2float(scales);
    }
    if constexpr (kKind == W4Kind::kZeroPoint) {
      const half2 zeros = *reinterpret_cast<const half2*>(at + groups * kThreads * kParamBytes);
      params.zero[0] = Type::Both(__low2float(zeros));
      params.zero[1] = Type::Both(__high2float(zeros));
    }
    return params;
  }

  template <typename Type, int kInputTiles>
  static __device__ void Item(const Plan& plan, const char* mine,
                              const char* const (&input)[kInputTiles], const uint32_t* table,
                              Sum (&sums)[kSlots][kInputTiles][4]) {
    const int groups = plan.tile_groups;
    const int steps = 8 / groups;  // Of 16 columns, in a group.
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot >= plan.slots) break;
      const char* own = mine + slot * plan.slot_bytes;
      Params<Type> params;
      // Two sums in turn, so that a product need not wait for the one before.
      float part[2][kInputTiles][4];
      uint32_t words[2][4];
      *reinterpret_cast<uint4*>(words[0]) = *reinterpret_cast<const uint4*>(own);
      *reinterpret_cast<uint4*>(words[1]) = *reinterpret_cast<const uint4*>(own + kPiece);
#pragma unroll
      for (int place = 0; place < 8; place += 2) {
        uint32_t b[kInputTiles][4];
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                       : "=r"(b[i][0]), "=r"(b[i][1]), "=r"(b[i][2]), "=r"(b[i][3])
                       : "r"(SharedAddress(input[i] + threadIdx.x % 32 / 8 * 16 + place * 32)));
        }
        if (place % steps == 0) {
          params = ParamsOf<Type>(own, place / steps, groups);
#pragma unroll
          for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) part[0][i][j] = part[1][i][j] = 0;
          }
        }
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          uint32_t a[4];
          const uint32_t word = words[place / 4][place % 4 + step];
          if constexpr (kTable) {
            DecodeWord(word, table, a);
          } else {
            DecodeWord<kKind>(word, params.zero, a, Type());
          }
#pragma unroll
          for (int i = 0; i < kInputTiles; ++i) {
            Type::Multiply(part[step][i], a, b[i][step * 2], b[i][step * 2 + 1]);
          }
        }
        if ((place + 2) % steps != 0) continue;
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[slot][i][j] =
                __fmaf_rn(params.scale[j / 2], part[0][i][j] + part[1][i][j], sums[slot][i][j]);
          }
        }
      }
    }
  }
  static __device__ int InputRow() { return threadIdx.x % 8; }
};

}  // namespace quantd::kernels::step
