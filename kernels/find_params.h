// Scale and zero of every row and group, by the convention of the GPTQ family.
#pragma once

#include <cstdint>

#include "kernels/params_of_range.h"

namespace quantd::kernels {

// weight[rows, columns] f32, finite, row r at weight + r * weight_stride. Group g covers columns
// [g * group_columns, min((g + 1) * group_columns, columns)). Writes scales[r, g] (binary16 bits)
// at scales + r * params_stride + g, zeros likewise. In and out disjoint. Allocates nothing,
// thread-safe.
//
//   symmetric: zero = 2^(bits-1), scale = 2 max|w| / (2^bits - 1).
//   else:      with lo = min(w, 0), hi = max(w, 0): scale = (hi - lo) / (2^bits - 1), zero =
//   round(-lo / scale);
//              where that is 0 (hardly anything below zero): zero = 1, scale = hi / (2^bits - 2),
//              because format gptq v1 stores zero - 1.
//   An all-zero group counts as [-1, 1].
//   search_steps > 0: of the ranges [lo, hi] * (1 - i / 100), i = 0 ... search_steps - 1, the one
//   counts whose rounded weights differ least from the weights, in squares weighted by
//   column_weights[columns] (null: all 1), summed in float32 in the order of the columns; the first
//   of equals. Outliers are then clipped where that pays.
// The scale is rounded to binary16 (at least its smallest, at most its largest number) before the
// zero is computed and before any code is: what is stored is what was used.
struct FindParams {
  const float* weight = nullptr;
  int64_t weight_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_columns = 0;  // > 0
  int bits = 4;               // 2 ... 8
  bool symmetric = true;
  int search_steps = 0;  // 0 ... kSearchStepsMax
  const float* column_weights = nullptr;
  uint16_t* scales = nullptr;
  uint8_t* zeros = nullptr;
  int64_t params_stride = 0;
  void* stream = nullptr;  // cuda only.
};

// A range is never shrunk below a tenth: a scale that clips nearly everything is never best.
constexpr int kSearchStepsMax = 90;

void FindParamsReference(const FindParams& args);
void FindParamsCpu(const FindParams& args);

}  // namespace quantd::kernels
