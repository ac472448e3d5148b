// Every mistake that a user's file can hold gets an error with its place; every message survives a
// round trip.
#include "proto/yaml.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"

namespace quantd {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;

struct ErrorCase {
  const char* yaml;
  const char* error;  // Must be part of the message.
};

class JobErrors : public ::testing::TestWithParam<ErrorCase> {};

TEST_P(JobErrors, NamePlaceAndCause) {
  v1::JobSpec spec;
  const absl::Status status = YamlToMessage(GetParam().yaml, "job.yaml", &spec);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().error)) << GetParam().yaml;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, JobErrors,
    ::testing::Values(
        ErrorCase{"", "job.yaml: the file is empty"}, ErrorCase{"# nothing\n", "the file is empty"},
        ErrorCase{"42", "job.yaml:1:1: must be a map of fields, not \"42\""},
        ErrorCase{"- a\n- b", "job.yaml:1:1: must be a map of fields, not a list"},
        ErrorCase{"quantise: {}",
                  "job.yaml:1:1: quantise: unknown field; did you mean \"quantize\"?"},
        ErrorCase{"displayname: x", "did you mean \"display_name\"?"},
        ErrorCase{"quantize:\n  option: {bits: 4}",
                  "job.yaml:2:3: quantize.option: unknown field; did you mean \"options\"?"},
        ErrorCase{"zzzzzzzzz: 1", "zzzzzzzzz: unknown field; there are: display_name, quantize"},
        ErrorCase{"\"<<\": {priority: 1}", "<<: unknown field"},
        ErrorCase{"priority: 1\npriority: 2",
                  "job.yaml:2:1: priority: is given twice, first in line 1"},
        ErrorCase{"display_name: a\ndisplayName: b",
                  "job.yaml:2:1: displayName: is the same field as \"display_name\" above"},
        ErrorCase{"labels: {a: x, a: y}", "labels.a: is given twice"},
        ErrorCase{"quantize:\n  options: {bits: 4, bits: 3}",
                  "quantize.options.bits: is given twice"},
        ErrorCase{"evaluate: {}\nquantize: {}",
                  "job.yaml:2:1: quantize: cannot stand beside \"evaluate\""},
        ErrorCase{"? [a]\n: 1", "a name must stand before ':', not a list"}));

INSTANTIATE_TEST_SUITE_P(
    Kinds, JobErrors,
    ::testing::Values(
        ErrorCase{"quantize:", "quantize: has no value; write {}"},
        ErrorCase{"display_name:", "display_name: has no value; give a text"},
        ErrorCase{"display_name: ~", "has no value"},
        ErrorCase{"display_name: [a]", "job.yaml:1:15: display_name: must be a text, not a list"},
        ErrorCase{"display_name: {a: b}", "must be a text, not a map"},
        ErrorCase{"quantize: llama", "quantize: must be a map of fields, not \"llama\""},
        ErrorCase{"quantize: {options: 4}", "quantize.options: must be a map, not \"4\""},
        ErrorCase{"quantize: {options: }", "quantize.options: has no value; write {}"},
        ErrorCase{"labels: [a]", "labels: must be a map, not a list"},
        ErrorCase{"labels: {a: [x]}", "labels.a: must be a text, not a list"},
        ErrorCase{"labels: {a: }", "labels.a: has no value"},
        ErrorCase{"dependencies: jobs/x", "dependencies: must be a list, not \"jobs/x\""},
        ErrorCase{"dependencies:", "write [] for an empty list"},
        ErrorCase{"dependencies: [jobs/x]", "dependencies[0]: must be a map of fields"},
        ErrorCase{"evaluate:\n  tasks:\n  - name: arc\n  - nam: arc",
                  "job.yaml:4:5: evaluate.tasks[1].nam: unknown field; did you mean \"name\"?"},
        ErrorCase{"dependencies: [{condition: done}]",
                  "\"done\" is not one of unspecified, succeeded, finished"},
        ErrorCase{"dependencies: [{condition: 2}]", "\"2\" is not one of"},
        ErrorCase{"quantize: {overrides: [{skip: yes}]}", "must be true or false, not \"yes\""},
        ErrorCase{"quantize: {overrides: [{skip: 1}]}", "must be true or false"},
        ErrorCase{"display_name: !!binary aGk=", "unknown tag"},
        ErrorCase{"quantize: !model {}", "unknown tag \"!model\""}));

