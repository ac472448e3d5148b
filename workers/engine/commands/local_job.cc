// Folders and faces of a job without a scheduler.
#include "workers/engine/commands/local_job.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/commands/run_job.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/options.h"

namespace quantd::engine {
namespace {

// A spec is a few KiB.
constexpr int64_t kSpecBytesMax = int64_t{4} << 20;
// A result with more entries in one list than this is shown shortened; --json shows all.
constexpr size_t kShownEntriesMax = 16;

std::string Dump(const nlohmann::json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

// "metrics.perplexity.value  12.3", one line a value: readable without a schema.
void PrintFlat(const std::string& path, const nlohmann::json& value) {
  if (value.is_object() && !value.empty()) {
    for (const auto& item : value.items()) {
      PrintFlat(path.empty() ? item.key() : absl::StrCat(path, ".", item.key()), item.value());
    }
    return;
  }
  if (value.is_array() && value.size() > kShownEntriesMax) {
    absl::PrintF("%-44s (%d entries, --json shows them)\n", path, value.size());
    return;
  }
  if (value.is_array() && !value.empty() && value[0].is_object()) {
    for (size_t i = 0; i < value.size(); ++i) PrintFlat(absl::StrCat(path, "[", i, "]"), value[i]);
    return;
  }
  absl::PrintF("%-44s %s\n", path, value.is_string() ? value.get<std::string>() : Dump(value, -1));
}

// The job's folders; temporary ones are removed at the end.
class Folders {
 public:
  ~Folders() {
    if (!temporary_.empty()) RemoveTree(temporary_).IgnoreError();
  }
  absl::Status Make(const std::string& output) {
    if (output.empty()) {
      const char* base = std::getenv("TMPDIR");
      temporary_ = absl::StrCat(base == nullptr ? "/tmp" : base, "/quant-engine.XXXXXX");
      if (mkdtemp(temporary_.data()) == nullptr) {
        return ErrnoStatus(errno, "making a temporary folder ", temporary_);
      }
      output_ = temporary_ + "/output";
      work_ = temporary_ + "/work";
    } else {
      output_ = output;
      while (output_.size() > 1 && output_.back() == '/') output_.pop_back();
      work_ = output_ + ".work";
    }
    QD_RETURN_IF_ERROR(MakeFolders(output_));
    return MakeFolders(work_);
  }
  bool temporary() const { return !temporary_.empty(); }
  const std::string& output() const { return output_; }
  const std::string& work() const { return work_; }

 private:
  std::string temporary_, output_, work_;
};

absl::Status KeepResult(const JobContext& context, const nlohmann::json& values) {
  const nlohmann::json record = {
      {"spec", JobSpecToJson(context.spec)}, {"state", "JOB_STATE_SUCCEEDED"}, {"result", values}};
  return WriteFileAtomic(context.output_dir + "/quantd_result.json", Dump(record, 2) + "\n");
}

}  // namespace

void AddLocalFlags(CLI::App& app, LocalFlags* flags) {
  app.add_option("--spec", flags->spec_file, "JobSpec in JSON, in place of the other arguments");
  app.add_option("-o,--output", flags->output, "Folder for what the job writes");
  app.add_option("--cache", flags->cache, "Folder for Hub downloads");
  app.add_flag("--json", flags->json, "Print the result as JSON");
  app.add_option("--device", flags->runtime.device,
                 "auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or cuda:all");
  app.add_option("--dtype", flags->runtime.dtype, "auto, float32, bfloat16 or float16");
  app.add_option("--threads", flags->runtime.threads, "CPU threads; 0: all");
  app.add_option("--seed", flags->runtime.seed, "Seed of everything random");
  app.add_flag("--reference", flags->runtime.reference,
               "Decode quantized weights to 16 bits instead of multiplying with them as they are");
  app.add_option("--device-memory", flags->runtime.device_memory_bytes,
                 "Bytes of device memory that the job may use")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--host-memory", flags->runtime.host_memory_bytes,
                 "Bytes of host memory that the job may use")
      ->transform(CLI::AsSizeValue(false));
}

absl::StatusOr<nlohmann::json> ParseOptionArguments(const std::vector<std::string>& arguments) {
  nlohmann::json options = nlohmann::json::object();
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("option \"", argument, "\": NAME=VALUE is needed"));
    }
    QD_ASSIGN_OR_RETURN(options[argument.substr(0, equals)],
                        ParseOptionText(absl::string_view(argument).substr(equals + 1)));
  }
  return options;
}

int PrintError(const absl::Status& status) {
  const nlohmann::json failure = FailureToJson(status);
  absl::FPrintF(stderr, "error: %s\n  %s\n", failure["message"].get<std::string>(),
                failure["remedy"].get<std::string>());
  return ExitCode(status);
}

int PrintUsageError(const absl::Status& status) {
  absl::FPrintF(stderr, "error: %s\n", status.message());
  return kExitUsage;
}

absl::StatusOr<JobSpec> ReadSpecFile(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kSpecBytesMax), "reading the spec");
  QD_ASSIGN_OR_RETURN(JobSpec spec, ParseJobSpec(text), path);
  return spec;
}

int RunLocalJob(const LocalFlags& flags, JobSpec spec, std::map<std::string, JobInput> inputs) {
  if (!flags.spec_file.empty()) {
    const size_t kind = spec.kind.index();
    absl::StatusOr<JobSpec> read = ReadSpecFile(flags.spec_file);
    if (!read.ok()) return PrintUsageError(read.status());
    if (read->kind.index() != kind) {
      return PrintUsageError(absl::InvalidArgumentError(
          absl::StrCat(flags.spec_file, " is for ", KindName(*read), ", not for this command")));
    }
    spec = *std::move(read);
  } else {
    spec.runtime = flags.runtime;
  }
  static const CancelToken cancel;
  CancelToken::CancelOnSignals(cancel);
  Folders folders;
  if (absl::Status status = folders.Make(flags.output); !status.ok()) return PrintError(status);
  const std::string cache = CacheFolder(flags.cache);
  TerminalSink events;
  JobContext context{
      std::move(spec), std::move(inputs), folders.output(), folders.work(), cache, events, cancel,
      nullptr};
  SetHubFetch(&context);
  absl::StatusOr<nlohmann::json> values = RunJob(context);
  if (!values.ok()) {
    // Empty when the job failed before it began.
    if (!folders.temporary() && rmdir(folders.work().c_str()) != 0) {
      absl::FPrintF(stderr, "  The same command goes on from what %s holds.\n", folders.work());
    }
    return ExitCode(values.status());
  }
  if (!folders.temporary()) {
    if (absl::Status status = KeepResult(context, *values); !status.ok()) return PrintError(status);
    RemoveTree(folders.work()).IgnoreError();
  }
  if (flags.json) {
    absl::PrintF("%s\n", Dump(*values, 2));
  } else {
    PrintFlat("", *values);
  }
  return 0;
}

}  // namespace quantd::engine
