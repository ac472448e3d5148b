// Blocks become lanes of a tile, sixteen at a time. What sub-blocks share (d, dmin) is rounded to
// binary16 before any code is, and of all that is tried the choice with the least error stays.
#include "kernels/gguf_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/gguf_pack.h"
#include "kernels/half.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

constexpr uint16_t kHalfMax = 0x7bff;

// Infinity would make every weight NaN: the largest number stands for what is above it.
uint16_t FiniteHalf(float value) {
  const uint16_t half = FloatToHalf(value);
  return (half & 0x7fff) > kHalfMax ? static_cast<uint16_t>((half & 0x8000) | kHalfMax) : half;
}

// A run of `size` weights at a column of a row.
struct Piece {
  int64_t row;
  int64_t column;
};

void LoadLane(const GgufQuantize& args, const Piece& piece, int size, int lane, LaneTile* tile) {
  const float* weight = args.weight + piece.row * args.weight_stride + piece.column;
  for (int i = 0; i < size; ++i) tile->value[i][lane] = weight[i];
  for (int i = 0; i < size; ++i) {
    tile->importance[i][lane] = args.importance ? args.importance[piece.column + i] : 1.0f;
  }
}

// Up to two blocks of 256 whose sub-blocks fill the lanes of one tile.
class KTile {
 public:
  KTile(const GgufQuantize& args, const KLayout& layout, const LaneOps& ops)
      : args_(args), layout_(layout), ops_(ops) {}
  int blocks_max() const { return kLanes / layout_.sub_blocks(); }

  void Quantize(const Piece* pieces, int blocks) {
    if (blocks < blocks_max()) tile_ = {};
    tile_.rows = layout_.sub_size;
    blocks_ = blocks;
    for (int block = 0; block < blocks; ++block) {
      for (int sub = 0; sub < layout_.sub_blocks(); ++sub) {
        const Piece piece = {pieces[block].row, pieces[block].column + sub * layout_.sub_size};
        LoadLane(args_, piece, layout_.sub_size, block * layout_.sub_blocks() + sub, &tile_);
      }
    }
    if (layout_.affine) {
      ops_.fit_affine(tile_, (1 << layout_.bits()) - 1, /*bounded=*/true, &ideal_);
    } else {
      ops_.fit_symmetric(tile_, 1 << (layout_.bits() - 1), &ideal_);
    }
    Share();
    for (int round = 0; round < kRounds; ++round) {
      SearchNeighbours();
      KeepBest();
      if (round + 1 < kRounds) Refit();
    }
    Store(pieces);
  }

 private:
  // The shared numbers are fitted once to what the first round chose.
  static constexpr int kRounds = 2;

  struct Choice {
    float d[kLanes] = {}, dmin[kLanes] = {};  // Of the lane's block, as stored.
    float scale[kLanes] = {}, minimum[kLanes] = {};
    float error[kLanes] = {};
  };

  int First(int block) const { return block * layout_.sub_blocks(); }
  int End(int block) const { return First(block) + layout_.sub_blocks(); }
  CodeRange Range() const { return {-layout_.bias(), (1 << layout_.bits()) - 1 - layout_.bias()}; }

  void SetShared(int block, float d, float dmin) {
    d = HalfToFloat(FiniteHalf(d));
    dmin = HalfToFloat(FiniteHalf(dmin));
    for (int lane = First(block); lane < End(block); ++lane) {
      current_.d[lane] = d;
      current_.dmin[lane] = dmin;
    }
  }

  // The largest scale and minimum get the largest codes. Of signed scales the range reaches one
  // further down.
  void Share() {
    for (int block = 0; block < blocks_; ++block) {
      float scale = 0, minimum = 0;
      for (int lane = First(block); lane < End(block); ++lane) {
        if (std::abs(ideal_.scale[lane]) > std::abs(scale)) scale = ideal_.scale[lane];
        minimum = std::max(minimum, -ideal_.offset[lane]);
      }
      const int reach = layout_.affine ? layout_.scale_high : layout_.scale_low;
      SetShared(block, scale / static_cast<float>(reach),
                minimum / static_cast<float>(layout_.scale_high));
    }
  }

