// Typed access to JSON with paths in errors.
#include "workers/engine/tokenizer/json_view.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

// Published files nest six deep. The parser is iterative, but what reads the result recurses.
constexpr int kDepthLimit = 64;

absl::Status CheckDepth(absl::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDepthLimit) {
        return absl::InvalidArgumentError(
            absl::StrCat("byte ", i, ": nested deeper than ", kDepthLimit));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> JsonView::Parse(absl::string_view text) {
  QD_RETURN_IF_ERROR(CheckDepth(text));
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON: ", error.what()));
  }
}

absl::StatusOr<JsonView> JsonView::Member(absl::string_view name) const {
  static const nlohmann::json null;
  if (!value_->is_object()) {
    return Error(absl::StrCat("must be an object, is ", value_->type_name()));
  }
  auto found = value_->find(std::string(name));
  return JsonView(found == value_->end() ? &null : &*found, absl::StrCat(path_, ".", name));
}

absl::StatusOr<std::vector<JsonView>> JsonView::Elements() const {
  if (!value_->is_array()) {
    return Error(absl::StrCat("must be an array, is ", value_->type_name()));
  }
  std::vector<JsonView> elements;
  elements.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) {
    elements.emplace_back(&(*value_)[i], absl::StrCat(path_, "[", i, "]"));
  }
  return elements;
}

absl::StatusOr<std::string> JsonView::String() const {
  if (!value_->is_string()) {
    return Error(absl::StrCat("must be a string, is ", value_->type_name()));
  }
  return value_->get_ref<const std::string&>();
}

absl::StatusOr<int64_t> JsonView::Integer(int64_t minimum, int64_t maximum) const {
  if (!value_->is_number_integer()) {
    return Error(absl::StrCat("must be an integer, is ", value_->type_name()));
  }
  const bool too_large =
      value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = too_large ? INT64_MAX : value_->get<int64_t>();
  if (number < minimum || number > maximum) {
    return Error(absl::StrCat(value_->dump(), ": must be ", minimum, " to ", maximum));
  }
  return number;
}

absl::StatusOr<std::string> JsonView::StringOr(absl::string_view name,
                                               absl::string_view otherwise) const {
  QD_ASSIGN_OR_RETURN(JsonView member, Member(name));
  if (member.IsNull()) return std::string(otherwise);
  return member.String();
}

absl::StatusOr<bool> JsonView::BoolOr(absl::string_view name, bool otherwise) const {
  QD_ASSIGN_OR_RETURN(JsonView member, Member(name));
  if (member.IsNull()) return otherwise;
  if (!member.value().is_boolean()) {
    return member.Error(absl::StrCat("must be true or false, is ", member.value().type_name()));
  }
  return member.value().get<bool>();
}

absl::StatusOr<int64_t> JsonView::IntegerOr(absl::string_view name, int64_t otherwise,
                                            int64_t minimum, int64_t maximum) const {
  QD_ASSIGN_OR_RETURN(JsonView member, Member(name));
  if (member.IsNull()) return otherwise;
  return member.Integer(minimum, maximum);
}

absl::StatusOr<std::string> JsonView::Type() const {
  QD_ASSIGN_OR_RETURN(JsonView type, Member("type"));
  return type.String();
}

absl::Status JsonView::Error(absl::string_view words) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", words));
}

absl::Status JsonView::UnsupportedType(absl::string_view type, absl::string_view supported) const {
  return absl::UnimplementedError(absl::StrCat(path_, ".type: \"", type.substr(0, 100),
                                               "\" is not supported; supported are ", supported));
}

}  // namespace quantd
