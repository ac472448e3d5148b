// Clipping of weight groups by what it does to a layer's output (AWQ's second search).
#pragma once

#include "absl/status/status.h"
#include "workers/engine/methods/block_job.h"

namespace quantd::engine {

// For every quantized linear but those that make queries and keys (whose products are too
// sensitive): each row's groups are clamped to the share of their largest weight, 1 to 0.55 in
// steps of 0.05, with which nearest rounding changes the group's part of the output least, in
// squares over all calibration tokens. Options: bits, group_size, sym.
absl::Status ClipBlock(BlockJob& job);

}  // namespace quantd::engine
