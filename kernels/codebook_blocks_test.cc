// Variants agree bit for bit; every code is the nearest entry; the tables are what their papers
// say.
#include "kernels/codebook_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/device_test.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

struct Coded {
  std::vector<float> absmax;
  std::vector<uint8_t> codes;
};

Coded Quantize(const std::vector<float>& values, int64_t block_size, const Codebook& book,
               void (*quantize)(const QuantizeCodebook&)) {
  const auto count = static_cast<int64_t>(values.size());
  Coded coded = {std::vector<float>((count + block_size - 1) / block_size),
                 std::vector<uint8_t>(count)};
  quantize({values.data(), count, block_size, &book, coded.absmax.data(), coded.codes.data()});
  return coded;
}

TEST(CodebookBlocksTest, VariantsAgree) {
  const std::vector<float> values = RandomWeights(37, 193, 11);  // Ends with a short block.
  for (const Codebook* book : {&Nf4Codebook(), &Fp4Codebook(), &DynamicCodebook()}) {
    for (const int64_t block_size : {32, 64, 256, 4096}) {
      const Coded slow = Quantize(values, block_size, *book, QuantizeCodebookReference);
      const Coded fast = Quantize(values, block_size, *book, QuantizeCodebookCpu);
      EXPECT_EQ(slow.codes, fast.codes);
      EXPECT_EQ(slow.absmax, fast.absmax);
      const auto count = static_cast<int64_t>(values.size());
      std::vector<float> back[2] = {std::vector<float>(count), std::vector<float>(count)};
      DequantizeCodebookReference(
          {slow.codes.data(), count, block_size, book->values, slow.absmax.data(), back[0].data()});
      DequantizeCodebookCpu(
          {slow.codes.data(), count, block_size, book->values, slow.absmax.data(), back[1].data()});
      EXPECT_EQ(back[0], back[1]);
    }
  }
}

// Every step is one rounding that both machines make alike, so there is nothing to bound.
TEST(CodebookBlocksTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  const Backend& cuda = *FindBackend("cuda");
  std::vector<float> values = RandomWeights(37, 193, 13);  // Ends with a short block.
  values[5] = 1e-41f;  // Subnormal, and a block of nothing else.
  std::fill(values.begin() + 256, values.begin() + 512, -3e-39f);
  // On a bound, and beside one.
  values[1024] = 1;
  std::copy(Nf4Codebook().bounds, Nf4Codebook().bounds + 15, values.begin() + 1025);
  values[1040] = std::nextafter(Nf4Codebook().bounds[3], 2.0f);
  const auto count = static_cast<int64_t>(values.size());
  for (const Codebook* book : {&Nf4Codebook(), &Fp4Codebook(), &DynamicCodebook()}) {
    for (const int64_t block_size : {1, 5, 32, 64, 256, 4096, 100000}) {
      const Coded expected = Quantize(values, block_size, *book, QuantizeCodebookCpu);
      const OnDevice<float> input(values), absmax(expected.absmax.size()), output(values.size());
      const OnDevice<float> table(std::vector<float>(book->values, book->values + book->entries));
      const OnDevice<uint8_t> codes(values.size());
      cuda.quantize_codebook({.values = input.data(),
                              .count = count,
                              .block_size = block_size,
                              .codebook = book,
                              .absmax = absmax.data(),
                              .codes = codes.data()});
      ExpectNoDeviceError();
      EXPECT_EQ(codes.Read(), expected.codes) << block_size;
      EXPECT_EQ(absmax.Read(), expected.absmax) << block_size;
      std::vector<float> back(values.size());
      DequantizeCodebookCpu({.codes = expected.codes.data(),
                             .count = count,
                             .block_size = block_size,
                             .table = book->values,
                             .absmax = expected.absmax.data(),
                             .values = back.data()});
      cuda.dequantize_codebook({.codes = codes.data(),
                                .count = count,
                                .block_size = block_size,
                                .table = table.data(),
                                .absmax = absmax.data(),
                                .values = output.data()});
      ExpectNoDeviceError();
      EXPECT_EQ(output.Read(), back) << block_size;
    }
  }
}

