// The calibration text that ships with the engine.
#pragma once

#include "absl/strings/string_view.h"

namespace quantd::engine {

// A .jsonl file's content, one object with a "text" a line.
absl::string_view BuiltinCalibrationText();

}  // namespace quantd::engine
