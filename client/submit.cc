// Submitting and watching.
#include "client/submit.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <unistd.h>

#include <filesystem>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/engine_tool.h"
#include "client/follow.h"
#include "client/outcome.h"
#include "client/render/board.h"
#include "client/sweep_folder.h"
#include "nlohmann/json.hpp"
#include "proto/yaml.h"

namespace quantd {
namespace {

constexpr int64_t kSpecBytesMax = int64_t{4} << 20;
// --retry-failed looks no further back.
constexpr int kSweepsSearchedMax = 1000;

// A version 4 UUID.
std::string NewRequestId() {
  absl::BitGen random;
  const uint64_t high = absl::Uniform<uint64_t>(random), low = absl::Uniform<uint64_t>(random);
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%012x", high >> 32, (high >> 16) & 0xffff,
                         high & 0xfff, 0x8000 | ((low >> 48) & 0x3fff), low & 0xffffffffffff);
}

template <typename Spec>
absl::Status ApplyFlags(const SubmitFlags& flags, Spec* spec) {
  if (flags.priority_option != nullptr && flags.priority_option->count() > 0) {
    spec->set_priority(flags.priority);
  }
  if (flags.fresh) spec->set_fresh(true);
  if (!flags.display_name.empty()) spec->set_display_name(flags.display_name);
  for (const std::string& label : flags.labels) {
    const std::vector<std::string> parts = absl::StrSplit(label, absl::MaxSplits('=', 1));
    if (parts.size() != 2 || parts[0].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--label \"", label, "\": write KEY=VALUE"));
    }
    (*spec->mutable_labels())[parts[0]] = parts[1];
  }
  for (const std::string& secret : flags.secrets) spec->add_secrets(secret);
  return absl::OkStatus();
}

void PrintWarnings(Session& session,
                   const google::protobuf::RepeatedPtrField<std::string>& warnings) {
  for (const std::string& warning : warnings)
    session.err() << "warning: " << OneLine(warning) << "\n";
}

std::string ModelOf(const v1::JobSpec& spec) {
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      return spec.quantize().model();
    case v1::JobSpec::kEvaluate:
      return spec.evaluate().model();
    case v1::JobSpec::kBenchmark:
      return spec.benchmark().model();
    case v1::JobSpec::kVerify:
      return spec.verify().model();
    default:
      return "";
  }
}

// What `quant-engine estimate` says of the spec, in words.
absl::StatusOr<std::string> Estimate(const v1::JobSpec& spec) {
  if (!FileExists(ModelOf(spec))) {
    return absl::NotFoundError(
        absl::StrCat("the model \"", ModelOf(spec), "\" is not on this machine"));
  }
  QD_RETURN_IF_ERROR(FindEngine().status());
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(spec, &json).ok()) {
    return absl::InternalError("the spec has no JSON form");
  }
  std::string path = (std::filesystem::temp_directory_path() / "quantctl-spec-XXXXXX").string();
  const int fd = mkstemp(path.data());
  if (fd < 0) return ErrnoStatus(errno, "creating ", path);
  close(fd);
  const auto estimate = [&]() -> absl::StatusOr<EngineRun> {
    QD_RETURN_IF_ERROR(WriteFileAtomic(path, json));
    return RunEngine({"estimate", "--spec", path}, /*capture=*/true);
  };
  const absl::StatusOr<EngineRun> run = estimate();
  unlink(path.c_str());
  QD_RETURN_IF_ERROR(run.status());
  const auto parsed = nlohmann::json::parse(run->output, nullptr, /*allow_exceptions=*/false);
  if (run->exit_code != 0 || !parsed.is_object()) {
    return absl::UnavailableError(
        absl::StrCat("quant-engine estimate ended with ", run->exit_code));
  }
  const auto number = [&](const char* name) {
    const auto found = parsed.find(name);
    return found != parsed.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  const auto bytes = [&](const char* name) {
    return FormatBytes(static_cast<int64_t>(number(name)));
  };
  return absl::StrCat("host memory ", bytes("hostMemoryBytes"), ", device memory ",
                      bytes("deviceMemoryBytes"), ", disk ", bytes("diskBytes"), ", time about ",
                      ShortDuration(absl::Seconds(number("seconds"))));
}

void PrintEstimate(Session& session, absl::string_view title, const v1::JobSpec& spec) {
  const absl::StatusOr<std::string> estimate = Estimate(spec);
  session.out() << "# " << title << ": "
                << (estimate.ok() ? *estimate : absl::StrCat("none, ", estimate.status().message()))
                << "\n";
}

