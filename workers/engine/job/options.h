// Options as data: methods and tasks announce theirs with these rows (OptionInfo in worker.proto),
// and one function checks what a user gave against them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantd::engine {

enum class OptionType { kBool, kInt, kFloat, kString };

struct OptionInfo {
  std::string name;
  OptionType type = OptionType::kInt;
  nlohmann::json default_value;
  std::vector<nlohmann::json> allowed;  // Non-empty: nothing else.
  std::optional<double> minimum;        // Inclusive.
  std::optional<double> maximum;
  std::string help;
  bool whole_job = false;  // An override for single modules would do nothing.
};

// Every option: the given value or the default. `given` is a JSON object or null; a whole number
// may be written 4.0 and comes out as an integer. `owner` ("method gptq") opens the message.
// InvalidArgument names the option, the value and what is allowed; an unknown name lists the known
// ones.
absl::StatusOr<nlohmann::json> ResolveOptionValues(absl::string_view owner,
                                                   absl::Span<const OptionInfo> options,
                                                   const nlohmann::json& given);

// One value for `option`, from the text of a command line: "4", "true", "0.01", "name".
absl::StatusOr<nlohmann::json> ParseOptionText(absl::string_view text);

// The OptionInfo message in proto3-JSON form.
nlohmann::json OptionInfoToJson(const OptionInfo& option);

}  // namespace quantd::engine
