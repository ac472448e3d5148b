// Attention of single tokens against the reference within the bound of step_attention.h, the cache
// bit for bit; and the rows that a step begins with.
#include "kernels/step_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

constexpr uint32_t kSeed = 37;

struct Case {
  int64_t batch = 1, heads = 4, kv_heads = 2, dim = 64, turned = 64, length = 5, room = 300;
  int64_t window = 0;
  bool norms = false, padded = false;
  int splits = 4;
};

std::vector<uint16_t> Sixteen(int64_t count, float size, bool bfloat16, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) value = ToSixteen(normal(random) * size, bfloat16);
  return values;
}

// All a step's attention needs, on the host.
struct Inputs {
  std::vector<uint16_t> input, q_norm, k_norm, cos, sin, keys, values;
  std::vector<int64_t> starts;

  Inputs(const Case& c, bool bfloat16) {
    std::mt19937 random(kSeed);
    const auto make = [&](int64_t count, float size) {
      return Sixteen(count, size, bfloat16, random);
    };
    input = make(c.batch * (c.heads + 2 * c.kv_heads) * c.dim, 1.5f);
    q_norm = make(c.dim, 1);
    k_norm = make(c.dim, 1);
    cos = make(c.room * c.turned, 0.7f);
    sin = make(c.room * c.turned, 0.7f);
    keys = make(c.batch * c.kv_heads * c.room * c.dim, 1);
    values = make(c.batch * c.kv_heads * c.room * c.dim, 1);
    for (int64_t b = 0; b < c.batch; ++b) {
      starts.push_back(c.padded ? std::min<int64_t>(b * 3, c.length - 1) : 0);
    }
  }
};

StepAttention ArgsOf(const Case& c, bool bfloat16) {
  StepAttention args;
  args.batch = c.batch;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.dim = c.dim;
  args.turned = c.turned;
  args.bfloat16 = bfloat16;
  args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.dim)));
  args.window = c.window;
  args.eps = 1e-6f;
  args.splits = c.splits;
  return args;
}

// Largest sum of |q| |key| over the keys, and largest |value|, of a whole case.
struct Sizes {
  double score = 0, value = 0;
};
Sizes SizesOf(const Case& c, const Inputs& inputs, bool bfloat16) {
  const auto largest = [&](const std::vector<uint16_t>& all) {
    double most = 0;
    for (const uint16_t x : all) most = std::max<double>(most, std::abs(FromSixteen(x, bfloat16)));
    return most;
  };
  // Turning adds two products at most.
  const double turning = 2 * std::max({largest(inputs.cos), largest(inputs.sin), 1.0});
  const double heads = largest(inputs.input) * turning *
                       (c.norms ? std::max(largest(inputs.q_norm), largest(inputs.k_norm)) : 1);
  return {static_cast<double>(c.dim) * heads * std::max(heads, largest(inputs.keys)),
          std::max(largest(inputs.values), largest(inputs.input))};
}