template <typename Request, typename Spec>
Request MakeRequest(const Session& session, const Spec& spec, const SubmitFlags& flags) {
  Request request;
  request.set_parent(session.parent());
  *request.mutable_spec() = spec;
  request.set_request_id(flags.request_id.empty() ? NewRequestId() : flags.request_id);
  request.set_validate_only(flags.dry_run);
  return request;
}

// The exit code where following ended early; kExitOk where it reached the end.
int EarlyEnd(FollowEnd end) {
  switch (end) {
    case FollowEnd::kEnded:
      return kExitOk;
    case FollowEnd::kDetached:
    case FollowEnd::kCancelled:
      return kExitDetached;
    case FollowEnd::kTimedOut:
      return kExitTimeout;
  }
  return kExitOk;
}

int BroughtHome(Session& session, const absl::Status& status, int exit_code) {
  return status.ok() ? exit_code : session.Fail(status);
}

}  // namespace

void AddSubmitFlags(CLI::App* app, SubmitFlags* flags) {
  app->add_flag("-d,--detach", flags->detach, "Submit and return, without watching");
  app->add_flag("--dry-run", flags->dry_run,
                "Check everything, print the resolved spec and an estimate");
  flags->priority_option =
      app->add_option("--priority", flags->priority, "-1000 to 1000; higher runs first");
  app->add_flag("--fresh", flags->fresh,
                "Work it out even where an earlier job had the same inputs");
  app->add_option("--label", flags->labels, "Kept with the job; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app->add_option("--secret", flags->secrets,
                  "Give the engine this secret of the tenant (quantctl secrets); may be repeated")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app->add_option("--request-id", flags->request_id,
                  "Submitting again under the same id gives the same job");
  app->add_option("--name", flags->display_name, "Display name");
  app->add_option("-o,--output", flags->output, "Bring the results into this folder")
      ->type_name("DIR");
  app->add_flag("--upload", flags->inputs.upload,
                "Upload data files even to a scheduler on this machine");
  app->add_flag("--remote-paths", flags->inputs.remote_paths,
                "Paths are the workers' own: check and upload nothing");
}

absl::Status ReadSpec(const std::string& path, google::protobuf::Message* spec,
                      InputOptions* inputs) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kSpecBytesMax));
  QD_RETURN_IF_ERROR(YamlToMessage(text, path, spec));
  const std::string folder = std::filesystem::path(path).parent_path().string();
  inputs->base_folder = folder.empty() ? "." : folder;
  return absl::OkStatus();
}

int RunJob(Session& session, v1::JobSpec spec, const SubmitFlags& flags) {
  absl::Status status = ApplyFlags(flags, &spec);
  if (status.ok()) status = Inputs(&session, flags.inputs).Resolve(&spec);
  if (!status.ok()) return session.Fail(status);
  const auto request = MakeRequest<v1::SubmitJobRequest>(session, spec, flags);
  const absl::StatusOr<v1::SubmitJobResponse> response = session.scheduler().Call(request);
  if (!response.ok()) return session.Fail(response.status());
  PrintWarnings(session, response->warnings());
  const v1::Job& job = response->job();
  if (flags.dry_run) {
    if (session.json()) {
      session.PrintJson("spec", job.spec());
      return kExitOk;
    }
    session.out() << MessageToYaml(job.spec());
    PrintEstimate(session, "estimate", job.spec());
    return kExitOk;
  }
  if (session.json()) {
    session.PrintJson("job", job);
  } else {
    session.out() << "submitted " << ShortName(job.name()) << "\n";
    if (flags.detach) {
      session.out() << "watch it with: quantctl jobs watch "
                    << job.name().substr(job.name().rfind('/') + 1) << "\n";
    }
    session.out().flush();
  }
  return flags.detach ? kExitOk : WatchToTheEnd(session, job, {0, flags.output});
}

int RunSweep(Session& session, v1::SweepSpec spec, const SubmitFlags& flags) {
  absl::Status status = ApplyFlags(flags, &spec);
  if (status.ok()) status = Inputs(&session, flags.inputs).Resolve(&spec);
  if (!status.ok()) return session.Fail(status);
  const auto request = MakeRequest<v1::SubmitSweepRequest>(session, spec, flags);
  const absl::StatusOr<v1::SubmitSweepResponse> response = session.scheduler().Call(request);
  if (!response.ok()) return session.Fail(response.status());
  PrintWarnings(session, response->warnings());
  const v1::Sweep& sweep = response->sweep();
  if (flags.dry_run) {
    if (session.json()) {
      session.PrintJson("sweep", sweep);
      return kExitOk;
    }
    session.out() << MessageToYaml(sweep.spec()) << "# " << response->jobs_size() << " jobs\n";
    for (const v1::Job& job : response->jobs()) {
      if (job.spec().has_quantize()) PrintEstimate(session, job.spec().display_name(), job.spec());
    }
    return kExitOk;
  }
  if (session.json()) {
    session.PrintJson("sweep", sweep);
  } else {
    const std::string id = sweep.name().substr(sweep.name().rfind('/') + 1);
    session.out() << "submitted " << ShortName(sweep.name()) << ", " << sweep.cells_size()
                  << " variants\n";
    if (flags.detach) session.out() << "watch it with: quantctl sweeps watch " << id << "\n";
    session.out().flush();
  }
  return flags.detach ? kExitOk : WatchToTheEnd(session, sweep, {0, flags.output});
}

