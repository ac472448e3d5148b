// A job shared out over several devices makes what one makes: the CPU taken several times shows it
// everywhere, GPUs where there are two.
#include <ATen/ops/allclose.h>
#include <ATen/ops/sqrt.h>
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/stopping_sink_test.h"
#include "workers/engine/quantize/job_test.h"
#include "workers/engine/quantize/linear_parts.h"
#include "workers/engine/quantize/probe.h"
#include "workers/engine/quantize/quantize_job.h"
#include "workers/engine/quantize/stream.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

// Divided by one, two and four devices, batches are the same.
constexpr int kSequences = 8, kLength = 48, kBatch = 2;

QuantizeSpec Spec(const std::string& method, nlohmann::json options = nlohmann::json::object()) {
  QuantizeSpec spec;
  spec.model = TinyModel();
  spec.method = method;
  spec.options = std::move(options);
  spec.calibration.sequences = kSequences;
  spec.calibration.sequence_length = kLength;
  spec.calibration.batch_size = kBatch;
  return spec;
}

// `stop_after` units the job is stopped; 0: never.
absl::StatusOr<nlohmann::json> Quantize(const JobFolders& folders, const QuantizeSpec& spec,
                                        const std::string& devices, int stop_after = 0) {
  const CancelToken cancel;
  StoppingSink events(stop_after, cancel);
  JobContext context = folders.Context(events, cancel);
  context.spec.runtime.device = devices;
  return RunQuantize(context, spec);
}

nlohmann::json Metadata(const JobFolders& folders) {
  return nlohmann::json::parse(*ReadFile(folders.out() + "/quantization_metadata.json"));
}

std::string WeightsDigest(const JobFolders& folders) {
  const auto digest = Sha256File(folders.out() + "/model.safetensors");
  EXPECT_TRUE(digest.ok()) << digest.status();
  return digest.value_or("");
}

// Of all bytes of the codes whose names hold `part`.
double EqualShare(const JobFolders& a, const JobFolders& b, const std::string& part) {
  const auto one = SafetensorsFile::Open(a.out() + "/model.safetensors");
  const auto other = SafetensorsFile::Open(b.out() + "/model.safetensors");
  EXPECT_TRUE(one.ok() && other.ok());
  double equal = 0, all = 0;
  for (const std::string& name : (*one)->names()) {
    if (name.find(part) == std::string::npos || name.find("qweight") == std::string::npos) continue;
    const auto left = (*one)->Find(name)->bytes, right = (*other)->Find(name)->bytes;
    EXPECT_EQ(left.size(), right.size());
    for (size_t i = 0; i < left.size(); ++i) equal += left[i] == right[i];
    all += static_cast<double>(left.size());
  }
  EXPECT_GT(all, 0);
  return equal / all;
}

// What tests need of a job in front of its first block.
struct Streaming {
  explicit Streaming(const std::string& devices, nlohmann::json options = {{"group_size", 64}}) {
    const CancelToken cancel;
    RecordingSink events;
    JobContext context = folders.Context(events, cancel);
    context.spec.runtime.device = devices;
    SetThreads(1);
    auto planned = PlanQuantize(context, Spec("gptq", std::move(options)));
    EXPECT_TRUE(planned.ok()) << planned.status();
    plan = *std::move(planned);
    StreamOptions limits = {.batch_size = kBatch,
                            .activation_bytes_max = int64_t{1} << 30,
                            .device_activation_bytes_max = int64_t{1} << 30,
                            .work_dir = folders.work()};
    limits.fallback = [this](absl::string_view kind, absl::string_view, absl::string_view) {
      fallbacks.emplace_back(kind);
    };
    limits.check = [] { return absl::OkStatus(); };
    stream = *BlockStream::Create(plan, limits);
    const at::Tensor ids =
        at::arange(kSequences * kLength, at::kLong).remainder(499).reshape({kSequences, kLength});
    EXPECT_TRUE(stream->Start(ids, ProbeTokens(plan.config.vocab_size)).ok());
    block = *stream->LoadReplicas(0, *plan.source);
  }

  std::vector<std::map<int, InputStatistics>> Collect() {
    auto statistics = stream->Collect(block, {0, 1, 2, 3}, /*sequential=*/false);
    EXPECT_TRUE(statistics.ok()) << statistics.status();
    return *std::move(statistics);
  }

  JobFolders folders;
  QuantizePlan plan;
  std::vector<std::string> fallbacks;
  std::unique_ptr<BlockStream> stream;
  Replicas block;
};

