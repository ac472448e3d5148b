// Lanes side by side in loops that vectorize. Each lane adds up in the order of the reference, so
// that the bits are the same; rows go in runs, so that sums stay in registers for a while.
#include <algorithm>
#include <limits>

#include "kernels/gguf_lanes.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

constexpr int kRowsAtOnce = 8;  // Divides 16 and 32.

struct alignas(64) TileFit {
  float scale[kLanes], offset[kLanes], error[kLanes];
};

#define QD_INLINE __attribute__((always_inline)) inline

QD_INLINE float Code(float weight, float base, float inverse, float low, float high) {
  float steps = (weight - base) * inverse;
  steps = steps < low ? low : steps;
  return RoundHalfEven(steps > high ? high : steps);
}

QD_INLINE LaneSums SumsOf(const TileSums& sums, int lane) {
  return {sums.w[lane], sums.x[lane], sums.xx[lane], sums.q[lane], sums.qq[lane], sums.qx[lane]};
}

// The sums that depend on codes.
QD_MULTIVERSION void SumCodes(const LaneTile& tile, const float* base, const float* inverse,
                              CodeRange range, TileSums* sums) {
  const float low = static_cast<float>(range.low);
  const float high = static_cast<float>(range.high);
  alignas(64) float q_sum[kLanes] = {}, qq_sum[kLanes] = {}, qx_sum[kLanes] = {};
  for (int begin = 0; begin < tile.rows; begin += kRowsAtOnce) {
    for (int lane = 0; lane < kLanes; ++lane) {
      float q_lane = q_sum[lane], qq_lane = qq_sum[lane], qx_lane = qx_sum[lane];
#pragma GCC unroll 8
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const float x = tile.value[begin + i][lane];
        const float q = Code(x, base[lane], inverse[lane], low, high);
        const float wq = tile.importance[begin + i][lane] * q;
        q_lane += wq;
        qq_lane += wq * q;
        qx_lane += wq * x;
      }
      q_sum[lane] = q_lane;
      qq_sum[lane] = qq_lane;
      qx_sum[lane] = qx_lane;
    }
  }
  std::copy(q_sum, q_sum + kLanes, sums->q);
  std::copy(qq_sum, qq_sum + kLanes, sums->qq);
  std::copy(qx_sum, qx_sum + kLanes, sums->qx);
}

QD_MULTIVERSION void SumFixed(const LaneTile& tile, TileSums* sums) {
  alignas(64) float w_sum[kLanes] = {}, x_sum[kLanes] = {}, xx_sum[kLanes] = {};
  for (int begin = 0; begin < tile.rows; begin += kRowsAtOnce) {
    for (int lane = 0; lane < kLanes; ++lane) {
      float w_lane = w_sum[lane], x_lane = x_sum[lane], xx_lane = xx_sum[lane];
#pragma GCC unroll 8
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const float x = tile.value[begin + i][lane];
        const float w = tile.importance[begin + i][lane];
        w_lane += w;
        x_lane += w * x;
        xx_lane += w * x * x;
      }
      w_sum[lane] = w_lane;
      x_sum[lane] = x_lane;
      xx_sum[lane] = xx_lane;
    }
  }
  std::copy(w_sum, w_sum + kLanes, sums->w);
  std::copy(x_sum, x_sum + kLanes, sums->x);
  std::copy(xx_sum, xx_sum + kLanes, sums->xx);
}

QD_MULTIVERSION void Range(const LaneTile& tile, float* low, float* high, float* extreme) {
  alignas(64) float lowest[kLanes], highest[kLanes], most[kLanes] = {};
  std::copy(tile.value[0], tile.value[0] + kLanes, lowest);
  std::copy(tile.value[0], tile.value[0] + kLanes, highest);
  for (int i = 0; i < tile.rows; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = tile.value[i][lane];
      lowest[lane] = x < lowest[lane] ? x : lowest[lane];
      highest[lane] = x > highest[lane] ? x : highest[lane];
      most[lane] = x * x > most[lane] * most[lane] ? x : most[lane];
    }
  }
  std::copy(lowest, lowest + kLanes, low);
  std::copy(highest, highest + kLanes, high);
  std::copy(most, most + kLanes, extreme);
}

QD_MULTIVERSION void ImproveAffineLanes(const TileSums& sums, float limit, TileFit* best) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const LaneFit fit = ImproveAffine(SumsOf(sums, lane), limit,
                                      {best->scale[lane], best->offset[lane], best->error[lane]});
    best->scale[lane] = fit.scale;
    best->offset[lane] = fit.offset;
    best->error[lane] = fit.error;
  }
}

QD_MULTIVERSION void ImproveSymmetricLanes(const TileSums& sums, TileFit* best) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const LaneFit fit =
        ImproveSymmetric(SumsOf(sums, lane), {best->scale[lane], 0.0f, best->error[lane]});
    best->scale[lane] = fit.scale;
    best->error[lane] = fit.error;
  }
}

QD_MULTIVERSION void Invert(const float* value, float* inverse) {
  for (int lane = 0; lane < kLanes; ++lane) inverse[lane] = InverseOrZero(value[lane]);
}