int RetrySweep(Session& session, const std::string& name, const SubmitFlags& flags) {
  v1::RetrySweepRequest request;
  const absl::StatusOr<std::string> full = session.SweepName(name);
  if (!full.ok()) return session.Fail(full.status());
  request.set_name(*full);
  const absl::StatusOr<v1::Sweep> sweep = session.scheduler().Call(request);
  if (!sweep.ok()) return session.Fail(sweep.status());
  if (session.json()) {
    session.PrintJson("sweep", *sweep);
  } else {
    session.out() << ShortName(sweep->name()) << " " << StateWord(sweep->state()) << "\n";
  }
  session.out().flush();
  return flags.detach ? static_cast<int>(kExitOk)
                      : WatchToTheEnd(session, *sweep, {0, flags.output});
}

int RetrySweep(Session& session, v1::SweepSpec spec, const SubmitFlags& flags) {
  absl::Status status = ApplyFlags(flags, &spec);
  if (status.ok()) status = Inputs(&session, flags.inputs).Resolve(&spec);
  if (!status.ok()) return session.Fail(status);
  // Stored specifications have their defaults filled in by the scheduler.
  auto resolve = MakeRequest<v1::SubmitSweepRequest>(session, spec, flags);
  resolve.set_validate_only(true);
  const absl::StatusOr<v1::SubmitSweepResponse> resolved = session.scheduler().Call(resolve);
  if (!resolved.ok()) return session.Fail(resolved.status());
  v1::ListSweepsRequest list;
  list.set_parent(session.parent());
  list.set_page_size(kSweepsSearchedMax);
  const absl::StatusOr<v1::ListSweepsResponse> sweeps = session.scheduler().Call(list);
  if (!sweeps.ok()) return session.Fail(sweeps.status());
  for (const v1::Sweep& sweep : sweeps->sweeps()) {
    if (google::protobuf::util::MessageDifferencer::Equals(sweep.spec(),
                                                           resolved->sweep().spec())) {
      return RetrySweep(session, sweep.name(), flags);
    }
  }
  return session.Fail(absl::NotFoundError(
      absl::StrCat("--retry-failed: none of the last ", sweeps->sweeps_size(),
                   " sweeps has this specification; submit it without --retry-failed, or name the "
                   "sweep (quantctl sweeps list)")));
}

int WatchToTheEnd(Session& session, const v1::Job& job, const WatchOptions& options) {
  FollowRequest follow;
  follow.name = job.name();
  follow.after_sequence = options.after_sequence;
  const absl::StatusOr<FollowEnd> end = Follow(&session, follow, MakeView(&session, job).get());
  if (!end.ok()) return session.Fail(end.status());
  if (*end != FollowEnd::kEnded) return EarlyEnd(*end);
  v1::GetJobRequest get;
  get.set_name(job.name());
  const absl::StatusOr<v1::Job> ended = session.scheduler().Call(get);
  if (!ended.ok()) return session.Fail(ended.status());
  const int exit_code = TellJob(session, *ended);
  if (options.output.empty() || exit_code != kExitOk) return exit_code;
  return BroughtHome(session, BringHome(session, ended->output(), options.output), exit_code);
}

int WatchToTheEnd(Session& session, const v1::Sweep& sweep, const WatchOptions& options) {
  FollowRequest follow;
  follow.name = sweep.name();
  follow.sweep = true;
  const CellLines tell = [&](const v1::Sweep::Cell& cell) { return TellCell(session, cell); };
  const absl::StatusOr<FollowEnd> end =
      Follow(&session, follow, MakeView(&session, sweep, tell).get());
  if (!end.ok()) return session.Fail(end.status());
  if (*end != FollowEnd::kEnded) return EarlyEnd(*end);
  v1::GetSweepRequest get;
  get.set_name(sweep.name());
  const absl::StatusOr<v1::Sweep> ended = session.scheduler().Call(get);
  if (!ended.ok()) return session.Fail(ended.status());
  const int exit_code = TellSweep(session, *ended);
  if (options.output.empty()) return exit_code;
  return BroughtHome(session, BringHome(session, *ended, options.output), exit_code);
}

}  // namespace quantd
