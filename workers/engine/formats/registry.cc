// Every format, one line each, and the door that picks one for a checkpoint.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/nearest.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/awq_format.h"
#include "workers/engine/formats/bitsandbytes_format.h"
#include "workers/engine/formats/compressed_tensors_format.h"
#include "workers/engine/formats/dense_format.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/formats/gguf_format.h"
#include "workers/engine/formats/gptq_format.h"
#include "workers/engine/formats/hqq_format.h"
#include "workers/engine/formats/open.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {
namespace {

std::string FormatNames() {
  return absl::StrJoin(Formats(), ", ", [](std::string* out, const Format* format) {
    absl::StrAppend(out, format->Info().name);
  });
}

}  // namespace

absl::Span<const Format* const> Formats() {
  static const Format* const formats[] = {
      AwqFormat(),  BitsandbytesFormat(), CompressedTensorsFormat(),
      GgufFormat(), GptqFormat(),         GptqV2Format(),
      HfFormat(),   HqqFormat(),          PytorchFormat()};
  return formats;
}

absl::StatusOr<const Format*> FindFormat(absl::string_view name) {
  std::vector<std::string> names;
  for (const Format* format : Formats()) {
    if (format->Info().name == name) return format;
    names.push_back(format->Info().name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no format \"", name, "\"", Suggestion(name, names)));
}

absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
    std::shared_ptr<const Checkpoint> checkpoint) {
  const nlohmann::json& config = checkpoint->raw_config();
  const auto found = config.find("quantization_config");
  if (found == config.end() || found->is_null()) {
    return std::make_unique<CheckpointWeights>(std::move(checkpoint));
  }
  if (found->is_object()) {
    for (const Format* format : Formats()) {
      if (format->Recognizes(*found)) return format->OpenWeights(std::move(checkpoint));
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      checkpoint->folder(), "/config.json: quantization_config.quant_method is ",
      found->is_object() ? found->value("quant_method", nlohmann::json()).dump() : found->dump(),
      "; this engine reads ", FormatNames()));
}

}  // namespace quantd::engine
