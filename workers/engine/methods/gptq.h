// GPTQ: error-compensated rounding with second-order information from calibration.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Gptq();

}  // namespace quantd::engine