void Check(const Case& c, bool bfloat16) {
  SCOPED_TRACE(testing::Message() << "batch " << c.batch << " heads " << c.heads << "/"
                                  << c.kv_heads << " dim " << c.dim << "/" << c.turned << " length "
                                  << c.length << " window " << c.window << " norms " << c.norms
                                  << " splits " << c.splits << " bfloat16 " << bfloat16);
  const Inputs inputs(c, bfloat16);
  std::vector<uint16_t> keys = inputs.keys, values = inputs.values;
  std::vector<uint16_t> expected(c.batch * c.heads * c.dim);
  StepPosition position = {
      .length = c.length, .room = c.room, .cos = inputs.cos.data(), .sin = inputs.sin.data()};
  StepCache cache = {keys.data(), values.data()};
  StepAttention args = ArgsOf(c, bfloat16);
  args.input = inputs.input.data();
  if (c.norms) args.q_norm = inputs.q_norm.data(), args.k_norm = inputs.k_norm.data();
  args.position = &position;
  args.cache = &cache;
  args.starts = inputs.starts.data();
  args.output = expected.data();
  ASSERT_EQ(StepAttentionReference(args), nullptr);

  const OnDevice<uint16_t> input(inputs.input), q_norm(inputs.q_norm), k_norm(inputs.k_norm);
  const OnDevice<uint16_t> cos(inputs.cos), sin(inputs.sin), output(expected.size());
  const OnDevice<uint16_t> keys_there(inputs.keys), values_there(inputs.values);
  const OnDevice<int64_t> starts(inputs.starts);
  position.cos = cos.data();
  position.sin = sin.data();
  const OnDevice<StepPosition> position_there(std::vector<StepPosition>{position});
  const OnDevice<StepCache> cache_there(
      std::vector<StepCache>{{keys_there.data(), values_there.data()}});
  const OnDevice<uint8_t> scratch(std::vector<uint8_t>(StepScratchBytes(args)));
  args.input = input.data();
  if (c.norms) args.q_norm = q_norm.data(), args.k_norm = k_norm.data();
  args.position = position_there.data();
  args.cache = cache_there.data();
  args.starts = starts.data();
  args.output = output.data();
  args.scratch = scratch.data();
  std::vector<uint16_t> got;
  for (int run = 0; run < 2; ++run) {
    // The second finds the scratch as the first left it.
    const char* error = FindBackend("cuda")->step_attention(args);
    ASSERT_EQ(error, nullptr) << error;
    ExpectNoDeviceError();
    const std::vector<uint16_t> now = output.Read();
    if (run == 1) EXPECT_EQ(now, got);
    got = now;
  }
  EXPECT_EQ(values_there.Read(), values);
  if (!c.norms) EXPECT_EQ(keys_there.Read(), keys);
  const double u = UnitRoundoff(bfloat16);
  const Sizes sizes = SizesOf(c, inputs, bfloat16);
  // A normed number may round the other way on the way to q and to the newest key.
  const double moved = c.norms ? 12 * u * sizes.score * args.scale : 0;
  const double s = args.scale * static_cast<double>(c.dim) * 0x1p-23 * sizes.score / c.dim;
  const double e = 4 * s + 0x1p-19 + static_cast<double>(c.length) * 0x1p-22 + moved;
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = FromSixteen(expected[i], bfloat16);
    ASSERT_NEAR(FromSixteen(got[i], bfloat16), want,
                2 * e * sizes.value + 2 * u * std::abs(want) + 1e-7)
        << "at " << i;
  }
}

TEST(StepAttentionTest, ReferenceByHand) {
  // Two keys of equal scores: the mean of their values; the new one turns nothing at position 1.
  constexpr int64_t kDim = 8;
  std::vector<uint16_t> input(3 * kDim), keys(2 * kDim), values(2 * kDim), output(kDim);
  values[0] = FloatToHalf(4);
  input[2 * kDim] = FloatToHalf(2);
  StepPosition position = {.length = 2, .room = 2, .cos = nullptr, .sin = nullptr};
  StepCache cache = {keys.data(), values.data()};
  StepAttention args;
  args.batch = args.heads = args.kv_heads = 1;
  args.dim = kDim;
  args.input = input.data();
  args.position = &position;
  args.cache = &cache;
  args.output = output.data();
  ASSERT_EQ(StepAttentionReference(args), nullptr);
  EXPECT_EQ(HalfToFloat(output[0]), 3);
  EXPECT_EQ(HalfToFloat(values[kDim]), 2);
  args.window = 1;
  ASSERT_EQ(StepAttentionReference(args), nullptr);
  EXPECT_EQ(HalfToFloat(output[0]), 2);
  args.heads = 3;
  args.kv_heads = 2;
  EXPECT_NE(StepAttentionReference(args), nullptr);
}

