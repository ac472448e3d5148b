// Every kind of weight against the reference within the bound of step_product.h, over shapes around
// the tiles' edges; int8 bit for bit.
#include "kernels/step_product.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/norm_rows.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

constexpr uint32_t kSeed = 31;

// A weight on both sides.
struct Weight {
  StepWeight host, device;
  std::vector<std::shared_ptr<void>> owned;

  // The same data here and there.
  template <typename T>
  void Put(const std::vector<T>& values, const T** here, const T** there) {
    auto kept = std::make_shared<std::vector<T>>(values);
    auto copied = std::make_shared<OnDevice<T>>(values);
    *here = kept->data();
    *there = copied->data();
    owned.push_back(kept);
    owned.push_back(copied);
  }
};

struct Kind {
  const char* name;
  StepKind kind;
  W4Kind w4 = W4Kind::kSymmetric;
  int64_t group = 128;
};
constexpr Kind kKinds[] = {
    {"sixteen", StepKind::kSixteen},
    {"int8", StepKind::kInt8},
    {"w4 g128", StepKind::kW4},
    {"w4 g32", StepKind::kW4, W4Kind::kSymmetric, 32},
    {"w4 g64 zeros", StepKind::kW4, W4Kind::kZeroPoint, 64},
    {"w4 row zeros", StepKind::kW4, W4Kind::kZeroPoint, 1 << 20},
    {"nf4 b64", StepKind::kW4, W4Kind::kNf4, 64},
    {"fp4 b128", StepKind::kW4, W4Kind::kFp4, 128},
};

std::vector<uint16_t> Sixteen(int64_t count, float size, bool bfloat16, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = ToSixteen(normal(random) * size * (i % 53 == 5 ? 20.0f : 1.0f), bfloat16);
  }
  return values;
}

// [rows, columns] out of a weight that has `first` more rows in front.
Weight Make(const Kind& kind, int64_t rows, int64_t columns, int64_t first, bool bfloat16,
            std::mt19937& random) {
  Weight weight;
  const int64_t all = first + rows;
  weight.host.kind = kind.kind;
  weight.host.rows = rows;
  weight.host.first_row = first;
  std::uniform_real_distribution<float> uniform(0.25f, 1.0f);
  const uint8_t *bytes_here, *bytes_there;
  if (kind.kind == StepKind::kW4) {
    W4Shape& shape = weight.host.shape;
    shape = {.rows = all,
             .columns = columns,
             .group_columns = std::min(kind.group, columns),
             .kind = kind.w4};
    const int64_t groups = (columns + shape.group_columns - 1) / shape.group_columns;
    std::vector<uint8_t> codes(all * columns), packed(W4Bytes(shape));
    std::vector<uint16_t> scales(all * groups), zeros(all * groups);
    std::vector<float> table_scales(all * groups);
    for (uint8_t& code : codes) code = random() % 16;
    for (int64_t i = 0; i < all * groups; ++i) {
      table_scales[i] = 0.03f * uniform(random);
      scales[i] = FloatToHalf(i % 29 == 3 ? 3e-7f : table_scales[i] / 3);
      zeros[i] = FloatToHalf(i % 2 == 0 ? 15 * uniform(random) : static_cast<float>(random() % 16));
    }
    PackW4Reference(
        {shape, codes.data(), scales.data(), zeros.data(), table_scales.data(), packed.data()});
    weight.Put(packed, &bytes_here, &bytes_there);
  } else if (kind.kind == StepKind::kInt8) {
    std::vector<uint8_t> codes(all * columns);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
    weight.Put(codes, &bytes_here, &bytes_there);
  } else {
    const std::vector<uint16_t> values = Sixteen(all * columns, 0.02f, bfloat16, random);
    const auto* begin = reinterpret_cast<const uint8_t*>(values.data());
    weight.Put(std::vector<uint8_t>(begin, begin + values.size() * 2), &bytes_here, &bytes_there);
  }
  weight.host.data = bytes_here;
  weight.device = weight.host;
  weight.device.data = bytes_there;
  if (kind.kind == StepKind::kInt8) {
    std::vector<float> scales(rows);
    for (float& scale : scales) scale = 0.01f * uniform(random);
    weight.Put(scales, &weight.host.scales, &weight.device.scales);
  }
  if (random() % 2 == 0) {
    weight.Put(Sixteen(rows, 1, bfloat16, random), &weight.host.bias, &weight.device.bias);
  }
  return weight;
}

