// Half-quadratic quantization (Badri and Shaji, 2023): integer codes, a scale and a floating zero a
// group, the zeros moved so that a few large errors are worth many small ones. Needs no data.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// weight[rows, columns] f32, finite, contiguous. axis 1: every row is a group; axis 0: every
// column. With 2^bits - 1 = m, for each group:
//
//   s = m * (1 / (max - min)), 1 where that range is at most 1e-4, at most 2e4;  z = -min * s,
//   rounded to an integer when round_zero. then up to `iterations` times, all groups together,
//   until the mean over the matrix of |w - r| has stopped falling (the zeros of the step that did
//   not improve are kept):
//     q = clamp(round(w * s + z), 0, m);  r = (q - z) / s;  d = w - r;
//     e = sign(d) * max(|d| - |d|^(norm - 1) / beta, 0);  z = mean(q - (w - e) * s)
//   code = clamp(round(w * s + z), 0, m);  scale = 1 / s.
//
// In float32, halves to even. Sums over a group run in kHqqLanes interleaved parts that are added
// pairwise at the end, so that all variants agree bit for bit; the mean error is summed in double.
// Scales and zeros have an entry a group. Out and in disjoint. Allocates 12 bytes a group,
// thread-safe. Returns the iterations done.
struct HqqGroups {
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int axis = 1;
  int bits = 4;  // 1 ... 8
  bool round_zero = false;
  int iterations = 20;
  float norm = 0.7f;  // (0, 1]
  float beta = 10;
  float* scales = nullptr;
  float* zeros = nullptr;
  uint8_t* codes = nullptr;  // [rows, columns]
};

constexpr int kHqqLanes = 16;

int HqqGroupsReference(const HqqGroups& args);
int HqqGroupsCpu(const HqqGroups& args);

}  // namespace quantd::kernels
