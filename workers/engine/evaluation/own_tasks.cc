// Every file is parsed, also those that no task names: a mistake is told at once.
#include "workers/engine/evaluation/own_tasks.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/row_task.h"

namespace quantd::engine {
namespace {

constexpr int64_t kYamlBytesMax = 64 << 10;

struct Definition {
  std::string path, text, data;
};

absl::StatusOr<std::vector<std::string>> YamlFiles(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".yaml" || extension == ".yml") files.push_back(entry.path().string());
  }
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  if (files.empty()) return absl::InvalidArgumentError(path + ": holds no *.yaml file");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

absl::Status TakeDefinitions(const std::string& path, std::vector<TaskSpec>* tasks) {
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> files, YamlFiles(path), "--tasks-path");
  std::map<std::string, Definition> own;
  for (const std::string& file : files) {
    Definition task{.path = file, .text = "", .data = ""};
    QD_ASSIGN_OR_RETURN(task.text, ReadFile(file, kYamlBytesMax), "--tasks-path");
    QD_ASSIGN_OR_RETURN(const TaskRow row, ParseTaskRow(task.text, file));
    if (!row.data.empty()) {
      task.data = (std::filesystem::path(file).parent_path() / row.data).string();
    }
    for (const auto& [name, other] : own) {
      if (name == row.name) {
        return absl::InvalidArgumentError(
            absl::StrCat("task \"", name, "\" is in ", other.path, " and in ", file));
      }
    }
    own[row.name] = std::move(task);
  }
  for (TaskSpec& task : *tasks) {
    const auto found = own.find(task.name);
    if (found == own.end()) continue;
    task.name = kOwnTask;
    task.options["definition"] = found->second.text;
    if (task.data.empty()) task.data = found->second.data;
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
