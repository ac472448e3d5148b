// Formats without any codes: the quantized weights decoded to 16 bits, for every program that knows
// the model.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

// Safetensors, as transformers saves them.
const Format* HfFormat();
// pytorch_model.bin, which torch.load(weights_only=True) reads.
const Format* PytorchFormat();

}  // namespace quantd::engine
