// The compressed-tensors format: packed 4- and 8-bit weights, and 8-bit weights with 8-bit inputs.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* CompressedTensorsFormat();

}  // namespace quantd::engine
