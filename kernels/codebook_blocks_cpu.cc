// Four bits: the rank is the number of bounds below the value, counted over all fifteen without a
// branch, which vectorizes. Eight bits search: there are 64 to 4096 times fewer of them.
#include <algorithm>
#include <cmath>

#include "kernels/codebook_blocks.h"
#include "kernels/largest_magnitude.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

constexpr int kSmallEntries = 16;

QD_MULTIVERSION void RankSmall(const float* values, int64_t count, float inverse,
                               const float* bounds, uint8_t* ranks) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = values[i] * inverse;  // Beyond [-1, 1] no bound is left to pass.
    int rank = 0;
    for (int j = 0; j < kSmallEntries - 1; ++j) rank += bounds[j] < value ? 1 : 0;
    ranks[i] = static_cast<uint8_t>(rank);
  }
}

void QuantizeBlock(const QuantizeCodebook& args, int64_t block) {
  const Codebook& book = *args.codebook;
  const int64_t begin = block * args.block_size;
  const int64_t count = std::min(args.block_size, args.count - begin);
  const float* values = args.values + begin;
  uint8_t* codes = args.codes + begin;
  const float largest = LargestMagnitude(values, count);
  args.absmax[block] = largest;
  const float inverse = 1.0f / std::max(largest, 1e-38f);
  if (book.entries == kSmallEntries) {
    RankSmall(values, count, inverse, book.bounds, codes);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const float* bound =
          std::lower_bound(book.bounds, book.bounds + book.entries - 1, values[i] * inverse);
      codes[i] = static_cast<uint8_t>(bound - book.bounds);
    }
  }
  for (int64_t i = 0; i < count; ++i) codes[i] = book.codes[codes[i]];
}

QD_MULTIVERSION void DequantizeRun(const uint8_t* codes, int64_t count, const float* table,
                                   float absmax, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = table[codes[i]] * absmax;
}

}  // namespace

void QuantizeCodebookCpu(const QuantizeCodebook& args) {
  const int64_t blocks = (args.count + args.block_size - 1) / args.block_size;
  ParallelRows(blocks, args.count * 8, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) QuantizeBlock(args, block);
  });
}

void DequantizeCodebookCpu(const DequantizeCodebook& args) {
  const int64_t blocks = (args.count + args.block_size - 1) / args.block_size;
  ParallelRows(blocks, args.count, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * args.block_size;
      DequantizeRun(args.codes + first, std::min(args.block_size, args.count - first), args.table,
                    args.absmax[block], args.values + first);
    }
  });
}

}  // namespace quantd::kernels
