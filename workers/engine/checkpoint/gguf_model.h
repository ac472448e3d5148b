// What GGUF calls a model's tensors and configuration, and what Hugging Face calls them: a table of
// architectures, read in both directions. Tokenizers are formats/gguf_tokenizer.h's.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/checkpoint/gguf.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

struct GgufNames {
  absl::string_view hf;    // A module: "self_attn.q_proj".
  absl::string_view gguf;  // "attn_q"
  // Rows of a head lie as (first half, second half) here and as pairs there: llama's own rotary.
  bool paired_rows = false;
};

struct GgufArchitecture {
  absl::string_view gguf;        // "llama"
  absl::string_view hf;          // "LlamaForCausalLM"
  absl::string_view model_type;  // "llama"
  absl::string_view block_prefix;
  absl::Span<const GgufNames> outer;  // Modules outside the blocks.
  absl::Span<const GgufNames> block;
};

// Unimplemented names those there are.
absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const ModelConfig& config);

// A tensor by module and kind ("weight", "bias").
struct GgufTensorName {
  std::string module;  // "model.layers.3.self_attn.q_proj"
  std::string kind;
  bool paired_rows = false;
};
// "blk.3.attn_q.weight"; NotFound for a module that the table does not know.
absl::StatusOr<std::string> ToGgufName(const GgufArchitecture& row, absl::string_view module,
                                       absl::string_view kind);
// Whether the module's rows are paired in GGUF.
bool HasPairedRows(const GgufArchitecture& row, absl::string_view module);
// The other way; nothing for a name that the table does not know.
std::optional<GgufTensorName> FromGgufName(const GgufArchitecture& row, absl::string_view name);

// The architecture's own keys ("llama.block_count", ...), general.architecture included.
// Unimplemented for what GGUF cannot express.
absl::StatusOr<GgufMetadata> GgufMetadataOf(const ModelConfig& config);

// Divisors of llama3's rotary frequencies, one a pair of dimensions, which GGUF stores as the
// tensor "rope_freqs.weight"; empty for other scalings.
std::vector<float> RopeFactors(const ModelConfig& config);
constexpr char kRopeFactorsTensor[] = "rope_freqs.weight";

// A config.json that says what the file says, with a "quantization_config" of quant_method "gguf".
// Unimplemented for an unknown architecture; DataLoss for a key that is missing or of another type.
absl::StatusOr<nlohmann::json> ConfigOfGguf(const GgufFile& file);
// A tensor of the file by Hugging Face's name and as what it would be in a safetensors file.
struct GgufHfTensor {
  std::string name;  // "<module>.weight", or "<module>.gguf_<type>" where it lies in blocks.
  TensorView view;   // Its own dtype and shape, or U8 [rows, bytes a row]. Rows as GGUF has them.
};
// All but those that the configuration tells of. A name that the table does not know stays as it
// is. DataLoss for a tensor in blocks that is no matrix.
absl::StatusOr<std::vector<GgufHfTensor>> HfTensorsOf(const GgufFile& file);
constexpr char kGgufBlocksKind[] = "gguf_";

// The row that ConfigOfGguf used.
absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const GgufFile& file);

}  // namespace quantd::engine
