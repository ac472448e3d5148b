// Clamped before it is rounded, which gives the same code (the bounds are integers) and keeps the
// rounding trick of round.h in its range.
#include <algorithm>

#include "kernels/half.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"
#include "kernels/round.h"
#include "kernels/rtn_rows.h"

namespace quantd::kernels {
namespace {

struct Group {
  float scale;
  float zero;
  float code_max;
};

QD_MULTIVERSION void RoundGroup(const float* weight, int64_t count, Group group, uint8_t* codes) {
  const float low = -group.zero;
  const float high = group.code_max - group.zero;
  for (int64_t k = 0; k < count; ++k) {
    float steps = weight[k] / group.scale;
    steps = steps < low ? low : steps;
    steps = steps > high ? high : steps;
    codes[k] = static_cast<uint8_t>(static_cast<int>(RoundHalfEven(steps) + group.zero));
  }
}

}  // namespace

void RtnRowsCpu(const RtnRows& args) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  ParallelRows(args.rows, args.rows * args.columns, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      int64_t group = 0;
      for (int64_t begin = 0; begin < args.columns; begin += args.group_columns, ++group) {
        const int64_t param = row * args.params_stride + group;
        RoundGroup(
            args.weight + row * args.weight_stride + begin,
            std::min(args.group_columns, args.columns - begin),
            {HalfToFloat(args.scales[param]), static_cast<float>(args.zeros[param]), code_max},
            args.codes + row * args.codes_stride + begin);
      }
    }
  });
}

}  // namespace quantd::kernels
