// AWQ: scales and clipping that protect the weights whose inputs are large, then rounding.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Awq();

}  // namespace quantd::engine
