// Names of models and data files, resolved.
#include "client/inputs.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/hub_data.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "client/transfer.h"
#include "proto/names.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

// "tenants/{t}/jobs/{j}", "jobs/{j}", "artifacts/{sha256}": things the scheduler knows.
bool IsStored(absl::string_view text) {
  return absl::StartsWith(text, "jobs/") || absl::StartsWith(text, "artifacts/") ||
         absl::StartsWith(text, "tenants/");
}

// The absolute path when it exists, else "".
std::string Existing(const std::string& text, const InputOptions& options) {
  std::error_code error;
  const fs::path path = fs::absolute(fs::path(options.base_folder) / text, error);
  if (error || !fs::exists(path, error)) return "";
  std::string found = path.lexically_normal().string();
  if (found.size() > 1 && found.back() == '/') found.pop_back();
  return found;
}

}  // namespace

absl::StatusOr<std::string> ResolveModel(const std::string& text, const InputOptions& options) {
  if (text.empty()) return absl::InvalidArgumentError("no model is named");
  if (IsStored(text) || options.remote_paths) return text;
  if (std::string path = Existing(text, options); !path.empty()) return path;
  if (IsHubName(text)) return text;
  return absl::NotFoundError(absl::StrCat(
      "model \"", text, "\": no such file or folder",
      options.base_folder == "." ? "" : absl::StrCat(" below ", options.base_folder),
      text.find('/') == std::string::npos ? "; a Hugging Face Hub model is named org/name" : "",
      "; if the path is one that only the workers see, add --remote-paths"));
}

absl::StatusOr<std::string> ResolveData(const std::string& text, const InputOptions& options) {
  if (text.empty() || IsStored(text) || options.remote_paths) return text;
  if (std::string path = Existing(text, options); !path.empty()) return path;
  if (IsHubData(text)) {
    QD_RETURN_IF_ERROR(ParseHubData(text).status());
    return text;
  }
  return absl::NotFoundError(
      absl::StrCat("data file \"", text, "\": no such file",
                   options.base_folder == "." ? "" : absl::StrCat(" below ", options.base_folder),
                   ", and neither ", HubDataNames(),
                   " nor hf://datasets/org/name/path; if the path is one that only the workers "
                   "see, add --remote-paths"));
}

absl::Status Inputs::Model(std::string* model) {
  QD_ASSIGN_OR_RETURN(*model, ResolveModel(*model, options_));
  return absl::OkStatus();
}

absl::Status Inputs::Data(std::string* data) {
  QD_ASSIGN_OR_RETURN(*data, ResolveData(*data, options_));
  const bool local = !data->empty() && (*data)[0] == '/' && !options_.remote_paths;
  if (!local || (session_->loopback() && !options_.upload)) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(*data, UploadFile(&session_->scheduler(), session_->parent(), *data),
                      "uploading ", *data);
  return absl::OkStatus();
}

absl::Status Inputs::Tasks(google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks) {
  for (v1::TaskSpec& task : *tasks) {
    QD_RETURN_IF_ERROR(Data(task.mutable_data()), "task ", task.name());
  }
  return absl::OkStatus();
}

absl::Status Inputs::Resolve(v1::JobSpec* spec) {
  switch (spec->kind_case()) {
    case v1::JobSpec::kQuantize:
      QD_RETURN_IF_ERROR(Model(spec->mutable_quantize()->mutable_model()));
      if (!spec->quantize().has_calibration()) return absl::OkStatus();
      return Data(spec->mutable_quantize()->mutable_calibration()->mutable_source());
    case v1::JobSpec::kEvaluate:
      QD_RETURN_IF_ERROR(Model(spec->mutable_evaluate()->mutable_model()));
      return Tasks(spec->mutable_evaluate()->mutable_tasks());
    case v1::JobSpec::kBenchmark:
      if (!spec->benchmark().baseline().empty()) {
        QD_RETURN_IF_ERROR(Model(spec->mutable_benchmark()->mutable_baseline()));
      }
      return Model(spec->mutable_benchmark()->mutable_model());
    case v1::JobSpec::kVerify:
      return Model(spec->mutable_verify()->mutable_model());
    case v1::JobSpec::kCompare:
    case v1::JobSpec::kReport:
    case v1::JobSpec::KIND_NOT_SET:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Inputs::Resolve(v1::SweepSpec* spec) {
  for (std::string& model : *spec->mutable_models()) QD_RETURN_IF_ERROR(Model(&model));
  if (spec->has_calibration()) {
    QD_RETURN_IF_ERROR(Data(spec->mutable_calibration()->mutable_source()));
  }
  for (v1::VariantSpec& variant : *spec->mutable_variants()) {
    if (variant.has_calibration()) {
      QD_RETURN_IF_ERROR(Data(variant.mutable_calibration()->mutable_source()));
    }
  }
  if (!spec->benchmark().baseline().empty()) {
    QD_RETURN_IF_ERROR(Model(spec->mutable_benchmark()->mutable_baseline()));
  }
  return Tasks(spec->mutable_tasks());
}

}  // namespace quantd
