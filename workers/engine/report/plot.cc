// One frame with two axes, shared by the kinds of plots. Colours are of one palette that keeps its
// contrast in grey (Okabe and Ito 2008).
#include "workers/engine/report/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace quantd::engine {
namespace {

constexpr double kWidth = 720, kHeight = 400;
constexpr double kLeft = 84, kRight = 24, kTop = 40, kBottom = 58;
constexpr double kBarHeight = 24;
constexpr int kTicks = 5;
constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                   "#e69f00", "#56b4e9", "#7f7f7f", "#000000"};

std::string Number(double value) {
  const double size = std::abs(value);
  if (size >= 1000) return absl::StrFormat("%.0f", value);
  return absl::StrFormat(size >= 10 ? "%.1f" : size >= 0.01 || size == 0 ? "%.3g" : "%.1e", value);
}

// From values to places on the page.
struct Axis {
  double low = 0, high = 1;
  bool log = false;
  double from = 0, to = 1;

  double At(double value) const {
    const double v = log ? std::log10(std::max(value, 1e-300)) : value;
    const double a = log ? std::log10(low) : low, b = log ? std::log10(high) : high;
    return from + (v - a) / (b - a) * (to - from);
  }
  double Tick(int i) const {
    const double share = static_cast<double>(i) / (kTicks - 1);
    return log ? low * std::pow(high / low, share) : low + share * (high - low);
  }
};

Axis MakeAxis(std::vector<double> values, bool log, double from, double to) {
  Axis axis{.log = log, .from = from, .to = to};
  if (log) {
    values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return v <= 0; }),
                 values.end());
  }
  if (values.empty()) values = {1, 2};
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  axis.low = *low;
  axis.high = *high;
  if (log) {
    const double room = std::pow(std::max(axis.high / axis.low, 1.1), 0.06);
    axis.low /= room;
    axis.high *= room;
  } else {
    const double room = std::max(0.06 * (axis.high - axis.low), 0.01 * std::abs(axis.high) + 1e-9);
    axis.low -= room;
    axis.high += room;
  }
  return axis;
}

std::string Open(const std::string& title, double height) {
  return absl::StrFormat(
      "<figure><svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">"
      "<text x=\"%g\" y=\"22\" class=\"t\">%s</text>",
      kWidth, height, EscapeXml(title), kLeft, EscapeXml(title));
}

std::string Frame(const Axis& x, const Axis& y, const std::string& x_label,
                  const std::string& y_label) {
  std::string out;
  for (int i = 0; i < kTicks; ++i) {
    const double ty = y.At(y.Tick(i)), tx = x.At(x.Tick(i));
    absl::StrAppendFormat(&out, "<line x1=\"%g\" y1=\"%.1f\" x2=\"%g\" y2=\"%.1f\" class=\"g\"/>",
                          kLeft, ty, kWidth - kRight, ty);
    absl::StrAppendFormat(&out, "<text x=\"%g\" y=\"%.1f\" class=\"e\">%s</text>", kLeft - 8,
                          ty + 4, Number(y.Tick(i)));
    absl::StrAppendFormat(&out, "<text x=\"%.1f\" y=\"%g\" class=\"m\">%s</text>", tx,
                          kHeight - kBottom + 18, Number(x.Tick(i)));
  }
  absl::StrAppendFormat(&out, "<text x=\"%g\" y=\"%g\" class=\"m\">%s</text>",
                        (kLeft + kWidth - kRight) / 2, kHeight - 12, EscapeXml(x_label));
  absl::StrAppendFormat(&out,
                        "<text transform=\"translate(16 %g) rotate(-90)\" class=\"m\">%s</text>",
                        (kTop + kHeight - kBottom) / 2, EscapeXml(y_label));
  return out;
}

std::string Mark(const PlotPoint& point, const Axis& x, const Axis& y, bool on_front) {
  const double px = x.At(point.x), py = y.At(point.y);
  const char* color = point.highlighted ? kColors[7] : on_front ? kColors[1] : kColors[0];
  std::string out;
  if (point.y_interval) {
    absl::StrAppendFormat(&out,
                          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>",
                          px, y.At(std::max(point.y_interval->first, y.log ? y.low : -1e300)), px,
                          y.At(point.y_interval->second), color);
  }
  absl::StrAppendFormat(
      &out,
      "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"><title>%s: %s, %s</title></circle>", px,
      py, color, EscapeXml(point.name), Number(point.x), Number(point.y));
  // A label that would run out of the frame stands on the other side.
  const bool left = px > kWidth - kRight - 130;
  absl::StrAppendFormat(&out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">%s</text>",
                        px + (left ? -8 : 8), py - 7, left ? "le" : "l", EscapeXml(point.name));
  return out;
}

}  // namespace

