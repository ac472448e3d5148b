// AWQ: scales and clipping that protect the weights whose inputs are large, then rounding.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Awq();
// With the blocks of a GGUF type as the rounding.
const Method* AwqF16();
const Method* AwqQ4_0();
const Method* AwqQ4_1();
const Method* AwqQ8_0();

}  // namespace quantd::engine
