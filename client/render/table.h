// Text tables and small formats that every screen shares. Widths are counted in code points, which
// is right for everything this program prints.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd {

// ANSI colours, or none of them.
struct Style {
  bool color = false;
  std::string Paint(const char* code, absl::string_view text) const;
  std::string Bold(absl::string_view text) const { return Paint("1", text); }
  std::string Dim(absl::string_view text) const { return Paint("2", text); }
  std::string Good(absl::string_view text) const { return Paint("32", text); }
  std::string Bad(absl::string_view text) const { return Paint("31", text); }
  std::string Warn(absl::string_view text) const { return Paint("33", text); }
};

enum class Align { kLeft, kRight };

class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
    // When the table is too wide, columns go in the order of this number, highest first; 0 stays.
    int drop_order = 0;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Missing cells are empty. Control characters and line breaks become blanks.
  void AddRow(std::vector<std::string> cells);
  size_t rows() const { return rows_.size(); }
  // Lines without line breaks, at most `width` wide (0: no limit), header first. Titles of columns
  // that had to go are added to `dropped` (may be null).
  std::vector<std::string> Render(size_t width, const Style& style,
                                  std::vector<std::string>* dropped = nullptr) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Code points; invalid bytes count one each.
size_t DisplayWidth(absl::string_view text);
// At most `width` wide; what is cut is shown as "~".
std::string Clip(absl::string_view text, size_t width);
// Printable on one line: control characters become blanks, invalid UTF-8 U+FFFD. What other
// machines send is never printed without it: it could hold terminal sequences.
std::string OneLine(absl::string_view text);
// "42s", "3m05s", "2h07m".
std::string ShortDuration(absl::Duration duration);
// Three or four significant digits: "0.314", "12.35", "1234".
std::string ShortNumber(double value);
// The part of a name that people type: "jobs/x" of "tenants/default/jobs/x".
std::string ShortName(absl::string_view name);

}  // namespace quantd
