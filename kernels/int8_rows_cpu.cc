// Two passes over a row that stays in the cache between them.
#include "kernels/int8_rows.h"
#include "kernels/largest_magnitude.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

QD_MULTIVERSION void RoundRow(const float* weight, int64_t count, float factor, uint8_t* codes) {
  for (int64_t k = 0; k < count; ++k) {
    codes[k] = static_cast<uint8_t>(static_cast<int>(RoundHalfEven(weight[k] * factor)) + 128);
  }
}

}  // namespace

void Int8RowsCpu(const Int8Rows& args) {
  ParallelRows(args.rows, args.rows * args.columns, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      const float* weight = args.weight + row * args.weight_stride;
      const float largest = LargestMagnitude(weight, args.columns);
      args.absmax[row] = largest;
      RoundRow(weight, args.columns, largest == 0 ? 0.0f : 127.0f * (1.0f / largest),
               args.codes + row * args.codes_stride);
    }
  });
}

}  // namespace quantd::kernels
