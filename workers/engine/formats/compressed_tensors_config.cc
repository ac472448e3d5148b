// One group of the configuration a scheme, "Linear" for the job's and module names for those that
// differ from it.
#include "workers/engine/formats/compressed_tensors_config.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/config_cache.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/pattern.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr char kPatternPrefix[] = "re:";

const char* LayoutOf(const LinearScheme& scheme) {
  return StoredAsBytes(scheme.bits, scheme.input) ? "int-quantized" : "pack-quantized";
}

json InputOf(InputKind kind) {
  if (kind == InputKind::kFloat) return nullptr;
  const bool dynamic = kind != InputKind::kInt8PerTensor;
  return {{"num_bits", kind == InputKind::kInt4PerToken ? 4 : 8},
          {"type", "int"},
          {"symmetric", true},
          {"strategy", dynamic ? "token" : "tensor"},
          {"dynamic", dynamic}};
}

json GroupOf(const LinearScheme& scheme, json targets) {
  json weights = {
      {"num_bits", scheme.bits},       {"type", "int"},
      {"symmetric", scheme.symmetric}, {"strategy", scheme.group_size == -1 ? "channel" : "group"},
      {"group_size", nullptr},         {"dynamic", false},
      {"actorder", nullptr},           {"observer", "minmax"}};
  if (scheme.group_size != -1) weights["group_size"] = scheme.group_size;
  return {{"targets", std::move(targets)},
          {"format", LayoutOf(scheme)},
          {"input_activations", InputOf(scheme.input)},
          {"output_activations", nullptr},
          {"weights", std::move(weights)}};
}

json Field(const json& object, const char* name) {
  return object.is_object() ? object.value(name, json()) : json();
}

absl::Status Unreadable(const std::string& where, const json& value, absl::string_view readable) {
  return absl::InvalidArgumentError(absl::StrCat("quantization_config.config_groups.", where,
                                                 " is ", JsonText(value), "; ", readable,
                                                 " can be read"));
}

// How well `target` names the module: 0 not at all, 1 by class, 2 by pattern, 3 by name.
absl::StatusOr<int> Match(const json& target, absl::string_view module) {
  if (!target.is_string()) return 0;
  absl::string_view text = target.get_ref<const std::string&>();
  if (absl::ConsumePrefix(&text, kPatternPrefix)) {
    QD_ASSIGN_OR_RETURN(const Pattern pattern, Pattern::Compile(text),
                        "quantization_config.config_groups targets");
    return pattern.MatchesStart(module) ? 2 : 0;
  }
  if (text == module) return 3;
  return text == "Linear" ? 1 : 0;
}

absl::StatusOr<InputKind> ReadInput(const json& group, const std::string& where) {
  const json input = Field(group, "input_activations");
  if (input.is_null()) return InputKind::kFloat;
  const std::string field = where + ".input_activations";
  const json bits = Field(input, "num_bits");
  if ((bits != 8 && bits != 4) || Field(input, "type") != "int" ||
      Field(input, "symmetric") != true) {
    return Unreadable(field, input, "symmetric integers of 8 and 4 bits");
  }
  if (Field(input, "dynamic") == true && Field(input, "strategy") == "token") {
    return bits == 4 ? InputKind::kInt4PerToken : InputKind::kInt8PerToken;
  }
  if (bits == 8 && Field(input, "dynamic") == false && Field(input, "strategy") == "tensor") {
    return InputKind::kInt8PerTensor;
  }
  return Unreadable(field, input, "dynamic per token, or static per tensor of 8 bits");
}

absl::StatusOr<CompressedModule> ReadGroup(const json& group, const std::string& where) {
  const json weights = Field(group, "weights");
  CompressedModule module;
  const json bits = Field(weights, "num_bits");
  if ((bits != 4 && bits != 8) || Field(weights, "type") != "int") {
    return Unreadable(where + ".weights", weights, "integers of 4 and 8 bits");
  }
  module.bits = bits.get<int>();
  module.symmetric = Field(weights, "symmetric") != false;
  const json strategy = Field(weights, "strategy");
  const json size = Field(weights, "group_size");
  if (strategy == "group") {
    if (!size.is_number_integer() || size.get<int64_t>() <= 0) {
      return Unreadable(where + ".weights.group_size", size, "a whole number above 0");
    }
    module.group_size = size.get<int64_t>();
  } else if (strategy == "tensor") {
    module.whole_matrix = true;
  } else if (strategy != "channel") {
    return Unreadable(where + ".weights.strategy", strategy, "group, channel and tensor");
  }
  QD_ASSIGN_OR_RETURN(module.input, ReadInput(group, where));
  return module;
}

