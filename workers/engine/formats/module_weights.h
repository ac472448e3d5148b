// Dense weights out of a checkpoint in which every quantized module has tensors of its own beside
// "<module>.": what all formats of that kind share, so that each says only what its tensors are.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

// A module in a checkpoint. The names given to Find and Has are what follows "<module>.".
struct StoredModule {
  const Checkpoint& checkpoint;
  const nlohmann::json& configuration;  // config.json's "quantization_config".
  std::string module;

  bool Has(absl::string_view tensor) const;
  absl::StatusOr<TensorView> Find(absl::string_view tensor) const;
};

struct ModuleLayout {
  // What a quantized module has and no other: the last parts of tensor names.
  std::vector<std::string> markers;
  // All that it may have.
  std::vector<std::string> tensors;
  // [outputs, inputs], from headers alone.
  std::function<absl::StatusOr<std::vector<int64_t>>(const StoredModule& module)> shape;
  // What its input is rounded to; null: never anything. A module that is damaged says kFloat here
  // and fails when it is read.
  std::function<InputQuantization(const StoredModule& module)> input = nullptr;
  // Of any linear, quantized or not: InputQuantization::rotation; null: never one.
  std::function<absl::StatusOr<int64_t>(const StoredModule& module, int64_t inputs)> rotation =
      nullptr;
};

// `format` (which must live for ever) decodes a module when it is read; every other tensor comes
// from the file as it is.
std::unique_ptr<WeightSource> OpenModuleWeights(const Format& format, ModuleLayout layout,
                                                std::shared_ptr<const Checkpoint> checkpoint);

// The two dimensions of a tensor's header; InvalidArgument when it has another number.
absl::StatusOr<std::vector<int64_t>> MatrixShape(const StoredModule& module,
                                                 absl::string_view tensor);

}  // namespace quantd::engine
