// The rules in the order in which a person would ask.
#include "workers/engine/report/outcome.h"

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

double Number(const nlohmann::json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return found != object.end() && found->is_number() ? found->get<double>() : std::nan("");
}

// The largest relative loss of a judged metric.
double WorstLoss(const VariantFacts& facts) {
  double worst = 0;
  for (const auto& [name, change] : facts.changes) {
    if (FindJudged(name) == nullptr || !change.has_baseline) continue;
    worst = std::isfinite(change.degradation) ? std::max(worst, change.degradation)
                                              : std::numeric_limits<double>::infinity();
  }
  return worst;
}

bool HasLoss(const VariantFacts& facts) {
  for (const auto& [name, change] : facts.changes) {
    if (FindJudged(name) != nullptr && change.has_baseline) return true;
  }
  return false;
}

void AddQuality(const VariantFacts& facts, const VariantFacts& baseline,
                std::vector<std::string>* reasons) {
  for (const auto& [name, metric] : facts.metrics.items()) {
    if (absl::EndsWith(name, "/pass") && Number(metric, "value") == 0) {
      reasons->push_back("its texts make no sense");
    }
  }
  for (const auto& item : baseline.metrics.items()) {
    if (FindJudged(item.key()) != nullptr && !facts.metrics.contains(item.key())) {
      reasons->push_back(absl::StrCat(item.key(), " was not measured"));
    }
  }
  for (const auto& [name, change] : facts.changes) {
    if (FindJudged(name) == nullptr || !change.has_baseline) continue;
    if (!std::isfinite(change.value)) {
      reasons->push_back(absl::StrCat(name, " is not a number"));
    } else if (change.degradation > kInvestigateLoss) {
      reasons->push_back(absl::StrCat(name, " lost ", Percent(change.degradation)));
    }
  }
}

struct Use {
  std::string name;
  std::function<bool(const VariantFacts&)> allowed;
  // Smaller is better.
  std::function<double(const VariantFacts&)> cost;
  std::function<std::string(const VariantFacts&)> reason;
};

std::string LossWords(const VariantFacts& facts) {
  return absl::StrCat("loses ", Percent(WorstLoss(facts)), " at most");
}

double Speed(const VariantFacts& facts) { return Number(facts.benchmark, "decodeTokensPerSecond"); }

Use WithinSize(double bytes, const std::string& words) {
  return {absl::StrCat("best quality within ", words),
          [bytes](const VariantFacts& f) { return static_cast<double>(f.size_bytes) <= bytes; },
          WorstLoss,
          [](const VariantFacts& f) {
            return absl::StrCat(FormatBytes(f.size_bytes), ", ", LossWords(f));
          }};
}

std::vector<Use> Uses(const VariantFacts* baseline) {
  std::vector<Use> uses;
  if (baseline != nullptr && baseline->size_bytes > 0) {
    const auto size = static_cast<double>(baseline->size_bytes);
    uses.push_back(WithinSize(
        size / 2, absl::StrCat(FormatBytes(baseline->size_bytes / 2), " (half of the original)")));
    uses.push_back(WithinSize(size / 4, absl::StrCat(FormatBytes(baseline->size_bytes / 4),
                                                     " (a quarter of the original)")));
  }
  uses.push_back({"fastest within 1 % loss",
                  [](const VariantFacts& f) { return WorstLoss(f) <= 0.01 && Speed(f) > 0; },
                  [](const VariantFacts& f) { return -Speed(f); },
                  [](const VariantFacts& f) {
                    return absl::StrFormat("%.1f tokens/s, %s", Speed(f), LossWords(f));
                  }});
  uses.push_back({absl::StrCat("smallest within ", Percent(kInvestigateLoss), " loss"),
                  [](const VariantFacts& f) { return WorstLoss(f) <= kInvestigateLoss; },
                  [](const VariantFacts& f) { return static_cast<double>(f.size_bytes); },
                  [](const VariantFacts& f) {
                    return absl::StrCat(FormatBytes(f.size_bytes), ", ", LossWords(f));
                  }});
  uses.push_back({"no calibration data",
                  [](const VariantFacts& f) {
                    return f.quantize.is_object() && !f.calibrated &&
                           WorstLoss(f) <= kInvestigateLoss;
                  },
                  [](const VariantFacts& f) { return static_cast<double>(f.size_bytes); },
                  [](const VariantFacts& f) {
                    return absl::StrCat(FormatBytes(f.size_bytes), ", ", LossWords(f));
                  }});
  return uses;
}

}  // namespace

Outcome JudgeOutcome(const VariantFacts& facts, const VariantFacts* baseline) {
  if (facts.state != "succeeded") return {"investigate", {facts.error}};
  if (facts.baseline) return {"baseline", {}};
  Outcome outcome{"successful", {}};
  if (baseline != nullptr) {
    AddQuality(facts, *baseline, &outcome.reasons);
    if (baseline->size_bytes > 0 && static_cast<double>(facts.size_bytes) >
                                        kShrunk * static_cast<double>(baseline->size_bytes)) {
      outcome.reasons.push_back("it is hardly smaller than the original");
    }
    if (const double speed = RelativeSpeed(facts, *baseline); speed < kSlower) {
      outcome.reasons.push_back(
          absl::StrFormat("it writes at %.2f times the original's speed", speed));
    }
  }
  if (Number(facts.quantize, "quantizationSeconds") > kInvestigateSeconds) {
    outcome.reasons.push_back("quantizing took more than an hour");
  }
  if (!outcome.reasons.empty()) outcome.word = "investigate";
  return outcome;
}

nlohmann::json RecommendUses(const std::vector<VariantFacts*>& variants) {
  const VariantFacts* baseline = nullptr;
  for (const VariantFacts* facts : variants) {
    if (facts->baseline) baseline = facts;
  }
  nlohmann::json uses = nlohmann::json::array();
  for (const Use& use : Uses(baseline)) {
    const VariantFacts* best = nullptr;
    for (const VariantFacts* facts : variants) {
      const bool counts = !facts->baseline && facts->state == "succeeded" &&
                          facts->verdict != "broken" && facts->size_bytes > 0 && HasLoss(*facts) &&
                          use.allowed(*facts);
      if (counts && (best == nullptr || use.cost(*facts) < use.cost(*best))) best = facts;
    }
    uses.push_back({{"use", use.name},
                    {"variant", best == nullptr ? nlohmann::json() : nlohmann::json(best->name)},
                    {"reason", best == nullptr ? "no variant qualifies" : use.reason(*best)}});
  }
  return uses;
}

}  // namespace quantd::engine