// The online half of a rotation, and the half that is in the weights: what the library itself
// writes, so that its readers find the online one.
json RotationOf(int64_t order, const std::vector<std::string>& modules) {
  const auto apply = [&](const char* location, bool inverse) {
    return json{{"targets", modules},
                {"location", location},
                {"inverse", inverse},
                {"ignore", json::array()}};
  };
  return {{"type", "hadamard"}, {"apply", {apply("input", false), apply("weight_input", true)}},
          {"randomize", false}, {"requires_grad", false},
          {"head_dim", order},  {"precision", "torch.float32"}};
}

json TransformsOf(const ConfigRequest& request) {
  json groups = json::object();
  for (const auto& [order, modules] : request.rotated_inputs) {
    groups[absl::StrCat("R4_", order)] = RotationOf(order, modules);
  }
  if (json cache = CacheRotation(request.cache); !cache.is_null()) groups["R3"] = std::move(cache);
  return groups.empty() ? json::object() : json{{"config_groups", groups}};
}

}  // namespace

bool StoredAsBytes(int bits, InputKind input) {
  return bits == 8 && (input == InputKind::kInt8PerToken || input == InputKind::kInt8PerTensor);
}

json CompressedTensorsConfiguration(const ConfigRequest& request) {
  json groups = {{"group_0", GroupOf(request.scheme, json::array({"Linear"}))}};
  json ignore = json::array();
  if (!request.head_quantized) ignore.push_back("lm_head");
  std::map<std::string, std::string> group_of_scheme;  // The scheme as text, without its module.
  for (const ModuleException& exception : request.exceptions) {
    if (exception.skipped) {
      ignore.push_back(exception.module);
      continue;
    }
    const json group = GroupOf(exception.scheme, json::array());
    const auto [found, added] =
        group_of_scheme.emplace(group.dump(), absl::StrCat("group_", group_of_scheme.size() + 1));
    if (added) groups[found->second] = group;
    groups[found->second]["targets"].push_back(exception.module);
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", LayoutOf(request.scheme)},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"ignore", ignore},
          {"kv_cache_scheme", CacheScheme(request.cache, request.head_dim)},
          {"sparsity_config", json::object()},
          {"transform_config", TransformsOf(request)},
          {"version", "0.20.0"},
          {"config_groups", groups}};
}

absl::StatusOr<CompressedModule> ReadCompressedTensorsConfiguration(const json& configuration,
                                                                    absl::string_view module) {
  const json groups = Field(configuration, "config_groups");
  if (!groups.is_object() || groups.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config.config_groups is ", JsonText(groups)));
  }
  const std::string* best = nullptr;
  int best_match = 0;
  for (const auto& [name, group] : groups.items()) {
    for (const json& target : Field(group, "targets")) {
      QD_ASSIGN_OR_RETURN(const int match, Match(target, module));
      if (match <= best_match) continue;
      best_match = match;
      best = &name;
    }
  }
  if (best == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config.config_groups has no group for ", module));
  }
  return ReadGroup(groups[*best], *best);
}

absl::StatusOr<int64_t> ReadInputRotation(const json& configuration, absl::string_view module,
                                          int64_t inputs) {
  int64_t rotation = 0;
  const json groups = Field(Field(configuration, "transform_config"), "config_groups");
  for (const auto& [name, group] : groups.items()) {
    for (const json& apply : Field(group, "apply")) {
      const json location = Field(apply, "location");
      if (location != "input" && location != "output") continue;
      bool chosen = false;
      for (const json& target : Field(apply, "targets")) {
        QD_ASSIGN_OR_RETURN(const int match, Match(target, module));
        chosen = chosen || match > 0;
      }
      for (const json& ignored : Field(apply, "ignore")) {
        QD_ASSIGN_OR_RETURN(const int match, Match(ignored, module));
        chosen = chosen && match == 0;
      }
      if (!chosen) continue;
      const json order = Field(group, "head_dim");
      const int64_t size = order.is_number_integer() ? order.get<int64_t>() : inputs;
      if (location == "output" || rotation != 0 || Field(group, "type") != "hadamard" ||
          Field(group, "randomize") == true || size < 2 || (size & (size - 1)) != 0 ||
          inputs % size != 0) {
        return absl::UnimplementedError(
            absl::StrCat("quantization_config.transform_config.config_groups.", name, " does ",
                         JsonText(group), " to ", module,
                         "; one Hadamard transform of a power of two, of the input, not "
                         "randomized, can be read"));
      }
      rotation = size;
    }
  }
  return rotation;
}

}  // namespace quantd::engine
