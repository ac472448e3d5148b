// The page: words, tables that scroll on a phone, and plots as inline SVG. No script, no font, no
// picture from elsewhere.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "workers/engine/report/cells.h"
#include "workers/engine/report/plot.h"
#include "workers/engine/report/render.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr char kStyle[] = R"(
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--line:#ccc;--soft:#f4f4f4}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--line:#444;--soft:#222}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
margin:0 auto;padding:1rem}
h1{line-height:1.2}h2{margin-top:2rem;border-bottom:1px solid var(--line)}
.s{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;margin:.5rem 0}
th,td{border:1px solid var(--line);padding:.3rem .5rem;text-align:left;vertical-align:top}
th{background:var(--soft);position:sticky;top:0}
figure{margin:1rem 0}svg{width:100%;height:auto;font-family:inherit}
svg text{fill:var(--ink);font-size:12px}svg .t{font-size:15px;font-weight:600}
svg .m{text-anchor:middle}svg .e,svg .le{text-anchor:end}svg .l,svg .le{font-size:11px}
svg .g{stroke:var(--line);stroke-width:.5}svg .p{fill:none;stroke:#d55e00;stroke-dasharray:4 3}
svg circle[fill="#000000"],svg rect[fill="#000000"]{fill:var(--ink)}
.ship{background:var(--soft);padding:.7rem 1rem;border-left:5px solid #009e73}
code{font-size:.8rem;overflow-wrap:anywhere}
@media print{body{max-width:none;padding:0;font-size:11pt}.s{overflow:visible}
table{font-size:8pt}figure,tr{break-inside:avoid}})";

std::string Paragraph(const std::string& text) {
  return text.empty() ? "" : absl::StrCat("<p>", EscapeXml(text), "</p>\n");
}

std::string Table(const ReportTable& table) {
  if (table.rows.empty()) return "";
  std::string out = "<div class=\"s\"><table><thead><tr>";
  for (const std::string& cell : table.head)
    absl::StrAppend(&out, "<th>", EscapeXml(cell), "</th>");
  absl::StrAppend(&out, "</tr></thead><tbody>\n");
  for (const auto& row : table.rows) {
    absl::StrAppend(&out, "<tr>");
    for (const std::string& cell : row) absl::StrAppend(&out, "<td>", EscapeXml(cell), "</td>");
    absl::StrAppend(&out, "</tr>\n");
  }
  return absl::StrCat(out, "</tbody></table></div>\n");
}

double Number(const json& object, const std::string& field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return object.is_object() && found != object.end() && found->is_number() ? found->get<double>()
                                                                           : std::nan("");
}

bool LowerIsBetter(const json& comparison, const std::string& metric) {
  return comparison.value("lowerIsBetter", json::object()).value(metric, false);
}

// The rows' values of `metric` against those of `x_of`; rows without either are left out.
ScatterPlot MetricPlot(const json& comparison, const std::string& metric, const std::string& title,
                       const std::string& x_label, double (*x_of)(const json& row)) {
  ScatterPlot plot{.title = title, .x_label = x_label, .y_label = metric, .points = {}};
  plot.lower_y_is_better = LowerIsBetter(comparison, metric);
  double low = INFINITY, high = 0;
  for (const json& row : comparison["rows"]) {
    PlotPoint point{
        .name = TextField(row, "name"), .x = x_of(row), .y = Number(row["metrics"], metric)};
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
    point.highlighted = row.value("baseline", false);
    const json interval = row.value("degradationInterval", json::object()).value(metric, json());
    const double change = row["degradation"].value(metric, 0.0);
    if (interval.is_array() && interval[0].is_number() && interval[1].is_number()) {
      // From degradations back to values.
      const double sign = plot.lower_y_is_better ? 1 : -1;
      const double base = point.y / (1 + sign * change);
      const double a = base * (1 + sign * interval[0].get<double>());
      const double b = base * (1 + sign * interval[1].get<double>());
      point.y_interval = {std::min(a, b), std::max(a, b)};
    }
    low = std::min(low, point.y);
    high = std::max(high, point.y);
    plot.points.push_back(std::move(point));
  }
  // A broken variant would press all others flat.
  plot.y_log = low > 0 && high > 5 * low;
  return plot;
}

double Megabytes(const json& row) { return Number(row, "sizeBytes") / 1e6; }
double Latency(const json& row) { return Number(row.value("latencyMs", json::object()), "p50"); }
double Seconds(const json& row) { return Number(row, "quantizationSeconds"); }

struct Against {
  const char* words;
  const char* label;
  double (*of)(const json& row);
};
constexpr Against kAgainst[] = {{"size", "size in MB", Megabytes},
                                {"latency", "ms a token", Latency}};

std::string QualityPlots(const json& comparison) {
  std::string out;
  for (const json& column : comparison["metricColumns"]) {
    const std::string metric = column;
    if (metric.substr(metric.rfind('/') + 1) == "pass") continue;
    for (const Against& x : kAgainst) {
      ScatterPlot plot =
          MetricPlot(comparison, metric, absl::StrCat(metric, " against ", x.words), x.label, x.of);
      if (plot.points.size() < 2) continue;
      absl::StrAppend(&out, RenderScatter(plot));
    }
  }
  return out;
}

std::string TimePlot(const json& comparison) {
  if (comparison["metricColumns"].empty()) return "";
  ScatterPlot plot =
      MetricPlot(comparison, comparison["metricColumns"][0], "Quantization time against quality",
                 "seconds to quantize", Seconds);
  plot.x_log = true;
  return plot.points.size() < 2 ? "" : RenderScatter(plot);
}

std::string LatencyBars(const json& comparison) {
  std::vector<PlotBar> p50, speed;
  for (const json& row : comparison["rows"]) {
    const bool baseline = row.value("baseline", false);
    if (std::isfinite(Latency(row)))
      p50.push_back({TextField(row, "name"), Latency(row), baseline});
    if (const double rate = Number(row, "decodeTokensPerSecond"); std::isfinite(rate)) {
      speed.push_back({TextField(row, "name"), rate, baseline});
    }
  }
  return absl::StrCat(RenderBars("Latency of a token (median)", "ms", p50),
                      RenderBars("Writing speed", "tokens/s", speed));
}

std::string LayerLines(const json& comparison) {
  std::vector<PlotLine> lines;
  for (const json& row : comparison["rows"]) {
    PlotLine line{.name = TextField(row, "name"), .values = {}};
    for (const json& error : row.value("layerErrors", json::array())) {
      line.values.push_back(error["loss"].get<double>());
    }
    if (!line.values.empty()) lines.push_back(std::move(line));
  }
  return RenderLines("Error by module, first to last layer", "module", "the quantizer's own error",
                     lines);
}

std::string Failures(const json& comparison) {
  std::string out;
  for (const json& row : comparison["rows"]) {
    if (TextField(row, "error").empty()) continue;
    absl::StrAppend(&out, "<li><b>", EscapeXml(TextField(row, "name")),
                    "</b>: ", EscapeXml(TextField(row, "error")), "</li>\n");
  }
  return out.empty() ? "" : absl::StrCat("<h2>Failures</h2>\n<ul>\n", out, "</ul>\n");
}

std::string Recipes(const json& comparison) {
  std::string out;
  for (const json& row : comparison["rows"]) {
    const std::string recipe = RecipeLine(row);
    if (recipe.empty()) continue;
    const std::string digest = TextField(row, "outputDigest");
    absl::StrAppend(
        &out, "<dt>", EscapeXml(TextField(row, "name")), "</dt><dd><code>", EscapeXml(recipe),
        "</code>", digest.empty() ? "" : absl::StrCat("<br>gives sha256 <code>", digest, "</code>"),
        "</dd>\n");
  }
  return out.empty() ? "" : absl::StrCat("<h2>To make it again</h2>\n<dl>\n", out, "</dl>\n");
}

}  // namespace