// "cpu" as often as asked, or that many GPUs.
class DevicesTest : public testing::TestWithParam<const char*> {
 protected:
  std::string One() const { return Some(1); }
  std::string Some(int count) const {
    std::string names;
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&names, i > 0 ? "," : "", GetParam(), IsCpu() ? "" : absl::StrCat(":", i));
    }
    return names;
  }
  bool IsCpu() const { return std::string(GetParam()) == "cpu"; }
  void SetUp() override {
    if (!IsCpu() && ListDevices().size() < 3) GTEST_SKIP() << "needs two GPUs";
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, DevicesTest, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DevicesTest, StatisticsDifferByTheOrderOfSumsAlone) {
  Streaming one(One());
  const std::map<int, InputStatistics> expected = one.Collect()[0];
  for (const int count : {2, 4}) {
    if (!IsCpu() && ListDevices().size() < static_cast<size_t>(count) + 1) continue;
    Streaming several(Some(count));
    const auto first = several.Collect(), again = several.Collect();
    ASSERT_EQ(first.size(), count);
    for (const auto& [group, wanted] : expected) {
      const at::Tensor reference = wanted.hessian.cpu().to(at::kDouble);
      // A sum of n float32 products, in any order, is within n * 2^-24 / (1 - n * 2^-24) of the sum
      // of their sizes, which is at most the root of the product of two diagonal entries. Both
      // sides may be that far off; three more roundings are the scaling's and the last store's.
      const double n = kSequences * kLength + 3, unit = std::ldexp(1, -24);
      const at::Tensor diagonal = reference.diagonal();
      const at::Tensor bound =
          at::sqrt(diagonal.unsqueeze(0) * diagonal.unsqueeze(1)) * (2 * n * unit / (1 - n * unit));
      for (int device = 0; device < count; ++device) {
        const InputStatistics& seen = first[device].at(group);
        EXPECT_EQ(seen.tokens, wanted.tokens);
        EXPECT_EQ(seen.hessian.device(), several.stream->devices()[device]);
        const at::Tensor apart = (seen.hessian.cpu().to(at::kDouble) - reference).abs();
        EXPECT_TRUE((apart <= bound).all().item<bool>())
            << "group " << group << " of " << count
            << " devices: " << (apart / bound).max().item<double>() << " of the bound";
        EXPECT_TRUE(seen.hessian.cpu().equal(first[0].at(group).hessian.cpu())) << device;
        EXPECT_TRUE(seen.hessian.equal(again[device].at(group).hessian)) << device;
      }
    }
  }
}

TEST_P(DevicesTest, InputsAreTheSameWholeThatOneDeviceHolds) {
  Streaming one(One()), several(Some(2));
  for (int layer = 0; layer < 2; ++layer) {
    for (const auto& [begin, count] : std::vector<std::pair<int, int>>{{0, 8}, {3, 2}, {4, 4}}) {
      const auto expected = one.stream->Inputs(Stage::kQuantized, begin, count);
      const auto inputs = several.stream->Inputs(Stage::kQuantized, begin, count);
      ASSERT_TRUE(inputs.ok()) << inputs.status();
      EXPECT_TRUE(inputs->equal(*expected)) << layer << ": " << begin << ", " << count;
    }
    ASSERT_TRUE(one.stream->Advance(one.block).ok());
    ASSERT_TRUE(several.stream->Advance(several.block).ok());
  }
  EXPECT_TRUE(one.stream->probe().equal(several.stream->probe()));
}

// One device's want of memory makes all of them give way, and what comes out stays the same.
TEST_P(DevicesTest, WantOfMemoryOnOneDeviceIsRelievedOnAll) {
  Streaming one(One()), several(Some(2));
  const auto expected = one.Collect()[0];
  int refusals = IsCpu() ? 1 : 2;  // On the CPU smaller batches are all there is.
  const auto attempt = [&](size_t device) {
    if (device == 1 && refusals-- > 0) return OutOfMemoryError("no room on the second device");
    return absl::OkStatus();
  };
  ASSERT_TRUE(
      several.stream
          ->WithRelief(&several.block, [&] { return several.stream->OnEveryDevice(attempt); })
          .ok());
  EXPECT_EQ(several.stream->batch_size(), 1);
  EXPECT_THAT(several.fallbacks,
              testing::ElementsAreArray(
                  IsCpu() ? std::vector<std::string>{"calibration_batch"}
                          : std::vector<std::string>{"calibration_batch", "host_offload"}));
  for (const auto& statistics : several.Collect()) {
    for (const auto& [group, wanted] : expected) {
      EXPECT_EQ(statistics.at(group).tokens, wanted.tokens);
      EXPECT_TRUE(at::allclose(statistics.at(group).hessian.cpu(), wanted.hessian.cpu(), 1e-3,
                               1e-3 * wanted.hessian.abs().max().item<double>()));
    }
  }
}

