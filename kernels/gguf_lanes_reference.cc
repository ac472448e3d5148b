// One lane after the other, one weight after the other.
#include <limits>

#include "kernels/gguf_lanes.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

// The code, as a number, of the grid weight = base + code / inverse.
float Code(float weight, float base, float inverse, CodeRange range) {
  float steps = (weight - base) * inverse;
  const float low = static_cast<float>(range.low);
  const float high = static_cast<float>(range.high);
  steps = steps < low ? low : steps;
  return RoundHalfEven(steps > high ? high : steps);
}

LaneSums SumsOf(const LaneTile& tile, int lane, float base, float inverse, CodeRange range) {
  LaneSums sums = {};
  for (int i = 0; i < tile.rows; ++i) {
    const float x = tile.value[i][lane];
    const float w = tile.importance[i][lane];
    const float q = Code(x, base, inverse, range);
    sums.w += w;
    sums.x += w * x;
    sums.xx += w * x * x;
    sums.q += w * q;
    sums.qq += w * q * q;
    sums.qx += w * q * x;
  }
  return sums;
}

void FitAffine(const LaneTile& tile, int levels, bool bounded, LaneGrid* grid) {
  const CodeRange range = {0, levels};
  const float limit = bounded ? 0.0f : std::numeric_limits<float>::infinity();
  for (int lane = 0; lane < kLanes; ++lane) {
    float low = tile.value[0][lane];
    float high = low;
    for (int i = 1; i < tile.rows; ++i) {
      low = tile.value[i][lane] < low ? tile.value[i][lane] : low;
      high = tile.value[i][lane] > high ? tile.value[i][lane] : high;
    }
    low = low > limit ? limit : low;
    LaneFit best = {0, low, FitError(SumsOf(tile, lane, low, 0, range), 0, low)};
    const float spread = InverseOrZero(high - low);
    for (int step = 0; step < kAffineSteps + kRefineSteps; ++step) {
      const bool refine = step >= kAffineSteps;
      const float steps =
          static_cast<float>(levels) + 0.1f * static_cast<float>(step - kAffineSteps / 2);
      const float inverse = refine ? InverseOrZero(best.scale) : steps * spread;
      const float base = refine ? best.offset : low;
      best = ImproveAffine(SumsOf(tile, lane, base, inverse, range), limit, best);
    }
    grid->scale[lane] = best.scale;
    grid->offset[lane] = best.offset;
  }
}

void FitSymmetric(const LaneTile& tile, int half, LaneGrid* grid) {
  const CodeRange range = {-half, half - 1};
  for (int lane = 0; lane < kLanes; ++lane) {
    float extreme = 0;
    for (int i = 0; i < tile.rows; ++i) {
      const float x = tile.value[i][lane];
      if (x * x > extreme * extreme) extreme = x;
    }
    LaneFit best = {0, 0, SumsOf(tile, lane, 0, 0, range).xx};
    const float spread = InverseOrZero(extreme);
    for (int step = 0; step < kSymmetricSteps + kRefineSteps; ++step) {
      const float steps =
          static_cast<float>(-half) + 0.1f * static_cast<float>(step - kSymmetricSteps / 2);
      const float inverse = step < kSymmetricSteps ? steps * spread : InverseOrZero(best.scale);
      best = ImproveSymmetric(SumsOf(tile, lane, 0, inverse, range), best);
    }
    grid->scale[lane] = best.scale;
    grid->offset[lane] = 0;
  }
}

void Error(const LaneTile& tile, const LaneGrid& grid, CodeRange range, float* error) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const float scale = grid.scale[lane];
    const float offset = grid.offset[lane];
    error[lane] = 0;
    for (int i = 0; i < tile.rows; ++i) {
      const float x = tile.value[i][lane];
      const float difference = scale * Code(x, offset, InverseOrZero(scale), range) + offset - x;
      error[lane] += tile.importance[i][lane] * difference * difference;
    }
  }
}

void Sums(const LaneTile& tile, const LaneGrid& grid, CodeRange range, TileSums* sums) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const LaneSums of =
        SumsOf(tile, lane, grid.offset[lane], InverseOrZero(grid.scale[lane]), range);
    sums->w[lane] = of.w;
    sums->x[lane] = of.x;
    sums->q[lane] = of.q;
    sums->qq[lane] = of.qq;
    sums->qx[lane] = of.qx;
  }
}

void Store(const LaneTile& tile, const LaneGrid& grid, CodeRange range, uint8_t (*codes)[kLanes]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < tile.rows; ++i) {
      const float code =
          Code(tile.value[i][lane], grid.offset[lane], InverseOrZero(grid.scale[lane]), range);
      codes[i][lane] = static_cast<uint8_t>(static_cast<int>(code) - range.low);
    }
  }
}

}  // namespace

const LaneOps kLaneOpsReference = {FitAffine, FitSymmetric, Error, Sums, Store};

}  // namespace quantd::kernels