double Exact(const StepWeight& weight, bool bfloat16, int64_t columns, int64_t row, int64_t k) {
  const int64_t at = weight.first_row + row;
  if (weight.kind == StepKind::kW4) return W4Weight(weight.shape, weight.data, at, k);
  if (weight.kind == StepKind::kInt8) return 0;
  return FromSixteen(static_cast<const uint16_t*>(weight.data)[at * columns + k], bfloat16);
}

struct Options {
  bool bfloat16 = false, norm = false, gated = false, residual = false, wide = false;
  float input_scale = 0;
};

// Sum of |x| |weight| for every output of `weight`.
std::vector<double> Sizes(const StepProduct& args, const StepWeight& weight,
                          const std::vector<uint16_t>& x) {
  std::vector<double> sizes(args.m * weight.rows);
  std::vector<double> row_of_weight(args.columns);
  for (int64_t row = 0; row < weight.rows; ++row) {
    for (int64_t k = 0; k < args.columns; ++k) {
      row_of_weight[k] = std::abs(Exact(weight, args.bfloat16, args.columns, row, k));
    }
    for (int64_t m = 0; m < args.m; ++m) {
      double size =
          weight.bias == nullptr ? 0 : std::abs(FromSixteen(weight.bias[row], args.bfloat16));
      for (int64_t k = 0; k < args.columns; ++k) {
        // Below its normal numbers binary16 rounds decoded weights by 2^-25 each.
        size += std::abs(FromSixteen(x[m * args.columns + k], args.bfloat16)) *
                (row_of_weight[k] + 1e-6);
      }
      sizes[m * weight.rows + row] = size;
    }
  }
  return sizes;
}

