// The block types of GGUF files as a method: q4_0 and its kin by their formulas, the k types by
// search, either weighted by what calibration saw.
#pragma once

#include "workers/engine/methods/method.h"

namespace quantd::engine {

const Method* Gguf();

// The option `embedding` or `head` of resolved options made a type: a tensor outside the blocks is
// stored so. Empty: it stays in the type of the original. `tied`: the embedding is the head too.
std::string GgufOuterType(const nlohmann::json& options, bool is_head, bool tied);

}  // namespace quantd::engine
