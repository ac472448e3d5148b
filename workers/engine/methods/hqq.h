// HQQ: codes, scales and floating zeros by half-quadratic splitting, without any data.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Hqq();

}  // namespace quantd::engine
