// The engine's precompiled header and the flags' library, which costs every file that has it four
// seconds. Included nowhere.
#pragma once

#include <CLI/CLI.hpp>

#include "workers/engine/precompiled.h"
