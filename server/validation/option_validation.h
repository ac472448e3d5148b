// A method's or task's options against their announced descriptions: name, type, range, allowed
// values.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/repeated_field.h"
#include "google/protobuf/struct.pb.h"
#include "proto/quantd/v1/worker.pb.h"
#include "server/validation/findings.h"

namespace quantd {

struct OptionRules {
  // Whose options: "method gptq".
  std::string owner;
  const google::protobuf::RepeatedPtrField<v1::OptionInfo>* known = nullptr;
  // A list stands for one variant an element.
  bool lists = false;
};

void CheckOptions(const Field& field, const OptionRules& rules,
                  const google::protobuf::Struct& options);
// Adds the defaults of options that are not there.
void FillOptions(const google::protobuf::RepeatedPtrField<v1::OptionInfo>& known,
                 google::protobuf::Struct* options);

}  // namespace quantd
