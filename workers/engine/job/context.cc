// Where a spec's references point.
#include "workers/engine/job/context.h"

#include <dirent.h>
#include <sys/stat.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/hub_data.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/proto_json.h"

namespace quantd::engine {

template <typename V>
static void Fields(V& v, JobInput& input) {
  v.Field("path", input.path);
  v.Field("result", input.result);
  v.Field("spec", input.spec);
  v.Field("state", input.state);
  v.Field("failure", input.failure);
}

namespace {

enum class PathKind { kNone, kFile, kFolder };

PathKind KindOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return PathKind::kNone;
  return S_ISDIR(info.st_mode) ? PathKind::kFolder : PathKind::kFile;
}

bool IsInputName(absl::string_view reference) {
  return absl::StartsWith(reference, "jobs/") || absl::StartsWith(reference, "artifacts/") ||
         absl::StartsWith(reference, "tenants/");
}

// "jobs/x" also answers to "tenants/t/jobs/x".
const JobInput* FindInput(const std::map<std::string, JobInput>& inputs,
                          absl::string_view reference) {
  if (auto found = inputs.find(std::string(reference)); found != inputs.end()) {
    return &found->second;
  }
  for (const auto& [name, input] : inputs) {
    if (absl::EndsWith(reference, "/" + name) || absl::EndsWith(name, absl::StrCat("/", reference)))
      return &input;
  }
  return nullptr;
}

absl::StatusOr<std::string> InputPath(const std::map<std::string, JobInput>& inputs,
                                      const std::string& reference) {
  const JobInput* input = FindInput(inputs, reference);
  if (input == nullptr) {
    return absl::NotFoundError(absl::StrCat(
        reference,
        ": the scheduler gave no input of this name; outside a scheduler name a folder"));
  }
  if (input->path.empty()) {
    return absl::NotFoundError(absl::StrCat(
        reference, " left no files", input->state.empty() ? "" : ", its state is ", input->state));
  }
  return input->path;
}

// The only file of a folder.
absl::StatusOr<std::string> OnlyFile(const std::string& folder, const std::string& reference) {
  std::vector<std::string> files;
  if (DIR* dir = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(dir)) {
      const std::string path = absl::StrCat(folder, "/", entry->d_name);
      if (entry->d_name[0] != '.' && KindOf(path) == PathKind::kFile) files.push_back(path);
    }
    closedir(dir);
  }
  if (files.size() == 1) return files[0];
  return absl::InvalidArgumentError(absl::StrCat(reference, " stands for a folder with ",
                                                 files.size(), " files; a data file is needed"));
}

}  // namespace

absl::StatusOr<std::map<std::string, JobInput>> ParseInputs(absl::string_view json) {
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, false);
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError("the inputs are not a JSON object");
  }
  std::map<std::string, JobInput> inputs;
  for (const auto& item : parsed.items()) {
    JobInput input;
    FieldReader reader(item.key(), item.value());
    Fields(reader, input);
    QD_RETURN_IF_ERROR(reader.Finish(), "reading the inputs");
    inputs[item.key()] = std::move(input);
  }
  return inputs;
}

absl::StatusOr<std::string> JobContext::ResolveModel(const std::string& reference) {
  if (reference.empty()) return absl::InvalidArgumentError("the spec names no model");
  if (IsInputName(reference) && FindInput(inputs, reference) != nullptr) {
    return InputPath(inputs, reference);
  }
  switch (KindOf(reference)) {
    case PathKind::kFolder:
      return reference;
    case PathKind::kFile:
      if (absl::EndsWith(reference, ".gguf")) return reference;
      return WithErrorClass(
          absl::InvalidArgumentError(
              absl::StrCat("model ", reference,
                           " is a file; name the folder that holds config.json, or a .gguf file")),
          ErrorClass::kInvalidSpec);
    case PathKind::kNone:
      break;
  }
  if (IsInputName(reference)) return InputPath(inputs, reference);
  if (IsHubName(reference)) {
    if (fetch_model) {
      absl::StatusOr<std::string> folder = fetch_model(*this, reference);
      QD_RETURN_IF_ERROR(folder.status(), "there is no folder ", reference,
                         " here, so the Hub was asked");
      return folder;
    }
    return absl::NotFoundError(absl::StrCat(
        "model ", reference, ": there is no such folder here, and downloads are not set up"));
  }
  return absl::NotFoundError(absl::StrCat(
      "model ", reference,
      ": there is no such folder on this worker, and it is not a Hub name (org/name[@revision])"));
}

absl::StatusOr<std::string> JobContext::ResolveData(const std::string& reference) {
  std::string path = reference;
  if (IsInputName(reference) &&
      (FindInput(inputs, reference) != nullptr || KindOf(reference) == PathKind::kNone)) {
    QD_ASSIGN_OR_RETURN(path, InputPath(inputs, reference));
  }
  switch (KindOf(path)) {
    case PathKind::kFile:
      return path;
    case PathKind::kFolder:
      return OnlyFile(path, reference);
    case PathKind::kNone:
      break;
  }
  if (IsHubData(reference) && fetch_data) return fetch_data(*this, reference);
  return absl::NotFoundError(absl::StrCat(
      "data file ", reference, ": there is no such file on this worker, and it is neither ",
      HubDataNames(), " nor hf://datasets/org/name/path"));
}

}  // namespace quantd::engine
