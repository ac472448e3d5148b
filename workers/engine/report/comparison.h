// Variants side by side: what each one's jobs measured, how far it is from its baseline with which
// certainty, a verdict in words, and which variant to ship. Pure functions of the jobs' results; no
// model is needed.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/job/context.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {

// One metric of one variant against the baseline's.
struct MetricChange {
  double value = 0;  // NaN: not finite.
  bool has_baseline = false;
  double degradation = 0;     // Relative, positive is worse: 0.02 is 2 % worse than the baseline.
  double standard_error = 0;  // Of the degradation; 0: not known.
  bool paired = false;        // From differences sample by sample, else from both errors.
  // Of paired samples: 95 % of the bootstrap's degradations, and for right-or-wrong answers
  // McNemar's probability that nothing changed.
  std::optional<std::pair<double, double>> interval;
  std::optional<double> probability;
};

// Everything known of one variant.
struct VariantFacts {
  std::string name;
  std::string model;  // What it was made from; variants of one model are compared.
  bool baseline = false;
  std::string state;  // "succeeded", "failed", "cancelled", "skipped", "missing".
  std::string error;
  nlohmann::json quantize, benchmark;                     // Results, or null.
  nlohmann::json metrics = nlohmann::json::object();      // By name: as in evaluate results.
  nlohmann::json measured_on = nlohmann::json::object();  // "device", "dtype", "threads".
  int64_t size_bytes = 0;
  int64_t peak_host_bytes = 0, peak_device_bytes = 0;
  std::map<std::string, std::map<std::string, double>> samples;  // Metric -> sample id -> score.
  std::map<std::string, MetricChange> changes;
  std::string verdict, reason;
  nlohmann::json recipe;    // The quantize job's spec, or null.
  bool calibrated = false;  // Its method looked at calibration text.
};

// Gathers facts by the variants' jobs; a job that the inputs lack is an error, a job that failed is
// a fact. `read_samples` maps a job's folder to the text of all its samples files.
absl::StatusOr<std::vector<VariantFacts>> GatherFacts(
    const std::vector<Variant>& variants, const std::map<std::string, JobInput>& inputs,
    const std::function<std::vector<std::string>(const std::string& folder)>& read_samples);

// The whole comparison: {"rows", "metricColumns", "recommendation", "reason",
// "recommendations": [{"model", "variant", "reason", "uses": [{"use", "variant", "reason"}]}],
// "protocols": {metric: text}, "lowerIsBetter": {metric: bool}, "measuredOn"}. docs/results.md
// describes a row.
nlohmann::json CompareFacts(std::vector<VariantFacts> facts);

}  // namespace quantd::engine