std::string RenderHtml(const json& comparison, absl::string_view title) {
  const std::string heading(title.empty() ? "Quantization report" : title);
  const ReportWords words = DescribeComparison(comparison);
  std::string out = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
      EscapeXml(heading), "</title><style>", kStyle, "</style></head><body>\n<h1>",
      EscapeXml(heading), "</h1>\n<p class=\"ship\">", EscapeXml(words.discussion), "</p>\n",
      "<h2>Introduction</h2>\n", Paragraph(words.introduction), "<h2>Methods and set-up</h2>\n",
      Paragraph(words.methods), "<ul>\n");
  for (const std::string& line : SetupLines(comparison)) {
    absl::StrAppend(&out, "<li>", EscapeXml(line), "</li>\n");
  }
  absl::StrAppend(&out, "</ul>\n<h2>Results</h2>\n", Paragraph(words.results),
                  "<h3>Accuracy against compression</h3>\n", Table(QualityTable(comparison)),
                  QualityPlots(comparison), Table(StatisticsTable(comparison)),
                  "<h3>Latency, throughput and memory</h3>\n", Table(SpeedTable(comparison)),
                  Table(ThroughputTable(comparison)), LatencyBars(comparison),
                  TimePlot(comparison));
  const std::string layers = absl::StrCat(LayerLines(comparison), Table(LayerTable(comparison)));
  if (!layers.empty()) absl::StrAppend(&out, "<h3>Which layers hurt</h3>\n", layers);
  absl::StrAppend(&out, "<h2>Discussion</h2>\n");
  for (const json& recommendation : comparison["recommendations"]) {
    if (comparison["recommendations"].size() > 1) {
      absl::StrAppend(&out, "<h3>", EscapeXml(TextField(recommendation, "model")), "</h3>\n");
    }
    absl::StrAppend(&out, Table(UsesTable(recommendation)));
  }
  absl::StrAppend(&out, Table(VerdictTable(comparison)), Paragraph(words.limitations),
                  Failures(comparison), Recipes(comparison), "</body></html>\n");
  return out;
}

}  // namespace quantd::engine
