// How linears are shared out between devices that quantize at the same time: whole while there are
// enough of them, else cut into runs of rows by methods that treat every row alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/quantize/plan.h"

namespace quantd::engine {

struct LinearPart {
  size_t linear = 0;  // Its place in the list.
  size_t place = 0;   // Among the linear's parts.
  int64_t begin = 0;  // First row.
  int64_t rows = 0;
  int64_t weights = 0;
  bool whole = true;
};

// In the linears' and the rows' order. Rows are cut in multiples of 64.
std::vector<LinearPart> CutLinears(const std::vector<const PlannedLinear*>& linears, size_t devices,
                                   bool rows_apart);
// Which parts each device takes, by their places: with several devices the largest first, each to
// the one that has least so far.
std::vector<std::vector<size_t>> ShareOut(const std::vector<LinearPart>& parts, size_t devices);
// One linear's results, of runs of rows in their order, as one; the same record of two parts once.
absl::StatusOr<LinearResult> JoinParts(std::vector<LinearResult> parts);

}  // namespace quantd::engine
