// kLanes rows at a time, transposed, so that every step is one vector operation: a tile of 128
// columns is 8 KiB and stays in the first-level cache while U streams by once per tile.
#include <algorithm>
#include <vector>

#include "kernels/find_lanes.h"
#include "kernels/gptq_block.h"
#include "kernels/half.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

struct LaneParams {
  float scale[kLanes];
  float zero[kLanes];
};

// Errors of column i and their effect on the columns after it. tile[column][lane].
QD_MULTIVERSION void PushColumn(const float* inverse_row, int64_t i, int64_t columns,
                                float code_max, const LaneParams& params, float* tile,
                                float* codes) {
  float error[kLanes];
  float* current = tile + i * kLanes;
  const float diagonal = inverse_row[i];
  for (int lane = 0; lane < kLanes; ++lane) {
    const float low = -params.zero[lane];
    const float high = code_max - params.zero[lane];
    float steps = current[lane] / params.scale[lane];
    steps = steps < low ? low : steps;
    steps = steps > high ? high : steps;
    steps = RoundHalfEven(steps);
    codes[lane] = steps + params.zero[lane];
    error[lane] = (current[lane] - params.scale[lane] * steps) / diagonal;
  }
  for (int64_t j = i + 1; j < columns; ++j) {
    const float factor = inverse_row[j];
    float* target = tile + j * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) target[lane] -= error[lane] * factor;
  }
  // The column itself is done: its place keeps the errors.
  for (int lane = 0; lane < kLanes; ++lane) current[lane] = error[lane];
}

void FindTileParams(const GptqBlock& args, const float* tile, int64_t column, int64_t row,
                    int lanes) {
  GroupParams params[kLanes];
  FindLaneParams(
      tile + column * kLanes, std::min(args.find_columns, args.columns - column),
      {.bits = args.bits,
       .symmetric = args.symmetric,
       .search_steps = args.search_steps,
       .column_weights = args.column_weights == nullptr ? nullptr : args.column_weights + column},
      params);
  const int64_t first = row * args.params_stride + args.group_of_column[column];
  for (int lane = 0; lane < lanes; ++lane) {
    args.scales[first + lane * args.params_stride] = params[lane].scale;
    args.zeros[first + lane * args.params_stride] = params[lane].zero;
  }
}

// Rows [row, row + lanes). Lanes beyond are computed on zeros and dropped.
void QuantizeTile(const GptqBlock& args, int64_t row, int lanes, float* tile) {
  for (int64_t column = 0; column < args.columns; ++column) {
    for (int lane = 0; lane < kLanes; ++lane) {
      tile[column * kLanes + lane] =
          lane < lanes ? args.weight[(row + lane) * args.weight_stride + column] : 0;
    }
  }
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  LaneParams params = {};
  std::fill(params.scale, params.scale + kLanes, 1.0f);
  int32_t group = -1;
  for (int64_t i = 0; i < args.columns; ++i) {
    if (args.group_of_column[i] != group) {
      group = args.group_of_column[i];
      if (args.find_columns > 0) FindTileParams(args, tile, i, row, lanes);
      for (int lane = 0; lane < lanes; ++lane) {
        const int64_t param = (row + lane) * args.params_stride + group;
        params.scale[lane] = HalfToFloat(args.scales[param]);
        params.zero[lane] = args.zeros[param];
      }
    }
    float codes[kLanes];
    PushColumn(args.inverse + i * args.inverse_stride, i, args.columns, code_max, params, tile,
               codes);
    for (int lane = 0; lane < lanes; ++lane) {
      const float error = tile[i * kLanes + lane];
      args.codes[(row + lane) * args.codes_stride + i] = static_cast<uint8_t>(codes[lane]);
      args.errors[(row + lane) * args.errors_stride + i] = error;
      args.losses[row + lane] += static_cast<double>(error) * static_cast<double>(error) / 2;
    }
  }
}

}  // namespace

void GptqBlockCpu(const GptqBlock& args) {
  ParallelRows(args.rows, args.rows * args.columns * args.columns / 8,
               [&](int64_t row_begin, int64_t row_end) {
                 std::vector<float> tile(args.columns * kLanes);
                 for (int64_t row = row_begin; row < row_end; row += kLanes) {
                   const int lanes = static_cast<int>(std::min<int64_t>(kLanes, row_end - row));
                   QuantizeTile(args, row, lanes, tile.data());
                 }
               });
}

}  // namespace quantd::kernels
