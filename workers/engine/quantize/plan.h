// A quantize job resolved: model, method, format, every module's options, device. Making the plan
// is where a job is refused that cannot succeed, before any weight is read.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/job/context.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

struct PlannedLinear {
  LinearShape shape;  // shape.module is its name within the block.
  std::string name;   // "model.layers.3.mlp.down_proj"
  bool quantized = true;
  nlohmann::json options;  // Resolved; the module's own where an override changes them.
  LinearScheme scheme;     // What the method makes of it.

  std::string WeightName() const { return name + ".weight"; }
};

struct QuantizePlan {
  std::shared_ptr<const Checkpoint> checkpoint;
  // The weights to quantize: the checkpoint's, or what the method's TransformModel makes of them.
  // Everything is read through it.
  std::shared_ptr<const WeightSource> source;
  nlohmann::json config_json;                  // config.json with the method's edits.
  ModelConfig config;                          // The same, parsed.
  std::vector<FallbackRecord> fallbacks = {};  // Of the transformation.
  const Architecture* row = nullptr;
  const Method* method = nullptr;
  const Format* format = nullptr;
  nlohmann::json options;  // The job's, resolved.
  LinearScheme scheme;     // What they mean; without a name and a shape.
  CalibrationNeeds needs;
  uint64_t seed = 0;
  std::vector<std::vector<PlannedLinear>> blocks;  // In the order of computation.
  PlannedLinear head;                              // Not quantized unless asked for.
  nlohmann::json configuration;                    // config.json's "quantization_config".
  // Every tensor of the output, in the model's order.
  std::vector<TensorInfo> output;
  int64_t output_bytes = 0;

  std::vector<at::Device> devices = {at::kCPU};  // Of one type; the work is shared out.
  at::Device device = at::kCPU;                  // The first.
  at::ScalarType dtype = at::kFloat;

  // Resolved calibration; zeros for methods without.
  int64_t sequences = 0;
  int64_t sequence_length = 0;

  // Pieces of work: the blocks, and the head where it is quantized.
  int64_t units() const { return static_cast<int64_t>(blocks.size()) + (head.quantized ? 1 : 0); }
  // The unit's linears that are quantized.
  std::vector<const PlannedLinear*> UnitLinears(int64_t unit) const;
};

absl::StatusOr<QuantizePlan> PlanQuantize(JobContext& context, const QuantizeSpec& spec);

}  // namespace quantd::engine
