// Flags into specs.
#include "client/commands/spec_flags.h"

#include <filesystem>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

constexpr int64_t kYamlBytesMax = 64 << 10;
// The engine's task that reads a definition.
constexpr char kOwnTask[] = "own";

absl::StatusOr<std::vector<std::string>> YamlFiles(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string name = entry.path().string();
    if (absl::EndsWith(name, ".yaml") || absl::EndsWith(name, ".yml")) files.push_back(name);
  }
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  return files;
}

// The engine reads the whole of a definition; here only its name and its data matter.
absl::Status TakeDefinitions(const std::string& path,
                             google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks) {
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> files, YamlFiles(path), "--tasks-path");
  for (const std::string& file : files) {
    QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kYamlBytesMax), "--tasks-path");
    QD_ASSIGN_OR_RETURN(const google::protobuf::Value value, YamlToValue(text, file));
    const auto& fields = value.struct_value().fields();
    if (!fields.contains("task") || fields.at("task").string_value().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": there is no field task"));
    }
    for (v1::TaskSpec& task : *tasks) {
      if (task.name() != fields.at("task").string_value()) continue;
      task.set_name(kOwnTask);
      (*task.mutable_options()->mutable_fields())["definition"].set_string_value(text);
      if (task.data().empty() && fields.contains("data")) {
        task.set_data(
            (std::filesystem::absolute(file).parent_path() / fields.at("data").string_value())
                .string());
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddCalibrationFlags(CLI::App* app, CalibrationFlags* flags) {
  app->add_option("--calibration", flags->source, "Calibration text: a .txt or .jsonl file")
      ->type_name("FILE");
  app->add_option("--sequences", flags->sequences, "Calibration sequences")
      ->check(CLI::PositiveNumber);
  app->add_option("--sequence-length", flags->sequence_length, "Tokens in each")
      ->check(CLI::PositiveNumber);
}

void AddTaskFlags(CLI::App* app, TaskFlags* flags) {
  app->add_option("--task", flags->tasks, "Task, perhaps with its data file; may be repeated")
      ->type_name("NAME[=DATA]")
      ->allow_extra_args(false);
  app->add_option("--tasks-path", flags->tasks_path, "YAML file or folder with tasks of your own")
      ->type_name("PATH");
  app->add_option("--limit", flags->limit, "Only the first N samples of each task")
      ->check(CLI::PositiveNumber);
}

absl::Status ApplyTasks(const TaskFlags& flags,
                        google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks) {
  if (!flags.tasks.empty()) tasks->Clear();
  for (const std::string& text : flags.tasks) {
    const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    if (parts[0].empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--task \"", text, "\": write NAME or NAME=DATA"));
    }
    v1::TaskSpec* task = tasks->Add();
    task->set_name(parts[0]);
    if (parts.size() == 2) task->set_data(parts[1]);
  }
  if (!flags.tasks_path.empty()) QD_RETURN_IF_ERROR(TakeDefinitions(flags.tasks_path, tasks));
  if (flags.limit > 0) {
    for (v1::TaskSpec& task : *tasks) task.set_limit(flags.limit);
  }
  return absl::OkStatus();
}

void AddRuntimeFlags(CLI::App* app, RuntimeFlags* flags) {
  app->add_option("--device", flags->device,
                  "auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or cuda:all");
  app->add_option("--dtype", flags->dtype, "auto, float32, bfloat16 or float16");
  app->add_option("--device-memory", flags->device_memory, "Stay below this on the device: 8GiB")
      ->type_name("SIZE");
  app->add_option("--host-memory", flags->host_memory, "Stay below this on the host: 3GiB")
      ->type_name("SIZE");
  app->add_option("--seed", flags->seed, "Seed of everything random");
}

absl::Status ApplyRuntime(const RuntimeFlags& flags, v1::Runtime* runtime) {
  if (!flags.device.empty()) runtime->set_device(flags.device);
  if (!flags.dtype.empty()) runtime->set_dtype(flags.dtype);
  if (flags.seed != 0) runtime->set_seed(flags.seed);
  v1::Runtime sizes;
  std::string yaml;
  if (!flags.device_memory.empty()) {
    absl::StrAppend(&yaml, "device_memory_bytes: \"", flags.device_memory, "\"\n");
  }
  if (!flags.host_memory.empty()) {
    absl::StrAppend(&yaml, "host_memory_bytes: \"", flags.host_memory, "\"\n");
  }
  if (yaml.empty()) return absl::OkStatus();
  QD_RETURN_IF_ERROR(YamlToMessage(yaml, "flags", &sizes));
  runtime->MergeFrom(sizes);
  return absl::OkStatus();
}

absl::Status ApplyOption(const std::string& text, google::protobuf::Struct* options) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
  if (parts.size() != 2 || parts[0].empty()) {
    return absl::InvalidArgumentError(absl::StrCat("option \"", text, "\": write NAME=VALUE"));
  }
  QD_ASSIGN_OR_RETURN((*options->mutable_fields())[parts[0]],
                      YamlToValue(parts[1], absl::StrCat("option ", parts[0])));
  return absl::OkStatus();
}

absl::Status ApplyOverride(const std::string& text,
                           google::protobuf::RepeatedPtrField<v1::ModuleOverride>* overrides) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--override \"", text, "\": write PATTERN:skip or PATTERN:bits=8,group_size=64"));
  }
  v1::ModuleOverride* added = overrides->Add();
  added->set_pattern(text.substr(0, colon));
  const std::string what = text.substr(colon + 1);
  if (what == "skip") {
    added->set_skip(true);
    return absl::OkStatus();
  }
  for (const absl::string_view option : absl::StrSplit(what, ',')) {
    QD_RETURN_IF_ERROR(ApplyOption(std::string(option), added->mutable_options()), "--override \"",
                       text, "\"");
  }
  return absl::OkStatus();
}

void SetNumber(const std::string& name, double value, google::protobuf::Struct* options) {
  (*options->mutable_fields())[name].set_number_value(value);
}

}  // namespace quantd
