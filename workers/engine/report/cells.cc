// Every table is rows of text; the renderers decide how a table looks.
#include "workers/engine/report/cells.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Modules shown for each variant.
constexpr size_t kWorstModules = 5;

// "83.92 (1.40 % worse, 0.9 % to 1.9 %)": the value, how much it changed, and within what.
std::string MetricCell(const json& row, const std::string& metric) {
  const std::string value = NumberField(row["metrics"], metric, "%.4f");
  if (value == kNotMeasured) {
    return row["metrics"].contains(metric) ? "not a number" : kNotMeasured;
  }
  if (metric.substr(metric.rfind('/') + 1) == "pass") return value == "1.0000" ? "yes" : "no";
  const auto degradation = row["degradation"].find(metric);
  if (degradation == row["degradation"].end() || !degradation->is_number()) return value;
  const double worse = degradation->get<double>();
  return absl::StrCat(value, " (", Percent(worse < 0 ? -worse : worse), " ",
                      worse > 0   ? "worse"
                      : worse < 0 ? "better"
                                  : "change",
                      ")");
}

std::string IntervalWords(const json& row, const std::string& metric) {
  const json intervals = row.value("degradationInterval", json::object());
  const json found = intervals.value(metric, json());
  if (!found.is_array() || !found[0].is_number() || !found[1].is_number()) return kNotMeasured;
  return absl::StrFormat("%+.2f %% to %+.2f %%", 100 * found[0].get<double>(),
                         100 * found[1].get<double>());
}

// "1.42 (1.38 to 1.45)": the median of runs in turns with the baseline, and the spread.
std::string RatioField(const json& row, const char* part) {
  const json ratio = row.value("ratio", json::object()).value(part, json());
  const std::string median = NumberField(ratio, "median", "%.2f");
  if (median == kNotMeasured) return median;
  return absl::StrCat(median, " (", NumberField(ratio, "min", "%.2f"), " to ",
                      NumberField(ratio, "max", "%.2f"), ")");
}

}  // namespace

std::string TextField(const json& row, const char* field) {
  const auto found = row.is_object() ? row.find(field) : row.end();
  return row.is_object() && found != row.end() && found->is_string() ? found->get<std::string>()
                                                                     : "";
}

std::string NumberField(const json& row, const std::string& field, const char* format) {
  if (!row.is_object()) return kNotMeasured;
  const auto found = row.find(field);
  if (found == row.end() || !found->is_number()) return kNotMeasured;
  return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), found->get<double>());
}

std::string BytesField(const json& row, const char* field) {
  const auto found = row.find(field);
  if (found == row.end() || !found->is_number()) return kNotMeasured;
  return FormatBytes(static_cast<int64_t>(found->get<double>()));
}

