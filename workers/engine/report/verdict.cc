// Degradations with their errors, verdicts, and the choice.
#include "workers/engine/report/verdict.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "workers/engine/job/statistics.h"
#include "workers/engine/report/paired.h"

namespace quantd::engine {
namespace {

double Number(const nlohmann::json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return found != object.end() && found->is_number() ? found->get<double>() : std::nan("");
}

bool LowerIsBetter(const nlohmann::json& metric) {
  return metric.is_object() && metric.value("lowerIsBetter", false);
}

// Differences variant - baseline of the samples that both have; fewer than all mean that the data
// was not the same, and nothing is paired.
std::vector<double> PairedDifferences(const VariantFacts& baseline, const VariantFacts& facts,
                                      const std::string& metric) {
  const auto a = baseline.samples.find(metric), b = facts.samples.find(metric);
  if (a == baseline.samples.end() || b == facts.samples.end()) return {};
  if (a->second.size() != b->second.size()) return {};
  std::vector<double> differences;
  for (const auto& [id, score] : b->second) {
    const auto other = a->second.find(id);
    if (other == a->second.end()) return {};
    differences.push_back(score - other->second);
  }
  return differences;
}

// `unit` turns a difference into a degradation.
void AddPairedStatistics(const std::vector<double>& differences, bool logarithmic, double unit,
                         MetricChange* change) {
  const Interval means = BootstrapMean(differences);
  double low = logarithmic ? std::exp(means.low) - 1 : unit * means.low;
  double high = logarithmic ? std::exp(means.high) - 1 : unit * means.high;
  if (low > high) std::swap(low, high);
  change->interval = {low, high};
  int64_t better = 0, worse = 0;
  for (const double difference : differences) {
    if (difference != 0 && std::abs(difference) != 1) return;
    (unit * difference > 0 ? worse : better) += difference != 0 ? 1 : 0;
  }
  if (!logarithmic) change->probability = McNemarProbability(better, worse);
}

MetricChange Change(const VariantFacts& baseline, const VariantFacts& facts,
                    const std::string& name) {
  const nlohmann::json& metric = facts.metrics[name];
  MetricChange change{.value = Number(metric, "value")};
  const auto found = baseline.metrics.find(name);
  const double base = found == baseline.metrics.end() ? std::nan("") : Number(*found, "value");
  if (!std::isfinite(base) || base == 0 || &baseline == &facts) return change;
  change.has_baseline = true;
  const double sign = LowerIsBetter(metric) ? 1 : -1;
  change.degradation = sign * (change.value - base) / base;
  const std::vector<double> differences = PairedDifferences(baseline, facts, name);
  // Perplexity's samples are mean log-likelihoods: their difference is the logarithm of the ratio.
  const bool logarithmic = metric.contains("meanNll");
  // Percentages are stated of shares.
  const double unit = metric.value("scale", 1.0) / std::abs(base);
  if (differences.size() >= 2) {
    change.paired = true;
    const double error = MeanAndError(differences).standard_error;
    change.standard_error = logarithmic ? (1 + change.degradation) * error : unit * error;
    AddPairedStatistics(differences, logarithmic, sign * unit, &change);
  } else {
    const double a = Number(*found, "stderr"), b = Number(metric, "stderr");
    if (std::isfinite(a) && std::isfinite(b)) {
      change.standard_error = std::sqrt(a * a + b * b) / std::abs(base);
    }
  }
  return change;
}

std::string Words(const std::string& name, const MetricChange& change) {
  if (!std::isfinite(change.value)) return absl::StrCat(name, " is not a number");
  // People read an accuracy's fall as a fall: the sign is that of the number itself.
  std::string words = absl::StrCat(name, " ", Percent(change.degradation), " worse");
  if (change.degradation <= 0) {
    words = absl::StrCat(name, " ", Percent(-change.degradation), " better");
    if (change.degradation == 0) words = absl::StrCat(name, " unchanged");
  }
  if (change.standard_error > 0) {
    absl::StrAppendFormat(&words, " (± %.2g", 100 * change.standard_error);
    if (std::abs(change.degradation) < kSignificance * change.standard_error) {
      absl::StrAppend(&words, ", within noise");
    }
    absl::StrAppend(&words, ")");
  }
  return words;
}

// Defects that make a variant useless; empty: none.
std::string BrokenReason(const VariantFacts& facts) {
  for (const auto& [name, metric] : facts.metrics.items()) {
    if (name.size() >= 5 && name.substr(name.size() - 5) == "/pass" &&
        Number(metric, "value") == 0) {
      const std::string why = metric.value("reason", std::string("its texts make no sense"));
      return absl::StrCat("it fails the generation sanity check: ", why);
    }
  }
  for (const auto& [name, change] : facts.changes) {
    if (FindJudged(name) == nullptr) continue;
    if (!std::isfinite(change.value)) return Words(name, change);
    if (change.has_baseline && facts.metrics[name].contains("meanNll") &&
        change.degradation > kBrokenPerplexity) {
      return absl::StrFormat("%s is %.1f times the baseline's", name, 1 + change.degradation);
    }
  }
  return "";
}

double Quality(const VariantFacts& facts) {
  double worst = 0;
  for (const auto& [name, change] : facts.changes) {
    if (const JudgedMetric* judged = FindJudged(name); judged != nullptr && change.has_baseline) {
      worst = std::max(worst, change.degradation / judged->good_max);
    }
  }
  return worst;
}

double DecodeSpeed(const VariantFacts& facts) {
  return Number(facts.benchmark, "decodeTokensPerSecond");
}

std::string Praise(const VariantFacts& chosen, const VariantFacts* baseline) {
  std::vector<std::string> words;
  if (baseline != nullptr && baseline->size_bytes > 0 && chosen.size_bytes > 0) {
    words.push_back(absl::StrFormat(
        "%.2f times smaller",
        static_cast<double>(baseline->size_bytes) / static_cast<double>(chosen.size_bytes)));
  }
  words.push_back(chosen.reason);
  if (baseline != nullptr && RelativeSpeed(chosen, *baseline) > 0) {
    words.push_back(absl::StrFormat("decodes at %.2f times the baseline's speed",
                                    RelativeSpeed(chosen, *baseline)));
  }
  return absl::StrJoin(words, "; ");
}

}  // namespace

const JudgedMetric* FindJudged(const std::string& metric) {
  const std::string last = metric.substr(metric.rfind('/') + 1);
  for (const JudgedMetric& judged : kJudgedMetrics) {
    if (last == judged.suffix) return &judged;
    // A job's second perplexity has its data's name behind it: "perplexity_c4".
    if (last == metric && absl::StartsWith(last, absl::StrCat(judged.suffix, "_"))) return &judged;
  }
  return nullptr;
}

std::string Percent(double fraction) {
  const double percent = 100 * fraction;
  if (std::abs(percent) < 0.005) return "0 %";
  return absl::StrFormat(std::abs(percent) < 10 ? "%.2f %%" : "%.0f %%", percent);
}

double RelativeSpeed(const VariantFacts& facts, const VariantFacts& baseline) {
  const nlohmann::json ratio =
      facts.benchmark.is_object() ? facts.benchmark.value("ratio", nlohmann::json()) : nullptr;
  if (ratio.is_object() && ratio.contains("decode")) return Number(ratio["decode"], "median");
  const double own = DecodeSpeed(facts), other = DecodeSpeed(baseline);
  return own > 0 && other > 0 ? own / other : std::nan("");
}

void MeasureChanges(const VariantFacts& baseline, VariantFacts* facts) {
  for (const auto& [name, metric] : facts->metrics.items()) {
    facts->changes[name] = Change(baseline, *facts, name);
  }
}

void Judge(VariantFacts* facts) {
  if (facts->state != "succeeded") {
    facts->verdict = "failed";
    facts->reason = facts->error;
    return;
  }
  const std::string broken = BrokenReason(*facts);
  if (!broken.empty()) {
    facts->verdict = "broken";
    facts->reason = broken;
    return;
  }
  if (facts->baseline) {
    facts->verdict = "baseline";
    facts->reason = "what the others are held against";
    return;
  }
  std::vector<std::string> words, bad;
  for (const auto& [name, change] : facts->changes) {
    const JudgedMetric* judged = FindJudged(name);
    if (judged == nullptr || !change.has_baseline) continue;
    words.push_back(Words(name, change));
    if (change.degradation - kSignificance * change.standard_error > judged->good_max) {
      bad.push_back(absl::StrCat(Words(name, change), ", limit ", Percent(judged->good_max)));
    }
  }
  if (words.empty()) {
    facts->verdict = "unjudged";
    facts->reason = "no metric was measured both here and on the baseline";
    return;
  }
  facts->verdict = bad.empty() ? "good" : "degraded";
  facts->reason = absl::StrJoin(bad.empty() ? words : bad, ", ");
}

Recommendation Recommend(const std::vector<VariantFacts*>& variants) {
  const VariantFacts* baseline = nullptr;
  VariantFacts* best = nullptr;
  const VariantFacts* closest = nullptr;
  for (VariantFacts* facts : variants) {
    if (facts->baseline) baseline = facts;
    if (facts->verdict == "degraded" &&
        (closest == nullptr || Quality(*facts) < Quality(*closest))) {
      closest = facts;
    }
    if (facts->verdict != "good" || facts->size_bytes <= 0) continue;
    const auto size = static_cast<double>(facts->size_bytes);
    const double best_size = best == nullptr ? 0 : static_cast<double>(best->size_bytes);
    if (best == nullptr || size < best_size * (1 - kSameSize) ||
        (size <= best_size * (1 + kSameSize) && Quality(*facts) < Quality(*best))) {
      best = facts;
    }
  }
  if (best != nullptr) {
    best->verdict = "recommended";
    return {best->name,
            absl::StrCat("the smallest variant that keeps the quality: ", Praise(*best, baseline))};
  }
  const std::string name = baseline == nullptr ? "" : baseline->name;
  if (closest != nullptr) {
    return {name, absl::StrCat("no variant keeps the quality; the closest is ", closest->name, ": ",
                               closest->reason)};
  }
  return {name, "no variant could be judged good: see the rows"};
}

}  // namespace quantd::engine
