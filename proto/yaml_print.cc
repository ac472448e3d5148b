// Message to YAML: block style, two blanks a level, short lists of scalars in one line.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/reflection.h>

#include <map>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/yaml.h"
#include "proto/yaml_scalar.h"

namespace quantd {
namespace {

namespace pb = google::protobuf;
using yaml_internal::PrintByteSize;
using yaml_internal::PrintDuration;
using yaml_internal::PrintNumber;
using yaml_internal::PrintString;
using yaml_internal::PrintTimestamp;

// A value ready to be laid out: a scalar's text, or children. An empty key means an element of a
// list.
struct Tree {
  enum class Kind { kScalar, kMap, kList };
  Kind kind = Kind::kScalar;
  std::string scalar;
  struct Child;
  std::vector<Child> children;
};
struct Tree::Child {
  std::string key;
  Tree tree;
};

Tree Scalar(std::string text) { return {Tree::Kind::kScalar, std::move(text), {}}; }

Tree FromMessage(const pb::Message& message);
Tree FromStruct(const pb::Struct& value);

Tree FromValue(const pb::Value& value) {
  switch (value.kind_case()) {
    case pb::Value::kBoolValue:
      return Scalar(value.bool_value() ? "true" : "false");
    case pb::Value::kNumberValue:
      return Scalar(PrintNumber(value.number_value()));
    case pb::Value::kStringValue:
      return Scalar(PrintString(value.string_value()));
    case pb::Value::kStructValue:
      return FromStruct(value.struct_value());
    case pb::Value::kListValue: {
      Tree list{Tree::Kind::kList, "", {}};
      for (const pb::Value& element : value.list_value().values()) {
        list.children.push_back({"", FromValue(element)});
      }
      return list;
    }
    case pb::Value::kNullValue:
    case pb::Value::KIND_NOT_SET:
      return Scalar("null");
  }
  return Scalar("null");
}

Tree FromStruct(const pb::Struct& value) {
  Tree map{Tree::Kind::kMap, "", {}};
  std::map<std::string, const pb::Value*> sorted;
  for (const auto& [name, field] : value.fields()) sorted[name] = &field;
  for (const auto& [name, field] : sorted)
    map.children.push_back({PrintString(name), FromValue(*field)});
  return map;
}

// One element of a repeated field, or a singular field with index -1.
Tree FromField(const pb::Message& message, const pb::FieldDescriptor* field, int index) {
  const pb::Reflection* reflection = message.GetReflection();
  const auto get = [&](auto single, auto repeated) {
    return index < 0 ? (reflection->*single)(message, field)
                     : (reflection->*repeated)(message, field, index);
  };
  using R = pb::Reflection;
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32:
      return Scalar(absl::StrCat(get(&R::GetInt32, &R::GetRepeatedInt32)));
    case pb::FieldDescriptor::CPPTYPE_UINT32:
      return Scalar(absl::StrCat(get(&R::GetUInt32, &R::GetRepeatedUInt32)));
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      return Scalar(absl::StrCat(get(&R::GetUInt64, &R::GetRepeatedUInt64)));
    case pb::FieldDescriptor::CPPTYPE_INT64: {
      const int64_t value = get(&R::GetInt64, &R::GetRepeatedInt64);
      const bool bytes = absl::EndsWith(field->name(), "_bytes");
      return Scalar(bytes ? PrintByteSize(value) : absl::StrCat(value));
    }
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      return Scalar(PrintNumber(get(&R::GetDouble, &R::GetRepeatedDouble)));
    case pb::FieldDescriptor::CPPTYPE_FLOAT:
      return Scalar(PrintNumber(get(&R::GetFloat, &R::GetRepeatedFloat)));
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      return Scalar(get(&R::GetBool, &R::GetRepeatedBool) ? "true" : "false");
    case pb::FieldDescriptor::CPPTYPE_ENUM:
      return Scalar(yaml_internal::EnumWord(get(&R::GetEnum, &R::GetRepeatedEnum)));
    case pb::FieldDescriptor::CPPTYPE_STRING: {
      const std::string value = get(&R::GetString, &R::GetRepeatedString);
      const bool bytes = field->type() == pb::FieldDescriptor::TYPE_BYTES;
      return Scalar(PrintString(bytes ? absl::Base64Escape(value) : value));
    }
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      return FromMessage(index < 0 ? reflection->GetMessage(message, field)
                                   : reflection->GetRepeatedMessage(message, field, index));
  }
  return Scalar("null");
}

Tree FromMap(const pb::Message& message, const pb::FieldDescriptor* field) {
  std::map<std::string, Tree> sorted;
  const pb::Reflection* reflection = message.GetReflection();
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const pb::Message& entry = reflection->GetRepeatedMessage(message, field, i);
    sorted[FromField(entry, entry.GetDescriptor()->map_key(), -1).scalar] =
        FromField(entry, entry.GetDescriptor()->map_value(), -1);
  }
  Tree map{Tree::Kind::kMap, "", {}};
  for (auto& [key, value] : sorted) map.children.push_back({key, std::move(value)});
  return map;
}

