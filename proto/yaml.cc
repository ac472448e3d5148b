// YAML to message: yaml-cpp parses, reflection places the values, every mistake is collected with
// its place.
#include "proto/yaml.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/reflection.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/nearest.h"
#include "proto/yaml_document.h"
#include "proto/yaml_scalar.h"

namespace quantd {
namespace {

namespace pb = google::protobuf;
// The API's messages nest 6 deep; method options need a few more.
constexpr int kDepthMax = 32;
// Visits of nodes, aliased ones counted each time: what stops a "billion laughs" file.
constexpr int kNodesMax = 100'000;
constexpr size_t kErrorsMax = 20;
// Integers from here on are not exact in google.protobuf.Value.
constexpr double kExactIntegerMax = 9007199254740992.0;

std::string Excerpt(absl::string_view text) {
  constexpr size_t kShownBytes = 60;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, kShownBytes)),
                      text.size() > kShownBytes ? "...\"" : "\"");
}

// What a node is, in the words of an error.
std::string Describe(const YAML::Node& node) {
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return "a list";
  return node.IsNull() ? "empty" : Excerpt(node.Scalar());
}

std::string Join(const std::string& path, absl::string_view name) {
  return path.empty() ? std::string(name) : absl::StrCat(path, ".", name);
}

class Reader {
 public:
  explicit Reader(absl::string_view file) : file_(file) {}

  void ReadMessage(const YAML::Node& node, const std::string& path, pb::Message* message);
  void ReadValue(const YAML::Node& node, const std::string& path, pb::Value* value);

