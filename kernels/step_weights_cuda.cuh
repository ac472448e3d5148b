// The weights of step_product.h as its kernel reads them: which bytes a thread loads, and how it
// multiplies with them.
#pragma once

#include <type_traits>

#include "kernels/eight_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/step_product.h"

namespace quantd::kernels::step {

constexpr int kRowsMax = 32;  // Rows of input of one launch.
constexpr int kWarpsMax = 16;
constexpr int kAhead = 2;  // Items of a warp that are on their way.
constexpr int kZeroRowBytes = 256;
constexpr int kFixedBytes = kZeroRowBytes + kRowsMax * 4 + kWarpsMax * 4 + 64;
constexpr unsigned kWarp = 0xffffffffu;

struct Plan {
  int groups;        // Row tiles, or pairs of them: a block's unit of work.
  int items;         // Pieces of columns of one unit.
  int input_bytes;   // Of a staged row, with what keeps rows apart in the banks.
  int norm_bytes;    // Of the norm's weights, 0 without.
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

// `slot`: which of the row tiles, kSlots side by side, that a block works on at a time.
template <int kSlots>
__device__ inline Tile TileOf(const StepProduct& args, const Plan& plan, int group, int slot) {
  if constexpr (kSlots == 2) return {slot, group, 0};
  Tile tile = {0, group, 0};
  while (tile.weight + 1 < args.count && tile.index >= plan.tiles[tile.weight]) {
    tile.index -= plan.tiles[tile.weight];
    tile.column += args.weights[tile.weight].rows;
    ++tile.weight;
  }
  return tile;
}

// Weights, which are read once: not kept in the first-level cache, and in the order of the program,
// so that they are on their way before what stands behind.
__device__ inline uint4 LoadOnce16(const char* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}
__device__ inline uint32_t LoadOnce4(const char* from) {
  uint32_t value;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(from));
  return value;
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

  struct Piece {
    uint4 of[2][2];  // Half of the item, lower row.
  };
  struct Source {
    const char* at;
    int64_t row_bytes;
    int left;        // Rows from this thread's first one on,
    int bytes_left;  // and bytes of a row.
  };

  static __device__ Source Begin(const StepProduct& args, const Plan&, const Tile& tile, int item) {
    const StepWeight& weight = args.weights[tile.weight];
    const int lane = threadIdx.x % 32;
    const int64_t row = tile.index * 16 + lane / 4, row_bytes = args.columns * kElement;
    const int first = item * 128 + lane % 4 * 16;
    return {static_cast<const char*>(weight.data) + (weight.first_row + row) * row_bytes + first,
            row_bytes, static_cast<int>(weight.rows - row), static_cast<int>(row_bytes) - first};
  }
  // Of the source's item; the next one lies `items` further.
  static __device__ void Load(const Plan&, Source& source, int items, Piece& piece) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        const bool there = source.bytes_left > half * 64 && source.left > low * 8;
        const char* from = source.at + half * 64 + low * 8 * source.row_bytes;
        piece.of[half][low] = there ? LoadOnce16(from) : uint4{};
      }
    }
    source.at += items * 128;
    source.bytes_left -= items * 128;
  }

  static __device__ void Multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  auto type) {
    decltype(type)::Multiply(d, a, b0, b1);
  }
  static __device__ void Multiply(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  auto) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // Where a lane begins to read a row of input: of each tile of eight rows that of InputRow.
  static __device__ int InputRow() { return threadIdx.x % 32 / 4; }
  static __device__ int InputByte() { return threadIdx.x % 4 * 16; }

  // One item of one row tile.
  template <typename Type, int kInputTiles>
  static __device__ void Item(const Piece& piece, const char* const (&input)[kInputTiles],
                              const uint32_t*, Sum (&sums)[kInputTiles][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 &upper = piece.of[half][0], &lower = piece.of[half][1];
      const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
      const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
        const uint4 b = *reinterpret_cast<const uint4*>(input[i] + half * 64);
        Multiply(sums[i], first, b.x, b.y, Type());
        Multiply(sums[i], second, b.z, b.w, Type());
      }
    }
  }
};