void Check(const Kind& kind, int64_t m, int64_t columns, const std::vector<int64_t>& rows,
           const Options& options) {
  SCOPED_TRACE(testing::Message() << kind.name << " m " << m << " columns " << columns << " rows "
                                  << rows[0] << " of " << rows.size() << " bfloat16 "
                                  << options.bfloat16 << " norm " << options.norm << " gated "
                                  << options.gated << " residual " << options.residual);
  std::mt19937 random(kSeed);
  std::vector<Weight> weights;
  for (const int64_t each : rows) {
    weights.push_back(
        Make(kind, each, columns, weights.empty() ? 16 : 0, options.bfloat16, random));
  }
  StepProduct host;
  host.m = m;
  host.columns = columns;
  host.bfloat16 = options.bfloat16;
  host.eps = 1e-5f;
  host.count = static_cast<int>(rows.size());
  if (options.gated) host.activation = Activation::kSilu;
  std::vector<uint16_t> input = Sixteen(m * columns, 1, options.bfloat16, random);
  std::vector<uint16_t> norm = Sixteen(columns, 0.3f, options.bfloat16, random);
  if (options.norm && kind.kind == StepKind::kInt8) {
    // Rows whose mean square is a power of four whatever the order of summing, so that both sides
    // round the same numbers.
    for (uint16_t& x : input) x = ToSixteen(random() % 2 == 0 ? 2.0f : -2.0f, options.bfloat16);
    host.eps = 0;
  }
  StepProduct device = host;
  for (size_t i = 0; i < rows.size(); ++i) {
    weights[i].host.input_scale = weights[i].device.input_scale = options.input_scale;
    host.weights[i] = weights[i].host;
    device.weights[i] = weights[i].device;
  }
  const int64_t width = StepOutputColumns(host);
  const std::vector<uint16_t> residual = Sixteen(m * width, 1, options.bfloat16, random);
  const OnDevice<uint16_t> input_there(input), norm_there(norm), residual_there(residual);
  const OnDevice<uint16_t> output_there(m * width);
  const OnDevice<float> wide_there(m * width);
  std::vector<uint16_t> expected(m * width);
  host.input = input.data();
  device.input = input_there.data();
  if (options.norm) host.norm = norm.data(), device.norm = norm_there.data();
  if (options.residual) host.residual = residual.data(), device.residual = residual_there.data();
  host.output = expected.data();
  if (options.wide) {
    device.wide = wide_there.data();
  } else {
    device.output = output_there.data();
  }
  ASSERT_EQ(StepProductReference(host), nullptr);
  const char* error = FindBackend("cuda")->step_product(device);
  ASSERT_EQ(error, nullptr) << error;
  ExpectNoDeviceError();
  std::vector<float> got = wide_there.Read();
  if (!options.wide) {
    const std::vector<uint16_t> bits = output_there.Read();
    for (size_t i = 0; i < bits.size(); ++i) got[i] = FromSixteen(bits[i], options.bfloat16);
  }
  if (kind.kind == StepKind::kInt8 && !options.gated) {
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], FromSixteen(expected[i], options.bfloat16)) << "at " << i;
    }
    return;
  }
  if (kind.kind == StepKind::kInt8) {
    // exp may differ in its last bits, which moves two roundings.
    for (size_t i = 0; i < got.size(); ++i) {
      const double want = FromSixteen(expected[i], options.bfloat16);
      ASSERT_NEAR(got[i], want, std::abs(want) * 5 * UnitRoundoff(options.bfloat16) + 1e-7);
    }
    return;
  }
  // x, and how far the two sides' x may be apart.
  StepProduct plain = host;
  std::vector<uint16_t> x = input;
  const double u = UnitRoundoff(options.bfloat16);
  double relative = 4 * u + static_cast<double>(columns) * 0x1p-23;
  if (options.norm) {
    NormRowsReference({.rows = m,
                       .columns = columns,
                       .bfloat16 = options.bfloat16,
                       .eps = host.eps,
                       .input = input.data(),
                       .weight = norm.data(),
                       .output = x.data()});
    relative += 4 * u;
  }
  int64_t first = 0;
  std::vector<double> of_gate;
  for (size_t i = 0; i < rows.size(); first += rows[i++]) {
    const std::vector<double> sizes = Sizes(plain, host.weights[i], x);
    if (options.gated && i == 0) {
      of_gate = sizes;
      continue;
    }
    for (int64_t item = 0; item < m * rows[i]; ++item) {
      const int64_t row = item % rows[i];
      const int64_t at = item / rows[i] * width + (options.gated ? 0 : first) + row;
      const double want = FromSixteen(expected[at], options.bfloat16);
      double bound = sizes[item] * relative + std::abs(want) * 3 * u + 1e-7;
      if (options.residual) {
        bound += 3 * u * std::abs(FromSixteen(residual[at], options.bfloat16));
      }
      if (options.gated) {
        // SiLU is no steeper than 1.1 and no larger than its argument.
        const double e_gate = 1.1 * (of_gate[item] * relative) + 3 * u * of_gate[item];
        const double e_up = sizes[item] * relative + 3 * u * sizes[item];
        bound = e_gate * sizes[item] + e_up * of_gate[item] + e_gate * e_up +
                std::abs(want) * 3 * u + 1e-7;
      }
      ASSERT_NEAR(got[at], want, bound) << "at " << at;
    }
  }
}

TEST(StepProductTest, ReferenceByHand) {
  // silu(1 * 2 + 3 * 4 + 1) * (1 * 1 - 3 * 1), rounded in between.
  const std::vector<uint16_t> input = {FloatToHalf(1), FloatToHalf(3), 0, 0, 0, 0, 0, 0};
  const std::vector<uint16_t> gate = {FloatToHalf(2), FloatToHalf(4), 0, 0, 0, 0, 0, 0};
  const std::vector<uint16_t> up = {FloatToHalf(1), FloatToHalf(-1), 0, 0, 0, 0, 0, 0};
  const uint16_t bias = FloatToHalf(1);
  uint16_t output = 0;
  StepProduct args;
  args.m = 1;
  args.columns = 8;
  args.input = input.data();
  args.count = 2;
  args.weights[0].rows = args.weights[1].rows = 1;
  args.weights[0].data = gate.data();
  args.weights[0].bias = &bias;
  args.weights[1].data = up.data();
  args.activation = Activation::kSilu;
  args.output = &output;
  ASSERT_EQ(StepProductReference(args), nullptr);
  EXPECT_EQ(HalfToFloat(output), -30);
  args.activation = Activation::kNone;
  std::vector<uint16_t> both(2);
  args.output = both.data();
  ASSERT_EQ(StepProductReference(args), nullptr);
  EXPECT_EQ(HalfToFloat(both[0]), 15);
  EXPECT_EQ(HalfToFloat(both[1]), -2);
  args.residual = input.data();
  ASSERT_EQ(StepProductReference(args), nullptr);
  EXPECT_EQ(HalfToFloat(both[1]), 1);
}

