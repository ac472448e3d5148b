// What users get wrong, each with its field; defaults; the empty catalog.
#include "server/validation/spec_validation.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

template <typename Message>
Message Parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

v1::Catalog TestCatalog() {
  return Parse<v1::Catalog>(R"(
    kinds: "quantize" kinds: "evaluate" kinds: "benchmark" kinds: "compare"
    methods {
      name: "gptq" formats: "gptq" formats: "gguf" needs_calibration: true
      options { name: "bits" type: INT default_value { number_value: 4 }
                allowed { number_value: 2 } allowed { number_value: 4 }
                allowed { number_value: 8 } }
      options { name: "damp" type: FLOAT minimum: 0 maximum: 1 }
      options { name: "sym" type: BOOL default_value { bool_value: true } }
      options { name: "order" type: STRING }
    }
    methods { name: "rtn" formats: "gptq" options { name: "bits" type: INT } }
    tasks { name: "perplexity" needs_data: true }
    tasks { name: "arc_easy" options { name: "shots" type: INT minimum: 0 } }
    devices { type: "cpu" })");
}

SpecFindings ResolveJob(v1::JobSpec* spec, const v1::Catalog& catalog = TestCatalog()) {
  SpecFindings findings;
  ResolveJobSpec(catalog, spec, &findings);
  return findings;
}

std::vector<std::string> Fields(const SpecFindings& findings) {
  std::vector<std::string> fields;
  for (const auto& violation : findings.violations) {
    fields.push_back(absl::StrCat(violation.field, ": ", violation.description));
  }
  return fields;
}

TEST(SpecValidation, DefaultsAreFilledInAndResolvingAgainChangesNothing) {
  auto spec = Parse<v1::JobSpec>(R"(quantize { model: "org/name" method: "gptq" })");
  EXPECT_THAT(Fields(ResolveJob(&spec)), IsEmpty());
  EXPECT_EQ(spec.quantize().format(), "gptq");
  EXPECT_EQ(spec.quantize().options().fields().at("bits").number_value(), 4);
  EXPECT_EQ(spec.quantize().options().fields().count("order"), 0u);
  EXPECT_EQ(spec.quantize().calibration().sequences(), 128);
  const v1::JobSpec once = spec;
  EXPECT_THAT(Fields(ResolveJob(&spec)), IsEmpty());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, spec));
}

TEST(SpecValidation, GivenOptionsStay) {
  auto spec = Parse<v1::JobSpec>(
      R"(quantize { model: "/m" method: "gptq" options { fields { key: "bits" value { number_value: 8 } } } })");
  EXPECT_THAT(Fields(ResolveJob(&spec)), IsEmpty());
  EXPECT_EQ(spec.quantize().options().fields().at("bits").number_value(), 8);
}

struct BadSpec {
  const char* text;
  const char* violation;
};

class BadSpecs : public testing::TestWithParam<BadSpec> {};

TEST_P(BadSpecs, NameTheField) {
  auto spec = Parse<v1::JobSpec>(GetParam().text);
  EXPECT_THAT(Fields(ResolveJob(&spec)), Contains(HasSubstr(GetParam().violation)));
}