// Packed 4-bit weights. An item is a tile of 16 x 128; a thread has two times four words and the
// scales (and zeros) of its two rows, for each of kParts parts of the tile's columns.
template <W4Kind kKind, int kParts>
struct Tiles {
  static constexpr bool kInt8 = false;
  static constexpr bool kTable = kKind == W4Kind::kNf4;
  static constexpr int kElement = 2;
  static constexpr int kItemColumns = kW4TileColumns;
  static constexpr int kPad = 16;
  static constexpr int kParamBytes = kTable ? 8 : 4;  // Of two rows.
  static constexpr int kWords = 8 / kParts;           // Of 16 columns each, in a part.
  using Sum = float;

  struct Piece {
    uint4 codes[2];
    uint32_t scales[kParts][kParamBytes / 4];
    uint32_t zeros[kParts];
  };
  struct Source {
    const char* at;  // The tile.
    int64_t column_bytes;
  };

  static __device__ Source Begin(const StepProduct& args, const Plan& plan, const Tile& tile,
                                 int item) {
    const StepWeight& weight = args.weights[tile.weight];
    const int64_t column_bytes = plan.column_bytes[tile.weight];
    return {static_cast<const char*>(weight.data) + item * column_bytes +
                (weight.first_row / kW4TileRows + tile.index) * plan.tile_bytes,
            column_bytes};
  }
  static __device__ void Load(const Plan& plan, Source& source, int items, Piece& piece) {
    const int lane = threadIdx.x % 32;
    piece.codes[0] = LoadOnce16(source.at + lane * 16);
    piece.codes[1] = LoadOnce16(source.at + 512 + lane * 16);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int group = part * plan.tile_groups / kParts;
      const char* from =
          source.at + kW4CodeBytes + (kParts == 1 ? lane / 4 : group * 8 + lane / 4) * kParamBytes;
#pragma unroll
      for (int word = 0; word < kParamBytes / 4; ++word) {
        piece.scales[part][word] = LoadOnce4(from + word * 4);
      }
      if constexpr (kKind == W4Kind::kZeroPoint) {
        piece.zeros[part] = LoadOnce4(from + plan.tile_groups * 8 * kParamBytes);
      }
    }
    source.at += items * source.column_bytes;
  }

  static __device__ int InputRow() { return threadIdx.x % 8; }
  static __device__ int InputByte() { return threadIdx.x % 32 / 8 * 16; }

  template <typename Type, int kInputTiles>
  static __device__ void Item(const Piece& piece, const char* const (&input)[kInputTiles],
                              const uint32_t* table, Sum (&sums)[kInputTiles][4]) {
    const uint32_t words[8] = {piece.codes[0].x, piece.codes[0].y, piece.codes[0].z,
                               piece.codes[0].w, piece.codes[1].x, piece.codes[1].y,
                               piece.codes[1].z, piece.codes[1].w};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      typename Type::Pair zero[2] = {};
      if constexpr (kKind == W4Kind::kZeroPoint) {
        const half2 zeros = Half::FromBits(piece.zeros[part]);
        zero[0] = Type::Both(__low2float(zeros));
        zero[1] = Type::Both(__high2float(zeros));
      }
      // Two sums in turn, so that a product need not wait for the one before.
      float of_part[2][kInputTiles][4] = {};
#pragma unroll
      for (int place = part * kWords; place < (part + 1) * kWords; place += 2) {
        uint32_t b[kInputTiles][4];
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                       : "=r"(b[i][0]), "=r"(b[i][1]), "=r"(b[i][2]), "=r"(b[i][3])
                       : "r"(SharedAddress(input[i] + place * 32)));
        }
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          uint32_t a[4];
          if constexpr (kTable) {
            DecodeWord(words[place + step], table, a);
          } else {
            DecodeWord<kKind>(words[place + step], zero, a, Type());
          }
#pragma unroll
          for (int i = 0; i < kInputTiles; ++i) {
            Type::Multiply(of_part[step][i], a, b[i][step * 2], b[i][step * 2 + 1]);
          }
        }
      }
      float scale[2];
      if constexpr (kTable) {
        scale[0] = __uint_as_float(piece.scales[part][0]);
        scale[1] = __uint_as_float(piece.scales[part][1]);
      } else {
        const half2 scales = Half::FromBits(piece.scales[part][0]);
        scale[0] = __low2float(scales);
        scale[1] = __high2float(scales);
      }
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i][j] = __fmaf_rn(scale[j / 2], of_part[0][i][j] + of_part[1][i][j], sums[i][j]);
        }
      }
    }
  }
};

}  // namespace quantd::kernels::step