  absl::Status Finish() const {
    if (errors_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
  }
  void Fail(const YAML::Mark& mark, const std::string& path, absl::string_view why);

 private:
  // Counts a visit; false where the file is too deep or too large, after which nothing more is
  // read.
  bool Enter(const YAML::Node& node, const std::string& path);
  struct Depth {
    explicit Depth(int* depth) : depth(depth) { ++*depth; }
    ~Depth() { --*depth; }
    int* depth;
  };

  bool IsPlain(const YAML::Node& node) const {
    return node.Tag() != "!" && node.Tag() != "tag:yaml.org,2002:str";
  }
  bool CheckTag(const YAML::Node& node, const std::string& path);
  // False, with an error, unless the node is a scalar with something in it.
  bool WantScalar(const YAML::Node& node, const std::string& path, absl::string_view what);

  // Calls visit(name, key, value) for each entry whose key is a scalar that did not occur before.
  template <typename Visit>
  void ForEntries(const YAML::Node& node, const std::string& path, Visit visit);

  void ReadFields(const YAML::Node& node, const std::string& path, pb::Message* message);
  void ReadField(const YAML::Node& node, const std::string& path, const pb::FieldDescriptor* field,
                 pb::Message* message);
  void ReadMap(const YAML::Node& node, const std::string& path, const pb::FieldDescriptor* field,
               pb::Message* message);
  void ReadSingle(const YAML::Node& node, const std::string& path, const pb::FieldDescriptor* field,
                  pb::Message* message);
  void ReadStruct(const YAML::Node& node, const std::string& path, pb::Struct* value);
  void ReadList(const YAML::Node& node, const std::string& path, pb::ListValue* list);
  template <typename Parsed, typename Into>
  void ReadText(const YAML::Node& node, const std::string& path, absl::string_view what,
                Parsed (*parse)(absl::string_view), Into* into);
  const pb::EnumValueDescriptor* ReadEnum(const YAML::Node& node, const std::string& path,
                                          const pb::EnumDescriptor* type);
  template <typename Integer>
  bool ReadInteger(const YAML::Node& node, const std::string& path,
                   const pb::FieldDescriptor* field, Integer* value);
  template <typename Real>
  bool ReadReal(const YAML::Node& node, const std::string& path, Real* value);
  bool ReadBool(const YAML::Node& node, const std::string& path, bool* value);

  const std::string file_;
  std::vector<std::string> errors_;
  int depth_ = 0;
  int nodes_ = 0;
  bool stopped_ = false;
};

void Reader::Fail(const YAML::Mark& mark, const std::string& path, absl::string_view why) {
  if (errors_.size() >= kErrorsMax) {
    stopped_ = true;
    return;
  }
  const std::string place =
      mark.is_null() ? file_ : absl::StrCat(file_, ":", mark.line + 1, ":", mark.column + 1);
  errors_.push_back(absl::StrCat(place, ": ", path, path.empty() ? "" : ": ", why));
}

bool Reader::Enter(const YAML::Node& node, const std::string& path) {
  if (stopped_) return false;
  if (depth_ > kDepthMax) {
    return Fail(node.Mark(), path, absl::StrCat("nests deeper than ", kDepthMax, " levels")), false;
  }
  if (++nodes_ > kNodesMax) {
    Fail(node.Mark(), path,
         absl::StrCat("the file holds more than ", kNodesMax, " values, its aliases written out"));
    stopped_ = true;
    return false;
  }
  return CheckTag(node, path);
}

bool Reader::CheckTag(const YAML::Node& node, const std::string& path) {
  absl::string_view tag = node.Tag();
  if (tag.empty() || tag == "?" || tag == "!") return true;
  absl::ConsumePrefix(&tag, "tag:yaml.org,2002:");
  for (const absl::string_view known : {"str", "int", "float", "bool", "null", "map", "seq"}) {
    if (tag == known) return true;
  }
  Fail(node.Mark(), path, absl::StrCat("unknown tag ", Excerpt(node.Tag())));
  return false;
}

bool Reader::WantScalar(const YAML::Node& node, const std::string& path, absl::string_view what) {
  if (node.IsScalar() && !(IsPlain(node) && yaml_internal::IsNull(node.Scalar()))) return true;
  if (node.IsNull() || node.IsScalar()) {
    Fail(node.Mark(), path, absl::StrCat("has no value; give ", what, " or remove the line"));
  } else {
    Fail(node.Mark(), path, absl::StrCat("must be ", what, ", not ", Describe(node)));
  }
  return false;
}

template <typename Visit>
void Reader::ForEntries(const YAML::Node& node, const std::string& path, Visit visit) {
  std::map<std::string, int> lines;
  for (const auto& entry : node) {
    if (stopped_) return;
    const YAML::Node& key = entry.first;
    if (!key.IsScalar()) {
      Fail(key.Mark(), path, absl::StrCat("a name must stand before ':', not ", Describe(key)));
      continue;
    }
    const auto [earlier, inserted] = lines.emplace(key.Scalar(), key.Mark().line + 1);
    if (!inserted) {
      Fail(key.Mark(), Join(path, key.Scalar()),
           absl::StrCat("is given twice, first in line ", earlier->second));
      continue;
    }
    visit(key.Scalar(), key, entry.second);
  }
}

void Reader::ReadMessage(const YAML::Node& node, const std::string& path, pb::Message* message) {
  if (auto* value = pb::DynamicCastToGenerated<pb::Value>(message)) {
    return ReadValue(node, path, value);
  }
  const Depth depth(&depth_);
  if (!Enter(node, path)) return;
  if (auto* value = pb::DynamicCastToGenerated<pb::Struct>(message)) {
    return ReadStruct(node, path, value);
  }
  if (auto* value = pb::DynamicCastToGenerated<pb::ListValue>(message)) {
    return ReadList(node, path, value);
  }
  if (auto* value = pb::DynamicCastToGenerated<pb::Duration>(message)) {
    return ReadText(node, path, "a length of time", &yaml_internal::ParseDuration, value);
  }
  if (auto* value = pb::DynamicCastToGenerated<pb::Timestamp>(message)) {
    return ReadText(node, path, "a time", &yaml_internal::ParseTimestamp, value);
  }
  ReadFields(node, path, message);
}

template <typename Parsed, typename Into>
void Reader::ReadText(const YAML::Node& node, const std::string& path, absl::string_view what,
                      Parsed (*parse)(absl::string_view), Into* into) {
  if (!WantScalar(node, path, what)) return;
  auto parsed = parse(node.Scalar());
  if (parsed.ok()) {
    *into = *std::move(parsed);
  } else {
    Fail(node.Mark(), path, parsed.status().message());
  }
}

void Reader::ReadFields(const YAML::Node& node, const std::string& path, pb::Message* message) {
  if (node.IsNull()) {
    Fail(node.Mark(), path,
         path.empty() ? "the file is empty"
                      : "has no value; write {} for an empty one or remove the line");
    return;
  }
  if (!node.IsMap()) {
    Fail(node.Mark(), path, absl::StrCat("must be a map of fields, not ", Describe(node)));
    return;
  }
  const pb::Descriptor* type = message->GetDescriptor();
  std::map<const pb::FieldDescriptor*, std::string> seen;
  std::map<const pb::OneofDescriptor*, std::string> chosen;
  ForEntries(
      node, path, [&](const std::string& name, const YAML::Node& key, const YAML::Node& value) {
        const pb::FieldDescriptor* field = type->FindFieldByName(name);
        if (field == nullptr) field = type->FindFieldByCamelcaseName(name);
        const std::string place = Join(path, name);
        if (field == nullptr) {
          std::vector<std::string> known;
          for (int i = 0; i < type->field_count(); ++i) known.push_back(type->field(i)->name());
          return Fail(key.Mark(), place, absl::StrCat("unknown field", Suggestion(name, known)));
        }
        if (const auto [earlier, fresh] = seen.emplace(field, name); !fresh) {
          return Fail(key.Mark(), place,
                      absl::StrCat("is the same field as \"", earlier->second, "\" above"));
        }
        if (const pb::OneofDescriptor* oneof = field->real_containing_oneof(); oneof != nullptr) {
          if (const auto [other, fresh] = chosen.emplace(oneof, name); !fresh) {
            return Fail(
                key.Mark(), place,
                absl::StrCat("cannot stand beside \"", other->second, "\": only one of the two"));
          }
        }
        ReadField(value, place, field, message);
      });
}

void Reader::ReadField(const YAML::Node& node, const std::string& path,
                       const pb::FieldDescriptor* field, pb::Message* message) {
  if (field->is_map()) return ReadMap(node, path, field, message);
  if (!field->is_repeated()) return ReadSingle(node, path, field, message);
  const Depth depth(&depth_);
  if (!Enter(node, path)) return;
  if (!node.IsSequence()) {
    return Fail(node.Mark(), path,
                node.IsNull() ? "has no value; write [] for an empty list or remove the line"
                              : absl::StrCat("must be a list, not ", Describe(node)));
  }
  int index = 0;
  for (const auto& element : node) {
    ReadSingle(element, absl::StrCat(path, "[", index++, "]"), field, message);
  }
}

void Reader::ReadMap(const YAML::Node& node, const std::string& path,
                     const pb::FieldDescriptor* field, pb::Message* message) {
  const Depth depth(&depth_);
  if (!Enter(node, path)) return;
  if (!node.IsMap()) {
    return Fail(node.Mark(), path, absl::StrCat("must be a map, not ", Describe(node)));
  }
  ForEntries(node, path,
             [&](const std::string& name, const YAML::Node& key, const YAML::Node& value) {
               pb::Message* entry = message->GetReflection()->AddMessage(message, field);
               const std::string place = Join(path, name);
               ReadSingle(key, place, entry->GetDescriptor()->map_key(), entry);
               ReadSingle(value, place, entry->GetDescriptor()->map_value(), entry);
             });
}

// Sets a singular field or appends to a repeated one.
void Reader::ReadSingle(const YAML::Node& node, const std::string& path,
                        const pb::FieldDescriptor* field, pb::Message* message) {
  const pb::Reflection* reflection = message->GetReflection();
  if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
    return ReadMessage(node, path,
                       field->is_repeated() ? reflection->AddMessage(message, field)
                                            : reflection->MutableMessage(message, field));
  }
  const Depth depth(&depth_);
  if (!Enter(node, path)) return;
  using R = pb::Reflection;
  const auto store = [&](auto set, auto add, auto value) {
    if (field->is_repeated()) {
      (reflection->*add)(message, field, value);
    } else {
      (reflection->*set)(message, field, value);
    }
  };
  const auto integer = [&](auto value, auto set, auto add) {
    if (ReadInteger(node, path, field, &value)) store(set, add, value);
  };
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32:
      return integer(int32_t{0}, &R::SetInt32, &R::AddInt32);
    case pb::FieldDescriptor::CPPTYPE_UINT32:
      return integer(uint32_t{0}, &R::SetUInt32, &R::AddUInt32);
    case pb::FieldDescriptor::CPPTYPE_INT64:
      return integer(int64_t{0}, &R::SetInt64, &R::AddInt64);
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      return integer(uint64_t{0}, &R::SetUInt64, &R::AddUInt64);
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      if (double value = 0; ReadReal(node, path, &value))
        store(&R::SetDouble, &R::AddDouble, value);
      return;
    case pb::FieldDescriptor::CPPTYPE_FLOAT:
      if (float value = 0; ReadReal(node, path, &value)) store(&R::SetFloat, &R::AddFloat, value);
      return;
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      if (bool value = false; ReadBool(node, path, &value)) store(&R::SetBool, &R::AddBool, value);
      return;
    case pb::FieldDescriptor::CPPTYPE_ENUM:
      if (const auto* value = ReadEnum(node, path, field->enum_type()); value != nullptr) {
        store(&R::SetEnum, &R::AddEnum, value);
      }
      return;
    case pb::FieldDescriptor::CPPTYPE_STRING: {
      if (!WantScalar(node, path, "a text")) return;
      std::string value = node.Scalar();
      if (field->type() == pb::FieldDescriptor::TYPE_BYTES &&
          !absl::Base64Unescape(node.Scalar(), &value)) {
        return Fail(node.Mark(), path, absl::StrCat(Describe(node), " is not base64"));
      }
      if (field->is_repeated()) {
        reflection->AddString(message, field, std::move(value));
      } else {
        reflection->SetString(message, field, std::move(value));
      }
      return;
    }
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      return;
  }
}

