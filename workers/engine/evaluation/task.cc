// The registry, and what tasks share.
#include "workers/engine/evaluation/task.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "workers/engine/evaluation/row_task.h"

namespace quantd::engine {

absl::Span<const Task* const> Tasks() {
  static const std::vector<const Task*>& tasks = *[] {
    auto* all = new std::vector<const Task*>(BuiltinRowTasks());
    all->insert(all->end(),
                {&DivergenceTask(), &OwnTask(), &PerplexityTask(), &SanityTask(), &WikitextTask()});
    std::sort(all->begin(), all->end(),
              [](const Task* a, const Task* b) { return a->name < b->name; });
    return all;
  }();
  return tasks;
}

absl::StatusOr<const Task*> FindTask(absl::string_view name) {
  for (const Task* task : Tasks()) {
    const auto& aliases = task->aliases;
    if (task->name == name || std::find(aliases.begin(), aliases.end(), name) != aliases.end()) {
      return task;
    }
  }
  std::vector<std::string> names;
  for (const Task* task : Tasks()) names.push_back(task->name);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown task \"", name, "\"", Suggestion(name, names)));
}

std::string TaskFingerprint(const TaskContext& context, absl::string_view data_digest) {
  return Sha256Hex(absl::StrCat(QUANTD_VERSION, "\n", context.key, "\n", context.options.dump(),
                                "\n", context.limit, "\n", context.batch_size, "\n", data_digest,
                                "\n", context.model.digest, "\n", context.model.tokenizer->digest(),
                                "\n", context.model.DtypeName(), "\n", context.model.DeviceName()));
}

nlohmann::json FiniteOrNull(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

double NumberOrNan(const nlohmann::json& json) {
  return json.is_number() ? json.get<double>() : std::nan("");
}

}  // namespace quantd::engine
