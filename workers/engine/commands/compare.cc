// quant-engine compare|report NAME=FOLDER[,FOLDER...] ...: variants from the folders that local
// jobs wrote with -o. The first variant is the baseline.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/commands/run_job.h"

namespace quantd::engine {
namespace {

struct CompareFlags {
  LocalFlags local;
  std::vector<std::string> variants;
  std::string title;
};

constexpr int64_t kResultBytesMax = int64_t{64} << 20;

absl::StatusOr<JobInput> ReadResult(const std::string& folder) {
  const std::string path = folder + "/quantd_result.json";
  absl::StatusOr<std::string> text = ReadFile(path, kResultBytesMax);
  QD_RETURN_IF_ERROR(text.status(), "each folder is one that a job wrote with -o");
  const nlohmann::json record = nlohmann::json::parse(*text, nullptr, false);
  if (!record.is_object()) return absl::DataLossError(path + ": not a JSON object");
  JobInput input;
  input.path = folder;
  input.result = record.value("result", nlohmann::json());
  input.spec = record.value("spec", nlohmann::json());
  input.state = "JOB_STATE_SUCCEEDED";
  return input;
}

absl::StatusOr<std::vector<Variant>> ReadVariants(const std::vector<std::string>& arguments,
                                                  std::map<std::string, JobInput>* inputs) {
  std::vector<Variant> variants;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("variant \"", argument, "\": NAME=FOLDER[,FOLDER...] is needed"));
    }
    Variant& variant = variants.emplace_back();
    variant.name = argument.substr(0, equals);
    variant.baseline = variants.size() == 1;
    for (absl::string_view folder : absl::StrSplit(argument.substr(equals + 1), ',')) {
      const std::string name = absl::StrCat("jobs/", inputs->size());
      QD_ASSIGN_OR_RETURN((*inputs)[name], ReadResult(std::string(folder)), "variant ",
                          variant.name);
      variant.jobs.push_back(name);
    }
  }
  // Evaluations of quantized folders name other models than the baseline: all are held against it.
  return variants;
}

void AddOne(CLI::App& app, const char* name, const char* help, bool report, int* exit_code) {
  CLI::App* command = app.add_subcommand(name, help);
  auto flags = std::make_shared<CompareFlags>();
  command->add_option("variants", flags->variants, "NAME=FOLDER[,FOLDER...]; the baseline first");
  if (report) command->add_option("--title", flags->title, "Title of the report");
  AddLocalFlags(*command, &flags->local);
  command->callback([flags, report, exit_code] {
    if (flags->variants.empty() || !flags->local.spec_file.empty()) {
      *exit_code = PrintUsageError(absl::InvalidArgumentError(
          "NAME=FOLDER arguments are needed; a spec's jobs are known to a scheduler only"));
      return;
    }
    std::map<std::string, JobInput> inputs;
    absl::StatusOr<std::vector<Variant>> variants = ReadVariants(flags->variants, &inputs);
    if (!variants.ok()) {
      *exit_code = PrintUsageError(variants.status());
      return;
    }
    JobSpec spec;
    if (report) {
      spec.kind = ReportSpec{.title = flags->title, .variants = *variants};
    } else {
      spec.kind = CompareSpec{.variants = *variants};
    }
    *exit_code = RunLocalJob(flags->local, std::move(spec), std::move(inputs));
  });
}

}  // namespace

void AddCompare(CLI::App& app, int* exit_code) {
  AddOne(app, "compare", "Hold variants against a baseline", false, exit_code);
  AddOne(app, "report", "The same, with report.json, report.md and summary.csv", true, exit_code);
}

}  // namespace quantd::engine
