// What users get wrong, and what attackers send: a clear error each time, and a scheduler that goes
// on.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

using ::testing::HasSubstr;

std::string Read(const std::string& path) { return ReadFile(path).value(); }
void Write(const std::string& path, const std::string& bytes) {
  ASSERT_TRUE(WriteFileAtomic(path, bytes).ok());
}

// Changes the JSON header of a safetensors file by replacing text with other text of the same
// length.
void PatchHeader(const std::string& path, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  std::string bytes = Read(path);
  const size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
  Write(path, bytes);
}

// One way to break a job: the folder is a fresh copy of the bundled model, the spec a valid one
// that names it.
struct Case {
  const char* name;
  std::function<void(const std::string& folder, v1::JobSpec* spec)> breaks;
  v1::ErrorClass error_class;
  const char* message;
};

void SetOption(v1::JobSpec* spec, const std::string& name, double value) {
  (*spec->mutable_quantize()->mutable_options()->mutable_fields())[name].set_number_value(value);
}

const std::vector<Case>& Cases() {
  static const auto* cases = new std::vector<Case>{
      {"truncated weights",
       [](const std::string& folder, v1::JobSpec*) {
         ASSERT_EQ(truncate((folder + "/model.safetensors").c_str(), 1'000'000), 0);
       },
       v1::ERROR_CLASS_BAD_INPUT, "model.safetensors"},
      {"empty weights",
       [](const std::string& folder, v1::JobSpec*) { Write(folder + "/model.safetensors", ""); },
       v1::ERROR_CLASS_BAD_INPUT, "model.safetensors"},
      {"a header longer than the file",
       [](const std::string& folder, v1::JobSpec*) {
         std::string bytes = Read(folder + "/model.safetensors");
         bytes.replace(0, 8, std::string(8, '\xff'));
         Write(folder + "/model.safetensors", bytes);
       },
       v1::ERROR_CLASS_BAD_INPUT, "header"},
      {"an unknown dtype",
       [](const std::string& folder, v1::JobSpec*) {
         PatchHeader(folder + "/model.safetensors", "\"BF16\"", "\"BF99\"");
       },
       v1::ERROR_CLASS_BAD_INPUT, "BF99"},
      {"a tensor that is missing",
       [](const std::string& folder, v1::JobSpec*) {
         PatchHeader(folder + "/model.safetensors", "layers.0.mlp.up_proj", "layers.0.mlp.xx_proj");
       },
       v1::ERROR_CLASS_BAD_INPUT, "model.layers.0.mlp.up_proj.weight"},
      {"shapes that are not the config's",
       [](const std::string& folder, v1::JobSpec*) {
         Write(folder + "/config.json",
               absl::StrReplaceAll(Read(folder + "/config.json"),
                                   {{"\"intermediate_size\": 768", "\"intermediate_size\": 640"}}));
       },
       v1::ERROR_CLASS_BAD_INPUT, "640"},
      {"an unknown architecture",
       [](const std::string& folder, v1::JobSpec*) {
         Write(folder + "/config.json",
               absl::StrReplaceAll(Read(folder + "/config.json"),
                                   {{"LlamaForCausalLM", "NoSuchForCausalLM"}}));
       },
       v1::ERROR_CLASS_BAD_INPUT, "NoSuchForCausalLM"},
      {"a pickle in place of the weights",
       [](const std::string& folder, v1::JobSpec*) {
         std::filesystem::remove(folder + "/model.safetensors");
         Write(folder + "/pytorch_model.bin", "\x80\x02}q\x00.");
       },
       v1::ERROR_CLASS_BAD_INPUT, "pytorch_model.bin"},
      {"a ZIP that is called safetensors",
       [](const std::string& folder, v1::JobSpec*) {
         Write(folder + "/model.safetensors", "PK\x03\x04" + std::string(100, 'x'));
       },
       v1::ERROR_CLASS_BAD_INPUT, "model.safetensors"},
      {"an index that leaves its folder",
       [](const std::string& folder, v1::JobSpec*) {
         std::filesystem::rename(folder + "/model.safetensors", folder + "/x.safetensors");
         Write(folder + "/model.safetensors.index.json",
               R"({"metadata":{},"weight_map":{"model.norm.weight":"../../etc/passwd"}})");
       },
       v1::ERROR_CLASS_BAD_INPUT, "../../etc/passwd"},
      {"a damaged tokenizer",
       [](const std::string& folder, v1::JobSpec*) {
         Write(folder + "/tokenizer.json", R"({"model": {"type": "BPE")");
       },
       v1::ERROR_CLASS_BAD_INPUT, "tokenizer.json"},
      {"a calibration file that is not there",
       [](const std::string&, v1::JobSpec* spec) {
         spec->mutable_quantize()->mutable_calibration()->set_source("/no/such/file.jsonl");
       },
       v1::ERROR_CLASS_BAD_INPUT, "/no/such/file.jsonl"},
      {"a calibration file that is not JSON lines",
       [](const std::string& folder, v1::JobSpec* spec) {
         Write(folder + "/calibration.jsonl", "{\"text\": \"a\"}\nnot json\n");
         spec->mutable_quantize()->mutable_calibration()->set_source(folder + "/calibration.jsonl");
       },
       v1::ERROR_CLASS_BAD_INPUT, "calibration.jsonl"},
      {"a model that is not there",
       [](const std::string&, v1::JobSpec* spec) {
         spec->mutable_quantize()->set_model("/no/such/model");
       },
       v1::ERROR_CLASS_BAD_INPUT, "/no/such/model"},
  };
  return *cases;
}

