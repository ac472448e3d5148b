// The formulas of step_product.h, sums in float64.
#include <vector>

#include "kernels/int8_code.h"
#include "kernels/norm_rows.h"
#include "kernels/quantize_rows.h"
#include "kernels/sixteen.h"
#include "kernels/step_product.h"

namespace quantd::kernels {
namespace {

// A row of x, and for kInt8 its codes and scale.
struct Row {
  std::vector<uint16_t> x;
  std::vector<int8_t> codes;
  float scale = 0;
};

Row RowOf(const StepProduct& args, int64_t m) {
  const uint16_t* input = args.input + m * args.columns;
  Row row = {.x = {input, input + args.columns}, .codes = std::vector<int8_t>(args.columns)};
  if (args.norm != nullptr) {
    NormRowsReference({.rows = 1,
                       .columns = args.columns,
                       .bfloat16 = args.bfloat16,
                       .eps = args.eps,
                       .input = input,
                       .weight = args.norm,
                       .output = row.x.data()});
  }
  row.scale = args.weights[0].input_scale;
  if (args.weights[0].kind != StepKind::kInt8) return row;
  if (row.scale == 0) {
    QuantizeRowsReference({.rows = 1,
                           .columns = args.columns,
                           .bfloat16 = args.bfloat16,
                           .input = row.x.data(),
                           .codes = row.codes.data(),
                           .scales = &row.scale});
    return row;
  }
  for (int64_t k = 0; k < args.columns; ++k) {
    row.codes[k] = StaticInt8Code(FromSixteen(row.x[k], args.bfloat16), row.scale);
  }
  return row;
}

float Product(const StepProduct& args, const StepWeight& weight, const Row& row, int64_t output) {
  const int64_t at = weight.first_row + output;
  double sum = 0;
  if (weight.kind == StepKind::kInt8) {
    const int8_t* codes = static_cast<const int8_t*>(weight.data) + at * args.columns;
    int64_t exact = 0;
    for (int64_t k = 0; k < args.columns; ++k) exact += int64_t{row.codes[k]} * codes[k];
    float value = static_cast<float>(exact) * (row.scale * weight.scales[output]);
    if (weight.bias != nullptr) value += FromSixteen(weight.bias[output], args.bfloat16);
    return value;
  }
  for (int64_t k = 0; k < args.columns; ++k) {
    const double x = FromSixteen(row.x[k], args.bfloat16);
    const auto* dense = static_cast<const uint16_t*>(weight.data) + at * args.columns;
    sum += x * (weight.kind == StepKind::kW4 ? W4Weight(weight.shape, weight.data, at, k)
                                             : FromSixteen(dense[k], args.bfloat16));
  }
  if (weight.bias != nullptr) sum += FromSixteen(weight.bias[output], args.bfloat16);
  return static_cast<float>(sum);
}

}  // namespace

const char* StepProductReference(const StepProduct& args) {
  if (const char* error = StepProductError(args)) return error;
  const auto rounded = [&](float value) {
    return FromSixteen(ToSixteen(value, args.bfloat16), args.bfloat16);
  };
  const int64_t width = StepOutputColumns(args);
  for (int64_t m = 0; m < args.m; ++m) {
    const Row row = RowOf(args, m);
    int64_t first = 0;  // Column of the output where a weight's begin.
    for (int i = 0; i < args.count; first += args.weights[i++].rows) {
      const bool gated = args.activation != Activation::kNone;
      if (gated && i == 1) break;
      for (int64_t output = 0; output < args.weights[i].rows; ++output) {
        float y = rounded(Product(args, args.weights[i], row, output));
        const int64_t at = m * width + first + output;
        if (gated) {
          y = rounded(Activate(args.activation, y)) *
              rounded(Product(args, args.weights[1], row, output));
        }
        if (args.residual != nullptr) y += FromSixteen(args.residual[at], args.bfloat16);
        if (args.wide != nullptr) {
          args.wide[at] = rounded(y);
        } else {
          args.output[at] = ToSixteen(y, args.bfloat16);
        }
      }
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels
