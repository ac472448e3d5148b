// What GGUF calls a model's tensors and configuration, and what Hugging Face calls them: a table of
// architectures (gguf_architectures.cc), read in both directions. Tokenizers are
// formats/gguf_tokenizer.h's.
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

// A module, and what GGUF calls it. "*" in the first stands for an expert's number: GGUF has one
// tensor [experts, out, in] for all of them.
struct GgufNames {
  absl::string_view hf;    // "self_attn.q_proj"
  absl::string_view gguf;  // "attn_q"
  // Rows of a head lie as (first half, second half) here and as pairs there: llama's own rotary.
  bool paired_rows = false;
};

struct GgufArchitecture {
  absl::string_view gguf;             // "llama"
  absl::string_view hf;               // "LlamaForCausalLM"
  absl::string_view model_type;       // "llama"
  absl::Span<const GgufNames> outer;  // Modules outside the blocks.
  absl::Span<const GgufNames> block;
  absl::string_view block_prefix = "model.layers.";
  absl::string_view norm_eps = "rms_norm_eps";  // In config.json.
  bool layer_norm = false;
  bool norms_plus_one =
      false;  // Gemma: norm weights are stored with the one that is added to them.
  bool rotary = true;
};
absl::Span<const GgufArchitecture> GgufArchitectures();

// Unimplemented names those there are.
absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const ModelConfig& config);
// Of a file: an architecture that several classes share is told by its tensors.
absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const GgufFile& file);

// Where a module's tensor goes.
struct GgufPlace {
  std::string name;     // "blk.3.attn_q.weight"
  int64_t expert = -1;  // Which slice of the tensor; -1: all of it.
  bool paired_rows = false;
  bool plus_one = false;
};
// `module` "model.layers.3.self_attn.q_proj", `kind` "weight" or "bias"; NotFound for a module that
// the table does not know.
absl::StatusOr<GgufPlace> PlaceInGguf(const GgufArchitecture& row, absl::string_view module,
                                      absl::string_view kind);
// The other way: the module's name, with a "*" where it stands for all experts, and the kind.
// Nothing for a name that the table does not know.
struct GgufOrigin {
  std::string module;
  std::string kind;
};
std::optional<GgufOrigin> OriginOfGguf(const GgufArchitecture& row, absl::string_view name);

// The architecture's own keys ("llama.block_count", ...), general.architecture included.
// Unimplemented for what GGUF cannot express.
absl::StatusOr<GgufMetadata> GgufMetadataOf(const ModelConfig& config);

// Divisors of rotary frequencies, one a pair of dimensions, which GGUF stores as tensors: llama3's
// scaling as "rope_freqs.weight", longrope's as two. None for other scalings.
struct GgufRopeFactors {
  std::string name;
  std::vector<float> factors;
};
std::vector<GgufRopeFactors> RopeFactorsOf(const ModelConfig& config);
bool IsRopeFactors(absl::string_view tensor_name);

// A config.json that says what the file says, with a "quantization_config" of quant_method "gguf".
// Unimplemented for an unknown architecture; DataLoss for a key that is missing or of another type.
absl::StatusOr<nlohmann::json> ConfigOfGguf(const GgufFile& file);

// The file's tensors by Hugging Face's names and as what they would be in a safetensors file: rows
// of numbers, and matrices as bytes U8 [rows, bytes a row] called "<module>.gguf_<type>", rows in
// GGUF's order. Without those that the configuration tells of. A name that the table does not know
// stays as it is.
class GgufTensors : public TensorFile {
 public:
  // Errors as GgufFile::Open's and ConfigOfGguf's; DataLoss for what is neither a row of plain
  // numbers nor a matrix (or one of each expert).
  static absl::StatusOr<std::unique_ptr<GgufTensors>> Open(const std::string& path);
  const GgufFile& gguf() const { return *file_; }
  const std::string& path() const override { return file_->path(); }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorView* Find(absl::string_view name) const override;

 private:
  absl::Status Add(const GgufArchitecture& row, const std::string& name);
  absl::Status AddOne(std::string name, TensorView view);

  std::unique_ptr<GgufFile> file_;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, TensorView> tensors_;
};
constexpr char kGgufBlocksKind[] = "gguf_";

}  // namespace quantd::engine
