// What a table's cells say, shared by the Markdown and the HTML report. A value that was not
// measured is a dash, never a zero.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::engine {

constexpr char kNotMeasured[] = "-";

// A field's text, or "".
std::string TextField(const nlohmann::json& row, const char* field);
// A field's number in `format` ("%.2f"), or a dash.
std::string NumberField(const nlohmann::json& row, const std::string& field, const char* format);
std::string BytesField(const nlohmann::json& row, const char* field);

struct ReportTable {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
};

// Variants with size and every metric column, each with its change and, where samples are paired,
// the interval of the change.
ReportTable QualityTable(const nlohmann::json& comparison);
ReportTable SpeedTable(const nlohmann::json& comparison);
// Every batch size and prompt length; empty where one only was measured.
ReportTable ThroughputTable(const nlohmann::json& comparison);
// Paired tests of every metric that has them.
ReportTable StatisticsTable(const nlohmann::json& comparison);
// Use, variant, reason.
ReportTable UsesTable(const nlohmann::json& recommendation);
// The modules that lost most, for every variant that records it.
ReportTable LayerTable(const nlohmann::json& comparison);
// Variants with outcome, verdict and why.
ReportTable VerdictTable(const nlohmann::json& comparison);

// What "good" means, as a sentence.
std::string ThresholdWords();

}  // namespace quantd::engine
