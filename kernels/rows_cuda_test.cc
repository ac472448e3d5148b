// The CUDA variants of the operations on single groups and codes, bit for bit against the
// references.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

constexpr int64_t kRows = 37;
constexpr int64_t kColumns = 200;

TEST(RowsCudaTest, ParamsCodesAndWeights) {
  QD_SKIP_WITHOUT_GPU();
  const Backend& cuda = *FindBackend("cuda");
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 1);
  std::vector<float> columns = RandomWeights(1, kColumns, 5);
  for (float& column : columns) column *= column;
  const OnDevice<float> weight_there(weight), columns_there(columns);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {1, 32, 64, 200}) {
        for (const int search_steps : {0, 1, 60}) {
          const int64_t groups = (kColumns + group - 1) / group;
          const size_t params = kRows * groups;
          std::vector<uint16_t> scales(params);
          std::vector<uint8_t> zeros(params), codes(weight.size());
          const OnDevice<uint16_t> scales_there(params);
          const OnDevice<uint8_t> zeros_there(params), codes_there(weight.size());
          FindParams find = {.weight = weight.data(),
                             .weight_stride = kColumns,
                             .rows = kRows,
                             .columns = kColumns,
                             .group_columns = group,
                             .bits = bits,
                             .symmetric = symmetric,
                             .search_steps = search_steps,
                             .column_weights = search_steps == 60 ? columns.data() : nullptr,
                             .scales = scales.data(),
                             .zeros = zeros.data(),
                             .params_stride = groups};
          FindParamsReference(find);
          find.weight = weight_there.data();
          if (search_steps == 60) find.column_weights = columns_there.data();
          find.scales = scales_there.data();
          find.zeros = zeros_there.data();
          cuda.find_params(find);
          EXPECT_EQ(scales_there.Read(), scales);
          EXPECT_EQ(zeros_there.Read(), zeros);

          RtnRowsReference({weight.data(), kColumns, kRows, kColumns, group, bits, scales.data(),
                            zeros.data(), groups, codes.data(), kColumns});
          cuda.rtn_rows({weight_there.data(), kColumns, kRows, kColumns, group, bits,
                         scales_there.data(), zeros_there.data(), groups, codes_there.data(),
                         kColumns});
          EXPECT_EQ(codes_there.Read(), codes);

          std::vector<int32_t> group_index(kColumns);
          for (int64_t k = 0; k < kColumns; ++k) {
            group_index[k] = static_cast<int32_t>((k * 7 % kColumns) / group);
          }
          const OnDevice<int32_t> index_there(group_index);
          std::vector<float> back(weight.size());
          const OnDevice<float> back_there(weight.size());
          DequantizeRowsReference({codes.data(), kColumns, scales.data(), zeros.data(), groups,
                                   group_index.data(), kRows, kColumns, groups, back.data(),
                                   kColumns});
          cuda.dequantize_rows({codes_there.data(), kColumns, scales_there.data(),
                                zeros_there.data(), groups, index_there.data(), kRows, kColumns,
                                groups, back_there.data(), kColumns});
          EXPECT_EQ(back_there.Read(), back);
          ExpectNoDeviceError();
        }
      }
    }
  }
}

TEST(RowsCudaTest, PackingAlongEitherSide) {
  QD_SKIP_WITHOUT_GPU();
  const Backend& cuda = *FindBackend("cuda");
  constexpr int64_t kRuns = 21, kCodes = 96;
  for (int bits = 2; bits <= 8; ++bits) {
    std::mt19937 random(bits);
    std::vector<uint8_t> codes(kRuns * kCodes);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1 << bits));
    const int64_t words_per_run = kCodes * bits / 32;
    const OnDevice<uint8_t> codes_there(codes);
    for (const bool along_k : {true, false}) {
      std::vector<uint32_t> words(kRuns * words_per_run);
      const OnDevice<uint32_t> words_there(words.size());
      const OnDevice<uint8_t> back_there(codes.size());
      PackBits pack = {kRuns,
                       kCodes,
                       bits,
                       codes.data(),
                       kCodes,
                       1,
                       words.data(),
                       along_k ? 1 : words_per_run,
                       along_k ? kRuns : 1};
      PackBitsReference(pack);
      pack.codes = codes_there.data();
      pack.words = words_there.data();
      cuda.pack_bits(pack);
      EXPECT_EQ(words_there.Read(), words) << bits;
      cuda.unpack_bits({kRuns, kCodes, bits, back_there.data(), kCodes, 1, words_there.data(),
                        pack.words_run_stride, pack.word_stride});
      EXPECT_EQ(back_there.Read(), codes) << bits;
      ExpectNoDeviceError();
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