TEST(CodebookBlocksTest, CodesAreNearest) {
  const std::vector<float> values = RandomWeights(16, 256, 12);
  for (const Codebook* book : {&Nf4Codebook(), &Fp4Codebook(), &DynamicCodebook()}) {
    const Coded coded = Quantize(values, 64, *book, QuantizeCodebookCpu);
    for (size_t i = 0; i < values.size(); ++i) {
      const double absmax = coded.absmax[i / 64];
      if (absmax == 0) continue;
      double best = 2;
      for (int code = 0; code < book->entries; ++code) {
        best = std::min(best, std::abs(values[i] / absmax - book->values[code]));
      }
      // The bounds and the quotient are rounded to 24 bits.
      EXPECT_LE(std::abs(values[i] / absmax - book->values[coded.codes[i]]), best + 0x1p-22);
    }
  }
}

TEST(CodebookBlocksTest, ABoundBelongsToTheLowerEntry) {
  const Codebook& book = Nf4Codebook();
  for (const auto quantize : {QuantizeCodebookReference, QuantizeCodebookCpu}) {
    std::vector<float> values = {1.0f};
    values.insert(values.end(), book.bounds, book.bounds + 15);
    const Coded coded = Quantize(values, 16, book, quantize);
    for (int i = 0; i < 15; ++i) EXPECT_EQ(coded.codes[i + 1], i);
    for (float& value : values) value = std::nextafter(value, 2.0f);
    values[0] = 1.0f;
    const Coded above = Quantize(values, 16, book, quantize);
    for (int i = 0; i < 15; ++i) EXPECT_EQ(above.codes[i + 1], i + 1);
  }
}

TEST(CodebookBlocksTest, ZerosStayZeros) {
  for (const auto quantize : {QuantizeCodebookReference, QuantizeCodebookCpu}) {
    EXPECT_EQ(Quantize({0, 0}, 2, Nf4Codebook(), quantize).codes, (std::vector<uint8_t>{7, 7}));
    EXPECT_EQ(Quantize({0, 0}, 2, Fp4Codebook(), quantize).codes, (std::vector<uint8_t>{0, 0}));
    EXPECT_EQ(Quantize({0, 1}, 2, DynamicCodebook(), quantize).codes,
              (std::vector<uint8_t>{127, 255}));
  }
}

TEST(CodebookTest, Tables) {
  for (const Codebook* book : {&Nf4Codebook(), &Fp4Codebook(), &DynamicCodebook()}) {
    std::vector<uint8_t> codes(book->codes, book->codes + book->entries);
    for (int i = 1; i < book->entries; ++i) {
      EXPECT_LE(book->values[codes[i - 1]], book->bounds[i - 1]);
      EXPECT_LE(book->bounds[i - 1], book->values[codes[i]]);
    }
    std::sort(codes.begin(), codes.end());
    for (int i = 0; i < book->entries; ++i) EXPECT_EQ(codes[i], i);
    EXPECT_EQ(*std::max_element(book->values, book->values + book->entries), 1.0f);
  }
  EXPECT_FLOAT_EQ(Fp4Codebook().values[1], 1.0f / 192);
  EXPECT_FLOAT_EQ(Fp4Codebook().values[10], -2.0f / 3);
  const Codebook& dynamic = DynamicCodebook();
  EXPECT_FLOAT_EQ(dynamic.values[0], -0.99296874f);
  EXPECT_EQ(dynamic.values[127], 0);
  EXPECT_FLOAT_EQ(dynamic.values[128], 5.5e-7f);
  EXPECT_FLOAT_EQ(dynamic.values[129], 3.25e-6f);
  EXPECT_EQ(dynamic.values[255], 1);
}

}  // namespace
}  // namespace quantd::kernels