template <typename Integer>
bool Reader::ReadInteger(const YAML::Node& node, const std::string& path,
                         const pb::FieldDescriptor* field, Integer* value) {
  const bool bytes = absl::EndsWith(field->name(), "_bytes");
  if (!WantScalar(node, path, bytes ? "a size in bytes" : "a whole number")) return false;
  const std::string& text = node.Scalar();
  if (absl::SimpleAtoi(text, value) && !(bytes && absl::StartsWith(text, "-"))) return true;
  constexpr auto kMin = std::numeric_limits<Integer>::min();
  constexpr auto kMax = std::numeric_limits<Integer>::max();
  double number = 0;
  if (bytes) {
    const absl::StatusOr<int64_t> size = yaml_internal::ParseByteSize(text);
    if (!size.ok()) return Fail(node.Mark(), path, size.status().message()), false;
    number = static_cast<double>(*size);
    if (number <= static_cast<double>(kMax)) return *value = static_cast<Integer>(*size), true;
  } else if (!yaml_internal::ParseNumber(text, &number)) {
    return Fail(node.Mark(), path, absl::StrCat(Describe(node), " is not a whole number")), false;
  } else if (number != std::floor(number)) {
    return Fail(node.Mark(), path, absl::StrCat(text, " is not a whole number")), false;
  }
  const bool in_range = number >= static_cast<double>(kMin) && number <= static_cast<double>(kMax);
  if (!in_range || std::abs(number) > kExactIntegerMax) {
    Fail(node.Mark(), path,
         absl::StrCat(text, " is out of range; allowed is ", kMin, " to ", kMax));
    return false;
  }
  *value = static_cast<Integer>(number);
  return true;
}

