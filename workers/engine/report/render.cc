// Tables of the rows; a value that was not measured is an empty cell or a dash, never a zero.
#include "workers/engine/report/render.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

constexpr char kDash[] = "-";

std::string Text(const nlohmann::json& row, const char* field) {
  const auto found = row.find(field);
  return found != row.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string Number(const nlohmann::json& row, const std::string& field, const char* format) {
  const auto found = row.is_object() ? row.find(field) : row.end();
  if (found == row.end() || !found->is_number()) return kDash;
  return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), found->get<double>());
}

std::string Bytes(const nlohmann::json& row, const char* field) {
  const auto found = row.find(field);
  if (found == row.end() || !found->is_number()) return kDash;
  return FormatBytes(static_cast<int64_t>(found->get<double>()));
}

std::string Cell(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}});
}

// "83.92 (+1.4 %)": the value, and how much it changed in its own direction.
std::string MetricCell(const nlohmann::json& row, const std::string& metric) {
  const std::string value = Number(row["metrics"], metric, "%.4f");
  if (value == kDash) {
    return row["metrics"].contains(metric) ? "not a number" : kDash;
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

void AppendLine(std::string* out, const std::vector<std::string>& cells) {
  absl::StrAppend(out, "| ", absl::StrJoin(cells, " | "), " |\n");
}

void AppendTable(std::string* out, const std::vector<std::string>& head,
                 const std::vector<std::vector<std::string>>& rows) {
  AppendLine(out, head);
  AppendLine(out, std::vector<std::string>(head.size(), "---"));
  for (const auto& row : rows) AppendLine(out, row);
  absl::StrAppend(out, "\n");
}

std::string QualityTable(const nlohmann::json& comparison) {
  std::vector<std::string> head = {"variant", "method", "size", "smaller", "bits/weight"};
  for (const auto& column : comparison["metricColumns"])
    head.push_back(Cell(column.get<std::string>()));
  head.push_back("verdict");
  std::vector<std::vector<std::string>> rows;
  for (const nlohmann::json& row : comparison["rows"]) {
    const std::string ratio = Number(row, "compressionRatio", "%.2f");
    std::vector<std::string> cells = {
        Cell(Text(row, "name")), Text(row, "method").empty() ? kDash : Cell(Text(row, "method")),
        Bytes(row, "sizeBytes"), ratio == kDash ? ratio : ratio + "x",
        Number(row, "bitsPerWeight", "%.2f")};
    for (const auto& column : comparison["metricColumns"]) {
      cells.push_back(MetricCell(row, column.get<std::string>()));
    }
    const std::string verdict = Text(row, "verdict");
    cells.push_back(verdict == "recommended" ? "**recommended**" : verdict);
    rows.push_back(std::move(cells));
  }
  std::string out;
  AppendTable(&out, head, rows);
  return out;
}

std::string CostTable(const nlohmann::json& comparison) {
  std::vector<std::vector<std::string>> rows;
  for (const nlohmann::json& row : comparison["rows"]) {
    const nlohmann::json latency = row.value("latencyMs", nlohmann::json::object());
    rows.push_back({Cell(Text(row, "name")), Number(row, "decodeTokensPerSecond", "%.1f"),
                    Number(row, "prefillTokensPerSecond", "%.1f"), Number(latency, "p50", "%.1f"),
                    Number(latency, "p95", "%.1f"), Number(row, "timeToFirstTokenMs", "%.1f"),
                    Number(row, "quantizationSeconds", "%.1f"), Bytes(row, "peakHostBytes"),
                    Bytes(row, "peakDeviceBytes")});
  }
  std::string out;
  AppendTable(&out,
              {"variant", "decode tokens/s", "prefill tokens/s", "latency p50 ms", "latency p95 ms",
               "first token ms", "quantization s", "peak host memory", "peak device memory"},
              rows);
  return out;
}

std::string CsvField(const nlohmann::json& value) {
  if (value.is_null()) return "";
  std::string text = value.is_string()
                         ? value.get<std::string>()
                         : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace

std::string RenderMarkdown(const nlohmann::json& comparison, absl::string_view title) {
  std::string out = absl::StrCat("# ", title.empty() ? "Quantization report" : title, "\n\n");
  for (const nlohmann::json& recommendation : comparison["recommendations"]) {
    absl::StrAppend(&out, "**Ship ", Text(recommendation, "variant"), "**");
    if (comparison["recommendations"].size() > 1) {
      absl::StrAppend(&out, " (", Text(recommendation, "model"), ")");
    }
    absl::StrAppend(&out, ": ", Text(recommendation, "reason"), ".\n\n");
  }
  absl::StrAppend(
      &out, "## Quality and size\n\n", QualityTable(comparison),
      "Changes are relative to the baseline.\n\n", "## Speed and memory\n\n", CostTable(comparison),
      "Peak memory is that of quantizing; where nothing was quantized, of evaluating.\n\n",
      "## Verdicts\n\n");
  for (const nlohmann::json& row : comparison["rows"]) {
    absl::StrAppend(&out, "- **", Text(row, "name"), "**: ", Text(row, "verdict"), " - ",
                    Text(row, "reason"), "\n");
  }
  absl::StrAppend(&out, "\nGood means: ");
  std::vector<std::string> limits;
  for (const JudgedMetric& judged : kJudgedMetrics) {
    limits.push_back(absl::StrCat(judged.suffix, " at most ", Percent(judged.good_max), " worse"));
  }
  absl::StrAppend(&out, absl::StrJoin(limits, ", "), ", beyond ", kSignificance,
                  " standard errors.\n\n## How it was measured\n\n");
  for (const auto& item : comparison["protocols"].items()) {
    absl::StrAppend(&out, "- ", item.key(), ": ", item.value().get<std::string>(), "\n");
  }
  for (const auto& item : comparison["measuredOn"].items()) {
    absl::StrAppend(
        &out, "- ", item.key(), ": ",
        item.value().is_string() ? item.value().get<std::string>() : item.value().dump(), "\n");
  }
  absl::StrAppend(&out, "- quant-engine ", QUANTD_VERSION, "\n");
  return out;
}

std::string RenderCsv(const nlohmann::json& comparison) {
  constexpr const char* kFields[] = {"name",
                                     "model",
                                     "method",
                                     "format",
                                     "baseline",
                                     "state",
                                     "verdict",
                                     "sizeBytes",
                                     "compressionRatio",
                                     "bitsPerWeight",
                                     "decodeTokensPerSecond",
                                     "prefillTokensPerSecond",
                                     "timeToFirstTokenMs",
                                     "quantizationSeconds",
                                     "peakHostBytes",
                                     "peakDeviceBytes"};
  std::set<std::string> metrics;
  for (const nlohmann::json& row : comparison["rows"]) {
    for (const auto& item : row["metrics"].items()) metrics.insert(item.key());
  }
  std::vector<std::string> cells(std::begin(kFields), std::end(kFields));
  cells.insert(cells.end(), {"latencyMsP50", "latencyMsP95"});
  for (const std::string& metric : metrics) {
    cells.insert(cells.end(), {CsvField(metric), CsvField(metric + " degradation"),
                               CsvField(metric + " degradation error")});
  }
  cells.insert(cells.end(), {"reason", "error"});
  std::string out = absl::StrCat(absl::StrJoin(cells, ","), "\r\n");
  for (const nlohmann::json& row : comparison["rows"]) {
    cells.clear();
    for (const char* field : kFields) cells.push_back(CsvField(row.value(field, nlohmann::json())));
    const nlohmann::json latency = row.value("latencyMs", nlohmann::json::object());
    for (const char* field : {"p50", "p95"}) {
      cells.push_back(CsvField(latency.value(field, nlohmann::json())));
    }
    for (const std::string& metric : metrics) {
      for (const char* group : {"metrics", "degradation", "degradationError"}) {
        cells.push_back(CsvField(row[group].value(metric, nlohmann::json())));
      }
    }
    cells.push_back(CsvField(row["reason"]));
    cells.push_back(CsvField(row.value("error", nlohmann::json())));
    absl::StrAppend(&out, absl::StrJoin(cells, ","), "\r\n");
  }
  return out;
}

}  // namespace quantd::engine
