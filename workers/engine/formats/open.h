// The one door to a checkpoint's weights: plain or quantized in any format that this engine reads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

// Dense weights by Hugging Face name. Without a "quantization_config" in config.json these are the
// checkpoint's own tensors; with one, the format that recognizes it decodes them. Unimplemented
// names a quant_method that no format reads.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
    std::shared_ptr<const Checkpoint> checkpoint);

}  // namespace quantd::engine
