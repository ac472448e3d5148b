// Rows of a result, laid out.
#include "client/render/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"

namespace quantd {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

const Value* Find(const Struct& object, const std::string& name) {
  const auto found = object.fields().find(name);
  return found == object.fields().end() ? nullptr : &found->second;
}

// NaN: missing, or no number.
double Number(const Struct& object, const std::string& name) {
  const Value* value = Find(object, name);
  return value != nullptr && value->has_number_value() ? value->number_value() : std::nan("");
}

std::string Text(const Struct& object, const std::string& name) {
  const Value* value = Find(object, name);
  return value != nullptr && value->has_string_value() ? value->string_value() : "";
}

bool Flag(const Struct& object, const std::string& name) {
  const Value* value = Find(object, name);
  return value != nullptr && value->has_bool_value() && value->bool_value();
}

Struct Object(const Struct& object, const std::string& name) {
  const Value* value = Find(object, name);
  return value != nullptr && value->has_struct_value() ? value->struct_value() : Struct();
}

std::string NumberText(double value, const char* suffix = "") {
  return std::isnan(value) ? "-" : absl::StrCat(ShortNumber(value), suffix);
}

std::string BytesText(double value) {
  return std::isnan(value) ? "-" : FormatBytes(static_cast<int64_t>(value));
}

std::string ChangeText(double value, double baseline) {
  if (std::isnan(value)) return "-";
  if (std::isnan(baseline) || baseline == 0) return ShortNumber(value);
  const double change = (value / baseline - 1) * 100;
  return absl::StrCat(ShortNumber(value), absl::StrFormat(" (%+.1f%%)", change));
}

std::vector<std::string> MetricColumns(const Struct& result, const std::vector<Struct>& rows) {
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  if (const Value* listed = Find(result, "metricColumns"); listed != nullptr) {
    for (const Value& name : listed->list_value().values()) add(name.string_value());
  }
  if (!names.empty()) return names;
  for (const Struct& row : rows) {
    std::vector<std::string> found;
    const Struct metrics = Object(row, "metrics");
    for (const auto& [name, value] : metrics.fields()) found.push_back(name);
    std::sort(found.begin(), found.end());
    for (const std::string& name : found) add(name);
  }
  return names;
}

// The median, where there is more than one number.
double Latency(const Struct& row) {
  const double latency = Number(row, "latencyMs");
  return std::isnan(latency) ? Number(Object(row, "latencyMs"), "p50") : latency;
}

// Decoding, with the change that both show when they are measured in turns: two separate runs
// differ by more than variants do.
std::string SpeedText(const Struct& row) {
  const double speed = Number(row, "decodeTokensPerSecond");
  const double ratio = Number(Object(Object(row, "ratio"), "decode"), "median");
  return ratio > 0 ? ChangeText(speed, speed / ratio) : NumberText(speed);
}

std::string PeakText(const Struct& row) {
  const double host = Number(row, "peakHostBytes");
  const double device = Number(row, "peakDeviceBytes");
  if (std::isnan(device) || device == 0) return BytesText(host);
  return absl::StrCat(BytesText(device), " gpu");
}

}  // namespace

