// What one YAML scalar means: shared by the reader and the printer of yaml.h, so that they cannot
// disagree.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::yaml_internal {

// Whether a plain (unquoted) scalar is null: "", "~", "null".
bool IsNull(absl::string_view plain);
// "true" and "false" in the three cases of YAML 1.2; nothing else.
bool ParseBool(absl::string_view plain, bool* value);
// A finite decimal number. Unlike strtod: no hexadecimal, no "inf", no "nan", no blanks.
bool ParseNumber(absl::string_view plain, double* value);
// What a plain scalar is as a JSON value: null, bool, number or string.
google::protobuf::Value PlainValue(absl::string_view plain);

// The errors of these say what was expected; the caller adds where.
absl::StatusOr<google::protobuf::Duration> ParseDuration(absl::string_view text);
absl::StatusOr<google::protobuf::Timestamp> ParseTimestamp(absl::string_view text);
// "4096", "4GiB", "1.5 GB"; whole bytes only.
absl::StatusOr<int64_t> ParseByteSize(absl::string_view text);

std::string PrintDuration(const google::protobuf::Duration& duration);
std::string PrintTimestamp(const google::protobuf::Timestamp& timestamp);
std::string PrintByteSize(int64_t bytes);
// The shortest decimal text that reads back as the same double.
std::string PrintNumber(double value);
// Plain where that reads back as the same string, else double-quoted.
std::string PrintString(absl::string_view text);
// An enum value's name as files write it: lower case, without the type's name before it.
std::string EnumWord(const google::protobuf::EnumValueDescriptor* value);

}  // namespace quantd::yaml_internal
