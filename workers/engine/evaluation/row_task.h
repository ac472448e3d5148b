// Tasks made of rows: the built-in ones, a user's own, and predictions made elsewhere.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/evaluation/task_row.h"

namespace quantd::engine {

// The tasks of the built-in rows, sorted by name.
const std::vector<const Task*>& BuiltinRowTasks();

// The name under which a spec holds a task of the user's own: its YAML text is the option
// "definition".
constexpr char kOwnTask[] = "own";
const Task& OwnTask();

// A task for `row`, with its options and metrics.
Task MakeRowTask(std::shared_ptr<const TaskRow> row);

// Scores outputs made elsewhere with the same code. `predictions` is a JSON object {id: output}, or
// objects {"id", "prediction" | "output" | "prediction_text" | "answer", "no_answer_probability"?,
// "turn_id"?} as an array or as lines. Documents without a prediction are counted in "missing" and
// left out, as SQuAD's own script does. `key` is put before the metrics' names.
absl::StatusOr<TaskResult> ScorePredictions(const TaskRow& row, const std::string& key,
                                            const std::vector<nlohmann::json>& documents,
                                            absl::string_view predictions);

}  // namespace quantd::engine
