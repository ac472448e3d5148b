// Groups that are rows are summed in kHqqLanes parts side by side; groups that are columns are
// taken kLanes at a time. No weight of a usual model errs so much that anything is left of its
// shrunk error, so the pass runs without it, and a group where something would be left is done
// again the slow way.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/hqq_groups.h"
#include "kernels/hqq_step.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

// Clamped before it is rounded, which gives the same code: the bounds are integers.
inline float CodeOf(float weight, HqqParams params, float code_max) {
  float steps = weight * params.inverse + params.zero;
  steps = steps < 0 ? 0 : steps;
  steps = steps > code_max ? code_max : steps;
  return RoundHalfEven(steps);
}

// Adds kHqqLanes (or the last few) weights of one row.
inline void AddLanes(const float* weight, int lanes, HqqParams params, float code_max,
                     float (&sums)[kHqqLanes], float (&errors)[kHqqLanes],
                     float (&largest)[kHqqLanes]) {
  for (int lane = 0; lane < lanes; ++lane) {
    const float code = CodeOf(weight[lane], params, code_max);
    const float difference = weight[lane] - (code - params.zero) / params.inverse;
    const float size = difference < 0 ? -difference : difference;
    sums[lane] += code - weight[lane] * params.inverse;
    errors[lane] += size;
    largest[lane] = size > largest[lane] ? size : largest[lane];
  }
}

QD_MULTIVERSION HqqStep RowStep(const float* weight, int64_t count, HqqParams params,
                                const HqqGroups& args, float shrink_below) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  float sums[kHqqLanes] = {};
  float errors[kHqqLanes] = {};
  float largest[kHqqLanes] = {};
  int64_t i = 0;
  for (; i + kHqqLanes <= count; i += kHqqLanes) {
    AddLanes(weight + i, kHqqLanes, params, code_max, sums, errors, largest);
  }
  AddLanes(weight + i, static_cast<int>(count - i), params, code_max, sums, errors, largest);
  for (const float size : largest) {
    if (size > shrink_below) return HqqGroupStep(weight, count, 1, params, args);
  }
  return {.zero = HqqFold(sums) / static_cast<float>(count), .error = HqqFold(errors)};
}

struct ColumnTile {
  float inverse[kLanes];
  float zero[kLanes];
  float error[kLanes];
};

// `lanes` columns from `weight` on; zeros and errors of the tile are replaced.
QD_MULTIVERSION void ColumnStep(const float* weight, int lanes, const HqqGroups& args,
                                float shrink_below, ColumnTile& tile) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  float sums[kHqqLanes][kLanes] = {};
  float errors[kHqqLanes][kLanes] = {};
  float largest[kLanes] = {};
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* line = weight + row * args.columns;
    float(&sum)[kLanes] = sums[row % kHqqLanes];
    float(&error)[kLanes] = errors[row % kHqqLanes];
    for (int lane = 0; lane < lanes; ++lane) {
      const HqqParams params = {tile.inverse[lane], tile.zero[lane]};
      const float code = CodeOf(line[lane], params, code_max);
      const float difference = line[lane] - (code - params.zero) / params.inverse;
      const float size = difference < 0 ? -difference : difference;
      sum[lane] += code - line[lane] * params.inverse;
      error[lane] += size;
      largest[lane] = size > largest[lane] ? size : largest[lane];
    }
  }
  for (int lane = 0; lane < lanes; ++lane) {
    HqqStep step;
    if (largest[lane] > shrink_below) {
      step = HqqGroupStep(weight + lane, args.rows, args.columns,
                          {tile.inverse[lane], tile.zero[lane]}, args);
    } else {
      float sum[kHqqLanes], error[kHqqLanes];
      for (int part = 0; part < kHqqLanes; ++part) {
        sum[part] = sums[part][lane];
        error[part] = errors[part][lane];
      }
      step = {.zero = HqqFold(sum) / static_cast<float>(args.rows), .error = HqqFold(error)};
    }
    tile.zero[lane] = step.zero;
    tile.error[lane] = step.error;
  }
}