std::string EscapeXml(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::vector<size_t> ParetoFront(const ScatterPlot& plot) {
  const auto better = [&](const PlotPoint& a, const PlotPoint& b) {
    const double dx = plot.lower_x_is_better ? b.x - a.x : a.x - b.x;
    const double dy = plot.lower_y_is_better ? b.y - a.y : a.y - b.y;
    return dx >= 0 && dy >= 0 && (dx > 0 || dy > 0);
  };
  std::vector<size_t> front;
  for (size_t i = 0; i < plot.points.size(); ++i) {
    const bool beaten = std::any_of(plot.points.begin(), plot.points.end(),
                                    [&](const PlotPoint& p) { return better(p, plot.points[i]); });
    if (!beaten) front.push_back(i);
  }
  std::sort(front.begin(), front.end(),
            [&](size_t a, size_t b) { return plot.points[a].x < plot.points[b].x; });
  return front;
}

std::string RenderScatter(const ScatterPlot& plot) {
  if (plot.points.empty()) return "";
  std::vector<double> xs, ys;
  for (const PlotPoint& point : plot.points) {
    xs.push_back(point.x);
    ys.push_back(point.y);
    if (!point.y_interval) continue;
    ys.push_back(point.y_interval->first);
    ys.push_back(point.y_interval->second);
  }
  const Axis x = MakeAxis(xs, plot.x_log, kLeft, kWidth - kRight);
  const Axis y = MakeAxis(ys, plot.y_log, kHeight - kBottom, kTop);
  std::string out =
      absl::StrCat(Open(plot.title, kHeight), Frame(x, y, plot.x_label, plot.y_label));
  const std::vector<size_t> front = ParetoFront(plot);
  std::string line;
  for (const size_t i : front) {
    absl::StrAppendFormat(&line, "%.1f,%.1f ", x.At(plot.points[i].x), y.At(plot.points[i].y));
  }
  absl::StrAppend(&out, "<polyline points=\"", line, "\" class=\"p\"/>");
  for (size_t i = 0; i < plot.points.size(); ++i) {
    const bool on_front = std::find(front.begin(), front.end(), i) != front.end();
    absl::StrAppend(&out, Mark(plot.points[i], x, y, on_front));
  }
  return absl::StrCat(out, "</svg></figure>\n");
}

std::string RenderBars(const std::string& title, const std::string& unit,
                       const std::vector<PlotBar>& bars) {
  if (bars.empty()) return "";
  constexpr double kNames = 190, kNumbers = 90;
  double largest = 0;
  for (const PlotBar& bar : bars) largest = std::max(largest, bar.value);
  std::string out = Open(title, kTop + kBarHeight * static_cast<double>(bars.size()) + 12);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double top = kTop + kBarHeight * static_cast<double>(i);
    const double width =
        largest > 0 ? bars[i].value / largest * (kWidth - kNames - kNumbers - kRight) : 0;
    absl::StrAppendFormat(&out, "<text x=\"%g\" y=\"%g\" class=\"e\">%s</text>", kNames - 8,
                          top + 15, EscapeXml(bars[i].name));
    absl::StrAppendFormat(&out,
                          "<rect x=\"%g\" y=\"%g\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>",
                          kNames, top + 2, width, kColors[bars[i].highlighted ? 7 : 0]);
    absl::StrAppendFormat(&out, "<text x=\"%.1f\" y=\"%g\" class=\"l\">%s %s</text>",
                          kNames + width + 6, top + 15, Number(bars[i].value), EscapeXml(unit));
  }
  return absl::StrCat(out, "</svg></figure>\n");
}

std::string RenderLines(const std::string& title, const std::string& x_label,
                        const std::string& y_label, const std::vector<PlotLine>& lines) {
  std::vector<double> ys;
  size_t longest = 0;
  for (const PlotLine& line : lines) {
    ys.insert(ys.end(), line.values.begin(), line.values.end());
    longest = std::max(longest, line.values.size());
  }
  if (longest < 2) return "";
  const Axis x = MakeAxis({0, static_cast<double>(longest - 1)}, false, kLeft, kWidth - kRight);
  const Axis y = MakeAxis(ys, true, kHeight - kBottom, kTop);
  std::string out =
      absl::StrCat(Open(title, kHeight + 18.0 * static_cast<double>((lines.size() + 3) / 4)),
                   Frame(x, y, x_label, y_label));
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* color = kColors[i % std::size(kColors)];
    std::string points;
    for (size_t k = 0; k < lines[i].values.size(); ++k) {
      const double value = std::max(lines[i].values[k], y.low);
      absl::StrAppendFormat(&points, "%.1f,%.1f ", x.At(static_cast<double>(k)), y.At(value));
    }
    absl::StrAppendFormat(
        &out,
        "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\">"
        "<title>%s</title></polyline>",
        points, color, EscapeXml(lines[i].name));
    const double lx = kLeft + 155 * static_cast<double>(i % 4);
    const double ly = kHeight + 8 + 18 * static_cast<double>(i / 4);
    absl::StrAppendFormat(
        &out,
        "<rect x=\"%g\" y=\"%g\" width=\"12\" height=\"4\" fill=\"%s\"/><text x=\"%g\" y=\"%g\" "
        "class=\"l\">%s</text>",
        lx, ly - 5, color, lx + 17, ly, EscapeXml(lines[i].name));
  }
  return absl::StrCat(out, "</svg></figure>\n");
}

}  // namespace quantd::engine