INSTANTIATE_TEST_SUITE_P(
    Specs, BadSpecs,
    testing::Values(
        BadSpec{R"(quantize { model: "m" method: "gptk" })",
                "spec.quantize.method: there is no method \"gptk\"; did you mean \"gptq\"?"},
        BadSpec{R"(quantize { model: "m" method: "x" })", "there are: gptq, rtn"},
        BadSpec{R"(quantize { model: "m" })", "spec.quantize.method: is empty"},
        BadSpec{R"(quantize { method: "gptq" })", "spec.quantize.model: is empty"},
        BadSpec{R"(quantize { model: "jobs/../x" method: "gptq" })", "spec.quantize.model"},
        BadSpec{R"(quantize { model: "artifacts/12" method: "gptq" })", "spec.quantize.model"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "bitz" value { number_value: 4 } } } })",
            "spec.quantize.options.bitz: method gptq has no option \"bitz\"; did you mean "
            "\"bits\"?"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "bits" value { number_value: 5 } } } })",
            "spec.quantize.options.bits: 5 is none of 2, 4, 8"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "bits" value { string_value: "4" } } } })",
            "spec.quantize.options.bits: \"4\" is not a whole number"},
        BadSpec{
            R"(quantize { model: "m" method: "rtn" options { fields { key: "bits" value { number_value: 4.5 } } } })",
            "spec.quantize.options.bits: 4.5 is not a whole number"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "damp" value { number_value: 2 } } } })",
            "spec.quantize.options.damp: 2 is more than the maximum 1"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "sym" value { null_value: NULL_VALUE } } } })",
            "spec.quantize.options.sym: null is not true or false"},
        BadSpec{
            R"(quantize { model: "m" method: "gptq" options { fields { key: "bits" value { list_value {} } } } })",
            "a list is not a whole number"},
        BadSpec{R"(quantize { model: "m" method: "rtn" format: "gguf" })",
                "spec.quantize.format: method rtn cannot be written as \"gguf\""},
        BadSpec{R"(quantize { model: "m" method: "rtn" overrides { pattern: "(" } })",
                "spec.quantize.overrides[0].pattern"},
        BadSpec{
            R"(quantize { model: "m" method: "rtn" overrides { pattern: "x" options { fields { key: "y" value { bool_value: true } } } } })",
            "spec.quantize.overrides[0].options.y"},
        BadSpec{R"(quantize { model: "m" method: "rtn" calibration { sequences: -1 } })",
                "spec.quantize.calibration.sequences: -1 is not in 0 ... 1000000"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } priority: 1001)", "spec.priority"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } dependencies { job: "jobs/A B" })",
                "spec.dependencies[0].job"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } limits { run_time { seconds: -5 } })",
                "spec.limits.run_time"},
        BadSpec{
            R"(quantize { model: "m" method: "rtn" } limits { queue_time { nanos: 2000000000 } })",
            "spec.limits.queue_time"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } runtime { device: "tpu" })",
                "spec.runtime.device"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } runtime { device: "cuda:1,cuda:1" })",
                "spec.runtime.device"},
        BadSpec{R"(quantize { model: "m" method: "rtn" } runtime { dtype: "int4" })",
                "spec.runtime.dtype"},
        BadSpec{R"(evaluate { model: "m" })", "spec.evaluate.tasks: is empty"},
        BadSpec{R"(evaluate { model: "m" tasks { name: "arc_easi" } })",
                "did you mean \"arc_easy\"?"},
        BadSpec{R"(evaluate { model: "m" tasks { name: "perplexity" } })",
                "spec.evaluate.tasks[0].data"},
        BadSpec{R"(evaluate { model: "m" tasks { name: "arc_easy" limit: -1 } })",
                "spec.evaluate.tasks[0].limit"},
        BadSpec{R"(benchmark { model: "m" batch_sizes: 0 })", "spec.benchmark.batch_sizes[0]"},
        BadSpec{
            R"(compare { variants { name: "a" jobs: "jobs/a" } variants { name: "a" jobs: "x y" } })",
            "spec.compare.variants[1].name"},
        BadSpec{R"(verify { model: "m" })", "no worker does jobs of the kind verify"},
        BadSpec{R"(display_name: "x")", "spec: has none of quantize"}));

TEST(SpecValidation, EveryViolationIsCollected) {
  auto spec = Parse<v1::JobSpec>(R"(
    priority: 5000
    quantize { method: "gptq" format: "nope" overrides { pattern: "[" }
      options {
        fields { key: "bits" value { number_value: 5 } }
        fields { key: "sym" value { number_value: 1 } }
      }
    })");
  EXPECT_EQ(ResolveJob(&spec).violations.size(), 6u);
}

TEST(SpecValidation, WithoutWorkersNamesAreTakenWithAWarning) {
  auto spec = Parse<v1::JobSpec>(R"(quantize { model: "m" method: "whatever" })");
  const v1::JobSpec before = spec;
  SpecFindings findings = ResolveJob(&spec, v1::Catalog());
  EXPECT_THAT(Fields(findings), IsEmpty());
  ASSERT_EQ(findings.warnings.size(), 1u);
  EXPECT_THAT(findings.warnings[0], HasSubstr("no worker"));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(before, spec));
  spec.set_priority(-5000);
  EXPECT_THAT(Fields(ResolveJob(&spec, v1::Catalog())), Contains(HasSubstr("spec.priority")));
}

TEST(SpecValidation, SweepsTakeListsAsOptions) {
  const auto resolve = [](v1::SweepSpec spec) {
    SpecFindings findings;
    ResolveSweepSpec(TestCatalog(), &spec, &findings);
    return Fields(findings);
  };
  auto spec = Parse<v1::SweepSpec>(R"(
    models: "m"
    variants { method: "gptq" options { fields { key: "bits" value { list_value {
      values { number_value: 8 } values { number_value: 4 } } } } } }
    tasks { name: "arc_easy" })");
  EXPECT_THAT(resolve(spec), IsEmpty());
  (*spec.mutable_variants(0)->mutable_options()->mutable_fields())["bits"]
      .mutable_list_value()
      ->mutable_values(1)
      ->set_number_value(5);
  EXPECT_THAT(resolve(spec), Contains(HasSubstr("spec.variants[0].options.bits[1]: 5 is none of")));
  EXPECT_THAT(resolve(v1::SweepSpec()), testing::SizeIs(2));
}

TEST(Limits, OfListsAndOfWhatIsSaidAboutThem) {
  v1::JobSpec spec;
  spec.mutable_quantize()->set_model("m");
  for (int i = 0; i < 20'000; ++i) spec.add_dependencies();
  SpecFindings findings;
  ResolveJobSpec({}, &spec, &findings);
  EXPECT_EQ(findings.violations[0].field, "spec.dependencies");
  EXPECT_EQ(findings.violations[0].description, "has 20000 entries; at most 10000");
  EXPECT_EQ(findings.violations.size(), 1000u);
  EXPECT_EQ(FieldViolationsOf(FieldErrors(findings.violations)).size(), 64u);
}

}  // namespace
}  // namespace quantd
