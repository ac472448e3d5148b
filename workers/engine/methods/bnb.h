// The two methods of bitsandbytes: four-bit codebooks and LLM.int8. Neither needs data.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Bnb4Bit();
const Method* Bnb8Bit();

}  // namespace quantd::engine