Tree FromMessage(const pb::Message& message) {
  if (const auto* value = pb::DynamicCastToGenerated<pb::Struct>(&message))
    return FromStruct(*value);
  if (const auto* value = pb::DynamicCastToGenerated<pb::Value>(&message)) return FromValue(*value);
  if (const auto* value = pb::DynamicCastToGenerated<pb::Duration>(&message)) {
    return Scalar(PrintDuration(*value));
  }
  if (const auto* value = pb::DynamicCastToGenerated<pb::Timestamp>(&message)) {
    return Scalar(PrintString(PrintTimestamp(*value)));
  }
  if (const auto* value = pb::DynamicCastToGenerated<pb::ListValue>(&message)) {
    pb::Value wrapped;
    *wrapped.mutable_list_value() = *value;
    return FromValue(wrapped);
  }
  Tree map{Tree::Kind::kMap, "", {}};
  const pb::Reflection* reflection = message.GetReflection();
  const pb::Descriptor* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const pb::FieldDescriptor* field = type->field(i);
    if (!field->is_repeated()) {
      if (reflection->HasField(message, field)) {
        map.children.push_back({field->name(), FromField(message, field, -1)});
      }
      continue;
    }
    const int size = reflection->FieldSize(message, field);
    if (size == 0) continue;
    if (field->is_map()) {
      map.children.push_back({field->name(), FromMap(message, field)});
      continue;
    }
    Tree list{Tree::Kind::kList, "", {}};
    for (int k = 0; k < size; ++k) list.children.push_back({"", FromField(message, field, k)});
    map.children.push_back({field->name(), std::move(list)});
  }
  return map;
}

// A list of scalars that fits a line, or nothing at all, stands behind its key; the rest goes below
// it.
bool IsInline(const Tree& tree) {
  if (tree.kind == Tree::Kind::kScalar || tree.children.empty()) return true;
  if (tree.kind == Tree::Kind::kMap) return false;
  size_t width = 0;
  for (const auto& [key, child] : tree.children) {
    if (child.kind != Tree::Kind::kScalar) return false;
    width += child.scalar.size() + 2;
  }
  return width <= 80;
}

std::string InlineText(const Tree& tree) {
  if (tree.kind == Tree::Kind::kScalar) return tree.scalar;
  if (tree.kind == Tree::Kind::kMap) return "{}";
  return absl::StrCat("[",
                      absl::StrJoin(tree.children, ", ",
                                    [](std::string* out, const auto& child) {
                                      absl::StrAppend(out, child.tree.scalar);
                                    }),
                      "]");
}

// `first` stands before the first line in the place of its indentation ("- " of a list's element).
void Layout(const Tree& tree, size_t indent, std::string first, std::string* out) {
  const std::string blanks(indent, ' ');
  for (const auto& [key, child] : tree.children) {
    const bool element = tree.kind == Tree::Kind::kList;
    absl::StrAppend(out, first.empty() ? blanks : first, element ? "-" : absl::StrCat(key, ":"));
    first.clear();
    if (IsInline(child)) {
      absl::StrAppend(out, " ", InlineText(child), "\n");
    } else if (element) {
      Layout(child, indent + 2, " ", out);
    } else {
      absl::StrAppend(out, "\n");
      Layout(child, indent + 2, "", out);
    }
  }
}

}  // namespace

std::string MessageToYaml(const google::protobuf::Message& message) {
  const Tree tree = FromMessage(message);
  if (IsInline(tree)) return InlineText(tree) + "\n";
  std::string out;
  Layout(tree, 0, "", &out);
  return out;
}

}  // namespace quantd
