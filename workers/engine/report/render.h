// A comparison as files for people (Markdown) and spreadsheets (CSV).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// `comparison` is CompareFacts' JSON.
std::string RenderMarkdown(const nlohmann::json& comparison, absl::string_view title);
// RFC 4180, one line a row, all metrics.
std::string RenderCsv(const nlohmann::json& comparison);

}  // namespace quantd::engine
