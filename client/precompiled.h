// proto/api.h and the libraries of flags and JSON, precompiled for what has flags: the client, the
// scheduler's program. Included nowhere.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "proto/api.h"
