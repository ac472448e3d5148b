// Runs of columns of one group share scale and zero, which leaves a loop that vectorizes; scattered
// groups (desc_act) are runs of length one and go through a small table of scales.
#include <algorithm>
#include <vector>

#include "kernels/dequantize_rows.h"
#include "kernels/half.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

QD_MULTIVERSION void DequantizeRun(const uint8_t* codes, int64_t count, float scale, int zero,
                                   float* weight) {
  for (int64_t k = 0; k < count; ++k) {
    weight[k] = scale * static_cast<float>(static_cast<int>(codes[k]) - zero);
  }
}

}  // namespace

void DequantizeRowsCpu(const DequantizeRows& args) {
  ParallelRows(args.rows, args.rows * args.columns, [&](int64_t row_begin, int64_t row_end) {
    std::vector<float> scales(args.groups);
    for (int64_t row = row_begin; row < row_end; ++row) {
      const uint8_t* zeros = args.zeros + row * args.params_stride;
      for (int64_t group = 0; group < args.groups; ++group) {
        scales[group] = HalfToFloat(args.scales[row * args.params_stride + group]);
      }
      const uint8_t* codes = args.codes + row * args.codes_stride;
      float* weight = args.weight + row * args.weight_stride;
      for (int64_t begin = 0; begin < args.columns;) {
        const int32_t group = args.group_index[begin];
        int64_t end = begin + 1;
        while (end < args.columns && args.group_index[end] == group) ++end;
        DequantizeRun(codes + begin, end - begin, scales[group], zeros[group], weight + begin);
        begin = end;
      }
    }
  });
}

}  // namespace quantd::kernels
