// Facts to rows: grouping by model, ordering, and the JSON that reports and clients read.
#include "workers/engine/report/comparison.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_join.h"
#include "workers/engine/report/outcome.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

nlohmann::json NumberOrNull(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

// Copies fields that are there.
void Copy(const nlohmann::json& from, std::initializer_list<const char*> fields,
          nlohmann::json* to) {
  for (const char* field : fields) {
    if (from.is_object() && from.contains(field)) (*to)[field] = from[field];
  }
}

// [{"name", "loss"}] of the modules whose quantizer recorded what it left behind, as they come.
nlohmann::json LayerErrors(const nlohmann::json& quantize) {
  nlohmann::json errors = nlohmann::json::array();
  const nlohmann::json modules =
      quantize.is_object() ? quantize.value("modules", nlohmann::json()) : nlohmann::json();
  for (const nlohmann::json& module : modules) {
    if (!module.is_object() || !module.contains("name")) continue;
    const nlohmann::json loss = module.value("loss", nlohmann::json());
    if (loss.is_number()) errors.push_back({{"name", module["name"]}, {"loss", loss}});
  }
  return errors;
}

nlohmann::json Row(const VariantFacts& facts, const VariantFacts* baseline) {
  nlohmann::json row = {{"name", facts.name},         {"model", facts.model},
                        {"baseline", facts.baseline}, {"state", facts.state},
                        {"verdict", facts.verdict},   {"reason", facts.reason}};
  if (!facts.error.empty()) row["error"] = facts.error;
  if (facts.size_bytes > 0) {
    row["sizeBytes"] = facts.size_bytes;
    if (baseline != nullptr && baseline->size_bytes > 0) {
      row["compressionRatio"] =
          static_cast<double>(baseline->size_bytes) / static_cast<double>(facts.size_bytes);
    }
  }
  if (facts.peak_host_bytes > 0) row["peakHostBytes"] = facts.peak_host_bytes;
  if (facts.peak_device_bytes > 0) row["peakDeviceBytes"] = facts.peak_device_bytes;
  Copy(facts.quantize,
       {"method", "format", "bits", "groupSize", "bitsPerWeight", "quantizationSeconds"}, &row);
  Copy(facts.benchmark,
       {"prefillTokensPerSecond", "decodeTokensPerSecond", "latencyMs", "sampleLatencyMs",
        "timeToFirstTokenMs", "ratio", "loadSeconds", "weightsInMemoryBytes", "joulesPerToken"},
       &row);
  if (facts.benchmark.is_object() && facts.benchmark.contains("rows")) {
    row["speeds"] = facts.benchmark["rows"];
  }
  if (facts.recipe.is_object()) row["recipe"] = facts.recipe;
  Copy(facts.quantize, {"modelDigest", "outputDigest", "engineVersion", "fallbacks"}, &row);
  if (nlohmann::json layers = LayerErrors(facts.quantize); !layers.empty()) {
    row["layerErrors"] = std::move(layers);
  }
  const Outcome outcome = JudgeOutcome(facts, baseline);
  row["outcome"] = outcome.word;
  row["outcomeReasons"] = outcome.reasons;
  row["metrics"] = nlohmann::json::object();
  row["degradation"] = nlohmann::json::object();
  row["degradationError"] = nlohmann::json::object();
  for (const auto& [name, change] : facts.changes) {
    row["metrics"][name] = NumberOrNull(change.value);
    Copy(facts.metrics[name], {"stderr"}, &row["metricErrors"][name]);
    if (!change.has_baseline) continue;
    row["degradation"][name] = NumberOrNull(change.degradation);
    if (change.standard_error > 0) {
      row["degradationError"][name] = NumberOrNull(change.standard_error);
      row["paired"] = change.paired || row.value("paired", false);
    }
    if (change.interval) {
      row["degradationInterval"][name] = {NumberOrNull(change.interval->first),
                                          NumberOrNull(change.interval->second)};
    }
    if (change.probability) row["mcnemar"][name] = *change.probability;
  }
  return row;
}

// What a table shows: the metrics that decide, then divergence and sanity; the rest stays in JSON.
std::vector<std::string> MetricColumns(const std::vector<VariantFacts>& facts) {
  std::vector<std::string> judged, others;
  for (const VariantFacts& variant : facts) {
    for (const auto& [name, metric] : variant.metrics.items()) {
      const bool shown = FindJudged(name) != nullptr;
      const bool other = name == "kld" || name.substr(name.rfind('/') + 1) == "pass";
      std::vector<std::string>& columns = shown ? judged : others;
      if ((shown || other) && std::find(columns.begin(), columns.end(), name) == columns.end()) {
        columns.push_back(name);
      }
    }
  }
  // Perplexity first: every sweep has it.
  std::stable_sort(judged.begin(), judged.end(), [](const std::string& a, const std::string& b) {
    return a.rfind("perplexity", 0) == 0 && b.rfind("perplexity", 0) != 0;
  });
  judged.insert(judged.end(), others.begin(), others.end());
  return judged;
}

nlohmann::json Directions(const std::vector<VariantFacts>& facts) {
  nlohmann::json directions = nlohmann::json::object();
  for (const VariantFacts& variant : facts) {
    for (const auto& [name, metric] : variant.metrics.items()) {
      if (metric.is_object()) directions[name] = metric.value("lowerIsBetter", false);
    }
  }
  return directions;
}

nlohmann::json Protocols(const std::vector<VariantFacts>& facts) {
  nlohmann::json protocols = nlohmann::json::object();
  for (const VariantFacts& variant : facts) {
    for (const auto& [name, metric] : variant.metrics.items()) {
      const nlohmann::json protocol =
          metric.is_object() ? metric.value("protocol", nlohmann::json()) : nlohmann::json();
      if (!protocol.is_string()) continue;
      if (!protocols.contains(name)) {
        protocols[name] = protocol;
      } else if (protocols[name] != protocol) {
        // Numbers of different protocols cannot be compared: said once, in place of a protocol.
        protocols[name] = "NOT COMPARABLE: the variants were measured by different protocols";
      }
    }
  }
  return protocols;
}

}  // namespace