TEST(StepProductTest, BadArgumentsAreRefused) {
  StepProduct args;
  args.m = 1;
  args.columns = 12;
  args.weights[0].rows = 1;
  EXPECT_NE(StepProductReference(args), nullptr);
  args.columns = 8;
  args.weights[0].kind = StepKind::kInt8;
  EXPECT_NE(StepProductReference(args), nullptr);
  args.columns = 16;
  args.count = 2;
  EXPECT_NE(StepProductReference(args), nullptr);  // Not alike.
  args.weights[1].kind = StepKind::kInt8;
  args.weights[1].rows = 2;
  args.activation = Activation::kSilu;
  EXPECT_NE(StepProductReference(args), nullptr);  // Not equal.
  args.count = 4;
  EXPECT_NE(StepProductReference(args), nullptr);
}

TEST(StepProductTest, CudaStaysWithinTheBound) {
  QD_SKIP_WITHOUT_GPU();
  RecordProperty("seed", static_cast<int>(kSeed));
  for (const Kind& kind : kKinds) {
    for (const bool bfloat16 : {false, true}) {
      for (const int64_t m : {1, 2, 7, 8, 9, 32, 45}) {
        Check(kind, m, 528, {48, 17, 16}, {.bfloat16 = bfloat16, .norm = m % 2 == 1});
      }
      // Edges of tiles, one output, columns that no warp has and that every warp has often.
      for (const int64_t columns : {16, 128, 144, 2048, 8192}) {
        Check(kind, 1, columns, {columns == 16 ? 1 : 33}, {.bfloat16 = bfloat16, .residual = true});
        Check(kind, 8, columns, {16, 16}, {.bfloat16 = bfloat16, .norm = true, .gated = true});
      }
      Check(kind, 3, 256, {130}, {.bfloat16 = bfloat16, .wide = true});
      Check(kind, 33, 8192, {18}, {.bfloat16 = bfloat16, .residual = true});  // In pieces.
      // More groups than the GPU has blocks for.
      Check(kind, 2, 128, {9000}, {.bfloat16 = bfloat16});
      Check(kind, 2, 256, {5000, 5000}, {.bfloat16 = bfloat16, .gated = true});
    }
  }
  Check(kKinds[1], 5, 256, {40}, {.bfloat16 = true, .input_scale = 0.02f});
}

// No result depends on the rows beside it, and NaN stays in its row.
TEST(StepProductTest, CudaRowsStandAlone) {
  QD_SKIP_WITHOUT_GPU();
  std::mt19937 random(kSeed);
  constexpr int64_t kColumns = 512, kRows = 64, kM = 8;
  for (const Kind& kind : kKinds) {
    const Weight weight = Make(kind, kRows, kColumns, 0, true, random);
    std::vector<uint16_t> input = Sixteen(kM * kColumns, 1, true, random);
    input[3 * kColumns + 5] = 0x7fc0;
    const OnDevice<uint16_t> there(input), output(kM * kRows), alone(kRows);
    StepProduct args;
    args.m = kM;
    args.columns = kColumns;
    args.bfloat16 = true;
    args.weights[0] = weight.device;
    args.input = there.data();
    args.output = output.data();
    ASSERT_EQ(FindBackend("cuda")->step_product(args), nullptr);
    const std::vector<uint16_t> all = output.Read();
    for (int64_t m = 0; m < kM; ++m) {
      args.m = 1;
      args.input = there.data() + m * kColumns;
      args.output = alone.data();
      ASSERT_EQ(FindBackend("cuda")->step_product(args), nullptr);
      ExpectNoDeviceError();
      const std::vector<uint16_t> one = alone.Read();
      for (int64_t row = 0; row < kRows; ++row) {
        ASSERT_EQ(one[row], all[m * kRows + row]) << kind.name << " " << m;
        ASSERT_EQ(std::isnan(BfloatToFloat(one[row])), m == 3) << kind.name;
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
