// A comparison as files: Markdown that reads as the study's paper does, CSV for spreadsheets, and
// one HTML page with plots that needs nothing beside itself.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// `comparison` is CompareFacts' JSON.
std::string RenderMarkdown(const nlohmann::json& comparison, absl::string_view title);
// RFC 4180, one line a row, all metrics.
std::string RenderCsv(const nlohmann::json& comparison);
std::string RenderHtml(const nlohmann::json& comparison, absl::string_view title);

// The paper's parts as sentences, shared by both.
struct ReportWords {
  std::string introduction, methods, results, discussion, limitations;
};
ReportWords DescribeComparison(const nlohmann::json& comparison);
// Protocols, machine and versions, one a line.
std::vector<std::string> SetupLines(const nlohmann::json& comparison);
// The spec that makes a row's variant again, in one line of JSON; empty for a baseline.
std::string RecipeLine(const nlohmann::json& row);

}  // namespace quantd::engine