ReportTable QualityTable(const json& comparison) {
  // The verdict stands where a narrow window still shows it.
  ReportTable table{.head = {"variant", "verdict", "method", "size", "smaller", "bits/weight"},
                    .rows = {}};
  for (const auto& column : comparison["metricColumns"]) table.head.push_back(column);
  for (const json& row : comparison["rows"]) {
    const std::string ratio = NumberField(row, "compressionRatio", "%.2f");
    const std::string method = TextField(row, "method");
    std::vector<std::string> cells = {TextField(row, "name"),
                                      TextField(row, "verdict"),
                                      method.empty() ? kNotMeasured : method,
                                      BytesField(row, "sizeBytes"),
                                      ratio == kNotMeasured ? ratio : ratio + "x",
                                      NumberField(row, "bitsPerWeight", "%.2f")};
    for (const auto& column : comparison["metricColumns"]) {
      cells.push_back(MetricCell(row, column.get<std::string>()));
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

ReportTable SpeedTable(const json& comparison) {
  ReportTable table{
      .head = {"variant", "decode tokens/s", "x baseline", "prefill tokens/s", "latency p50 ms",
               "latency p95 ms", "first token ms", "load s", "weights in memory", "joules/token",
               "quantization s", "peak host memory", "peak device memory"},
      .rows = {}};
  for (const json& row : comparison["rows"]) {
    const json latency = row.value("latencyMs", json::object());
    table.rows.push_back(
        {TextField(row, "name"), NumberField(row, "decodeTokensPerSecond", "%.1f"),
         RatioField(row, "decode"), NumberField(row, "prefillTokensPerSecond", "%.1f"),
         NumberField(latency, "p50", "%.1f"), NumberField(latency, "p95", "%.1f"),
         NumberField(row, "timeToFirstTokenMs", "%.1f"), NumberField(row, "loadSeconds", "%.2f"),
         BytesField(row, "weightsInMemoryBytes"), NumberField(row, "joulesPerToken", "%.3f"),
         NumberField(row, "quantizationSeconds", "%.1f"), BytesField(row, "peakHostBytes"),
         BytesField(row, "peakDeviceBytes")});
  }
  return table;
}

ReportTable ThroughputTable(const json& comparison) {
  ReportTable table{
      .head = {"variant", "batch", "prompt", "prefill tokens/s", "x baseline", "decode tokens/s",
               "x baseline", "first token ms", "sample p50 ms", "sample p95 ms"},
      .rows = {}};
  bool several = false;
  for (const json& row : comparison["rows"]) {
    const json speeds = row.value("speeds", json::array());
    several = several || speeds.size() > 1;
    for (const json& speed : speeds) {
      const json sample = speed.value("sampleLatencyMs", json::object());
      table.rows.push_back(
          {TextField(row, "name"), NumberField(speed, "batch", "%.0f"),
           NumberField(speed, "promptTokens", "%.0f"),
           NumberField(speed, "prefillTokensPerSecond", "%.1f"), RatioField(speed, "prefill"),
           NumberField(speed, "decodeTokensPerSecond", "%.1f"), RatioField(speed, "decode"),
           NumberField(speed, "timeToFirstTokenMs", "%.1f"), NumberField(sample, "p50", "%.1f"),
           NumberField(sample, "p95", "%.1f")});
    }
  }
  if (!several) table.rows.clear();
  return table;
}

ReportTable StatisticsTable(const json& comparison) {
  ReportTable table{.head = {"variant", "metric", "change", "95 % interval", "McNemar p", "reads"},
                    .rows = {}};
  for (const json& row : comparison["rows"]) {
    const json probabilities = row.value("mcnemar", json::object());
    for (const auto& column : comparison["metricColumns"]) {
      const std::string metric = column;
      const std::string interval = IntervalWords(row, metric);
      if (interval == kNotMeasured) continue;
      const json bounds = row["degradationInterval"][metric];
      const double low = bounds[0], high = bounds[1];
      const double change = row["degradation"].value(metric, 0.0);
      table.rows.push_back({TextField(row, "name"), metric,
                            absl::StrFormat("%+.2f %%", 100 * change), interval,
                            NumberField(probabilities, metric, "%.3f"),
                            low > 0    ? "worse"
                            : high < 0 ? "better"
                                       : "within its error"});
    }
  }
  return table;
}

ReportTable UsesTable(const json& recommendation) {
  ReportTable table{.head = {"use", "variant", "why"}, .rows = {}};
  for (const json& use : recommendation.value("uses", json::array())) {
    const std::string variant = TextField(use, "variant");
    table.rows.push_back({TextField(use, "use"), variant.empty() ? kNotMeasured : variant,
                          TextField(use, "reason")});
  }
  return table;
}

ReportTable LayerTable(const json& comparison) {
  ReportTable table{.head = {"variant", "module", "error", "share of the variant's"}, .rows = {}};
  for (const json& row : comparison["rows"]) {
    std::vector<json> errors = row.value("layerErrors", json::array()).get<std::vector<json>>();
    double sum = 0;
    for (const json& error : errors) sum += error["loss"].get<double>();
    std::sort(errors.begin(), errors.end(),
              [](const json& a, const json& b) { return a["loss"] > b["loss"]; });
    errors.resize(std::min(errors.size(), kWorstModules));
    for (const json& error : errors) {
      table.rows.push_back({TextField(row, "name"), TextField(error, "name"),
                            absl::StrFormat("%.4g", error["loss"].get<double>()),
                            sum > 0 ? Percent(error["loss"].get<double>() / sum) : kNotMeasured});
    }
  }
  return table;
}

ReportTable VerdictTable(const json& comparison) {
  ReportTable table{.head = {"variant", "outcome", "verdict", "why"}, .rows = {}};
  for (const json& row : comparison["rows"]) {
    std::vector<std::string> reasons = row.value("outcomeReasons", std::vector<std::string>());
    const std::string reason = TextField(row, "reason");
    // A failure's reason is its outcome's.
    if (std::find(reasons.begin(), reasons.end(), reason) == reasons.end()) {
      reasons.push_back(reason);
    }
    table.rows.push_back({TextField(row, "name"), TextField(row, "outcome"),
                          TextField(row, "verdict"), absl::StrJoin(reasons, "; ")});
  }
  return table;
}

std::string ThresholdWords() {
  std::vector<std::string> limits;
  for (const JudgedMetric& judged : kJudgedMetrics) {
    limits.push_back(absl::StrCat(judged.suffix, " at most ", Percent(judged.good_max), " worse"));
  }
  return absl::StrCat(absl::StrJoin(limits, ", "), ", beyond ", kSignificance, " standard errors");
}

}  // namespace quantd::engine
