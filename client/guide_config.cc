// One row a method of the guide: what it is called here and where its result can go.
#include "client/guide_config.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

struct GuideMethod {
  absl::string_view name;
  absl::string_view method;
  absl::string_view type;  // Option "type" of method gguf; empty: none.
  // The output formats of the guide by their names here; empty: it cannot go there.
  absl::string_view gguf, pytorch, safetensors;
  bool calibrates = false;
};

constexpr GuideMethod kMethods[] = {
    {"awq_q4_0", "awq_q4_0", "", "gguf", "", "", true},
    {"awq_q4_1", "awq_q4_1", "", "gguf", "", "", true},
    {"awq_q8_0", "awq_q8_0", "", "gguf", "", "", true},
    {"awq_f16", "awq_f16", "", "gguf", "", "", true},
    {"bnb_4bit", "bnb_4bit", "", "gguf", "pytorch", "bitsandbytes"},
    {"bnb_8bit", "bnb_8bit", "", "", "pytorch", "bitsandbytes"},
    {"q4_0", "gguf", "q4_0", "gguf", "", ""},
    {"q4_1", "gguf", "q4_1", "gguf", "", ""},
    {"q8_0", "gguf", "q8_0", "gguf", "", ""},
    {"f16", "gguf", "f16", "gguf", "", ""},
};

constexpr absl::string_view kFormats[] = {"gguf", "pytorch", "safetensors"};

absl::string_view FormatOf(const GuideMethod& method, absl::string_view format) {
  return format == "gguf" ? method.gguf : format == "pytorch" ? method.pytorch : method.safetensors;
}

absl::Status MapFormat(const GuideMethod& method, const std::string& format,
                       v1::QuantizeSpec* spec) {
  if (format.empty()) return absl::OkStatus();
  std::vector<absl::string_view> possible;
  for (const absl::string_view known : kFormats) {
    if (!FormatOf(method, known).empty()) possible.push_back(known);
  }
  if (std::find(possible.begin(), possible.end(), format) == possible.end()) {
    return absl::InvalidArgumentError(absl::StrCat("output_format: ", format, ": method ",
                                                   method.name, " goes to ",
                                                   absl::StrJoin(possible, " or ")));
  }
  spec->set_format(std::string(FormatOf(method, format)));
  return absl::OkStatus();
}

const GuideMethod* Find(absl::string_view name) {
  for (const GuideMethod& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

absl::Status CheckModel(const v1::GuideConfig& config) {
  const v1::GuideConfig::Model& model = config.model();
  if (model.model_name().empty()) {
    return absl::InvalidArgumentError("model.model_name: is needed");
  }
  if (model.tokenizer_name().empty() || model.tokenizer_name() == model.model_name()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("model.tokenizer_name: ", model.tokenizer_name(),
                   ": a model is quantized with its own tokenizer, which lies beside its weights; "
                   "leave the key out"));
}

void Calibrate(const v1::GuideConfig& config, const GuideMethod& method, GuidedJob* job) {
  if (method.calibrates) {
    if (config.calibration_samples() > 0) {
      job->spec.mutable_calibration()->set_sequences(config.calibration_samples());
    }
    if (config.batch_size() > 0) {
      job->spec.mutable_calibration()->set_batch_size(config.batch_size());
    }
  } else if (config.calibration_samples() > 0 || config.batch_size() > 0) {
    job->notes.push_back(absl::StrCat("calibration_samples, batch_size: method ", method.name,
                                      " needs no calibration"));
  }
  if (!config.has_awq_group_size()) return;
  job->notes.push_back(
      absl::StartsWith(method.name, "awq_")
          ? absl::StrCat("awq_group_size: scales and clips are searched with the blocks of 32 "
                         "weights that the file will have")
          : absl::StrCat("awq_group_size: method ", method.name, " has blocks of its own"));
}

}  // namespace

absl::StatusOr<GuidedJob> MapGuideConfig(const v1::GuideConfig& config) {
  QD_RETURN_IF_ERROR(CheckModel(config));
  const GuideMethod* method = Find(config.method());
  if (method == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "method: ", config.method().empty() ? "is needed: " : config.method() + ": ",
        absl::StrJoin(
            kMethods, ", ",
            [](std::string* out, const GuideMethod& known) { absl::StrAppend(out, known.name); }),
        "; all others by --method or in a JobSpec (--file)"));
  }
  GuidedJob job;
  job.spec.set_model(config.model().model_name());
  job.spec.set_method(std::string(method->method));
  if (!method->type.empty()) {
    (*job.spec.mutable_options()->mutable_fields())["type"].set_string_value(
        std::string(method->type));
  }
  QD_RETURN_IF_ERROR(MapFormat(*method, config.output_format(), &job.spec));
  job.output = config.output_path();
  Calibrate(config, *method, &job);
  if (config.has_cleanup_temp() && !config.cleanup_temp()) {
    job.notes.push_back(
        "cleanup_temp: a job's temporary files are kept while it may go on, and removed after");
  }
  if (config.verbose()) {
    job.notes.push_back("verbose: the whole log is shown by `quantctl jobs logs ID`");
  }
  return job;
}

}  // namespace quantd
