// From the jobs' results to one record a variant. Results were written by other versions, other
// machines and interrupted jobs: every field may be missing.
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "workers/engine/report/comparison.h"

namespace quantd::engine {
namespace {

// The kinds in the order in which their failures explain a variant's.
constexpr absl::string_view kKinds[] = {"quantize", "verify", "evaluate", "benchmark"};

const JobInput* Find(const std::map<std::string, JobInput>& inputs, const std::string& job) {
  for (const auto& [name, input] : inputs) {
    if (name == job || absl::EndsWith(name, "/" + job) || absl::EndsWith(job, "/" + name)) {
      return &input;
    }
  }
  return nullptr;
}

// Protobuf's JSON writes 64-bit integers as strings and Struct numbers as doubles.
int64_t Integer(const nlohmann::json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  if (found == object.end()) return 0;
  if (found->is_number()) return static_cast<int64_t>(found->get<double>());
  int64_t value = 0;
  return found->is_string() && absl::SimpleAtoi(found->get<std::string>(), &value) ? value : 0;
}

std::string Text(const nlohmann::json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string KindOf(const nlohmann::json& spec) {
  for (absl::string_view kind : kKinds) {
    if (spec.is_object() && spec.contains(std::string(kind))) return std::string(kind);
  }
  return "";
}

// "JOB_STATE_FAILED" -> "failed"; an empty state is one that succeeded outside a scheduler.
std::string StateWord(const std::string& state, bool has_result) {
  if (state.empty()) return has_result ? "succeeded" : "missing";
  return absl::AsciiStrToLower(absl::StripPrefix(state, "JOB_STATE_"));
}

void TakeSamples(const std::vector<std::string>& files, VariantFacts* facts) {
  for (const std::string& text : files) {
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
      const nlohmann::json sample = nlohmann::json::parse(line, nullptr, false);
      if (!sample.is_object() || !sample.contains("id") || !sample.contains("scores")) continue;
      const std::string id = sample["id"].dump(-1, ' ', true);
      for (const auto& [name, score] : sample["scores"].items()) {
        if (score.is_number()) facts->samples[name][id] = score.get<double>();
      }
    }
  }
}

void TakeResult(const std::string& kind, const nlohmann::json& result, VariantFacts* facts) {
  const auto take_peaks = [&] {
    facts->peak_host_bytes = std::max(facts->peak_host_bytes, Integer(result, "peakHostBytes"));
    facts->peak_device_bytes =
        std::max(facts->peak_device_bytes, Integer(result, "peakDeviceBytes"));
  };
  if (kind == "quantize") {
    facts->quantize = result;
    const nlohmann::json calibration = result.value("calibration", nlohmann::json());
    facts->calibrated = calibration.is_object() && !calibration.empty();
    if (facts->size_bytes == 0) facts->size_bytes = Integer(result, "sizeAfterBytes");
  } else if (kind == "benchmark") {
    facts->benchmark = result;
    take_peaks();
  } else if (kind == "evaluate") {
    take_peaks();
    if (const int64_t size = Integer(result, "sizeBytes"); size > 0) facts->size_bytes = size;
    if (result.is_object() && result.contains("metrics") && result["metrics"].is_object()) {
      facts->metrics.update(result["metrics"]);
    }
  }
  for (const char* field : {"device", "dtype", "threads"}) {
    if (kind != "quantize" && result.is_object() && result.contains(field)) {
      facts->measured_on[field] = result[field];
    }
  }
}

void TakeJob(const JobInput& input, const std::string& job,
             const std::function<std::vector<std::string>(const std::string&)>& read_samples,
             VariantFacts* facts) {
  const std::string kind = KindOf(input.spec);
  const std::string state = StateWord(input.state, !input.result.is_null());
  if (facts->model.empty() || kind == "quantize") {
    if (const std::string model =
            input.spec.is_object() && !kind.empty() ? Text(input.spec[kind], "model") : "";
        !model.empty()) {
      facts->model = model;
    }
  }
  if (state != "succeeded") {
    // A skipped job is the consequence of another one's failure, which explains more.
    if (facts->state == "succeeded" || facts->state == "skipped") {
      facts->state = state;
      const std::string message = Text(input.failure, "message");
      facts->error =
          absl::StrCat(kind.empty() ? job : kind, " ", state, message.empty() ? "" : ": ", message);
    }
    return;
  }
  TakeResult(kind, input.result, facts);
  if (kind == "quantize") facts->recipe = input.spec[kind];
  if (kind == "evaluate" && !input.path.empty()) TakeSamples(read_samples(input.path), facts);
}

}  // namespace

absl::StatusOr<std::vector<VariantFacts>> GatherFacts(
    const std::vector<Variant>& variants, const std::map<std::string, JobInput>& inputs,
    const std::function<std::vector<std::string>(const std::string& folder)>& read_samples) {
  std::vector<VariantFacts> all;
  bool any_baseline = false;
  for (size_t i = 0; i < variants.size(); ++i) {
    VariantFacts facts;
    facts.name = variants[i].name.empty() ? absl::StrCat("variant ", i + 1) : variants[i].name;
    facts.baseline = variants[i].baseline;
    facts.state = "succeeded";
    any_baseline = any_baseline || facts.baseline;
    if (variants[i].jobs.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("variants[", i, "] (", facts.name, ") names no jobs"));
    }
    for (const std::string& job : variants[i].jobs) {
      const JobInput* input = Find(inputs, job);
      if (input == nullptr) {
        return absl::NotFoundError(absl::StrCat("variants[", i, "] (", facts.name, "): ", job,
                                                " is not among the inputs"));
      }
      TakeJob(*input, job, read_samples, &facts);
    }
    // Quantizing has its own peaks: they are the ones that a user plans with.
    if (facts.quantize.is_object()) {
      facts.peak_host_bytes = Integer(facts.quantize, "peakHostBytes");
      facts.peak_device_bytes = Integer(facts.quantize, "peakDeviceBytes");
    }
    all.push_back(std::move(facts));
  }
  if (all.empty()) return absl::InvalidArgumentError("there are no variants to compare");
  if (!any_baseline) all.front().baseline = true;
  return all;
}

}  // namespace quantd::engine
