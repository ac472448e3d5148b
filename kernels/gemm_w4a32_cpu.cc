// A row's dot product in 32 lanes, the lanes of a group scaled when it ends. Codes go from memory
// to their sums in registers; two inputs share them, in the same order of additions, so that each
// gets the bits that it would get alone.
#include "kernels/gemm_w4a32.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

// GCC's vectors: left to itself it does not find these loops' shape.
constexpr int kWidth = 8;
using Words = uint32_t __attribute__((vector_size(4 * kWidth)));
using Integers = int32_t __attribute__((vector_size(4 * kWidth)));
using Floats = float __attribute__((vector_size(4 * kWidth)));
// As they lie in memory. (Copies by memcpy become halves in the clones for wider registers.)
using WordsInMemory = uint32_t __attribute__((vector_size(4 * kWidth), aligned(1), may_alias));
using FloatsInMemory = float __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
constexpr int kHalf = 32;  // Columns; two halves are a block of codes.
constexpr int kParts = kHalf / kWidth;

// One row of a weight, half block by half block.
struct Row {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;  // Or null.
  int64_t groups;
  int64_t halves;  // Of a group.

  Row(const W4Rows& weight, int64_t row)
      : codes(weight.codes + row * weight.columns / 2),
        scales(weight.scales + row * (weight.columns / weight.group_columns)),
        zeros(weight.zeros == nullptr
                  ? nullptr
                  : weight.zeros + row * (weight.columns / weight.group_columns)),
        groups(weight.columns / weight.group_columns),
        halves(weight.group_columns / kHalf) {}

  int32_t Zero(int64_t group) const { return zeros == nullptr ? 8 : zeros[group]; }
  // Part `part` of code - zero of half `half` of the row.
  [[gnu::always_inline]] void Value(int64_t half, int part, int32_t zero, Floats* value) const {
    const Words words = reinterpret_cast<const WordsInMemory*>(codes)[half >> 1];
    const int shift = static_cast<int>(half & 1) * 16 + 4 * part;
    const Integers integers = reinterpret_cast<Integers>(words >> shift & 15) - zero;
    *value = __builtin_convertvector(integers, Floats);
  }
};

// sums[i] = the row times input i, for kInputs inputs that lie `stride` apart: codes are widened
// once.
template <int kInputs>
[[gnu::always_inline]] inline void Dot(const Row& row, const float* x, int64_t stride,
                                       float* sums) {
  Floats total[kInputs][kParts] = {};
  int64_t half = 0;
  for (int64_t group = 0; group < row.groups; ++group) {
    const int32_t zero = row.Zero(group);
    Floats sum[kInputs][kParts] = {};
    for (const int64_t end = half + row.halves; half < end; ++half, x += kHalf) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        Floats value;
        row.Value(half, part, zero, &value);
        for (int i = 0; i < kInputs; ++i) {
          sum[i][part] += value * reinterpret_cast<const FloatsInMemory*>(x + i * stride)[part];
        }
      }
    }
    for (int i = 0; i < kInputs; ++i) {
      for (int part = 0; part < kParts; ++part) total[i][part] += row.scales[group] * sum[i][part];
    }
  }
  for (int i = 0; i < kInputs; ++i) {
    const Floats all = (total[i][0] + total[i][1]) + (total[i][2] + total[i][3]);
    sums[i] = ((all[0] + all[1]) + (all[2] + all[3])) + ((all[4] + all[5]) + (all[6] + all[7]));
  }
}

QD_MULTIVERSION void DotOne(const Row& row, const float* x, float* sum) { Dot<1>(row, x, 0, sum); }
QD_MULTIVERSION void DotTwo(const Row& row, const float* x, int64_t stride, float* sums) {
  Dot<2>(row, x, stride, sums);
}

QD_MULTIVERSION void UnpackRow(const Row& row, float* weight) {
  int64_t half = 0;
  for (int64_t group = 0; group < row.groups; ++group) {
    const int32_t zero = row.Zero(group);
    for (const int64_t end = half + row.halves; half < end; ++half) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        Floats value;
        row.Value(half, part, zero, &value);
        reinterpret_cast<FloatsInMemory*>(weight)[half * kParts + part] = value * row.scales[group];
      }
    }
  }
}

}  // namespace

void GemmW4A32Cpu(const GemmW4A32& args) {
  const W4Rows& weight = args.weight;
  const int64_t columns = weight.columns;
  ParallelRows(weight.rows, weight.rows * columns * args.m, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const Row row(weight, index);
      const float bias = args.bias == nullptr ? 0 : args.bias[index];
      for (int64_t m = 0; m < args.m; m += 2) {
        const float* x = args.input + m * columns;
        float sums[2];
        if (m + 1 < args.m) {
          DotTwo(row, x, columns, sums);
          args.output[(m + 1) * weight.rows + index] = sums[1] + bias;
        } else {
          DotOne(row, x, sums);
        }
        args.output[m * weight.rows + index] = sums[0] + bias;
      }
    }
  });
}

void UnpackW4A32Cpu(const UnpackW4A32& args) {
  const int64_t columns = args.packed.columns;
  ParallelRows(args.packed.rows, args.packed.rows * columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      UnpackRow(Row(args.packed, row), args.weight + row * columns);
    }
  });
}

}  // namespace quantd::kernels
