// The engine's hand-written proto3-JSON against Protobuf's own: events must parse as JobEvent with
// no unknown field, and every spec that Protobuf prints must be understood, in both spellings.
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_split.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"
#include "workers/engine/job/events.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/options.h"
#include "workers/engine/job/spec.h"

namespace quantd {
namespace {

using google::protobuf::util::JsonPrintOptions;
using google::protobuf::util::JsonStringToMessage;
using google::protobuf::util::MessageDifferencer;
using google::protobuf::util::MessageToJsonString;

// What the engine's sink writes for `emit`, parsed by Protobuf.
std::vector<v1::JobEvent> Events(const std::function<void(engine::EventSink&)>& emit) {
  int fds[2];
  EXPECT_EQ(pipe(fds), 0);
  const engine::CancelToken cancel;
  engine::FdSink sink(fds[1], cancel);
  emit(sink);
  close(fds[1]);
  std::string text(1 << 16, '\0');
  text.resize(static_cast<size_t>(read(fds[0], text.data(), text.size())));
  close(fds[0]);
  std::vector<v1::JobEvent> events;
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(text, '\n', absl::SkipEmpty()))) {
    const auto status = JsonStringToMessage(line, &events.emplace_back());
    EXPECT_TRUE(status.ok()) << status << "\n" << line;
    EXPECT_TRUE(events.back().has_time());
  }
  return events;
}

TEST(EventContract, EveryKindOfEventParses) {
  const auto events = Events([](engine::EventSink& sink) {
    sink.Progress({"quantize", 3, 24, "block"});
    sink.Metric("perplexity", 12.5, "nats", {{"partial", "true"}});
    sink.Metric("perplexity", std::nan(""));
    sink.Metric("perplexity", std::numeric_limits<double>::infinity());
    sink.Artifact("model.safetensors", "model");
    sink.Checkpoint(3, 24, {"blocks/000003.bin", "state.json"});
    sink.Fallback("damping", "model.layers.0.mlp.down_proj", "0.01 -> 0.1");
    sink.Result({{"sizeBytes", 123}, {"nan", std::nan("")}, {"list", {1, "a", nullptr}}});
    sink.Failure(engine::WithErrorClass(absl::InternalError("logits \xff differ"),
                                        engine::ErrorClass::kVerificationFailed));
  });
  ASSERT_EQ(events.size(), 9u);
  EXPECT_EQ(events[0].progress().phase(), "quantize");
  EXPECT_EQ(events[0].progress().done(), 3);
  EXPECT_EQ(events[0].progress().total(), 24);
  EXPECT_EQ(events[1].metric().labels().at("partial"), "true");
  EXPECT_TRUE(std::isnan(events[2].metric().value()));
  EXPECT_TRUE(std::isinf(events[3].metric().value()));
  EXPECT_EQ(events[4].artifact().file().role(), "model");
  EXPECT_EQ(events[5].checkpoint().blocks_done(), 3);
  EXPECT_EQ(events[5].checkpoint().paths_size(), 2);
  EXPECT_EQ(events[6].fallback().kind(), "damping");
  EXPECT_EQ(events[7].result().values().fields().at("sizeBytes").number_value(), 123);
  EXPECT_TRUE(events[7].result().values().fields().at("nan").has_null_value());
  EXPECT_EQ(events[8].failure().error_class(), v1::ERROR_CLASS_VERIFICATION_FAILED);
  EXPECT_EQ(events[8].failure().code(), 13);
  EXPECT_FALSE(events[8].failure().remedy().empty());
}

TEST(EventContract, ProgressHasRateAndRemainingTime) {
  const auto events = Events([](engine::EventSink& sink) {
    sink.Progress({"quantize", 0, 2, "block"});
    usleep(2000);
    sink.Progress({"quantize", 2, 2, "block"});
  });
  ASSERT_EQ(events.size(), 2u);
  EXPECT_GT(events[1].progress().rate(), 0);
  EXPECT_TRUE(events[1].progress().has_remaining());
}

TEST(EventContract, EveryErrorClassHasProtobufsName) {
  for (int i = 0; i <= static_cast<int>(engine::ErrorClass::kInternal); ++i) {
    const std::string name(engine::ErrorClassName(static_cast<engine::ErrorClass>(i)));
    v1::ErrorClass parsed;
    EXPECT_TRUE(v1::ErrorClass_Parse(name, &parsed)) << name;
  }
}

