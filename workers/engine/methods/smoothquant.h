// SmoothQuant: 8-bit weights and activations, with difficulty moved from activations to weights.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* SmoothQuant();

}  // namespace quantd::engine
