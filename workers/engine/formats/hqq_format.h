// The format of the hqq package: its encoded state dict in safetensors.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* HqqFormat();

}  // namespace quantd::engine