// One spec of every kind, every field set.
std::vector<v1::JobSpec> FullSpecs() {
  const char* kKinds[] = {
      R"("quantize": {"model": "m", "method": "gptq", "options": {"bits": 4, "sym": true},
         "format": "gptq", "calibration": {"source": "s", "textField": "t", "sequences": 1,
         "sequenceLength": 2, "batchSize": 3}, "overrides": [{"pattern": "p", "skip": true,
         "options": {"bits": 8}}], "shardBytes": "5000000000"})",
      R"("evaluate": {"model": "m", "tasks": [{"name": "arc", "data": "d", "limit": 2,
         "options": {"bos": "none"}}], "batchSize": 4})",
      R"("benchmark": {"model": "m", "batchSizes": [1, 2], "promptLengths": [3],
         "decodeTokens": 4, "repetitions": 5, "warmup": 6, "baseline": "b"})",
      R"("verify": {"model": "m"})",
      R"("compare": {"variants": [{"name": "n", "jobs": ["jobs/a", "jobs/b"], "baseline": true}]})",
      R"("report": {"title": "t", "variants": [{"name": "n", "jobs": ["jobs/a"]}]})"};
  std::vector<v1::JobSpec> specs;
  for (const char* kind : kKinds) {
    const std::string text = std::string(R"({"displayName": "d", "priority": 5,
        "dependencies": [{"job": "jobs/x", "condition": "FINISHED"}],
        "limits": {"queueTime": "3s", "runTime": "1.500s"}, "retry": {"maxAttempts": 2},
        "requirements": {"device": "cuda", "deviceMemoryBytes": "7"}, "labels": {"a": "b"},
        "runtime": {"device": "cpu", "dtype": "float32", "deviceMemoryBytes": "9",
        "hostMemoryBytes": "10", "threads": 3, "seed": "18446744073709551615",
        "reference": true},)") +
                             kind + "}";
    const auto status = JsonStringToMessage(text, &specs.emplace_back());
    EXPECT_TRUE(status.ok()) << status;
  }
  return specs;
}

TEST(SpecContract, TheEngineReadsWhatProtobufPrints) {
  for (v1::JobSpec spec : FullSpecs()) {
    for (bool snake : {false, true}) {
      for (bool defaults : {false, true}) {
        JsonPrintOptions options;
        options.preserve_proto_field_names = snake;
        options.always_print_primitive_fields = defaults;
        std::string text;
        ASSERT_TRUE(MessageToJsonString(spec, &text, options).ok());
        const auto parsed = engine::ParseJobSpec(text);
        ASSERT_TRUE(parsed.ok()) << parsed.status() << "\n" << text;
        // Back again: equal but for what only the scheduler reads.
        v1::JobSpec back;
        const auto status = JsonStringToMessage(engine::JobSpecToJson(*parsed).dump(), &back);
        ASSERT_TRUE(status.ok()) << status;
        v1::JobSpec expected = spec;
        expected.clear_priority();
        expected.clear_dependencies();
        expected.clear_limits();
        expected.clear_retry();
        expected.clear_requirements();
        expected.clear_labels();
        EXPECT_TRUE(MessageDifferencer::Equals(back, expected))
            << back.DebugString() << expected.DebugString();
      }
    }
  }
}

// A field added to the proto and forgotten in the engine fails here.
TEST(SpecContract, TheEngineKnowsEveryField) {
  const auto& fields = *v1::JobSpec::descriptor();
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& field = *fields.field(i);
    if (field.message_type() == nullptr || field.containing_oneof() == nullptr) continue;
    for (int j = 0; j < field.message_type()->field_count(); ++j) {
      const std::string name = field.message_type()->field(j)->name();
      const auto parsed =
          engine::ParseJobSpec("{\"" + field.name() + "\":{\"" + name + "\":null}}");
      EXPECT_TRUE(parsed.ok()) << field.name() << "." << name << ": " << parsed.status();
    }
  }
}

TEST(CatalogContract, OptionInfoParses) {
  const engine::OptionInfo option{"bits", engine::OptionType::kInt, 4, {2, 3, 4}, 2, 4, "Bits."};
  v1::OptionInfo parsed;
  const auto status = JsonStringToMessage(engine::OptionInfoToJson(option).dump(), &parsed);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(parsed.type(), v1::OptionInfo::INT);
  EXPECT_EQ(parsed.default_value().number_value(), 4);
  EXPECT_EQ(parsed.allowed_size(), 3);
  EXPECT_EQ(parsed.minimum(), 2);
}

}  // namespace
}  // namespace quantd