template <typename Real>
bool Reader::ReadReal(const YAML::Node& node, const std::string& path, Real* value) {
  if (!WantScalar(node, path, "a number")) return false;
  const std::string& text = node.Scalar();
  double number = 0;
  if (text == ".nan" || text == ".inf" || text == "-.inf") {
    number = text == ".nan" ? std::nan("") : std::numeric_limits<double>::infinity();
    if (text[0] == '-') number = -number;
  } else if (!yaml_internal::ParseNumber(text, &number)) {
    return Fail(node.Mark(), path, absl::StrCat(Describe(node), " is not a number")), false;
  } else if (std::abs(number) > static_cast<double>(std::numeric_limits<Real>::max())) {
    return Fail(node.Mark(), path, absl::StrCat(text, " is out of range")), false;
  }
  *value = static_cast<Real>(number);
  return true;
}

bool Reader::ReadBool(const YAML::Node& node, const std::string& path, bool* value) {
  if (!WantScalar(node, path, "true or false")) return false;
  if (yaml_internal::ParseBool(node.Scalar(), value)) return true;
  Fail(node.Mark(), path, absl::StrCat("must be true or false, not ", Describe(node)));
  return false;
}

const pb::EnumValueDescriptor* Reader::ReadEnum(const YAML::Node& node, const std::string& path,
                                                const pb::EnumDescriptor* type) {
  if (!WantScalar(node, path, "a name")) return nullptr;
  const std::string wanted = absl::AsciiStrToUpper(node.Scalar());
  const std::string word = absl::AsciiStrToLower(node.Scalar());
  std::vector<std::string> known;
  for (int i = 0; i < type->value_count(); ++i) {
    const std::string name = yaml_internal::EnumWord(type->value(i));
    if (type->value(i)->name() == wanted || name == word) return type->value(i);
    known.push_back(name);
  }
  Fail(node.Mark(), path,
       absl::StrCat(Describe(node), " is not one of ", absl::StrJoin(known, ", ")));
  return nullptr;
}

