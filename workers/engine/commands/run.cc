// quant-engine run: the agent's side of the engine. Spec and inputs come as files, events go to a
// file descriptor, the exit code says the outcome. A spec that cannot be read is a failed job with
// a failure event, not a usage error: the agent must learn why.
#include <fcntl.h>

#include <csignal>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/commands/run_job.h"
#include "workers/engine/job/failure.h"

namespace quantd::engine {
namespace {

// Results of a sweep's jobs, for its report.
constexpr int64_t kInputsBytesMax = int64_t{256} << 20;

struct RunFlags {
  std::string spec, inputs, output, work, cache;
  int events_fd = -1;
};

absl::Status Prepare(const RunFlags& flags, JobContext* context) {
  QD_ASSIGN_OR_RETURN(context->spec, ReadSpecFile(flags.spec));
  if (!flags.inputs.empty()) {
    QD_ASSIGN_OR_RETURN(const std::string inputs, ReadFile(flags.inputs, kInputsBytesMax),
                        "reading the inputs");
    QD_ASSIGN_OR_RETURN(context->inputs, ParseInputs(inputs), flags.inputs);
  }
  for (const std::string* folder : {&flags.output, &flags.work, &flags.cache}) {
    QD_RETURN_IF_ERROR(MakeFolders(*folder));
  }
  return absl::OkStatus();
}

int Run(const RunFlags& flags) {
  if (fcntl(flags.events_fd, F_GETFD) < 0) {
    return PrintUsageError(absl::InvalidArgumentError(
        absl::StrCat("--events-fd ", flags.events_fd, " is not an open file descriptor")));
  }
  // The agent's pipe must not reach children, and its end must not kill us: the sink handles it.
  fcntl(flags.events_fd, F_SETFD, FD_CLOEXEC);
  signal(SIGPIPE, SIG_IGN);
  static const CancelToken cancel;
  CancelToken::CancelOnSignals(cancel);
  FdSink events(flags.events_fd, cancel);
  JobContext context{{}, {}, flags.output, flags.work, flags.cache, events, cancel, nullptr};
  SetHubFetch(&context);
  if (absl::Status status = Prepare(flags, &context); !status.ok()) {
    LogError("the job cannot start", {{"why", status.message()}});
    events.Failure(status);
    return ExitCode(status);
  }
  return ExitCode(RunJob(context).status());
}

}  // namespace

void AddRun(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("run", "Run a job for the agent");
  auto flags = std::make_shared<RunFlags>();
  command->add_option("--spec", flags->spec, "JobSpec in JSON form")->required();
  command->add_option("--inputs", flags->inputs, "What the spec's references stand for, in JSON");
  command->add_option("--output", flags->output, "Folder for the job's files")->required();
  command->add_option("--work", flags->work, "Folder for checkpoints")->required();
  command->add_option("--cache", flags->cache, "Folder that jobs share")->required();
  command->add_option("--events-fd", flags->events_fd, "File descriptor for events")->required();
  command->callback([flags, exit_code] { *exit_code = Run(*flags); });
}

}  // namespace quantd::engine
