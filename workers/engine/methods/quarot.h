// QuaRot: the model rotated so that its weights have no outliers, then quantized by rtn or gptq.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* QuaRot();

}  // namespace quantd::engine
