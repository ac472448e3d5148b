// The GPTQ format, the one that transformers, vLLM, SGLang and GPTQModel load as it is.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* GptqFormat();

}  // namespace quantd::engine
