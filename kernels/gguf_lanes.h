// Least-squares fits for kLanes blocks side by side: the inner loops of gguf_quantize.h. A lane is
// one block or sub-block; tiles hold its weights one below the other. Internal to the room.
#pragma once

#include <cstdint>

#include "kernels/multiversion.h"

namespace quantd::kernels {

constexpr int kTileRowsMax = 32;

// value[rows][kLanes], and how much each counts.
struct alignas(64) LaneTile {
  float value[kTileRowsMax][kLanes];
  float importance[kTileRowsMax][kLanes];
  int rows;
};

// weight = scale * code + offset.
struct alignas(64) LaneGrid {
  float scale[kLanes];
  float offset[kLanes];
};

// Codes are limited to low ... high.
struct CodeRange {
  int low;
  int high;
};

// Sums over a lane from which its best scale and offset follow. w: importance, x: weight, q: code.
struct LaneSums {
  float w, x, xx;   // w, w x, w x x
  float q, qq, qx;  // w q, w q q, w q x
};
struct alignas(64) TileSums {
  float w[kLanes], x[kLanes], xx[kLanes], q[kLanes], qq[kLanes], qx[kLanes];
};

// One variant of the operations below; all variants give the same bits.
struct LaneOps {
  // Scale and offset for codes 0 ... levels. `bounded`: the offset must not be above zero.
  void (*fit_affine)(const LaneTile& tile, int levels, bool bounded, LaneGrid* grid);
  // Scale (of either sign) for codes -half ... half - 1; offsets become zero.
  void (*fit_symmetric)(const LaneTile& tile, int half, LaneGrid* grid);
  // The weighted squared error of the nearest codes: error[kLanes].
  void (*error)(const LaneTile& tile, const LaneGrid& grid, CodeRange range, float* error);
  void (*sums)(const LaneTile& tile, const LaneGrid& grid, CodeRange range, TileSums* sums);
  // The nearest codes less range.low: codes[rows][kLanes].
  void (*store)(const LaneTile& tile, const LaneGrid& grid, CodeRange range,
                uint8_t (*codes)[kLanes]);
};
extern const LaneOps kLaneOpsReference;
extern const LaneOps kLaneOpsCpu;

// The grids that a fit tries: the full range plus or minus a step in tenths, then twice what least
// squares made of the best so far.
constexpr int kAffineSteps = 21;
constexpr int kSymmetricSteps = 19;
constexpr int kRefineSteps = 2;

struct LaneFit {
  float scale, offset, error;
};

// Without branches, so that loops over lanes vectorize.
inline float FitError(const LaneSums& s, float scale, float offset) {
  return s.xx - 2.0f * scale * s.qx - 2.0f * offset * s.x + scale * scale * s.qq +
         2.0f * scale * offset * s.q + offset * offset * s.w;
}

// The best scale and offset for the codes behind the sums where they leave less error than `best`,
// else `best`. Codes that are all the same (up to rounding) leave the offset open: it becomes zero.
inline LaneFit ImproveAffine(const LaneSums& s, float offset_limit, const LaneFit& best) {
  const float determinant = s.w * s.qq - s.q * s.q;
  float scale = (s.w * s.qx - s.x * s.q) / determinant;
  float offset = (s.qq * s.x - s.q * s.qx) / determinant;
  const float level = s.qx / s.qq;
  const bool open = (determinant <= 1e-6f * s.w * s.qq) | (offset > offset_limit);
  scale = open ? level : scale;
  offset = open ? 0.0f : offset;
  const float error = FitError(s, scale, offset);
  const bool better = (scale > 0.0f) & (error < best.error);
  return {better ? scale : best.scale, better ? offset : best.offset, better ? error : best.error};
}

// The same with offset zero.
inline LaneFit ImproveSymmetric(const LaneSums& s, const LaneFit& best) {
  const float scale = s.qx / s.qq;
  const float error = s.xx - scale * s.qx;
  const bool better = error < best.error;  // Not where all codes are zero: NaN.
  return {better ? scale : best.scale, 0.0f, better ? error : best.error};
}

inline float InverseOrZero(float value) {
  const float inverse = 1.0f / value;
  return value == 0.0f ? 0.0f : inverse;
}

}  // namespace quantd::kernels
