// A tokenizer.json as GGUF metadata (tokenizer.ggml.*), and back: byte-level BPE ("gpt2") and
// sentencepiece-style BPE with byte fallback ("llama").
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/gguf.h"
#include "workers/engine/tokenizer/tokenizer.h"

namespace quantd::engine {

struct GgufTokenizer {
  GgufMetadata metadata;
  // What readers will do otherwise than the original; empty: nothing.
  std::string caveat;
};

// Out of `folder`'s tokenizer.json, tokenizer_config.json and chat_template.jinja. `rows` is how
// many the embedding has: tokens are filled up to it. Without a tokenizer.json it is "none".
// InvalidArgument when it does not fit the embedding or is damaged; Unimplemented for another
// model than BPE.
absl::StatusOr<GgufTokenizer> GgufTokenizerOf(const std::string& folder, const ModelConfig& config);

// The text of a tokenizer.json that does what the file's metadata say. DataLoss when they
// contradict themselves; Unimplemented names a tokenizer that is not read.
absl::StatusOr<std::string> TokenizerJsonOf(const GgufFile& file);

// The tokenizer beside a checkpoint's weights, or inside its GGUF file.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const Checkpoint& checkpoint);

}  // namespace quantd::engine
