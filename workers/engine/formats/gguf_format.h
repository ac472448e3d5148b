// GGUF, version 3: the one file that llama.cpp and what is built on it load.
#pragma once

#include "workers/engine/formats/format.h"

namespace quantd::engine {

const Format* GgufFormat();

constexpr char kGgufFileName[] = "model.gguf";

// The whole model as `folder`/model.gguf with a Modelfile for Ollama and the tokenizer's files.
absl::StatusOr<WrittenModel> WriteGguf(ModelReader& model, const std::string& folder);

// Dense weights of a checkpoint that is a GGUF file.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenGgufWeights(
    std::shared_ptr<const Checkpoint> checkpoint);

}  // namespace quantd::engine