nlohmann::json CompareFacts(std::vector<VariantFacts> facts) {
  // One group a model; a baseline of another name than the variants' model serves all.
  const VariantFacts* first_baseline = nullptr;
  for (const VariantFacts& variant : facts) {
    if (variant.baseline && first_baseline == nullptr) first_baseline = &variant;
  }
  const auto baseline_of = [&](const VariantFacts& variant) {
    for (const VariantFacts& candidate : facts) {
      if (candidate.baseline && candidate.model == variant.model) return &candidate;
    }
    return first_baseline;
  };
  std::vector<const VariantFacts*> groups;  // By baseline, in order.
  for (VariantFacts& variant : facts) {
    const VariantFacts* baseline = baseline_of(variant);
    MeasureChanges(*baseline, &variant);
    Judge(&variant);
    if (std::find(groups.begin(), groups.end(), baseline) == groups.end()) {
      groups.push_back(baseline);
    }
  }
  nlohmann::json rows = nlohmann::json::array(), recommendations = nlohmann::json::array();
  std::vector<std::string> names, reasons;
  for (const VariantFacts* baseline : groups) {
    std::vector<VariantFacts*> members;
    for (VariantFacts& variant : facts) {
      if (baseline_of(variant) == baseline) members.push_back(&variant);
    }
    const Recommendation recommendation = Recommend(members);
    // The baseline, then large to small; what failed is last.
    std::stable_sort(
        members.begin(), members.end(), [](const VariantFacts* a, const VariantFacts* b) {
          const auto rank = [](const VariantFacts* v) {
            return v->baseline ? 0 : v->verdict == "failed" ? 2 : 1;
          };
          return rank(a) != rank(b) ? rank(a) < rank(b) : a->size_bytes > b->size_bytes;
        });
    for (const VariantFacts* member : members) rows.push_back(Row(*member, baseline));
    recommendations.push_back({{"model", baseline->model},
                               {"variant", recommendation.variant},
                               {"reason", recommendation.reason},
                               {"uses", RecommendUses(members)}});
    names.push_back(recommendation.variant);
    reasons.push_back(recommendation.reason);
  }
  return {{"rows", std::move(rows)},
          {"metricColumns", MetricColumns(facts)},
          {"recommendation", absl::StrJoin(names, ", ")},
          {"reason", absl::StrJoin(reasons, " / ")},
          {"recommendations", std::move(recommendations)},
          {"protocols", Protocols(facts)},
          {"lowerIsBetter", Directions(facts)},
          {"measuredOn", first_baseline->measured_on}};
}

}  // namespace quantd::engine
