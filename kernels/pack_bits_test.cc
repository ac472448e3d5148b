// The 3-bit words by hand, the variants against each other along both sides of a matrix, and the
// way back.
#include "kernels/pack_bits.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace quantd::kernels {
namespace {

TEST(PackBitsTest, ThreeBitWords) {
  std::vector<uint8_t> codes(32);
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(i * 5 % 8);
  uint32_t expected[3] = {};
  for (int i = 0; i <= 9; ++i) expected[0] |= static_cast<uint32_t>(codes[i]) << (3 * i);
  expected[0] |= static_cast<uint32_t>(codes[10] & 3) << 30;
  expected[1] = codes[10] >> 2;
  for (int i = 11; i <= 20; ++i)
    expected[1] |= static_cast<uint32_t>(codes[i]) << (1 + 3 * (i - 11));
  expected[1] |= static_cast<uint32_t>(codes[21] & 1) << 31;
  expected[2] = codes[21] >> 1;
  for (int i = 22; i <= 31; ++i)
    expected[2] |= static_cast<uint32_t>(codes[i]) << (2 + 3 * (i - 22));
  for (const auto pack : {PackBitsReference, PackBitsCpu}) {
    std::vector<uint32_t> words(3);
    pack({.runs = 1, .codes_per_run = 32, .bits = 3, .codes = codes.data(), .words = words.data()});
    EXPECT_EQ(words, std::vector<uint32_t>(expected, expected + 3));
  }
}

TEST(PackBitsTest, SymmetricZeroWords) {
  const std::vector<uint8_t> codes(8, 7);
  uint32_t word = 0;
  PackBitsCpu({.runs = 1, .codes_per_run = 8, .bits = 4, .codes = codes.data(), .words = &word});
  EXPECT_EQ(word, 0x77777777u);
}

TEST(PackBitsTest, VariantsAgreeAndInvert) {
  constexpr int64_t kN = 96;
  constexpr int64_t kK = 160;
  std::mt19937 random(7);
  for (const int bits : {2, 3, 4, 5, 8}) {
    std::vector<uint8_t> codes(kN * kK);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << bits));
    for (const bool along_k : {true, false}) {
      // codes[N, K] into words[K * bits / 32, N], or into words[K, N * bits / 32].
      const int64_t runs = along_k ? kN : kK;
      const int64_t count = along_k ? kK : kN;
      const int64_t words_per_run = count * bits / 32;
      std::vector<uint32_t> words[2];
      for (int variant = 0; variant < 2; ++variant) {
        words[variant].resize(runs * words_per_run);
        (variant ? PackBitsCpu
                 : PackBitsReference)({.runs = runs,
                                       .codes_per_run = count,
                                       .bits = bits,
                                       .codes = codes.data(),
                                       .run_stride = along_k ? kK : 1,
                                       .code_stride = along_k ? 1 : kK,
                                       .words = words[variant].data(),
                                       .words_run_stride = along_k ? 1 : words_per_run,
                                       .word_stride = along_k ? kN : 1});
      }
      EXPECT_EQ(words[0], words[1]);
      for (const auto unpack : {UnpackBitsReference, UnpackBitsCpu}) {
        std::vector<uint8_t> back(codes.size());
        unpack({.runs = runs,
                .codes_per_run = count,
                .bits = bits,
                .codes = back.data(),
                .run_stride = along_k ? kK : 1,
                .code_stride = along_k ? 1 : kK,
                .words = words[0].data(),
                .words_run_stride = along_k ? 1 : words_per_run,
                .word_stride = along_k ? kN : 1});
        EXPECT_EQ(back, codes);
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
