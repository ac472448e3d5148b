// The bitsandbytes format: NF4 and FP4 blocks, and LLM.int8 rows.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* BitsandbytesFormat();

}  // namespace quantd::engine
