// The searches of gguf_quantize.h over whole blocks, driven by one variant of the lanes' inner
// loops. Internal to the room.
#pragma once

#include <cstdint>

#include "kernels/gguf_lanes.h"
#include "kernels/gguf_quantize.h"

namespace quantd::kernels {

// Rows [row_begin, row_end) of args. K types, with or without importance.
void SearchKRows(const GgufQuantize& args, const LaneOps& ops, int64_t row_begin, int64_t row_end);
// q4_0, q4_1, q5_0, q5_1 with importance.
void Search32Rows(const GgufQuantize& args, const LaneOps& ops, int64_t row_begin, int64_t row_end);

}  // namespace quantd::kernels
