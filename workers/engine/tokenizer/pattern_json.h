// Reads the member "pattern" of a component: {"String": "x"} or {"Regex": "x"}.
#pragma once

#include "absl/status/statusor.h"
#include "workers/engine/tokenizer/json_view.h"
#include "workers/engine/tokenizer/pattern.h"

namespace quantd {

absl::StatusOr<Pattern> PatternFromJson(const JsonView& component);

}  // namespace quantd
