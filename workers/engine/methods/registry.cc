// Every method, one line each, and what all of them check alike.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/nearest.h"
#include "base/status_macros.h"
#include "workers/engine/methods/adaround.h"
#include "workers/engine/methods/awq.h"
#include "workers/engine/methods/bnb.h"
#include "workers/engine/methods/gguf.h"
#include "workers/engine/methods/gptq.h"
#include "workers/engine/methods/hqq.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/methods/quarot.h"
#include "workers/engine/methods/rtn.h"
#include "workers/engine/methods/smoothquant.h"

namespace quantd::engine {

absl::Span<const Method* const> Methods() {
  static const Method* const methods[] = {
      AdaRoundMethod(), Awq(),  AwqF16(), AwqQ4_0(), AwqQ4_1(), AwqQ8_0(), Bnb4Bit(),
      Bnb8Bit(),        Gguf(), Gptq(),   Hqq(),     QuaRot(),  Rtn(),     SmoothQuant()};
  return methods;
}

absl::StatusOr<const Method*> FindMethod(absl::string_view name) {
  std::vector<std::string> names;
  for (const Method* method : Methods()) {
    if (method->Info().name == name) return method;
    names.push_back(method->Info().name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no method \"", name, "\"", Suggestion(name, names)));
}

nlohmann::json OptionsKnownTo(const Method& method, const nlohmann::json& options) {
  nlohmann::json known = nlohmann::json::object();
  for (const OptionInfo& option : method.Info().options) {
    const auto given = options.find(option.name);
    if (given != options.end()) known[option.name] = *given;
  }
  return known;
}

absl::StatusOr<nlohmann::json> ResolveOptions(const Method& method, const nlohmann::json& given) {
  const std::string owner = absl::StrCat("method ", method.Info().name);
  QD_ASSIGN_OR_RETURN(nlohmann::json options,
                      ResolveOptionValues(owner, method.Info().options, given));
  QD_RETURN_IF_ERROR(method.CheckOptions(options), owner);
  return options;
}

LinearScheme Method::Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                            const nlohmann::json& options) const {
  return {.module = std::string(name),
          .outputs = outputs,
          .inputs = inputs,
          .bits = options.at("bits").get<int>(),
          .group_size = options.at("group_size").get<int64_t>(),
          .symmetric = options.at("sym").get<bool>()};
}

nlohmann::json Method::ModuleOptions(const ModelConfig& config, int64_t layer,
                                     absl::string_view module,
                                     const nlohmann::json& options) const {
  return options;
}

CalibrationNeeds Method::Needs(const nlohmann::json& options) const {
  const bool calibrated = Info().needs_calibration;
  return {.inputs = calibrated, .hessian = calibrated};
}

absl::StatusOr<std::optional<TransformedModel>> Method::TransformModel(
    const TransformRequest& request) const {
  return std::nullopt;
}

absl::Status Method::PrepareBlock(BlockJob& job) const { return absl::OkStatus(); }

absl::StatusOr<std::vector<LinearResult>> Method::QuantizeBlock(BlockJob& job) const {
  return std::vector<LinearResult>();
}

absl::Status Method::CheckOptions(const nlohmann::json& options) const { return absl::OkStatus(); }

absl::Status Method::CheckLinear(absl::string_view name, int64_t outputs, int64_t inputs,
                                 const nlohmann::json& options) const {
  const int64_t group_size = options.value("group_size", int64_t{-1});
  if (group_size == -1 || inputs % group_size == 0) return absl::OkStatus();
  std::vector<std::string> fitting = {"-1 (one group a row)"};
  for (const OptionInfo& option : Info().options) {
    if (option.name != "group_size") continue;
    for (const nlohmann::json& size : option.allowed) {
      const int64_t value = size.get<int64_t>();
      if (value > 0 && inputs % value == 0) fitting.push_back(absl::StrCat(value));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, ".weight has ", inputs, " input columns, which group_size ", group_size,
                   " does not divide; group sizes that do: ", absl::StrJoin(fitting, ", ")));
}

}  // namespace quantd::engine
