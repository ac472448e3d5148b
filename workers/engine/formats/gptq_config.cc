// Written so that every loader finds the field it looks for: older tools read "checkpoint_format",
// newer ones "format".
#include "workers/engine/formats/gptq_config.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/formats/pattern.h"

namespace quantd::engine {
namespace {

constexpr char kExclude[] = "-:";
constexpr char kInclude[] = "+:";

nlohmann::json Option(const nlohmann::json& options, const char* name, nlohmann::json otherwise) {
  const auto found = options.find(name);
  return found == options.end() ? otherwise : *found;
}

// Older tools say "checkpoint_format", newer ones "format".
nlohmann::json VersionOf(const nlohmann::json& configuration) {
  return Option(configuration, "checkpoint_format", Option(configuration, "format", "gptq"));
}

// Whether columns belong to groups in an order that a loader must look up.
bool ScatteredGroups(const nlohmann::json& options) {
  return Option(options, "desc_act", false) == true &&
         Option(options, "static_groups", false) == false;
}

absl::StatusOr<int64_t> Integer(const nlohmann::json& object, const char* name, int64_t otherwise) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return otherwise;
  if (found->is_number_integer()) return found->get<int64_t>();
  return absl::InvalidArgumentError(absl::StrCat("quantization_config.", name, " is ",
                                                 found->dump(), " instead of a whole number"));
}

// The fields of `object` that are there, over those of `module`.
absl::Status Overlay(const nlohmann::json& object, GptqModule& module) {
  QD_ASSIGN_OR_RETURN(const int64_t bits, Integer(object, "bits", module.bits));
  QD_ASSIGN_OR_RETURN(module.group_size, Integer(object, "group_size", module.group_size));
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config.bits is ", bits, "; 2, 3, 4 and 8 can be read"));
  }
  module.bits = static_cast<int>(bits);
  if (module.group_size != -1 && module.group_size <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("quantization_config.group_size is ",
                                                   module.group_size, " instead of -1 or above 0"));
  }
  const auto sym = object.find("sym");
  if (sym != object.end() && sym->is_boolean()) module.symmetric = sym->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadDynamic(const nlohmann::json& dynamic, absl::string_view name,
                         GptqModule& module) {
  for (const auto& [key, value] : dynamic.items()) {
    absl::string_view pattern = key;
    if (absl::StartsWith(pattern, kExclude))
      continue;  // Such a module has no quantized tensors at all.
    if (absl::StartsWith(pattern, kInclude)) pattern.remove_prefix(2);
    QD_ASSIGN_OR_RETURN(const Pattern compiled, Pattern::Compile(pattern),
                        "quantization_config.dynamic");
    if (!compiled.MatchesStart(name)) continue;
    if (!value.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("quantization_config.dynamic['", key, "'] is not an object"));
    }
    return Overlay(value, module);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsGptqV2(const nlohmann::json& configuration) { return VersionOf(configuration) == "gptq_v2"; }

nlohmann::json GptqConfiguration(const ConfigRequest& request) {
  const nlohmann::json& options = request.options;
  const nlohmann::json damp = Option(options, "damp_percent", 0.05);
  nlohmann::json configuration = {
      {"quant_method", "gptq"},
      {"bits", request.scheme.bits},
      {"group_size", request.scheme.group_size},
      {"desc_act", ScatteredGroups(options)},
      {"sym", request.scheme.symmetric},
      {"lm_head", request.head_quantized},
      {"true_sequential", Option(options, "true_sequential", true)},
      {"static_groups", false},
      {"act_group_aware", false},
      {"damp_percent", damp},
      {"checkpoint_format", "gptq"},
      {"format", "gptq"},
      {"method", "gptq"},
      {"pack_dtype", "int32"},
      {"model_file_base_name", "model"},
      {"meta",
       {{"quantizer", {absl::StrCat("quantd:", QUANTD_VERSION)}},
        {"quantd_method", request.method},
        {"quantd_options", options},
        {"damp_percent", damp},
        {"true_sequential", Option(options, "true_sequential", true)}}},
  };
  for (const ModuleException& exception : request.exceptions) {
    const std::string pattern = ExactPattern(exception.module);
    nlohmann::json value = nlohmann::json::object();
    if (!exception.skipped) {
      value = {{"bits", exception.scheme.bits},
               {"group_size", exception.scheme.group_size},
               {"sym", exception.scheme.symmetric},
               {"desc_act", ScatteredGroups(exception.options)}};
    }
    configuration["dynamic"][absl::StrCat(exception.skipped ? kExclude : "", pattern)] = value;
  }
  return configuration;
}

absl::StatusOr<GptqModule> ReadGptqConfiguration(const nlohmann::json& configuration,
                                                 absl::string_view module) {
  GptqModule result;
  if (!configuration.contains("bits")) {
    return absl::InvalidArgumentError("quantization_config has no bits");
  }
  QD_RETURN_IF_ERROR(Overlay(configuration, result));
  const nlohmann::json version = VersionOf(configuration);
  if (version != "gptq" && version != "gptq_v2") {
    return absl::InvalidArgumentError(absl::StrCat("quantization_config.checkpoint_format is ",
                                                   version.dump(),
                                                   "; gptq and gptq_v2 can be read"));
  }
  result.zeros_minus_one = version == "gptq";
  const auto dynamic = configuration.find("dynamic");
  if (dynamic != configuration.end() && dynamic->is_object()) {
    QD_RETURN_IF_ERROR(ReadDynamic(*dynamic, module, result), module);
  }
  return result;
}

}  // namespace quantd::engine
