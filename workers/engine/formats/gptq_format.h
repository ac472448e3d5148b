// The GPTQ format, the one that transformers, vLLM, SGLang and GPTQModel load as it is.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* GptqFormat();
// Version 2: zero points as they are.
const Format* GptqV2Format();

}  // namespace quantd::engine