void FitAffine(const LaneTile& tile, int levels, bool bounded, LaneGrid* grid) {
  const float limit = bounded ? 0.0f : std::numeric_limits<float>::infinity();
  alignas(64) float low[kLanes], high[kLanes], extreme[kLanes], spread[kLanes], inverse[kLanes];
  Range(tile, low, high, extreme);
  TileSums sums = {};
  SumFixed(tile, &sums);
  TileFit best = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = low[lane] > limit ? limit : low[lane];
    best.offset[lane] = low[lane];
    best.error[lane] = FitError(SumsOf(sums, lane), 0, low[lane]);
    spread[lane] = high[lane] - low[lane];
  }
  Invert(spread, spread);
  for (int step = 0; step < kAffineSteps + kRefineSteps; ++step) {
    const bool refine = step >= kAffineSteps;
    const float steps =
        static_cast<float>(levels) + 0.1f * static_cast<float>(step - kAffineSteps / 2);
    if (refine) {
      Invert(best.scale, inverse);
    } else {
      for (int lane = 0; lane < kLanes; ++lane) inverse[lane] = steps * spread[lane];
    }
    SumCodes(tile, refine ? best.offset : low, inverse, {0, levels}, &sums);
    ImproveAffineLanes(sums, limit, &best);
  }
  std::copy(best.scale, best.scale + kLanes, grid->scale);
  std::copy(best.offset, best.offset + kLanes, grid->offset);
}

void FitSymmetric(const LaneTile& tile, int half, LaneGrid* grid) {
  alignas(64) float low[kLanes], high[kLanes], spread[kLanes], inverse[kLanes];
  Range(tile, low, high, spread);
  Invert(spread, spread);
  TileSums sums = {};
  SumFixed(tile, &sums);
  TileFit best = {};
  std::copy(sums.xx, sums.xx + kLanes, best.error);
  for (int step = 0; step < kSymmetricSteps + kRefineSteps; ++step) {
    const float steps =
        static_cast<float>(-half) + 0.1f * static_cast<float>(step - kSymmetricSteps / 2);
    if (step >= kSymmetricSteps) {
      Invert(best.scale, inverse);
    } else {
      for (int lane = 0; lane < kLanes; ++lane) inverse[lane] = steps * spread[lane];
    }
    SumCodes(tile, best.offset, inverse, {-half, half - 1}, &sums);
    ImproveSymmetricLanes(sums, &best);
  }
  std::copy(best.scale, best.scale + kLanes, grid->scale);
  std::fill(grid->offset, grid->offset + kLanes, 0.0f);
}

QD_MULTIVERSION void SumErrors(const LaneTile& tile, const LaneGrid& grid, const float* inverse,
                               CodeRange range, float* error) {
  const float low = static_cast<float>(range.low);
  const float high = static_cast<float>(range.high);
  alignas(64) float sum[kLanes] = {};
  for (int begin = 0; begin < tile.rows; begin += kRowsAtOnce) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float scale = grid.scale[lane];
      const float offset = grid.offset[lane];
      float sum_lane = sum[lane];
#pragma GCC unroll 8
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const float x = tile.value[begin + i][lane];
        const float difference = scale * Code(x, offset, inverse[lane], low, high) + offset - x;
        sum_lane += tile.importance[begin + i][lane] * difference * difference;
      }
      sum[lane] = sum_lane;
    }
  }
  std::copy(sum, sum + kLanes, error);
}

void Error(const LaneTile& tile, const LaneGrid& grid, CodeRange range, float* error) {
  alignas(64) float inverse[kLanes];
  Invert(grid.scale, inverse);
  SumErrors(tile, grid, inverse, range, error);
}

void Sums(const LaneTile& tile, const LaneGrid& grid, CodeRange range, TileSums* sums) {
  alignas(64) float inverse[kLanes];
  Invert(grid.scale, inverse);
  SumFixed(tile, sums);
  SumCodes(tile, grid.offset, inverse, range, sums);
}

QD_MULTIVERSION void StoreCodes(const LaneTile& tile, const LaneGrid& grid, const float* inverse,
                                CodeRange range, uint8_t (*codes)[kLanes]) {
  const float low = static_cast<float>(range.low);
  const float high = static_cast<float>(range.high);
  for (int i = 0; i < tile.rows; ++i) {
    alignas(64) int32_t whole[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const float code = Code(tile.value[i][lane], grid.offset[lane], inverse[lane], low, high);
      whole[lane] = static_cast<int32_t>(code - low);
    }
    for (int lane = 0; lane < kLanes; ++lane) codes[i][lane] = static_cast<uint8_t>(whole[lane]);
  }
}

void Store(const LaneTile& tile, const LaneGrid& grid, CodeRange range, uint8_t (*codes)[kLanes]) {
  alignas(64) float inverse[kLanes];
  Invert(grid.scale, inverse);
  StoreCodes(tile, grid, inverse, range, codes);
}

}  // namespace

const LaneOps kLaneOpsCpu = {FitAffine, FitSymmetric, Error, Sums, Store};

}  // namespace quantd::kernels