// Sums over calibration text aside, nothing depends on the number of devices.
TEST_P(DevicesTest, WithoutSumsTheSameBytes) {
  for (const std::string method : {"bnb_4bit", "smoothquant"}) {
    const JobFolders one, several;
    ASSERT_TRUE(Quantize(one, Spec(method), One()).ok()) << method;
    const auto result = Quantize(several, Spec(method), Some(2));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(WeightsDigest(several), WeightsDigest(one)) << method;
    const nlohmann::json metadata = Metadata(several);
    ASSERT_EQ(metadata["devices"].size(), 2);
    EXPECT_FALSE(metadata["devices"][1]["name"].get<std::string>().empty());
    EXPECT_EQ(Metadata(one)["devices"].size(), 1);
    EXPECT_EQ(metadata["fallbacks"].dump().find("first device") != std::string::npos,
              method != "bnb_4bit");
  }
}

// How far the losses of the modules are apart, on average, as a part of them.
double LossesApart(const nlohmann::json& a, const nlohmann::json& b) {
  double apart = 0;
  for (size_t i = 0; i < a["modules"].size(); ++i) {
    EXPECT_EQ(a["modules"][i]["name"], b["modules"][i]["name"]);
    const double one = a["modules"][i]["loss"], other = b["modules"][i]["loss"];
    apart += std::abs(one - other) / one;
  }
  return apart / static_cast<double>(a["modules"].size());
}

// A code that lies near the middle of two steps may fall either way with another order of sums, and
// everything behind it sees other inputs. So it is on one device with batches of another size,
// which is the measure here; in front of the first such code all is alike.
TEST_P(DevicesTest, GptqIsTheSameWithinTheOrderOfSums) {
  const nlohmann::json options = {{"group_size", 64}, {"input_correction", 0.5}};
  const JobFolders one, several, other;
  QuantizeSpec spec = Spec("gptq", options);
  const auto expected = Quantize(one, spec, One());
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto result = Quantize(several, spec, Some(2));
  ASSERT_TRUE(result.ok()) << result.status();
  spec.calibration.batch_size = 2 * kBatch;
  const auto reordered = Quantize(other, spec, One());
  ASSERT_TRUE(reordered.ok()) << reordered.status();
  const double apart = LossesApart(*expected, *result);
  const double measure = LossesApart(*expected, *reordered);
  EXPECT_LT(apart, 2 * measure) << "with batches of another size " << measure;
  EXPECT_LT(measure, 0.02);
  const double wanted = (*expected)["modules"][0]["loss"];
  EXPECT_NEAR((*result)["modules"][0]["loss"].get<double>(), wanted, 1e-5 * wanted);
  EXPECT_GT(EqualShare(one, several, "layers.0.self_attn.q_proj"), 0.99);
}

// Its scales come from sums of |x|, its clips from sums of products, on all devices.
TEST_P(DevicesTest, AwqIsTheSameWithinTheOrderOfSums) {
  const JobFolders one, several;
  const QuantizeSpec spec = Spec("awq", {{"search_sequences", 1}});
  const auto expected = Quantize(one, spec, One());
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto result = Quantize(several, spec, Some(2));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Metadata(several)["notes"]["awq.block_0"], Metadata(one)["notes"]["awq.block_0"]);
  EXPECT_GT(EqualShare(one, several, "layers.0."), 0.99);
  const double apart = LossesApart(*expected, *result);
  EXPECT_LT(apart, 0.01);
  RecordProperty("losses_apart", std::to_string(apart));
}

TEST_P(DevicesTest, ResumesToTheSameBytes) {
  for (const char* method : {"gptq", "rtn"}) {
    const JobFolders whole, pieces;
    ASSERT_TRUE(Quantize(whole, Spec(method), Some(2)).ok());
    for (const int units : {1, 3}) {
      EXPECT_EQ(Quantize(pieces, Spec(method), Some(2), units).status().code(),
                absl::StatusCode::kCancelled);
    }
    const auto result = Quantize(pieces, Spec(method), Some(2));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ((*result)["attempts"], 3);
    EXPECT_EQ(WeightsDigest(pieces), WeightsDigest(whole)) << method;
  }
}

