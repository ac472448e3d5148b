// How a linear layer is (or will be) stored, without its numbers: what methods promise, formats
// accept or refuse, and records keep, so that a checkpoint's tensors can be foretold before any
// weight is read and checked after all of them are written.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/models/input_quantization.h"

namespace quantd::engine {

// The alternatives of QuantizedWeight (methods/quantized_linear.h).
enum class Encoding { kAffine, kCodebook, kBlocks };

struct LinearScheme {
  std::string module;  // "model.layers.3.mlp.down_proj"; empty: a whole job's.
  int64_t outputs = 0;
  int64_t inputs = 0;
  int bits = 4;             // Of a code; 16 where a block type holds plain numbers.
  int64_t group_size = -1;  // Weights that share a scale; -1: a whole row.
  bool symmetric = true;    // Affine: every zero is 2^(bits-1).
  Encoding encoding = Encoding::kAffine;
  std::string type = {};                // Codebook "nf4", "fp4"; blocks "q4_0", "q6_k", "f16", ...
  int axis = 1;                         // Affine: 1: groups along inputs; 0: along outputs (HQQ).
  bool ordered_groups = true;           // Affine, axis 1: groups are runs of neighbouring inputs.
  bool integer_zeros = true;            // Affine: zeros are whole numbers (false: HQQ).
  bool double_quantized = false;        // Codebook: its scales are codes themselves.
  InputKind input = InputKind::kFloat;  // What the layer's input is rounded to at run time.
};

// Flat fields, those at their defaults left out except "name", "outputs", "inputs", "bits" and
// "groupSize": a module's entry in quantization_metadata.json.
nlohmann::json SchemeToJson(const LinearScheme& scheme);
// InvalidArgument names the field that is missing, of another type or outside its range.
absl::StatusOr<LinearScheme> SchemeFromJson(const nlohmann::json& json);

// "affine", "codebook", "blocks".
absl::string_view EncodingName(Encoding encoding);

}  // namespace quantd::engine
