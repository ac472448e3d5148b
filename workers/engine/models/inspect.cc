// Everything that is known without computing anything.
#include "workers/engine/models/inspect.h"

#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/models/activation.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

std::string StringOr(const json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string ArchitectureName(const json& config) {
  const auto found = config.find("architectures");
  if (found != config.end() && found->is_array() && !found->empty() && found->at(0).is_string()) {
    return found->at(0).get<std::string>();
  }
  return "";
}

std::string TokenizerKind(const std::string& folder) {
  if (FileExists(absl::StrCat(folder, "/tokenizer.json"))) return "tokenizer.json";
  if (FileExists(absl::StrCat(folder, "/tokenizer.model"))) return "sentencepiece";
  return "none";
}

json ConfigJson(const ModelConfig& config) {
  return {{"layers", config.layers},
          {"hiddenSize", config.hidden_size},
          {"intermediateSize", config.intermediate_size},
          {"heads", config.heads},
          {"kvHeads", config.kv_heads},
          {"headDim", config.head_dim},
          {"vocabSize", config.vocab_size},
          {"maxPositionEmbeddings", config.max_position_embeddings},
          {"hiddenAct", config.hidden_act},
          {"ropeTheta", config.rope.theta},
          {"ropeScaling", std::string(RopeScalingName(config.rope.scaling))},
          {"slidingWindow", config.sliding_window},
          {"experts", config.experts},
          {"expertsPerToken", config.experts_per_token},
          {"tieWordEmbeddings", config.tie_word_embeddings},
          {"dtype", config.dtype}};
}

// Why the engine cannot run the model; OK when it can.
absl::Status Supported(std::shared_ptr<const Checkpoint> checkpoint, const Architecture& row) {
  const ModelConfig& config = checkpoint->config();
  QD_RETURN_IF_ERROR(FindActivation(config.hidden_act).status());
  // A quantized checkpoint's tensors are its format's matter.
  if (config.is_quantized) return absl::OkStatus();
  return ValidateWeights(config, row, CheckpointWeights(checkpoint));
}

}  // namespace

absl::StatusOr<json> InspectModel(const std::string& folder) {
  QD_ASSIGN_OR_RETURN(const json raw, ReadModelConfigJson(folder));
  json result = {{"folder", folder},
                 {"architecture", ArchitectureName(raw)},
                 {"modelType", StringOr(raw, "model_type")},
                 {"quantization", raw.value("quantization_config", json())},
                 {"tokenizer", TokenizerKind(folder)},
                 {"supported", false}};
  const absl::StatusOr<const Architecture*> row =
      FindArchitecture(ArchitectureName(raw), StringOr(raw, "model_type"));
  if (!row.ok()) {
    result["reason"] = row.status().message();
    return result;
  }
  absl::StatusOr<std::shared_ptr<const Checkpoint>> checkpoint = Checkpoint::Open(folder);
  if (absl::IsUnimplemented(checkpoint.status())) {
    result["reason"] = checkpoint.status().message();
    return result;
  }
  QD_RETURN_IF_ERROR(checkpoint.status(), "inspecting ", folder);
  std::map<std::string, int64_t> bytes_of_dtype;
  const std::vector<std::string> names = (*checkpoint)->names();
  for (const std::string& name : names) {
    QD_ASSIGN_OR_RETURN(const TensorView view, (*checkpoint)->Find(name));
    bytes_of_dtype[std::string(DTypeName(view.dtype))] += static_cast<int64_t>(view.bytes.size());
  }
  result["parameters"] = ParameterCount((*checkpoint)->config(), **row);
  result["bytes"] = (*checkpoint)->total_bytes();
  result["dtypes"] = bytes_of_dtype;
  result["tensors"] = names.size();
  result["files"] = (*checkpoint)->file_names();
  if ((*checkpoint)->gguf() != nullptr) result["tokenizer"] = "gguf";
  result["config"] = ConfigJson((*checkpoint)->config());
  const absl::Status supported = Supported(*checkpoint, **row);
  result["supported"] = supported.ok();
  if (!supported.ok()) result["reason"] = supported.message();
  return result;
}

}  // namespace quantd::engine