  LaneGrid GridOf(const float* scale, const float* minimum) const {
    LaneGrid grid;
    for (int lane = 0; lane < kLanes; ++lane) {
      grid.scale[lane] = current_.d[lane] * scale[lane];
      grid.offset[lane] = -(current_.dmin[lane] * minimum[lane]);
    }
    return grid;
  }

  float Limit(float code) const {
    return std::clamp(RoundHalfEven(code), static_cast<float>(layout_.scale_low),
                      static_cast<float>(layout_.scale_high));
  }

  // Rounded scale and minimum, then one up or down of either.
  void SearchNeighbours() {
    constexpr int kSteps[][2] = {{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}};
    float scale[kLanes], minimum[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      scale[lane] = Limit(ideal_.scale[lane] * InverseOrZero(current_.d[lane]));
      minimum[lane] = Limit(-ideal_.offset[lane] * InverseOrZero(current_.dmin[lane]));
      current_.error[lane] = std::numeric_limits<float>::infinity();
    }
    for (const auto& [up, down] : kSteps) {
      if (down != 0 && !layout_.affine) break;
      float scales[kLanes], minima[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        scales[lane] = Limit(scale[lane] + static_cast<float>(up));
        minima[lane] = Limit(minimum[lane] + static_cast<float>(down));
      }
      alignas(64) float error[kLanes];
      ops_.error(tile_, GridOf(scales, minima), Range(), error);
      for (int lane = 0; lane < kLanes; ++lane) {
        if (!(error[lane] < current_.error[lane])) continue;
        current_.error[lane] = error[lane];
        current_.scale[lane] = scales[lane];
        current_.minimum[lane] = minima[lane];
      }
    }
  }

  void KeepBest() {
    for (int block = 0; block < blocks_; ++block) {
      float error = 0;
      for (int lane = First(block); lane < End(block); ++lane) error += current_.error[lane];
      if (!(error < best_error_[block])) continue;
      best_error_[block] = error;
      for (int lane = First(block); lane < End(block); ++lane) {
        best_.d[lane] = current_.d[lane];
        best_.dmin[lane] = current_.dmin[lane];
        best_.scale[lane] = current_.scale[lane];
        best_.minimum[lane] = current_.minimum[lane];
      }
    }
  }

  // d and dmin by least squares over the block, with the codes and sub-block numbers as they are.
  void Refit() {
    TileSums sums;
    ops_.sums(tile_, GridOf(current_.scale, current_.minimum), Range(), &sums);
    for (int block = 0; block < blocks_; ++block) {
      double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // weight = d a + dmin b
      for (int lane = First(block); lane < End(block); ++lane) {
        const double a = current_.scale[lane];  // Times the code.
        const double b = -current_.minimum[lane];
        aa += a * a * sums.qq[lane];
        ab += a * b * sums.q[lane];
        bb += b * b * sums.w[lane];
        ax += a * sums.qx[lane];
        bx += b * sums.x[lane];
      }
      const double determinant = aa * bb - ab * ab;
      double d = aa > 0 ? ax / aa : 0;
      double dmin = current_.dmin[First(block)];
      if (layout_.affine && determinant > 1e-9 * aa * bb) {
        d = (bb * ax - ab * bx) / determinant;
        dmin = std::max(0.0, (aa * bx - ab * ax) / determinant);
      }
      SetShared(block, static_cast<float>(d), static_cast<float>(dmin));
    }
  }

