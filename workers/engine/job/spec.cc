// The fields of every spec, listed once for reading and writing.
#include "workers/engine/job/spec.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "workers/engine/job/proto_json.h"

namespace quantd::engine {

// Found by the readers and writers through argument-dependent lookup, hence not in the unnamed
// namespace.
template <typename V>
static void Fields(V& v, Runtime& s) {
  v.Field("device", s.device);
  v.Field("dtype", s.dtype);
  v.Field("device_memory_bytes", s.device_memory_bytes);
  v.Field("host_memory_bytes", s.host_memory_bytes);
  v.Field("threads", s.threads);
  v.Field("seed", s.seed);
  v.Field("reference", s.reference);
}

template <typename V>
static void Fields(V& v, Calibration& s) {
  v.Field("source", s.source);
  v.Field("text_field", s.text_field);
  v.Field("sequences", s.sequences);
  v.Field("sequence_length", s.sequence_length);
  v.Field("batch_size", s.batch_size);
}

template <typename V>
static void Fields(V& v, ModuleOverride& s) {
  v.Field("pattern", s.pattern);
  v.Field("skip", s.skip);
  v.Field("options", s.options);
}

template <typename V>
static void Fields(V& v, QuantizeSpec& s) {
  v.Field("model", s.model);
  v.Field("method", s.method);
  v.Field("options", s.options);
  v.Field("format", s.format);
  v.Field("calibration", s.calibration);
  v.Field("overrides", s.overrides);
  v.Field("shard_bytes", s.shard_bytes);
  v.Field("fallback", s.fallback);
}

template <typename V>
static void Fields(V& v, TaskSpec& s) {
  v.Field("name", s.name);
  v.Field("data", s.data);
  v.Field("limit", s.limit);
  v.Field("options", s.options);
}

template <typename V>
static void Fields(V& v, EvaluateSpec& s) {
  v.Field("model", s.model);
  v.Field("tasks", s.tasks);
  v.Field("batch_size", s.batch_size);
}

template <typename V>
static void Fields(V& v, BenchmarkSpec& s) {
  v.Field("model", s.model);
  v.Field("batch_sizes", s.batch_sizes);
  v.Field("prompt_lengths", s.prompt_lengths);
  v.Field("decode_tokens", s.decode_tokens);
  v.Field("repetitions", s.repetitions);
  v.Field("warmup", s.warmup);
  v.Field("baseline", s.baseline);
}

template <typename V>
static void Fields(V& v, VerifySpec& s) {
  v.Field("model", s.model);
}

template <typename V>
static void Fields(V& v, Variant& s) {
  v.Field("name", s.name);
  v.Field("jobs", s.jobs);
  v.Field("baseline", s.baseline);
}

template <typename V>
static void Fields(V& v, CompareSpec& s) {
  v.Field("variants", s.variants);
}

template <typename V>
static void Fields(V& v, ReportSpec& s) {
  v.Field("title", s.title);
  v.Field("variants", s.variants);
}

namespace {

// Deeper nesting than this is an attack or a mistake; the specs need six levels.
constexpr int kDepthMax = 100;
// Open data (options, overrides) included, a spec is a few KiB.
constexpr size_t kSpecBytesMax = size_t{4} << 20;

// In the order of JobSpec::kind.
constexpr std::array<const char*, 6> kKindNames = {"quantize", "evaluate", "benchmark",
                                                   "verify",   "compare",  "report"};
static_assert(kKindNames.size() == std::variant_size_v<decltype(JobSpec::kind)>);

// Read by the scheduler alone.
constexpr std::array<const char*, 8> kSchedulerFields = {
    "priority", "dependencies", "limits", "retry", "requirements", "labels", "secrets", "fresh"};

// Reads the kind's field into the alternative of that number.
template <size_t kIndex = 0>
void ReadKind(size_t index, FieldReader& reader, JobSpec& spec) {
  if constexpr (kIndex < kKindNames.size()) {
    if (index == kIndex) {
      reader.Field(kKindNames[kIndex], spec.kind.emplace<kIndex>());
    } else {
      ReadKind<kIndex + 1>(index, reader, spec);
    }
  }
}

absl::StatusOr<size_t> OnlyKind(const FieldReader& reader) {
  std::vector<size_t> given;
  for (size_t i = 0; i < kKindNames.size(); ++i) {
    if (reader.Has(kKindNames[i])) given.push_back(i);
  }
  if (given.size() == 1) return given[0];
  if (given.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the spec names no kind; one of ",
                                                   absl::StrJoin(kKindNames, ", "), " is needed"));
  }
  return absl::InvalidArgumentError(absl::StrCat("the spec names both ", kKindNames[given[0]],
                                                 " and ", kKindNames[given[1]],
                                                 "; a job has one kind"));
}

// Nesting is bounded before the parser, which recurses when it destroys a value.
bool TooDeep(absl::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDepthMax) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

absl::string_view KindName(const JobSpec& spec) { return kKindNames[spec.kind.index()]; }

absl::StatusOr<JobSpec> ParseJobSpec(absl::string_view proto3_json) {
  if (proto3_json.size() > kSpecBytesMax || TooDeep(proto3_json)) {
    return absl::InvalidArgumentError(absl::StrCat("the spec is larger than ", kSpecBytesMax,
                                                   " bytes or nested deeper than ", kDepthMax));
  }
  const nlohmann::json json = nlohmann::json::parse(proto3_json, nullptr, false);
  if (json.is_discarded()) return absl::InvalidArgumentError("the spec is not valid JSON");
  JobSpec spec;
  FieldReader reader("", json);
  if (!json.is_object()) return reader.Finish();
  absl::StatusOr<size_t> kind = OnlyKind(reader);
  reader.Field("display_name", spec.display_name);
  for (const char* name : kKindNames) reader.Ignore(name);
  reader.Field("runtime", spec.runtime);
  for (const char* name : kSchedulerFields) reader.Ignore(name);
  if (kind.ok()) ReadKind(*kind, reader, spec);
  absl::Status status = reader.Finish();
  if (!status.ok()) return status;
  if (!kind.ok()) return kind.status();
  return spec;
}

nlohmann::json JobSpecToJson(const JobSpec& spec) {
  nlohmann::json json = nlohmann::json::object();
  FieldWriter writer(&json);
  writer.Field("display_name", spec.display_name);
  writer.Field("runtime", spec.runtime);
  nlohmann::json kind = nlohmann::json::object();
  FieldWriter kind_writer(&kind);
  std::visit([&](const auto& alternative) { kind_writer.Field("kind", alternative); }, spec.kind);
  // A kind without fields is still that kind.
  json[kKindNames[spec.kind.index()]] =
      kind.contains("kind") ? kind["kind"] : nlohmann::json::object();
  return json;
}

}  // namespace quantd::engine
