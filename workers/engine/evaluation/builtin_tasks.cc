// The built-in rows: tasks/*.yaml, taken into the program one behind the other by the build.
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "workers/engine/evaluation/row_task.h"

// The assembler copies the file; the labels mark its ends.
asm(".section .rodata\n"
    ".global quantd_tasks_begin\n"
    "quantd_tasks_begin:\n"
    ".incbin \"" QUANTD_TASKS_TEXT
    "\"\n"
    ".global quantd_tasks_end\n"
    "quantd_tasks_end:\n"
    ".byte 0\n"
    ".text\n");

extern "C" {
extern const char quantd_tasks_begin[];
extern const char quantd_tasks_end[];
}

namespace quantd::engine {

const std::vector<const Task*>& BuiltinRowTasks() {
  static const auto& tasks = *[] {
    auto* all = new std::vector<const Task*>;
    const absl::string_view text(quantd_tasks_begin,
                                 static_cast<size_t>(quantd_tasks_end - quantd_tasks_begin));
    for (absl::string_view yaml : absl::StrSplit(text, "---\n", absl::SkipWhitespace())) {
      absl::StatusOr<TaskRow> row = ParseTaskRow(yaml, "a built-in task");
      QD_CHECK(row.ok(), "", row.status().ToString());
      all->push_back(new Task(MakeRowTask(std::make_shared<TaskRow>(*std::move(row)))));
    }
    return all;
  }();
  return tasks;
}

}  // namespace quantd::engine
