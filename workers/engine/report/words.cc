// Sentences from the comparison's numbers. Each says only what the rows hold.
#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "workers/engine/report/cells.h"
#include "workers/engine/report/render.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Standard errors on either side that hold 95 %.
constexpr double kNormal95 = 1.96;

double Number(const json& object, const std::string& field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return object.is_object() && found != object.end() && found->is_number() ? found->get<double>()
                                                                           : std::nan("");
}

struct Counts {
  int variants = 0, successful = 0, investigate = 0, failed = 0;
  std::set<std::string> methods, models;
};

Counts Count(const json& comparison) {
  Counts counts;
  for (const json& row : comparison["rows"]) {
    counts.models.insert(TextField(row, "model"));
    if (row.value("baseline", false)) continue;
    ++counts.variants;
    counts.successful += TextField(row, "outcome") == "successful" ? 1 : 0;
    counts.investigate += TextField(row, "outcome") == "investigate" ? 1 : 0;
    counts.failed += TextField(row, "verdict") == "failed" ? 1 : 0;
    if (const std::string method = TextField(row, "method"); !method.empty()) {
      counts.methods.insert(method);
    }
  }
  return counts;
}

std::string Plural(size_t count, const char* one, const char* many) {
  return absl::StrCat(count, " ", count == 1 ? one : many);
}

std::string MetricList(const json& comparison) {
  std::vector<std::string> names;
  for (const json& name : comparison["metricColumns"]) names.push_back(name);
  return absl::StrJoin(names, ", ");
}

// The best and the worst of the rows by `field`, as a sentence.
std::string Range(const json& comparison, const std::string& field, const char* what,
                  const std::function<std::string(double)>& words) {
  const json *low = nullptr, *high = nullptr;
  for (const json& row : comparison["rows"]) {
    if (row.value("baseline", false) || !std::isfinite(Number(row, field))) continue;
    if (low == nullptr || Number(row, field) < Number(*low, field)) low = &row;
    if (high == nullptr || Number(row, field) > Number(*high, field)) high = &row;
  }
  if (low == nullptr || low == high) return "";
  return absl::StrCat(what, " reaches from ", words(Number(*low, field)), " (",
                      TextField(*low, "name"), ") to ", words(Number(*high, field)), " (",
                      TextField(*high, "name"), "). ");
}

// How many changes are larger than their error.
std::string Certainty(const json& comparison) {
  const ReportTable table = StatisticsTable(comparison);
  if (table.rows.empty()) {
    return "No samples were paired; changes are compared with both measurements' standard errors. ";
  }
  const auto unclear = std::count_if(table.rows.begin(), table.rows.end(), [](const auto& row) {
    return row.back() == "within its error";
  });
  return absl::StrCat("Of ", table.rows.size(), " paired comparisons ", unclear,
                      unclear == 1 ? " is" : " are",
                      " within the error: there the data cannot tell the variant from the "
                      "original. ");
}

std::string Divergence(const json& comparison) {
  std::vector<std::pair<double, std::string>> order;
  for (const json& row : comparison["rows"]) {
    const double value = Number(row["metrics"], "kld");
    if (!std::isfinite(value) || row.value("baseline", false)) continue;
    const double error =
        Number(row.value("metricErrors", json::object()).value("kld", json()), "stderr");
    order.emplace_back(value, absl::StrFormat("%s %.4g", TextField(row, "name"), value));
    if (std::isfinite(error)) {
      absl::StrAppendFormat(&order.back().second, " ± %.2g", kNormal95 * error);
    }
  }
  if (order.size() < 2) return "";
  std::sort(order.begin(), order.end());
  std::vector<std::string> words;
  for (const auto& [value, text] : order) words.push_back(text);
  return absl::StrCat("By divergence from the original's predictions, closest first: ",
                      absl::StrJoin(words, ", "), ". ");
}

}  // namespace

ReportWords DescribeComparison(const json& comparison) {
  const Counts counts = Count(comparison);
  ReportWords words;
  words.introduction = absl::StrCat(
      "This report compares ", Plural(static_cast<size_t>(counts.variants), "variant", "variants"),
      " of ", absl::StrJoin(counts.models, ", "),
      counts.methods.empty() ? ""
                             : absl::StrCat(", made with ", absl::StrJoin(counts.methods, ", ")),
      ", with the original in 16 bits, and says which one to ship. ",
      Plural(static_cast<size_t>(counts.successful), "variant is", "variants are"), " successful, ",
      Plural(static_cast<size_t>(counts.investigate), "needs", "need"), " a look, ", counts.failed,
      " failed.");
  words.methods = absl::StrCat(
      "Every variant answered the same samples as the original: ", MetricList(comparison),
      ". Changes are relative to the original and, where samples can be paired, come with a 95 % "
      "interval from a paired bootstrap; right-or-wrong answers with McNemar's exact test. "
      "A variant is successful if it loads, writes coherent text, completes every task, shrank and "
      "lost less than 15 %; it is good if ",
      ThresholdWords(), ".");
  words.results = absl::StrCat(Range(comparison, "compressionRatio", "Compression",
                                     [](double v) { return absl::StrFormat("%.2f times", v); }),
                               Range(comparison, "decodeTokensPerSecond", "Writing speed",
                                     [](double v) { return absl::StrFormat("%.1f tokens/s", v); }),
                               Divergence(comparison), Certainty(comparison));
  for (const json& recommendation : comparison["recommendations"]) {
    absl::StrAppend(&words.discussion, "Ship ", TextField(recommendation, "variant"),
                    comparison["recommendations"].size() > 1
                        ? absl::StrCat(" of ", TextField(recommendation, "model"))
                        : "",
                    ": ", TextField(recommendation, "reason"), ". ");
  }
  words.limitations =
      "The numbers hold for these data, this machine and these settings; accuracies of a few "
      "hundred "
      "samples move by some percent by chance, which the intervals state. Quality within its error "
      "is no proof of equality. Speeds are of this engine, which computes with the dequantized "
      "weights where no kernel for the format is at hand; a server with kernels of its own is "
      "faster.";
  return words;
}

std::vector<std::string> SetupLines(const json& comparison) {
  std::vector<std::string> lines;
  for (const auto& item : comparison["protocols"].items()) {
    lines.push_back(absl::StrCat(item.key(), ": ", item.value().get<std::string>()));
  }
  for (const auto& item : comparison["measuredOn"].items()) {
    lines.push_back(absl::StrCat(
        item.key(), ": ",
        item.value().is_string() ? item.value().get<std::string>() : item.value().dump()));
  }
  lines.push_back(absl::StrCat("quant-engine ", QUANTD_VERSION));
  return lines;
}

std::string RecipeLine(const json& row) {
  const json recipe = row.value("recipe", json());
  if (!recipe.is_object()) return "";
  return json{{"quantize", recipe}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace quantd::engine