  void Store(const Piece* pieces) {
    current_ = best_;
    ops_.store(tile_, GridOf(best_.scale, best_.minimum), Range(), codes_);
    const int64_t bytes = FindGgufBlock(layout_.type)->bytes;
    for (int block = 0; block < blocks_; ++block) {
      best_error_[block] = std::numeric_limits<float>::infinity();
      CodesK packed;
      packed.d = FloatToHalf(best_.d[First(block)]);
      packed.dmin = FloatToHalf(best_.dmin[First(block)]);
      for (int sub = 0; sub < layout_.sub_blocks(); ++sub) {
        const int lane = First(block) + sub;
        packed.scale[sub] = static_cast<int8_t>(best_.scale[lane]);
        packed.minimum[sub] = static_cast<uint8_t>(layout_.affine ? best_.minimum[lane] : 0);
        for (int i = 0; i < layout_.sub_size; ++i) {
          packed.code[sub * layout_.sub_size + i] = codes_[i][lane];
        }
      }
      PackBlockK(layout_, packed,
                 args_.blocks + pieces[block].row * args_.row_bytes +
                     pieces[block].column / kKWeights * bytes);
    }
  }

  const GgufQuantize& args_;
  const KLayout& layout_;
  const LaneOps& ops_;
  int blocks_ = 0;
  LaneTile tile_;
  LaneGrid ideal_;
  uint8_t codes_[kTileRowsMax][kLanes];
  Choice current_, best_;
  float best_error_[2] = {std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::infinity()};
};

// Calls use(pieces, count) for all blocks of `size` weights in the rows, `batch` at a time.
template <typename Use>
void ForPieces(const GgufQuantize& args, int64_t row_begin, int64_t row_end, int size, int batch,
               const Use& use) {
  Piece pieces[kLanes];
  int count = 0;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t column = 0; column < args.columns; column += size) {
      pieces[count++] = {row, column};
      if (count < batch) continue;
      use(pieces, count);
      count = 0;
    }
  }
  if (count > 0) use(pieces, count);
}

}  // namespace

void SearchKRows(const GgufQuantize& args, const LaneOps& ops, int64_t row_begin, int64_t row_end) {
  KTile tile(args, *FindKLayout(args.type), ops);
  ForPieces(args, row_begin, row_end, kKWeights, tile.blocks_max(),
            [&](const Piece* pieces, int count) { tile.Quantize(pieces, count); });
}

void Search32Rows(const GgufQuantize& args, const LaneOps& ops, int64_t row_begin,
                  int64_t row_end) {
  const bool affine = args.type == GgufType::kQ4_1 || args.type == GgufType::kQ5_1;
  const int levels = args.type == GgufType::kQ4_0 || args.type == GgufType::kQ4_1 ? 16 : 32;
  const int low = affine ? 0 : -levels / 2;
  const int64_t bytes = FindGgufBlock(args.type)->bytes;
  LaneTile tile;
  LaneGrid grid;
  uint8_t codes[kTileRowsMax][kLanes];
  ForPieces(args, row_begin, row_end, 32, kLanes, [&](const Piece* pieces, int count) {
    if (count < kLanes) tile = {};
    tile.rows = 32;
    for (int lane = 0; lane < count; ++lane) LoadLane(args, pieces[lane], 32, lane, &tile);
    if (affine) {
      ops.fit_affine(tile, levels - 1, /*bounded=*/false, &grid);
    } else {
      ops.fit_symmetric(tile, levels / 2, &grid);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      grid.scale[lane] = HalfToFloat(FiniteHalf(grid.scale[lane]));
      grid.offset[lane] = HalfToFloat(FiniteHalf(grid.offset[lane]));
    }
    ops.store(tile, grid, {low, low + levels - 1}, codes);
    for (int lane = 0; lane < count; ++lane) {
      Codes32 packed;
      packed.d = FloatToHalf(grid.scale[lane]);
      packed.m = FloatToHalf(grid.offset[lane]);
      for (int i = 0; i < 32; ++i) packed.code[i] = codes[i][lane];
      PackBlock32(
          args.type, packed,
          args.blocks + pieces[lane].row * args.row_bytes + pieces[lane].column / 32 * bytes);
    }
  });
}

}  // namespace quantd::kernels