void Reader::ReadStruct(const YAML::Node& node, const std::string& path, pb::Struct* value) {
  if (!node.IsMap()) {
    return Fail(node.Mark(), path,
                node.IsNull() ? "has no value; write {} for an empty map or remove the line"
                              : absl::StrCat("must be a map, not ", Describe(node)));
  }
  ForEntries(node, path,
             [&](const std::string& name, const YAML::Node&, const YAML::Node& element) {
               ReadValue(element, Join(path, name), &(*value->mutable_fields())[name]);
             });
}

void Reader::ReadList(const YAML::Node& node, const std::string& path, pb::ListValue* list) {
  if (!node.IsSequence()) {
    return Fail(node.Mark(), path, absl::StrCat("must be a list, not ", Describe(node)));
  }
  int index = 0;
  for (const auto& element : node) {
    ReadValue(element, absl::StrCat(path, "[", index++, "]"), list->add_values());
  }
}

void Reader::ReadValue(const YAML::Node& node, const std::string& path, pb::Value* value) {
  const Depth depth(&depth_);
  if (!Enter(node, path)) return;
  if (node.IsMap()) return ReadStruct(node, path, value->mutable_struct_value());
  if (node.IsSequence()) return ReadList(node, path, value->mutable_list_value());
  if (node.IsNull()) return value->set_null_value(pb::NULL_VALUE);
  if (!IsPlain(node)) return value->set_string_value(node.Scalar());
  *value = yaml_internal::PlainValue(node.Scalar());
  if (value->has_number_value() && std::abs(value->number_value()) >= kExactIntegerMax &&
      !absl::StrContains(node.Scalar(), '.') && !absl::StrContains(node.Scalar(), 'e')) {
    Fail(
        node.Mark(), path,
        absl::StrCat(node.Scalar(), " is too large to be exact; write it as a text, or as 1.5e16"));
  }
}

// Reads the one document of `text` with `use`.
template <typename Use>
absl::Status ReadDocument(absl::string_view text, Reader* reader, Use use) {
  YAML::Node root;
  yaml_internal::DocumentError error;
  if (!yaml_internal::LoadDocument(text, &root, &error)) {
    reader->Fail(error.mark, "", error.why);
    return reader->Finish();
  }
  try {
    use(root);
  } catch (const YAML::Exception& exception) {  // A node of a kind that was not asked for.
    reader->Fail(exception.mark, "", exception.msg);
  }
  return reader->Finish();
}

}  // namespace

absl::Status YamlToMessage(absl::string_view text, absl::string_view file,
                           google::protobuf::Message* message) {
  message->Clear();
  Reader reader(file);
  return ReadDocument(text, &reader,
                      [&](const YAML::Node& root) { reader.ReadMessage(root, "", message); });
}

absl::StatusOr<google::protobuf::Value> YamlToValue(absl::string_view text,
                                                    absl::string_view what) {
  google::protobuf::Value value;
  Reader reader(what);
  const absl::Status status = ReadDocument(
      text, &reader, [&](const YAML::Node& root) { reader.ReadValue(root, "", &value); });
  if (!status.ok()) return status;
  return value;
}

}  // namespace quantd