INSTANTIATE_TEST_SUITE_P(
    Ranges, JobErrors,
    ::testing::Values(
        ErrorCase{"priority: high", "priority: \"high\" is not a whole number"},
        ErrorCase{"priority: 1.5", "1.5 is not a whole number"},
        ErrorCase{"priority: 2147483648", "out of range; allowed is -2147483648 to 2147483647"},
        ErrorCase{"priority: 0x10", "is not a whole number"},
        ErrorCase{"priority: inf", "is not a whole number"},
        ErrorCase{"runtime: {seed: -1}", "runtime.seed: -1 is out of range"},
        ErrorCase{"runtime: {seed: 18446744073709551616}", "out of range"},
        ErrorCase{"runtime: {device_memory_bytes: 4G}", "unknown unit \"G\"; write 4GiB"},
        ErrorCase{"runtime: {device_memory_bytes: -1}", "it is negative"},
        ErrorCase{"runtime: {device_memory_bytes: -1GiB}", "it is negative"},
        ErrorCase{"runtime: {device_memory_bytes: 1.5B}", "not a whole number of bytes"},
        ErrorCase{"runtime: {device_memory_bytes: 9999999TiB}", "it is too large"},
        ErrorCase{"runtime: {device_memory_bytes: lots}", "is not a size in bytes"},
        ErrorCase{"runtime: {device_memory_bytes: GiB}", "is not a size in bytes"},
        ErrorCase{"limits: {run_time: 30}",
                  "limits.run_time: \"30\" is not a length of time: it has no unit"},
        ErrorCase{"limits: {run_time: soon}", "\"soon\" is not a length of time"},
        ErrorCase{"limits: {run_time: -5s}", "it is negative"},
        ErrorCase{"limits: {run_time: inf}", "longer than 10,000 years"},
        ErrorCase{"limits: {run_time: 2 h}", "is not a length of time"},
        ErrorCase{"limits: {run_time: [1h]}", "must be a length of time, not a list"},
        ErrorCase{"quantize: {options: {bits: 9007199254740993}}", "too large to be exact"}));

INSTANTIATE_TEST_SUITE_P(
    Texts, JobErrors,
    ::testing::Values(ErrorCase{"priority: 1\n---\npriority: 2", "a second document"},
                      ErrorCase{",", "second document"}, ErrorCase{"priority: [1", "is not YAML"},
                      ErrorCase{"\tpriority: 1", "is not YAML"},
                      ErrorCase{"labels: {a: *nowhere}", "is not YAML"},
                      ErrorCase{"display_name: \"a", "is not YAML"},
                      ErrorCase{"display_name: \xff\xfe", "job.yaml: is not valid UTF-8"},
                      ErrorCase{"display_name: \"a\\_b\"", "job.yaml:1:15: holds an escape"},
                      ErrorCase{"quantize: {options: &a {x: *a}}", "nests deeper than 32 levels"}));

TEST(Yaml, ReportsEveryMistakeUpToTwenty) {
  v1::JobSpec spec;
  absl::Status status = YamlToMessage("priority: x\nnope: 1\nruntime: {threads: y}\n", "j", &spec);
  EXPECT_THAT(std::string(status.message()), HasSubstr("j:1:11: priority"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\nj:2:1: nope"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\nj:3:20: runtime.threads"));
  std::string many;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&many, "qqqqqq", i, ": 1\n");
  status = YamlToMessage(many, "j", &spec);
  EXPECT_EQ(std::count(status.message().begin(), status.message().end(), '\n'), 19);
}

TEST(Yaml, RefusesWhatIsTooLargeTooDeepOrGrows) {
  v1::JobSpec spec;
  absl::Status status =
      YamlToMessage(absl::StrCat("display_name: ", std::string(2 << 20, 'x')), "big.yaml", &spec);
  EXPECT_THAT(std::string(status.message()), HasSubstr("larger than the limit"));

  // Deep in flow style: yaml-cpp's own guard or ours, but an error and no crash.
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  EXPECT_FALSE(YamlToMessage("quantize: {options: {a: " + deep + "}}", "deep.yaml", &spec).ok());
  const std::string forty = std::string(40, '[') + std::string(40, ']');
  status = YamlToMessage("quantize: {options: {a: " + forty + "}}", "deep.yaml", &spec);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nests deeper than 32 levels"));

  std::string laughs = "quantize:\n  options:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    absl::StrAppend(&laughs, "    a", i, ": &a", i, " [");
    for (int k = 0; k < 10; ++k) absl::StrAppend(&laughs, k == 0 ? "" : ", ", "*a", i - 1);
    absl::StrAppend(&laughs, "]\n");
  }
  status = YamlToMessage(laughs, "laughs.yaml", &spec);
  EXPECT_THAT(std::string(status.message()), HasSubstr("holds more than 100000 values"));
}

