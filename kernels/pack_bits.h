// Codes of 2 to 8 bits in a dense stream of 32-bit words and back: code i of a run occupies bits [i
// * bits, (i + 1) * bits), lowest first, across word borders. For 2, 4 and 8 bits this is the usual
// field per word.
//
//   3 bits: |c0 c1 ... c9 c10(2 low)| |c10(1) c11 ... c20 c21(1)| |c21(2) c22 ... c31|
#pragma once

#include <cstdint>

namespace quantd::kernels {

// `runs` independent streams of `codes_per_run` codes; codes_per_run * bits is a multiple of 32.
// Code i of run r is at codes + r * run_stride + i * code_stride; word w of run r at words + r *
// words_run_stride + w * word_stride. The strides let one function pack a matrix along either side,
// transposing or not. Bits of a code above `bits` must be zero. In and out disjoint. Allocates
// nothing, thread-safe.
template <typename Codes, typename Words>
struct BitStreams {
  int64_t runs = 0;
  int64_t codes_per_run = 0;
  int bits = 4;
  Codes* codes = nullptr;
  int64_t run_stride = 0;
  int64_t code_stride = 1;
  Words* words = nullptr;
  int64_t words_run_stride = 0;
  int64_t word_stride = 1;
  void* stream = nullptr;  // cuda only.
};
using PackBits = BitStreams<const uint8_t, uint32_t>;
using UnpackBits = BitStreams<uint8_t, const uint32_t>;

void PackBitsReference(const PackBits& args);
void PackBitsCpu(const PackBits& args);
void UnpackBitsReference(const UnpackBits& args);
void UnpackBitsCpu(const UnpackBits& args);

}  // namespace quantd::kernels