QD_MULTIVERSION void RangeOfRow(const float* weight, int64_t count, float& low, float& high) {
  float lows = weight[0];
  float highs = weight[0];
  for (int64_t i = 1; i < count; ++i) {
    lows = weight[i] < lows ? weight[i] : lows;
    highs = weight[i] > highs ? weight[i] : highs;
  }
  low = lows;
  high = highs;
}

QD_MULTIVERSION void CodesOfRow(const float* weight, int64_t count, HqqParams params,
                                float code_max, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<uint8_t>(static_cast<int>(CodeOf(weight[i], params, code_max)));
  }
}

QD_MULTIVERSION void CodesOfColumns(const float* weight, int64_t count, const float* inverses,
                                    const float* zeros, float code_max, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<uint8_t>(
        static_cast<int>(CodeOf(weight[i], {inverses[i], zeros[i]}, code_max)));
  }
}

void FindRanges(const HqqGroups& args, int64_t begin, int64_t end, float* inverses) {
  std::vector<float> lows(end - begin);
  std::vector<float> highs(end - begin);
  if (args.axis == 1) {
    for (int64_t group = begin; group < end; ++group) {
      RangeOfRow(args.weight + group * args.columns, args.columns, lows[group - begin],
                 highs[group - begin]);
    }
  } else {
    std::copy(args.weight + begin, args.weight + end, lows.begin());
    highs = lows;
    for (int64_t row = 1; row < args.rows; ++row) {
      const float* line = args.weight + row * args.columns + begin;
      for (int64_t i = 0; i < end - begin; ++i) {
        lows[i] = std::min(lows[i], line[i]);
        highs[i] = std::max(highs[i], line[i]);
      }
    }
  }
  for (int64_t group = begin; group < end; ++group) {
    const HqqParams params =
        HqqParamsOfRange(lows[group - begin], highs[group - begin], args.bits, args.round_zero);
    inverses[group] = params.inverse;
    args.zeros[group] = params.zero;
  }
}

void StepGroups(const HqqGroups& args, int64_t begin, int64_t end, const float* inverses,
                float* errors) {
  const float shrink_below = HqqShrinkBelow(args.norm, args.beta);
  if (args.axis == 1) {
    for (int64_t group = begin; group < end; ++group) {
      const HqqStep step = RowStep(args.weight + group * args.columns, args.columns,
                                   {inverses[group], args.zeros[group]}, args, shrink_below);
      args.zeros[group] = step.zero;
      errors[group] = step.error;
    }
    return;
  }
  for (int64_t group = begin; group < end; group += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, end - group));
    ColumnTile tile;
    std::copy_n(inverses + group, lanes, tile.inverse);
    std::copy_n(args.zeros + group, lanes, tile.zero);
    ColumnStep(args.weight + group, lanes, args, shrink_below, tile);
    std::copy_n(tile.zero, lanes, args.zeros + group);
    std::copy_n(tile.error, lanes, errors + group);
  }
}

}  // namespace

int HqqGroupsCpu(const HqqGroups& args) {
  const int64_t groups = args.axis == 1 ? args.rows : args.columns;
  const int64_t operations = args.rows * args.columns;
  std::vector<float> inverses(groups);
  std::vector<float> errors(groups);
  ParallelRows(groups, operations,
               [&](int64_t begin, int64_t end) { FindRanges(args, begin, end, inverses.data()); });
  const int done = HqqIterate(args, groups, errors.data(), [&] {
    ParallelRows(groups, operations * 4, [&](int64_t begin, int64_t end) {
      StepGroups(args, begin, end, inverses.data(), errors.data());
    });
  });
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  ParallelRows(args.rows, operations, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* weight = args.weight + row * args.columns;
      uint8_t* codes = args.codes + row * args.columns;
      if (args.axis == 1) {
        CodesOfRow(weight, args.columns, {inverses[row], args.zeros[row]}, code_max, codes);
      } else {
        CodesOfColumns(weight, args.columns, inverses.data(), args.zeros, code_max, codes);
      }
    }
  });
  for (int64_t group = 0; group < groups; ++group) args.scales[group] = 1 / inverses[group];
  return done;
}

}  // namespace quantd::kernels