TEST(Yaml, ReadsEveryKindOfField) {
  v1::JobSpec spec;
  const absl::Status status = YamlToMessage(R"(
displayName: "Llama, 4 bits"
quantize:
  model: org/name
  method: gptq
  options:
    bits: 4
    damping: 1.0e-2
    symmetric: true
    text: "4"
    nothing: null
    list: [8, four, [1]]
    nested: {a: {b: -1}}
  calibration: {sequences: 32, sequenceLength: 512}
  overrides:
  - {pattern: 'mlp\.down', skip: true}
  shard_bytes: 5 GB
priority: -3
dependencies:
- {job: jobs/a, condition: FINISHED}
- {job: jobs/b, condition: Condition_Unspecified}
limits: {queue_time: 1h30m, run_time: 1.5s, no_progress_time: 250ms}
labels: {team: a, 7: seven, on: "yes"}
runtime: {device_memory_bytes: 4GiB, host_memory_bytes: 1.5GiB,
          seed: 18446744073709551615, threads: 2e0}
)",
                                            "job.yaml", &spec);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(spec.display_name(), "Llama, 4 bits");
  const auto& options = spec.quantize().options().fields();
  EXPECT_EQ(options.at("bits").number_value(), 4);
  EXPECT_EQ(options.at("damping").number_value(), 0.01);
  EXPECT_TRUE(options.at("symmetric").bool_value());
  EXPECT_EQ(options.at("text").string_value(), "4");
  EXPECT_TRUE(options.at("nothing").has_null_value());
  EXPECT_EQ(options.at("list").list_value().values(1).string_value(), "four");
  EXPECT_EQ(options.at("nested")
                .struct_value()
                .fields()
                .at("a")
                .struct_value()
                .fields()
                .at("b")
                .number_value(),
            -1);
  EXPECT_EQ(spec.quantize().calibration().sequence_length(), 512);
  EXPECT_TRUE(spec.quantize().overrides(0).skip());
  EXPECT_EQ(spec.quantize().shard_bytes(), 5'000'000'000);
  EXPECT_EQ(spec.priority(), -3);
  EXPECT_EQ(spec.dependencies(0).condition(), v1::Dependency::FINISHED);
  EXPECT_EQ(spec.limits().queue_time().seconds(), 5400);
  EXPECT_EQ(spec.limits().run_time().nanos(), 500'000'000);
  EXPECT_EQ(spec.limits().no_progress_time().nanos(), 250'000'000);
  EXPECT_EQ(spec.labels().at("7"), "seven");
  EXPECT_EQ(spec.runtime().device_memory_bytes(), int64_t{4} << 30);
  EXPECT_EQ(spec.runtime().host_memory_bytes(), int64_t{3} << 29);
  EXPECT_EQ(spec.runtime().seed(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(spec.runtime().threads(), 2);
}

TEST(Yaml, PrintsWhatAPersonWouldWrite) {
  v1::SweepSpec sweep;
  ASSERT_TRUE(YamlToMessage(R"(
models: [a/b]
variants: [{method: gptq, options: {bits: [8, 4, 3], note: "4"}}, {method: rtn}]
benchmark: {}
limits: {run_time: 90m}
runtime: {device_memory_bytes: 4294967296}
)",
                            "s", &sweep)
                  .ok());
  EXPECT_EQ(MessageToYaml(sweep), R"(models: [a/b]
variants:
  - method: gptq
    options:
      bits: [8, 4, 3]
      note: "4"
  - method: rtn
benchmark: {}
limits:
  run_time: 1h30m
runtime:
  device_memory_bytes: 4GiB
)");
}

TEST(Yaml, TimestampsSurvive) {
  v1::Job job;
  ASSERT_TRUE(
      YamlToMessage("create_time: 2025-06-15T12:00:00.25Z\nstate: running", "j", &job).ok());
  EXPECT_EQ(job.create_time().nanos(), 250'000'000);
  EXPECT_EQ(MessageToYaml(job), "state: running\ncreate_time: \"2025-06-15T12:00:00.25Z\"\n");
  EXPECT_FALSE(YamlToMessage("create_time: yesterday", "j", &job).ok());
  EXPECT_FALSE(YamlToMessage("create_time: infinite-future", "j", &job).ok());
}

std::string RandomText(std::mt19937* random) {
  static const char* const kPieces[] = {
      "a", "B",    "9",   "-", " ",  ":",  "#", "\n",   "\t",   "\"",       "\\",
      "'", "~",    "[",   "]", "{",  "}",  ",", "&",    "*",    "!",        "%",
      "@", "null", "tru", "e", "1e", "0x", ".", "\x01", "\x7f", "\xc3\xa9", "\xe2\x80\xa8"};
  std::string text;
  const int pieces = static_cast<int>((*random)() % 6);
  for (int i = 0; i < pieces; ++i) text += kPieces[(*random)() % std::size(kPieces)];
  return text;
}

void FillValue(std::mt19937* random, int depth, google::protobuf::Value* value) {
  switch ((*random)() % (depth > 3 ? 4 : 6)) {
    case 0:
      value->set_null_value(google::protobuf::NULL_VALUE);
      break;
    case 1:
      value->set_bool_value((*random)() % 2 == 0);
      break;
    case 2:
      value->set_number_value(std::ldexp(static_cast<double>((*random)()) - 2e9,
                                         static_cast<int>((*random)() % 100) - 40));
      break;
    case 3:
      value->set_string_value(RandomText(random));
      break;
    case 4:
      value->mutable_list_value();
      for (uint32_t i = (*random)() % 4; i > 0; --i) {
        FillValue(random, depth + 1, value->mutable_list_value()->add_values());
      }
      break;
    default:
      value->mutable_struct_value();
      for (uint32_t i = (*random)() % 4; i > 0; --i) {
        FillValue(random, depth + 1,
                  &(*value->mutable_struct_value()->mutable_fields())[RandomText(random)]);
      }
  }
}

TEST(Yaml, RandomMessagesSurviveARoundTrip) {
  const uint32_t seed = std::random_device()();
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    v1::JobSpec spec;
    spec.set_display_name("x" + RandomText(&random));
    spec.set_priority(static_cast<int>(random() % 2001) - 1000);
    (*spec.mutable_labels())[RandomText(&random)] = RandomText(&random);
    spec.mutable_runtime()->set_device_memory_bytes(static_cast<int64_t>(random())
                                                    << (random() % 20));
    spec.mutable_limits()->mutable_run_time()->set_seconds(random());
    spec.mutable_limits()->mutable_run_time()->set_nanos(
        static_cast<int32_t>(random() % 1'000'000'000));
    for (int i = 0; i < 3; ++i) {
      FillValue(
          &random, 0,
          &(*spec.mutable_quantize()->mutable_options()->mutable_fields())[RandomText(&random)]);
    }
    const std::string text = MessageToYaml(spec);
    v1::JobSpec back;
    const absl::Status status = YamlToMessage(text, "x", &back);
    ASSERT_TRUE(status.ok()) << "seed " << seed << " round " << round << "\n"
                             << status << "\n"
                             << text;
    ASSERT_TRUE(MessageDifferencer::Equals(spec, back))
        << "seed " << seed << " round " << round << "\n"
        << text << "\n"
        << spec.DebugString();
  }
}

TEST(Yaml, RandomBytesNeverCrash) {
  const uint32_t seed = std::random_device()();
  std::mt19937 random(seed);
  SCOPED_TRACE(seed);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) text += RandomText(&random);
    v1::SweepSpec spec;
    (void)YamlToMessage(text, "x", &spec);
    (void)YamlToMessage("variants: [{options: {a: " + text + "}}]", "x", &spec);
  }
}

TEST(Yaml, ReadsOneValue) {
  EXPECT_EQ(YamlToValue("4", "--option")->number_value(), 4);
  EXPECT_EQ(YamlToValue("[8, 4]", "--option")->list_value().values_size(), 2);
  EXPECT_EQ(YamlToValue("\"4\"", "--option")->string_value(), "4");
  EXPECT_EQ(YamlToValue("nf4", "--option")->string_value(), "nf4");
  EXPECT_THAT(std::string(YamlToValue("[8", "--option").status().message()), HasSubstr("--option"));
}

}  // namespace
}  // namespace quantd