std::vector<std::string> ComparisonLines(const Struct& result, size_t width, const Style& style) {
  std::vector<Struct> rows;
  if (const Value* listed = Find(result, "rows"); listed != nullptr) {
    for (const Value& row : listed->list_value().values()) rows.push_back(row.struct_value());
  }
  // A benchmark's result has rows too, of another kind.
  if (rows.empty() || Text(rows[0], "name").empty()) return {};
  const std::vector<std::string> metrics = MetricColumns(result, rows);
  std::vector<Table::Column> columns = {
      {"variant"}, {"size", Align::kRight}, {"ratio", Align::kRight, 2}};
  int later = 0;
  for (const std::string& name : metrics)
    columns.push_back({name, Align::kRight, later++ == 0 ? 0 : 1});
  columns.push_back({"tokens/s", Align::kRight, 3});
  columns.push_back({"latency", Align::kRight, 6});
  columns.push_back({"quantize", Align::kRight, 4});
  columns.push_back({"peak memory", Align::kRight, 5});
  columns.push_back({"verdict"});

  std::map<std::string, Struct> baselines;  // The metrics of each model's baseline.
  for (const Struct& row : rows) {
    if (Flag(row, "baseline")) baselines[Text(row, "model")] = Object(row, "metrics");
  }
  Table table(columns);
  std::vector<std::string> failures;
  for (const Struct& row : rows) {
    const Struct values = Object(row, "metrics");
    std::vector<std::string> cells = {Text(row, "name"), BytesText(Number(row, "sizeBytes")),
                                      NumberText(Number(row, "compressionRatio"), "x")};
    for (const std::string& name : metrics) {
      const double value = Number(values, name);
      cells.push_back(Flag(row, "baseline")
                          ? NumberText(value)
                          : ChangeText(value, Number(baselines[Text(row, "model")], name)));
    }
    cells.push_back(SpeedText(row));
    cells.push_back(NumberText(Latency(row), " ms"));
    cells.push_back(NumberText(Number(row, "quantizationSeconds"), " s"));
    cells.push_back(PeakText(row));
    cells.push_back(Text(row, "verdict"));
    if (const std::string error = Text(row, "error"); !error.empty()) {
      failures.push_back(
          style.Bad(absl::StrCat("  ", OneLine(Text(row, "name")), ": ", OneLine(error))));
    }
    table.AddRow(std::move(cells));
  }
  std::vector<std::string> dropped;
  std::vector<std::string> lines = table.Render(width, style, &dropped);
  if (!failures.empty()) {
    lines.push_back("failed:");
    lines.insert(lines.end(), failures.begin(), failures.end());
  }
  if (const std::string best = Text(result, "recommendation"); !best.empty()) {
    const std::string reason = OneLine(Text(result, "reason"));
    lines.push_back(absl::StrCat("recommended: ", style.Good(OneLine(best)),
                                 reason.empty() ? "" : ": ", reason));
  }
  if (!dropped.empty()) {
    lines.push_back(
        style.Dim(absl::StrCat("not shown for want of width: ", absl::StrJoin(dropped, ", "))));
  }
  return lines;
}

std::vector<std::string> VariantLines(const Struct& result, const Style& style) {
  Struct row, baseline;
  if (const Value* listed = Find(result, "rows"); listed != nullptr) {
    for (const Value& each : listed->list_value().values()) {
      (Flag(each.struct_value(), "baseline") ? baseline : row) = each.struct_value();
    }
  }
  if (Text(row, "name").empty()) return {};
  // Of two, the one that is good enough is always the recommended one.
  const std::string verdict = Text(row, "verdict") == "recommended" ? "good" : Text(row, "verdict");
  const std::string outcome = Text(row, "outcome");
  std::string head =
      absl::StrCat(OneLine(Text(row, "name")), ": ",
                   outcome == "successful" ? style.Good(verdict) : style.Warn(OneLine(verdict)));
  if (!outcome.empty()) absl::StrAppend(&head, ", ", OneLine(outcome));
  std::vector<std::string> why;
  if (const Value* reasons = Find(row, "outcomeReasons"); reasons != nullptr) {
    for (const Value& reason : reasons->list_value().values()) {
      why.push_back(OneLine(reason.string_value()));
    }
  }
  if (!why.empty()) absl::StrAppend(&head, ": ", absl::StrJoin(why, "; "));
  std::vector<std::string> lines = {head};
  const double size = Number(row, "sizeBytes"), whole = Number(baseline, "sizeBytes");
  std::string cost = "  ";
  if (const double seconds = Number(row, "quantizationSeconds"); !std::isnan(seconds)) {
    absl::StrAppend(&cost, ShortNumber(seconds), " s to quantize, ");
  }
  if (!std::isnan(whole)) absl::StrAppend(&cost, BytesText(whole), " -> ");
  absl::StrAppend(&cost, BytesText(size));
  if (!std::isnan(size) && whole > 0) {
    absl::StrAppendFormat(&cost, " (%.1f %% of the original)", 100 * size / whole);
  }
  lines.push_back(cost);
  const Struct values = Object(row, "metrics"), base = Object(baseline, "metrics");
  std::vector<std::string> metrics;
  for (const std::string& name : MetricColumns(result, {row})) {
    const double value = Number(values, name);
    metrics.push_back(absl::StrCat(OneLine(name), " ", ChangeText(value, Number(base, name))));
  }
  if (!std::isnan(Number(row, "decodeTokensPerSecond"))) {
    metrics.push_back(absl::StrCat("tokens/s ", SpeedText(row)));
  }
  if (!metrics.empty()) lines.push_back(absl::StrCat("  ", absl::StrJoin(metrics, ", ")));
  return lines;
}

}  // namespace quantd