TEST(BadInput, EveryCaseEndsWithAClearErrorAndTheSchedulerGoesOn) {
  Service service({});
  // The first good job also waits for the worker, whose methods later submits are checked against.
  const v1::JobSpec good = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  const v1::Job before = service.Await(service.Submit(good, "before"), absl::Minutes(1));
  ASSERT_EQ(before.state(), v1::JOB_STATE_SUCCEEDED) << before.ShortDebugString() << service.Logs();

  std::vector<std::string> jobs;
  int number = 0;
  for (const Case& bad : Cases()) {
    const std::string folder = service / absl::StrCat("model-", number++);
    std::filesystem::copy(Source("models/tiny-6m"), folder);
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      std::filesystem::permissions(file, std::filesystem::perms::owner_write,
                                   std::filesystem::perm_options::add);
    }
    v1::JobSpec spec = QuantizeTiny("gptq", R"({"bits": 4, "group_size": 128})");
    spec.mutable_quantize()->set_model(folder);
    bad.breaks(folder, &spec);
    ASSERT_FALSE(testing::Test::HasFatalFailure()) << bad.name;
    jobs.push_back(service.Submit(spec, absl::StrCat("bad-", number)));
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Case& bad = Cases()[i];
    const v1::Job done = service.Await(jobs[i], absl::Minutes(2));
    EXPECT_EQ(done.state(), v1::JOB_STATE_FAILED) << bad.name;
    EXPECT_EQ(done.failure().error_class(), bad.error_class)
        << bad.name << ": " << done.failure().ShortDebugString();
    EXPECT_THAT(done.failure().message(), HasSubstr(bad.message)) << bad.name;
    EXPECT_EQ(done.attempt(), 1) << bad.name << ": a bad input must not be tried again";
  }
  const v1::Job after = service.Await(service.Submit(good, "after"), absl::Minutes(1));
  EXPECT_EQ(after.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(WeightDigests(after), WeightDigests(before));
}

TEST(BadInput, WhatCanBeKnownAtSubmitIsRefusedThere) {
  Service service({});
  ASSERT_EQ(
      service
          .Await(service.Submit(QuantizeTiny("rtn", R"({"bits": 4})"), "first"), absl::Minutes(1))
          .state(),
      v1::JOB_STATE_SUCCEEDED)
      << service.Logs();
  auto stub = v1::JobService::NewStub(
      grpc::CreateChannel(service.address(), grpc::InsecureChannelCredentials()));
  const auto submit = [&](const v1::JobSpec& spec) {
    grpc::ClientContext context;
    v1::SubmitJobRequest request;
    *request.mutable_spec() = spec;
    v1::SubmitJobResponse response;
    return stub->SubmitJob(&context, request, &response);
  };
  v1::JobSpec spec = QuantizeTiny("rtn", "{}");
  spec.mutable_quantize()->set_method("gptk");
  EXPECT_THAT(submit(spec).error_message(), HasSubstr("gptq"));

  spec = QuantizeTiny("rtn", "{}");
  SetOption(&spec, "bitz", 4);
  EXPECT_THAT(submit(spec).error_message(), HasSubstr("bitz"));

  spec = QuantizeTiny("rtn", "{}");
  SetOption(&spec, "bits", 5);
  EXPECT_THAT(submit(spec).error_message(), HasSubstr("bits"));

  spec = QuantizeTiny("rtn", "{}");
  spec.mutable_quantize()->set_format("gguf2");
  EXPECT_THAT(submit(spec).error_message(), HasSubstr("gguf2"));

  spec = QuantizeTiny("rtn", "{}");
  spec.mutable_quantize()->add_overrides()->set_pattern("(");
  EXPECT_THAT(submit(spec).error_message(), HasSubstr("overrides"));

  spec = QuantizeTiny("rtn", "{}");
  spec.set_display_name(std::string(5 << 20, 'x'));
  EXPECT_EQ(submit(spec).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);

  EXPECT_TRUE(service.scheduler().Running());
  EXPECT_TRUE(service.Get("tenants/default/jobs/../../x") == std::nullopt);
  EXPECT_TRUE(submit(QuantizeTiny("rtn", "{}")).ok());
}

}  // namespace
}  // namespace quantd::e2e
