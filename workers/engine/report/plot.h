// Plots as inline SVG: points with error bars and a Pareto front, bars, and lines. Self-contained,
// scaled by the page, readable in print; every mark has its numbers as a tooltip.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// & < > " ' as entities.
std::string EscapeXml(absl::string_view text);

struct PlotPoint {
  std::string name;
  double x = 0, y = 0;
  std::optional<std::pair<double, double>> y_interval;
  bool highlighted = false;  // The baseline.
};

struct ScatterPlot {
  std::string title, x_label, y_label;
  std::vector<PlotPoint> points;
  bool x_log = false, y_log = false;
  bool lower_y_is_better = false;
  bool lower_x_is_better = true;
};
// With the front of the points that no other one beats in both directions. Empty without points.
std::string RenderScatter(const ScatterPlot& plot);

struct PlotBar {
  std::string name;
  double value = 0;
  bool highlighted = false;
};
// Empty without bars.
std::string RenderBars(const std::string& title, const std::string& unit,
                       const std::vector<PlotBar>& bars);

struct PlotLine {
  std::string name;
  std::vector<double> values;
};
// One value a step on the x axis; y is logarithmic. Empty without lines.
std::string RenderLines(const std::string& title, const std::string& x_label,
                        const std::string& y_label, const std::vector<PlotLine>& lines);

// The indices of the points of the front, by x.
std::vector<size_t> ParetoFront(const ScatterPlot& plot);

}  // namespace quantd::engine
