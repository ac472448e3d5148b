// Products for the few rows of a decode step, with what stands around them in a decoder block done
// on the way: the norm and the rounding of the input in front, bias, activation and residual
// behind. A step is then a handful of launches a block, and each reads its weights once.
#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/gemm_w4a16.h"

namespace quantd::kernels {

enum class StepKind {
  kSixteen,  // [rows, columns] of the inputs' type.
  kInt8,     // int8 [rows, columns] with a scale a row; inputs become int8 too.
  kW4,       // Packed as gemm_w4a16.h says.
};

// A weight [rows, columns], which may be some rows of a larger one.
struct StepWeight {
  StepKind kind = StepKind::kSixteen;
  int64_t rows = 0;
  const void* data = nullptr;      // Where the larger one begins. 16-byte aligned.
  int64_t first_row = 0;           // kW4: a multiple of 16.
  W4Shape shape;                   // kW4: of the larger one.
  const float* scales = nullptr;   // kInt8: [rows].
  float input_scale = 0;           // kInt8: the inputs' scale; 0: each row's own.
  const uint16_t* bias = nullptr;  // [rows], or null.
};

constexpr int kStepWeightsMax = 3;

// With T the 16-bit type and x the rows of `input` [m, columns], or where `norm` [columns] is given
// their root mean square norm as norm_rows.h defines it (plus_one false):
//
//   y_i = T(x * weight_i^T + bias_i)
//   no activation:  output = y_0 | y_1 | y_2 beside each other, and with a residual
//                   T(y + residual) [m, all rows]
//   activation f:   output = T(T(f(y_0)) * y_1), two weights of equal rows, no residual
//
// `wide` in place of `output`: the same numbers as float32. residual may be output. All weights of
// one kind and, of kW4, of one W4Kind and group. kInt8: x becomes int8 by quantize_rows.h's rule,
// or code = clamp(round(x / input_scale), -128, 127); sums are exact and the rest as in
// gemm_w8a8.h. columns a multiple of 8 (kInt8: of 16, at most 2^17). Everything but weights, bias
// and norm may be what the work before it on the stream still writes. Of the others
//
//   |y - exact| <= sum |x| |weight| (4 u + columns 2^-23) + u |y|
//
// as in gemm_w4a16.h, and no result depends on other rows or on timing. Returns an error's text, or
// null.
struct StepProduct {
  int64_t m = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  const uint16_t* norm = nullptr;
  float eps = 0;
  StepWeight weights[kStepWeightsMax];
  int count = 1;  // Of the weights.
  Activation activation = Activation::kNone;
  const uint16_t* residual = nullptr;
  uint16_t* output = nullptr;
  float* wide = nullptr;
  void* stream = nullptr;  // cuda only.
};

// Of the output.
inline int64_t StepOutputColumns(const StepProduct& args) {
  if (args.activation != Activation::kNone) return args.weights[0].rows;
  int64_t columns = 0;
  for (int i = 0; i < args.count; ++i) columns += args.weights[i].rows;
  return columns;
}

// What is wrong with the arguments, or null.
inline const char* StepProductError(const StepProduct& args) {
  if (args.count < 1 || args.count > kStepWeightsMax) return "step_product: one to three weights";
  const StepWeight& first = args.weights[0];
  for (int i = 0; i < args.count; ++i) {
    const StepWeight& weight = args.weights[i];
    const bool alike =
        weight.kind == first.kind && weight.input_scale == first.input_scale &&
        (weight.kind != StepKind::kW4 || (weight.shape.kind == first.shape.kind &&
                                          W4TileGroups(weight.shape) == W4TileGroups(first.shape)));
    if (!alike) return "step_product: the weights are not alike";
    if (weight.kind == StepKind::kW4 &&
        (weight.first_row % kW4TileRows != 0 || weight.shape.columns != args.columns)) {
      return "step_product: a packed weight does not begin with a tile or has other columns";
    }
  }
  if (args.columns % (first.kind == StepKind::kInt8 ? 16 : 8) != 0 || args.columns == 0 ||
      (first.kind == StepKind::kInt8 && args.columns > 1 << 17)) {
    return "step_product: the columns are not a multiple of 8 (int8: of 16, at most 2^17)";
  }
  if (args.activation != Activation::kNone &&
      (args.count != 2 || first.rows != args.weights[1].rows || args.residual != nullptr)) {
    return "step_product: an activation joins two weights of equal rows, without a residual";
  }
  return nullptr;
}

const char* StepProductReference(const StepProduct& args);

}  // namespace quantd::kernels
