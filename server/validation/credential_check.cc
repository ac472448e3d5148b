// A walk over every set string field, those in maps and lists included.
#include "server/validation/credential_check.h"

#include "absl/strings/str_cat.h"
#include "base/redact.h"

namespace quantd {
namespace {

using google::protobuf::FieldDescriptor;

void CheckText(const std::string& text, const std::string& path,
               std::vector<FieldViolation>* violations) {
  if (!HoldsSecret(text)) return;
  violations->push_back(
      {path,
       "holds what looks like a credential; specs are stored and shown. Keep it with "
       "`quantctl secrets put NAME` and name it in `secrets`"});
}

}  // namespace

void RefuseCredentials(const google::protobuf::Message& message, const std::string& path,
                       std::vector<FieldViolation>* violations) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string below = absl::StrCat(path, ".", field->name());
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string place = field->is_repeated() ? absl::StrCat(below, "[", i, "]") : below;
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        CheckText(field->is_repeated() ? reflection->GetRepeatedString(message, field, i)
                                       : reflection->GetString(message, field),
                  place, violations);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        RefuseCredentials(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                               : reflection->GetMessage(message, field),
                          place, violations);
      }
    }
  }
}

}  // namespace quantd
