// Minimum and maximum of a group in kLanes partial ones, which the compiler keeps in vector
// registers.
#include <algorithm>

#include "kernels/find_params.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

struct Range {
  float low;
  float high;
};

QD_MULTIVERSION Range RangeOf(const float* values, int64_t count) {
  float low[kLanes] = {};
  float high[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  }
  Range range = {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
  for (; i < count; ++i) {
    range.low = std::min(range.low, values[i]);
    range.high = std::max(range.high, values[i]);
  }
  return range;
}

}  // namespace

void FindParamsCpu(const FindParams& args) {
  ParallelRows(args.rows, args.rows * args.columns / 4, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      int64_t group = 0;
      for (int64_t begin = 0; begin < args.columns; begin += args.group_columns, ++group) {
        const int64_t count = std::min(args.group_columns, args.columns - begin);
        const Range range = RangeOf(args.weight + row * args.weight_stride + begin, count);
        const GroupParams params = ParamsOfRange(range.low, range.high, args.bits, args.symmetric);
        args.scales[row * args.params_stride + group] = params.scale;
        args.zeros[row * args.params_stride + group] = params.zero;
      }
    }
  });
}

}  // namespace quantd::kernels
