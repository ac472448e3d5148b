// Learned rounding: SignRound (AutoRound) and AdaRound, on a block's or a layer's output.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* AdaRoundMethod();

}  // namespace quantd::engine
