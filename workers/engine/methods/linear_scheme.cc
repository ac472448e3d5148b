// The record form of a scheme. Reading it trusts nothing: the file may come from anywhere.
#include "workers/engine/methods/linear_scheme.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

constexpr Encoding kEncodings[] = {Encoding::kAffine, Encoding::kCodebook, Encoding::kBlocks};
constexpr InputKind kInputKinds[] = {InputKind::kFloat, InputKind::kInt8PerToken,
                                     InputKind::kInt8PerTensor, InputKind::kInt4PerToken,
                                     InputKind::kLlmInt8};

template <typename T>
bool Fits(const nlohmann::json& value) {
  if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
  if constexpr (std::is_same_v<T, std::string>) return value.is_string();
  return value.is_number_integer();
}

// A field that may be missing keeps its default.
template <typename T>
absl::Status ReadField(const nlohmann::json& json, const char* name, T* out) {
  const auto found = json.find(name);
  if (found == json.end()) return absl::OkStatus();
  if (!Fits<T>(*found)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a module's ", name, " is ", found->dump(), ", which is of another type"));
  }
  *out = found->get<T>();
  return absl::OkStatus();
}

template <typename T, size_t N, typename Name>
absl::Status ReadEnum(const nlohmann::json& json, const char* name, const T (&values)[N],
                      Name name_of, T* out) {
  std::string text;
  QD_RETURN_IF_ERROR(ReadField(json, name, &text));
  if (text.empty()) return absl::OkStatus();
  for (const T value : values) {
    if (name_of(value) != absl::string_view(text)) continue;
    *out = value;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a module's ", name, " is '", text, "'"));
}

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a module's ", name, " is ", value, " instead of ", low, " to ", high));
}

}  // namespace

absl::string_view EncodingName(Encoding encoding) {
  switch (encoding) {
    case Encoding::kAffine:
      return "affine";
    case Encoding::kCodebook:
      return "codebook";
    case Encoding::kBlocks:
      return "blocks";
  }
  return "";
}

nlohmann::json SchemeToJson(const LinearScheme& scheme) {
  nlohmann::json json = {{"name", scheme.module},
                         {"outputs", scheme.outputs},
                         {"inputs", scheme.inputs},
                         {"bits", scheme.bits},
                         {"groupSize", scheme.group_size}};
  const LinearScheme plain;
  if (scheme.symmetric != plain.symmetric) json["symmetric"] = scheme.symmetric;
  if (scheme.encoding != plain.encoding)
    json["encoding"] = std::string(EncodingName(scheme.encoding));
  if (!scheme.type.empty()) json["type"] = scheme.type;
  if (scheme.axis != plain.axis) json["axis"] = scheme.axis;
  if (!scheme.ordered_groups) json["orderedGroups"] = false;
  if (scheme.integer_zeros != plain.integer_zeros) json["integerZeros"] = scheme.integer_zeros;
  if (scheme.double_quantized) json["doubleQuantized"] = true;
  if (scheme.input != plain.input) json["input"] = std::string(InputKindName(scheme.input));
  return json;
}

absl::StatusOr<LinearScheme> SchemeFromJson(const nlohmann::json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("a module is not an object");
  for (const char* name : {"name", "outputs", "inputs", "bits", "groupSize"}) {
    if (!json.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("a module has no ", name));
    }
  }
  LinearScheme scheme;
  int64_t bits = 0;
  int64_t axis = scheme.axis;
  QD_RETURN_IF_ERROR(ReadField(json, "name", &scheme.module));
  QD_RETURN_IF_ERROR(ReadField(json, "outputs", &scheme.outputs));
  QD_RETURN_IF_ERROR(ReadField(json, "inputs", &scheme.inputs));
  QD_RETURN_IF_ERROR(ReadField(json, "bits", &bits));
  QD_RETURN_IF_ERROR(ReadField(json, "groupSize", &scheme.group_size));
  QD_RETURN_IF_ERROR(ReadField(json, "symmetric", &scheme.symmetric));
  QD_RETURN_IF_ERROR(ReadEnum(json, "encoding", kEncodings, EncodingName, &scheme.encoding));
  QD_RETURN_IF_ERROR(ReadField(json, "type", &scheme.type));
  QD_RETURN_IF_ERROR(ReadField(json, "axis", &axis));
  QD_RETURN_IF_ERROR(ReadField(json, "orderedGroups", &scheme.ordered_groups));
  QD_RETURN_IF_ERROR(ReadField(json, "integerZeros", &scheme.integer_zeros));
  QD_RETURN_IF_ERROR(ReadField(json, "doubleQuantized", &scheme.double_quantized));
  QD_RETURN_IF_ERROR(ReadEnum(json, "input", kInputKinds, InputKindName, &scheme.input));
  constexpr int64_t kSizeMax = std::numeric_limits<int32_t>::max();
  QD_RETURN_IF_ERROR(CheckRange("outputs", scheme.outputs, 1, kSizeMax));
  QD_RETURN_IF_ERROR(CheckRange("inputs", scheme.inputs, 1, kSizeMax));
  QD_RETURN_IF_ERROR(CheckRange("bits", bits, 1, 32));
  QD_RETURN_IF_ERROR(CheckRange("axis", axis, 0, 1));
  QD_RETURN_IF_ERROR(CheckRange("groupSize", scheme.group_size, -1, kSizeMax));
  if (scheme.group_size == 0) return CheckRange("groupSize", 0, 1, kSizeMax);
  scheme.bits = static_cast<int>(bits);
  scheme.axis = static_cast<int>(axis);
  return scheme;
}

}  // namespace quantd::engine
