// Bit by bit.
#include "kernels/pack_bits.h"

namespace quantd::kernels {

void PackBitsReference(const PackBits& args) {
  const int64_t words_per_run = args.codes_per_run * args.bits / 32;
  for (int64_t run = 0; run < args.runs; ++run) {
    for (int64_t word = 0; word < words_per_run; ++word) {
      uint32_t value = 0;
      for (int64_t bit = 0; bit < 32; ++bit) {
        const int64_t position = word * 32 + bit;
        const uint8_t code =
            args.codes[run * args.run_stride + position / args.bits * args.code_stride];
        value |= static_cast<uint32_t>((code >> (position % args.bits)) & 1) << bit;
      }
      args.words[run * args.words_run_stride + word * args.word_stride] = value;
    }
  }
}

void UnpackBitsReference(const UnpackBits& args) {
  for (int64_t run = 0; run < args.runs; ++run) {
    for (int64_t code = 0; code < args.codes_per_run; ++code) {
      uint8_t value = 0;
      for (int bit = 0; bit < args.bits; ++bit) {
        const int64_t position = code * args.bits + bit;
        const uint32_t word =
            args.words[run * args.words_run_stride + position / 32 * args.word_stride];
        value = static_cast<uint8_t>(value | (((word >> (position % 32)) & 1) << bit));
      }
      args.codes[run * args.run_stride + code * args.code_stride] = value;
    }
  }
}

}  // namespace quantd::kernels
