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
// In float32, halves to even, the power in float64 and rounded once. Sums over a group run in
// kHqqLanes interleaved parts that are added pairwise at the end, the mean error's in double in
// kHqqErrorParts, so that all variants agree bit for bit (but for powers that two libraries round
// differently, of numbers that err by more than HqqShrinkBelow). Scales and zeros have an entry a
// group. Out and in disjoint. Thread-safe. Returns the iterations done. reference and cpu allocate
// 12 bytes a group; cuda takes `scratch` instead, and waits for its stream.
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
  void* scratch = nullptr;   // cuda only: HqqScratchBytes, 16-byte aligned.
  void* stream = nullptr;    // cuda only.
};

constexpr int kHqqLanes = 16;
constexpr int kHqqErrorParts = 1024;

constexpr int64_t HqqScratchBytes(int64_t groups) { return 16 + groups * 4; }

int HqqGroupsReference(const HqqGroups& args);
int HqqGroupsCpu(const HqqGroups& args);

}  // namespace quantd::kernels