TEST(StepAttentionTest, CudaStaysWithinTheBound) {
  QD_SKIP_WITHOUT_GPU();
  RecordProperty("seed", static_cast<int>(kSeed));
  for (const bool bfloat16 : {false, true}) {
    for (const int64_t length : {1, 2, 31, 32, 33, 64, 129, 300}) {
      for (const int splits : {1, 3, 16}) {
        Check({.length = length, .splits = splits}, bfloat16);
      }
      Check({.batch = 8, .length = length, .padded = true, .splits = 2}, bfloat16);
    }
    for (const int64_t dim : {16, 80, 96, 128, 256}) {
      for (const int64_t group : {1, 3, 7, 8}) {
        Check({.batch = 2, .heads = 2 * group, .dim = dim, .turned = dim, .length = 77}, bfloat16);
      }
    }
    Check({.dim = 80, .turned = 32, .length = 50}, bfloat16);
    Check({.dim = 64, .turned = 0, .length = 50}, bfloat16);
    Check({.length = 200, .window = 70}, bfloat16);
    Check({.batch = 3, .length = 200, .window = 1, .padded = true}, bfloat16);
    Check({.batch = 2, .dim = 128, .turned = 128, .length = 40, .norms = true}, bfloat16);
    Check({.heads = 32, .kv_heads = 8, .length = 1000, .room = 1000, .splits = 32}, bfloat16);
  }
}

// A length beyond the room writes nothing.
TEST(StepAttentionTest, CudaKeepsToTheRoom) {
  QD_SKIP_WITHOUT_GPU();
  const Case c = {.length = 9, .room = 8};
  const Inputs inputs(c, true);
  const OnDevice<uint16_t> input(inputs.input), keys(inputs.keys), values(inputs.values);
  const OnDevice<uint16_t> output(std::vector<uint16_t>(c.heads * c.dim, 7));
  StepAttention args = ArgsOf(c, true);
  const OnDevice<uint8_t> scratch(std::vector<uint8_t>(StepScratchBytes(args)));
  const OnDevice<StepPosition> position(std::vector<StepPosition>{
      {.length = c.length, .room = c.room, .cos = nullptr, .sin = nullptr}});
  const OnDevice<StepCache> cache(std::vector<StepCache>{{keys.data(), values.data()}});
  args.input = input.data();
  args.position = position.data();
  args.cache = cache.data();
  args.output = output.data();
  args.scratch = scratch.data();
  ASSERT_EQ(FindBackend("cuda")->step_attention(args), nullptr);
  ExpectNoDeviceError();
  EXPECT_EQ(keys.Read(), inputs.keys);
  EXPECT_EQ(output.Read(), std::vector<uint16_t>(c.heads * c.dim, 7));
}

TEST(EmbedRowsTest, CudaTakesTheReferencesRows) {
  constexpr int64_t kColumns = 40, kVocabulary = 9;
  std::mt19937 random(kSeed);
  const std::vector<uint16_t> table = Sixteen(kVocabulary * kColumns, 1, true, random);
  const std::vector<int64_t> ids = {3, 0, 8, -1, 9, int64_t{1} << 40};
  std::vector<uint16_t> expected(ids.size() * kColumns, 1);
  StepPosition position = {.length = 4, .room = 0, .cos = nullptr, .sin = nullptr};
  EmbedRows args = {.rows = static_cast<int64_t>(ids.size()),
                    .columns = kColumns,
                    .vocabulary = kVocabulary,
                    .ids = ids.data(),
                    .table = table.data(),
                    .output = expected.data(),
                    .position = &position};
  EmbedRowsReference(args);
  EXPECT_EQ(position.length, 5);
  EXPECT_EQ(expected[2 * kColumns], table[8 * kColumns]);
  EXPECT_EQ(expected[3 * kColumns], 0);
  QD_SKIP_WITHOUT_GPU();
  const OnDevice<uint16_t> table_there(table), output(expected.size());
  const OnDevice<int64_t> ids_there(ids);
  const OnDevice<StepPosition> position_there(std::vector<StepPosition>{position});
  args.ids = ids_there.data();
  args.table = table_there.data();
  args.output = output.data();
  args.position = position_there.data();
  FindBackend("cuda")->embed_rows(args);
  ExpectNoDeviceError();
  EXPECT_EQ(output.Read(), expected);
  EXPECT_EQ(position_there.Read()[0].length, 6);
}

}  // namespace
}  // namespace quantd::kernels
