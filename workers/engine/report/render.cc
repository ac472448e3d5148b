// The paper in Markdown, and the rows as CSV.
#include "workers/engine/report/render.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "workers/engine/report/cells.h"

namespace quantd::engine {
namespace {

std::string Cell(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}});
}

void AppendLine(std::string* out, const std::vector<std::string>& cells) {
  absl::StrAppend(out, "| ", absl::StrJoin(cells, " | "), " |\n");
}

std::string Table(const ReportTable& table) {
  if (table.rows.empty()) return "";
  std::string out;
  std::vector<std::string> head;
  for (const std::string& cell : table.head) head.push_back(Cell(cell));
  AppendLine(&out, head);
  AppendLine(&out, std::vector<std::string>(head.size(), "---"));
  for (const auto& row : table.rows) {
    std::vector<std::string> cells;
    for (const std::string& cell : row) {
      cells.push_back(cell == "recommended" ? "**recommended**" : Cell(cell));
    }
    AppendLine(&out, cells);
  }
  return out + "\n";
}

std::string Failures(const nlohmann::json& comparison) {
  std::string out;
  for (const nlohmann::json& row : comparison["rows"]) {
    const std::string error = TextField(row, "error");
    if (!error.empty()) {
      absl::StrAppend(&out, "- **", TextField(row, "name"), "**: ", Cell(error), "\n");
    }
  }
  return out.empty() ? "" : absl::StrCat("## Failures\n\n", out, "\n");
}

std::string Recipes(const nlohmann::json& comparison) {
  std::string out;
  for (const nlohmann::json& row : comparison["rows"]) {
    const std::string recipe = RecipeLine(row);
    if (recipe.empty()) continue;
    const std::string digest = TextField(row, "outputDigest");
    absl::StrAppend(&out, "- **", TextField(row, "name"), "**: `", recipe, "`",
                    digest.empty() ? "" : absl::StrCat(", gives sha256 `", digest, "`"), "\n");
  }
  return out.empty() ? "" : absl::StrCat("## To make it again\n\n", out, "\n");
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
  const ReportWords words = DescribeComparison(comparison);
  std::string out = absl::StrCat("# ", title.empty() ? "Quantization report" : title, "\n\n");
  for (const nlohmann::json& recommendation : comparison["recommendations"]) {
    absl::StrAppend(&out, "**Ship ", TextField(recommendation, "variant"), "**");
    if (comparison["recommendations"].size() > 1) {
      absl::StrAppend(&out, " (", TextField(recommendation, "model"), ")");
    }
    absl::StrAppend(&out, ": ", TextField(recommendation, "reason"), ".\n\n");
  }
  absl::StrAppend(&out, "## Introduction\n\n", words.introduction, "\n\n## Methods and set-up\n\n",
                  words.methods, "\n\n");
  for (const std::string& line : SetupLines(comparison)) absl::StrAppend(&out, "- ", line, "\n");
  absl::StrAppend(
      &out, "\n## Results\n\n", words.results, "\n\n### Accuracy against compression\n\n",
      Table(QualityTable(comparison)), "Changes are relative to the baseline.\n\n",
      Table(StatisticsTable(comparison)), "### Latency, throughput and memory\n\n",
      Table(SpeedTable(comparison)), Table(ThroughputTable(comparison)),
      "\"x baseline\" is the median, with the spread, of runs in turns with the original. Peak "
      "memory is that of quantizing; where nothing was quantized, of evaluating.\n\n");
  if (const std::string layers = Table(LayerTable(comparison)); !layers.empty()) {
    absl::StrAppend(&out, "### Which layers hurt\n\n", layers);
  }
  absl::StrAppend(&out, "## Discussion\n\n");
  for (const nlohmann::json& recommendation : comparison["recommendations"]) {
    if (comparison["recommendations"].size() > 1) {
      absl::StrAppend(&out, "### ", TextField(recommendation, "model"), "\n\n");
    }
    absl::StrAppend(&out, Table(UsesTable(recommendation)));
  }
  absl::StrAppend(&out, Table(VerdictTable(comparison)), words.limitations, "\n\n",
                  Failures(comparison), Recipes(comparison));
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
                                     "outcome",
                                     "sizeBytes",
                                     "compressionRatio",
                                     "bitsPerWeight",
                                     "decodeTokensPerSecond",
                                     "prefillTokensPerSecond",
                                     "timeToFirstTokenMs",
                                     "loadSeconds",
                                     "weightsInMemoryBytes",
                                     "joulesPerToken",
                                     "quantizationSeconds",
                                     "peakHostBytes",
                                     "peakDeviceBytes"};
  std::set<std::string> metrics;
  for (const nlohmann::json& row : comparison["rows"]) {
    for (const auto& item : row["metrics"].items()) metrics.insert(item.key());
  }
  std::vector<std::string> cells(std::begin(kFields), std::end(kFields));
  cells.insert(cells.end(), {"latencyMsP50", "latencyMsP95", "decodeRatio"});
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
    cells.push_back(CsvField(row.value("ratio", nlohmann::json::object())
                                 .value("decode", nlohmann::json::object())
                                 .value("median", nlohmann::json())));
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
