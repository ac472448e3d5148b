// A row at a time in float32: butterflies along the power of two, the matrix as sums of whole runs.
#include <algorithm>
#include <vector>

#include "kernels/hadamard_rows.h"
#include "kernels/int8_code.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

// Numbers that lie `distance` apart become their sum and difference.
QD_MULTIVERSION void Butterflies(float* x, int64_t count, int64_t distance) {
  for (int64_t begin = 0; begin < count; begin += 2 * distance) {
    for (int64_t i = begin; i < begin + distance; ++i) {
      const float low = x[i], high = x[i + distance];
      x[i] = low + high;
      x[i + distance] = low - high;
    }
  }
}

QD_MULTIVERSION void AddRun(const float* x, float sign, int64_t count, float* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += sign * x[i];
}

// y[b, :] = sum over a of matrix[a, b] * x[a, :] of one piece; `sums` holds as much.
void MultiplyPiece(const HadamardRows& args, float* x, float* sums) {
  const int64_t n = args.order * args.power;
  std::fill(sums, sums + n, 0.0f);
  for (int64_t b = 0; b < args.order; ++b) {
    for (int64_t a = 0; a < args.order; ++a) {
      AddRun(x + a * args.power, args.matrix[a * args.order + b], args.power,
             sums + b * args.power);
    }
  }
  std::copy(sums, sums + n, x);
}

QD_MULTIVERSION void Times(float* x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

void QuantizeRow(const HadamardRows& args, int64_t row, const float* y) {
  float largest = 0;
  for (int64_t k = 0; k < args.columns; ++k) {
    const float size = std::abs(y[k]);
    largest = size <= largest ? largest : std::isfinite(size) ? size : INFINITY;
  }
  const Int8Scaling scaling = Int8ScalingOf(largest);
  args.scales[row] = scaling.scale;
  for (int64_t k = 0; k < args.columns; ++k) {
    args.codes[row * args.columns + k] = static_cast<int8_t>(Int8Code(y[k], scaling.inverse));
  }
}

}  // namespace

const char* HadamardRowsCpu(const HadamardRows& args) {
  if (const char* error = HadamardError(args)) return error;
  const int64_t n = args.order * args.power;
  const float factor = HadamardFactor(args);
  const int64_t operations = args.rows * args.columns * (args.order + 16);
  ParallelRows(args.rows, operations, [&](int64_t row_begin, int64_t row_end) {
    std::vector<float> x(args.columns), sums(args.order > 1 ? n : 0);
    for (int64_t row = row_begin; row < row_end; ++row) {
      const uint16_t* input = args.input + row * args.columns;
      for (int64_t k = 0; k < args.columns; ++k) x[k] = FromSixteen(input[k], args.bfloat16);
      for (int64_t distance = 1; distance < args.power; distance *= 2) {
        Butterflies(x.data(), args.columns, distance);
      }
      for (int64_t begin = 0; args.order > 1 && begin < args.columns; begin += n) {
        MultiplyPiece(args, x.data() + begin, sums.data());
      }
      Times(x.data(), args.columns, factor);
      if (args.codes != nullptr) QuantizeRow(args, row, x.data());
      if (args.output == nullptr) continue;
      uint16_t* output = args.output + row * args.columns;
      for (int64_t k = 0; k < args.columns; ++k) output[k] = ToSixteen(x[k], args.bfloat16);
    }
  });
  return nullptr;
}

}  // namespace quantd::kernels
