// What a job is to do: the engine's plain-struct form of JobSpec (proto/quantd/v1/spec.proto, which
// documents every field), read from and written as its proto3-JSON form, without Protobuf.
// A zero or an empty string means "the default", as in the proto.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

struct Runtime {
  std::string device;  // "auto" (also empty), "cpu", "cuda", "cuda:N".
  std::string dtype;   // "auto" (also empty), "float32", "bfloat16", "float16".
  int64_t device_memory_bytes = 0;
  int64_t host_memory_bytes = 0;
  int threads = 0;
  uint64_t seed = 0;
  bool reference = false;
};

struct Calibration {
  std::string source;
  std::string text_field;
  int sequences = 0;
  int sequence_length = 0;
  int batch_size = 0;
};

struct ModuleOverride {
  std::string pattern;  // ECMAScript regular expression, searched in the module's name.
  bool skip = false;
  nlohmann::json options = nlohmann::json::object();
};

struct QuantizeSpec {
  std::string model;
  std::string method;
  nlohmann::json options = nlohmann::json::object();
  std::string format;
  Calibration calibration;
  std::vector<ModuleOverride> overrides;
  int64_t shard_bytes = 0;
  bool fallback =
      false;  // Go on with another method where this one does not know the architecture.
};

struct TaskSpec {
  std::string name;
  std::string data;
  int limit = 0;
  nlohmann::json options = nlohmann::json::object();
};

struct EvaluateSpec {
  std::string model;
  std::vector<TaskSpec> tasks;
  int batch_size = 0;
};

struct BenchmarkSpec {
  std::string model;
  std::string baseline;
  std::vector<int> batch_sizes;
  std::vector<int> prompt_lengths;
  int decode_tokens = 0;
  int repetitions = 0;
  int warmup = 0;
};

struct VerifySpec {
  std::string model;
};

struct Variant {
  std::string name;
  std::vector<std::string> jobs;
  bool baseline = false;
};

struct CompareSpec {
  std::vector<Variant> variants;
};

struct ReportSpec {
  std::string title;
  std::vector<Variant> variants;
};

struct JobSpec {
  std::string display_name = {};
  std::variant<QuantizeSpec, EvaluateSpec, BenchmarkSpec, VerifySpec, CompareSpec, ReportSpec> kind;
  Runtime runtime = {};
};

// "quantize", "evaluate", ...: the name of the kind's field in the proto.
absl::string_view KindName(const JobSpec& spec);

// Accepts what Protobuf's own JSON parser accepts: lowerCamelCase and snake_case names, 64-bit
// integers as strings or numbers, durations as "3s", null for "not set". InvalidArgument names the
// field by its path ("quantize.calibration.sequences") and the value; an unknown field lists the
// known ones. The fields that only the scheduler reads (priority, limits, ...) are accepted and
// left out.
absl::StatusOr<JobSpec> ParseJobSpec(absl::string_view proto3_json);

// The proto3-JSON form, with lowerCamelCase names and without fields that hold their default.
nlohmann::json JobSpecToJson(const JobSpec& spec);

}  // namespace quantd::engine
