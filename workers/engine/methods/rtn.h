// Round to nearest: the floor that every other method has to beat.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Rtn();

}  // namespace quantd::engine