// Half of a sum cannot be gone on with by another number of parts; without sums it can.
TEST_P(DevicesTest, AnotherNumberOfDevicesStartsAnewWhereItMatters) {
  for (const auto& [method, attempts] : std::map<std::string, int>{{"gptq", 1}, {"rtn", 2}}) {
    const JobFolders folders;
    EXPECT_EQ(Quantize(folders, Spec(method), One(), 2).status().code(),
              absl::StatusCode::kCancelled);
    const auto result = Quantize(folders, Spec(method), Some(2));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ((*result)["attempts"], attempts) << method;
  }
}

TEST_P(DevicesTest, NoMoreDevicesThanSequences) {
  const JobFolders one, several;
  QuantizeSpec spec = Spec("smoothquant");
  spec.calibration.sequences = 1;
  ASSERT_TRUE(Quantize(one, spec, One()).ok());
  ASSERT_TRUE(Quantize(several, spec, Some(2)).ok());
  EXPECT_EQ(WeightsDigest(several), WeightsDigest(one));
  EXPECT_THAT(Metadata(several)["fallbacks"].dump(),
              HasSubstr("2 devices for 1 calibration sequences"));
}

TEST(LinearParts, AreCutOnlyWhereDevicesWouldStandIdle) {
  PlannedLinear large, small;
  large.shape = {.module = "large", .out = 300, .in = 10};
  small.shape = {.module = "small", .out = 40, .in = 10};
  const auto rows = [](const std::vector<LinearPart>& parts) {
    std::vector<int64_t> rows;
    for (const LinearPart& part : parts) rows.push_back(part.rows);
    return rows;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(rows(CutLinears({&large, &small}, 2, true)), ElementsAre(300, 40));
  EXPECT_THAT(rows(CutLinears({&large, &small}, 4, false)), ElementsAre(300, 40));
  EXPECT_THAT(rows(CutLinears({&large, &small}, 4, true)), ElementsAre(192, 108, 40));
  const auto parts = CutLinears({&large}, 3, true);
  EXPECT_THAT(rows(parts), ElementsAre(128, 128, 44));
  EXPECT_EQ(parts[2].begin, 256);
  EXPECT_THAT(ShareOut(parts, 3), ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2)));
  const std::vector<LinearPart> sizes = {
      {.weights = 1}, {.weights = 4}, {.weights = 3}, {.weights = 1}};
  EXPECT_THAT(ShareOut(sizes, 2), ElementsAre(ElementsAre(1, 3), ElementsAre(2, 0)));
  EXPECT_THAT(ShareOut(sizes, 1), ElementsAre(ElementsAre(0, 1, 2, 3)));
}

// Every row's codes are those that it gets in the whole weight.
TEST(LinearParts, JoinToWhatTheWholeGives) {
  const Method* rtn = *FindMethod("rtn");
  const nlohmann::json options = *ResolveOptions(*rtn, {{"bits", 4}, {"group_size", 32}});
  const at::Tensor weight = at::arange(96 * 64, at::kFloat).sin().reshape({96, 64});
  const auto quantize = [&](const at::Tensor& rows) {
    return *rtn->Quantize({.name = "m", .weight = rows.clone(), .options = &options});
  };
  const LinearResult whole = quantize(weight);
  const auto joined =
      JoinParts({quantize(weight.narrow(0, 0, 64)), quantize(weight.narrow(0, 64, 32))});
  ASSERT_TRUE(joined.ok()) << joined.status();
  const auto& one = std::get<QuantizedLinear>(whole.linear);
  const auto& other = std::get<QuantizedLinear>(joined->linear);
  EXPECT_TRUE(one.codes.equal(other.codes));
  EXPECT_TRUE(one.scales.equal(other.scales));
  EXPECT_TRUE(one.zeros.equal(other.zeros));
  EXPECT_TRUE(other.Check().ok());
  EXPECT_NEAR(joined->loss, whole.loss, 1e-6 * whole.loss);
}

TEST(DevicesRefused, MoreThanThereAre) {
  const JobFolders folders;
  const size_t gpus = ListDevices().size() - 1;
  const auto result =
      Quantize(folders, Spec("gptq"), absl::StrCat("cuda:0,cuda:", gpus == 0 ? 1 : gpus));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition) << result.status();
}

}  // namespace
}  // namespace quantd::engine
