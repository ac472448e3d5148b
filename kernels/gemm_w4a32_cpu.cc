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
};

// visit(part, values) for each of kCount parts of eight codes - zero, from the lowest bits of
// `words` on.
template <int kCount, typename Visit>
[[gnu::always_inline]] inline void ForEachPart(const Words& words, int32_t zero,
                                               const Visit& visit) {
#pragma GCC unroll 8
  for (int part = 0; part < kCount; ++part) {
    const Integers integers = reinterpret_cast<Integers>(words >> 4 * part & 15) - zero;
    visit(part, __builtin_convertvector(integers, Floats));
  }
}

// visit(part, column, values) for the parts of group `group`, in the order of their columns.
template <typename Visit>
[[gnu::always_inline]] inline void ForEachPartOf(const Row& row, int64_t group,
                                                 const Visit& visit) {
  const int32_t zero = row.Zero(group);
  const auto* words = reinterpret_cast<const WordsInMemory*>(row.codes);
  const int64_t begin = group * row.halves, end = begin + row.halves;
  if (row.halves % 2 == 0) {
    for (int64_t half = begin; half < end; half += 2) {
      const Words own = words[half / 2];
      ForEachPart<2 * kParts>(own, zero, [&](int part, const Floats& values) {
        visit(part, half * kHalf + part * kWidth, values);
      });
    }
    return;
  }
  for (int64_t half = begin; half < end; ++half) {
    const Words own = words[half / 2] >> static_cast<int>(half % 2) * 16;
    ForEachPart<kParts>(own, zero, [&](int part, const Floats& values) {
      visit(part, half * kHalf + part * kWidth, values);
    });
  }
}

// sums[i] = the row times input i, for kInputs inputs that lie `stride` apart: codes are widened
// once.
template <int kInputs>
[[gnu::always_inline]] inline void Dot(const Row& row, const float* x, int64_t stride,
                                       float* sums) {
  Floats total[kInputs][kParts] = {};
  for (int64_t group = 0; group < row.groups; ++group) {
    Floats sum[kInputs][kParts] = {};
    ForEachPartOf(row, group, [&](int part, int64_t column, const Floats& values) {
      for (int i = 0; i < kInputs; ++i) {
        const float* from = x + i * stride + column;
        sum[i][part % kParts] += values * *reinterpret_cast<const FloatsInMemory*>(from);
      }
    });
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
  for (int64_t group = 0; group < row.groups; ++group) {
    ForEachPartOf(row, group, [&](int, int64_t column, const Floats& values) {
      *reinterpret_cast<FloatsInMemory*>(weight + column) = values * row.scales[group];
    });
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
