// The AWQ format in its gemm layout: 4 bits with whole zero points.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* AwqFormat();

}  // namespace quantd::engine
