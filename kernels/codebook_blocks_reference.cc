// The formulas of codebook_blocks.h as they stand.
#include <algorithm>
#include <cmath>

#include "kernels/codebook_blocks.h"

namespace quantd::kernels {

void QuantizeCodebookReference(const QuantizeCodebook& args) {
  const Codebook& book = *args.codebook;
  for (int64_t begin = 0, block = 0; begin < args.count; begin += args.block_size, ++block) {
    const int64_t end = std::min(begin + args.block_size, args.count);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(args.values[i]));
    args.absmax[block] = largest;
    const float inverse = 1.0f / std::max(largest, 1e-38f);
    for (int64_t i = begin; i < end; ++i) {
      const float value = std::clamp(args.values[i] * inverse, -1.0f, 1.0f);
      const float* bound = std::lower_bound(book.bounds, book.bounds + book.entries - 1, value);
      args.codes[i] = book.codes[bound - book.bounds];
    }
  }
}

void DequantizeCodebookReference(const DequantizeCodebook& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    args.values[i] = args.table[args.codes[i]] * args.absmax[i / args.block_size];
  }
}

}  // namespace quantd::kernels
