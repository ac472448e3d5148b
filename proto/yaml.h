// YAML and any protobuf message, by reflection: one schema documents, reads, checks and prints
// users' files. Field names are accepted in snake_case and lowerCamelCase. Beyond what proto3-JSON
// accepts: durations as "30s" or "1h30m", sizes as "4GiB" in integer fields that end in _bytes,
// enum values in any case with or without their prefix. Refused, always with file:line:column and
// the field's path: unknown fields (with the nearest known one), doubled keys, two members of a
// oneof, values out of range or of the wrong kind, empty values, unknown tags, more than one
// document, and input that is too large, too deep or grows too much through its aliases.
#pragma once

#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Reads `text` into `message`, whose earlier content is dropped. `file` stands in errors.
// InvalidArgument holds up to 20 errors, one a line: "sweep.yaml:7:5: variants[1].option: unknown
// field; did you mean \"options\"?". The message must be of a generated class.
absl::Status YamlToMessage(absl::string_view text, absl::string_view file,
                           google::protobuf::Message* message);

// One value as it would stand in a file: "4" is a number, "[8, 4]" a list, "\"4\"" a string. `what`
// stands in errors.
absl::StatusOr<google::protobuf::Value> YamlToValue(absl::string_view text, absl::string_view what);

// The fields that are set, in the order of the .proto file, maps by key. YamlToMessage gives the
// message back.
std::string MessageToYaml(const google::protobuf::Message& message);

}  // namespace quantd
