// Columns, widths and small formats.
#include "client/render/table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/utf8.h"

namespace quantd {
namespace {

constexpr size_t kGapBlanks = 2;

std::string Pad(const std::string& text, size_t width, Align align) {
  const std::string blanks(width - std::min(width, DisplayWidth(text)), ' ');
  return align == Align::kLeft ? text + blanks : blanks + text;
}

}  // namespace

std::string Style::Paint(const char* code, absl::string_view text) const {
  return color ? absl::StrCat("\x1b[", code, "m", text, "\x1b[0m") : std::string(text);
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = OneLine(cell);
  rows_.push_back(std::move(cells));
}

std::vector<std::string> Table::Render(size_t width, const Style& style,
                                       std::vector<std::string>* dropped) const {
  std::vector<size_t> widths;
  std::vector<bool> shown(columns_.size(), true);
  for (size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(DisplayWidth(columns_[c].title));
    for (const auto& row : rows_) widths[c] = std::max(widths[c], DisplayWidth(row[c]));
  }
  const auto total = [&] {
    size_t sum = 0;
    for (size_t c = 0; c < columns_.size(); ++c) sum += shown[c] ? widths[c] + kGapBlanks : 0;
    return sum == 0 ? 0 : sum - kGapBlanks;
  };
  while (width > 0 && total() > width) {
    size_t victim = columns_.size();
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (!shown[c] || columns_[c].drop_order == 0) continue;
      if (victim == columns_.size() || columns_[c].drop_order > columns_[victim].drop_order)
        victim = c;
    }
    if (victim == columns_.size()) break;
    shown[victim] = false;
    if (dropped != nullptr) dropped->push_back(columns_[victim].title);
  }
  std::vector<std::string> lines;
  for (size_t r = 0; r <= rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (!shown[c]) continue;
      if (!line.empty()) line.append(kGapBlanks, ' ');
      line += Pad(r == 0 ? columns_[c].title : rows_[r - 1][c], widths[c], columns_[c].align);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    if (width > 0) line = Clip(line, width);
    lines.push_back(r == 0 ? style.Bold(line) : line);
  }
  return lines;
}

size_t DisplayWidth(absl::string_view text) {
  size_t count = 0;
  for (size_t position = 0; position < text.size(); ++count) DecodeUtf8(text, &position);
  return count;
}

std::string Clip(absl::string_view text, size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width == 0) return "";
  size_t position = 0;
  for (size_t count = 0; count + 1 < width; ++count) DecodeUtf8(text, &position);
  return absl::StrCat(text.substr(0, position), "~");
}

std::string OneLine(absl::string_view text) {
  std::string clean;
  for (size_t position = 0; position < text.size();) {
    const int32_t code = DecodeUtf8(text, &position);
    const bool control = code >= 0 && (code < 0x20 || (code >= 0x7f && code < 0xa0));
    AppendUtf8(code < 0 ? 0xfffd : control ? ' ' : static_cast<uint32_t>(code), &clean);
  }
  return clean;
}

std::string ShortDuration(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrFormat("%dm%02ds", seconds / 60, seconds % 60);
  return absl::StrFormat("%dh%02dm", seconds / 3600, seconds / 60 % 60);
}

std::string ShortNumber(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const double size = std::abs(value);
  if (size >= 1e7) return absl::StrFormat("%.3g", value);
  if (size >= 1000 || value == std::floor(value)) return absl::StrFormat("%.0f", value);
  if (size >= 100) return absl::StrFormat("%.1f", value);
  if (size >= 10) return absl::StrFormat("%.2f", value);
  if (size >= 0.01) return absl::StrFormat("%.3f", value);
  return absl::StrFormat("%.3g", value);
}

std::string ShortName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == "tenants") return absl::StrCat(parts[2], "/", parts[3]);
  return std::string(name);
}

}  // namespace quantd
