// The table.
#include "client/experiments.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/nearest.h"
#include "base/status_macros.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

constexpr Experiment kExperiments[] = {
    {"rtn_8bit", "rtn", "{bits: 8, group_size: 128}"},
    {"rtn_4bit", "rtn", "{bits: 4, group_size: 128}"},
    {"rtn_3bit", "rtn", "{bits: 3, group_size: 128}"},
    {"rtn_2bit", "rtn", "{bits: 2, group_size: 128}"},
    {"bnb_8bit", "bnb_8bit", "{}"},
    {"bnb_4bit_nf4", "bnb_4bit", "{quant_type: nf4, double_quant: false}"},
    {"bnb_4bit_nf4_double", "bnb_4bit", "{quant_type: nf4, double_quant: true}"},
    {"bnb_4bit_fp4", "bnb_4bit", "{quant_type: fp4, double_quant: false}"},
    {"bnb_4bit_fp4_double", "bnb_4bit", "{quant_type: fp4, double_quant: true}"},
    {"gptq_8bit", "gptq", "{bits: 8, group_size: 128}"},
    {"gptq_4bit", "gptq", "{bits: 4, group_size: 128}"},
    {"gptq_4bit_g64", "gptq", "{bits: 4, group_size: 64}"},
    {"gptq_4bit_g32", "gptq", "{bits: 4, group_size: 32}"},
    {"gptq_4bit_desc_act", "gptq", "{bits: 4, group_size: 128, desc_act: true}"},
    {"gptq_3bit", "gptq", "{bits: 3, group_size: 128}"},
    {"gptq_2bit", "gptq", "{bits: 2, group_size: 128}"},
    {"awq_8bit", "awq", "{bits: 8, group_size: 128}"},
    {"awq_4bit", "awq", "{bits: 4, group_size: 128}"},
    {"awq_4bit_g64", "awq", "{bits: 4, group_size: 64}"},
    {"awq_4bit_g32", "awq", "{bits: 4, group_size: 32}"},
    {"awq_3bit", "awq", "{bits: 3, group_size: 128}"},
    {"hqq_8bit", "hqq", "{bits: 8, group_size: 64}"},
    {"hqq_4bit", "hqq", "{bits: 4, group_size: 64}"},
    {"hqq_3bit", "hqq", "{bits: 3, group_size: 64}"},
    {"hqq_2bit", "hqq", "{bits: 2, group_size: 64}"},
    {"smoothquant_w8a8", "smoothquant", "{}"},
    {"adaround_4bit", "adaround", "{bits: 4, group_size: 128}"},
    {"adaround_3bit", "adaround", "{bits: 3, group_size: 128}"},
    {"quarot_4bit", "quarot", "{bits: 4, group_size: 128}"},
    {"quarot_3bit", "quarot", "{bits: 3, group_size: 128}"},
    {"gguf_q8_0", "gguf", "{type: q8_0}"},
    {"gguf_q5_k_m", "gguf", "{type: q5_k_m}"},
    {"gguf_q4_k_m", "gguf", "{type: q4_k_m}"},
    {"gguf_q4_0", "gguf", "{type: q4_0}"},
};
constexpr absl::string_view kQuick[] = {"bnb_8bit", "bnb_4bit_nf4"};

}  // namespace

absl::Span<const Experiment> Experiments() { return kExperiments; }
absl::Span<const absl::string_view> QuickExperiments() { return kQuick; }

absl::StatusOr<v1::VariantSpec> ExperimentVariant(const std::string& name) {
  std::vector<std::string> names;
  for (const Experiment& experiment : kExperiments) {
    names.emplace_back(experiment.name);
    if (experiment.name != name) continue;
    v1::VariantSpec variant;
    variant.set_name(name);
    variant.set_method(std::string(experiment.method));
    QD_ASSIGN_OR_RETURN(const google::protobuf::Value options,
                        YamlToValue(std::string(experiment.options), name));
    *variant.mutable_options() = options.struct_value();
    return variant;
  }
  return absl::NotFoundError(absl::StrCat("there is no experiment \"", name, "\"",
                                          Suggestion(name, names),
                                          " (quantctl methods --experiments)"));
}

}  // namespace quantd
