// Rows side by side in the lanes of find_lanes.h, a group's columns transposed at a time.
#include <algorithm>
#include <vector>

#include "kernels/find_lanes.h"
#include "kernels/find_params.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

// Lanes beyond the last row hold zeros, and what is found for them is dropped.
void FindTile(const FindParams& args, int64_t row, int lanes, float* tile) {
  int64_t group = 0;
  for (int64_t begin = 0; begin < args.columns; begin += args.group_columns, ++group) {
    const int64_t count = std::min(args.group_columns, args.columns - begin);
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* weight = args.weight + (row + lane) * args.weight_stride + begin;
      for (int64_t k = 0; k < count; ++k) tile[k * kLanes + lane] = lane < lanes ? weight[k] : 0;
    }
    GroupParams params[kLanes];
    FindLaneParams(
        tile, count,
        {.bits = args.bits,
         .symmetric = args.symmetric,
         .search_steps = args.search_steps,
         .column_weights = args.column_weights == nullptr ? nullptr : args.column_weights + begin},
        params);
    for (int lane = 0; lane < lanes; ++lane) {
      args.scales[(row + lane) * args.params_stride + group] = params[lane].scale;
      args.zeros[(row + lane) * args.params_stride + group] = params[lane].zero;
    }
  }
}

}  // namespace

void FindParamsCpu(const FindParams& args) {
  const int64_t operations = args.rows * args.columns * (1 + args.search_steps);
  ParallelRows(args.rows, operations, [&](int64_t row_begin, int64_t row_end) {
    std::vector<float> tile(std::min(args.group_columns, args.columns) * kLanes);
    for (int64_t row = row_begin; row < row_end; row += kLanes) {
      FindTile(args, row, static_cast<int>(std::min<int64_t>(kLanes, row_end - row)), tile.data());
    }
  });
}

}  // namespace quantd::kernels
