// The order of things; each step is a class of its own.
#include "workers/agent/attempt.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/openmp_waits.h"
#include "base/status_macros.h"
#include "base/trace.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr absl::Duration kDownloadReport = absl::Milliseconds(250);
constexpr int kMissingBlobTries = 3;
constexpr absl::Duration kFindTime = absl::Seconds(10);

absl::Duration Monotonic() { return Clock::Real().Monotonic(); }

}  // namespace

Attempt::Attempt(const AttemptWorld& world, v1::LeaseJobResponse lease)
    : world_(world),
      lease_(std::move(lease)),
      started_(Monotonic()),
      folder_(world.data, lease_.lease().job()),
      progress_(world.metrics) {
  if (lease_.has_run_time_left()) {
    run_deadline_ = started_ + absl::Seconds(lease_.run_time_left().seconds()) +
                    absl::Nanoseconds(lease_.run_time_left().nanos());
  }
  LeaseKeeper::Hooks hooks;
  hooks.cancel_requested = [this](const std::string& reason) {
    LogInfo("cancel requested", {{"job", lease_.lease().job()}, {"reason", reason}});
    stop_.Request(StopReason::kCancelled);
  };
  hooks.lost = [this] { stop_.Request(StopReason::kLeaseLost); };
  hooks.tick = [this] { Tick(); };
  keeper_ = std::make_unique<LeaseKeeper>(world_.workers, lease_.lease(), world_.metrics,
                                          std::move(hooks));
  keeper_->OnRoom([this] { stop_.Wake(); });
}

void Attempt::Abandon() {
  stop_.Hurry();
  last_words_.Cancel();
  absl::MutexLock lock(&keeper_mutex_);
  if (keeper_ != nullptr) keeper_->Abandon();
}

void Attempt::Tick() {
  if (Monotonic() >= run_deadline_ && stop_.reason() == StopReason::kNone) {
    stop_.Request(StopReason::kRunTimeout);
  }
  world_.metrics->Disk(FreeDiskBytes(world_.data).value_or(-1), world_.cache->size_bytes());
  world_.metrics->Gpus(ReadGpuStates());
}

std::string Attempt::KindName() const {
  const auto* field = lease_.spec().GetReflection()->GetOneofFieldDescriptor(
      lease_.spec(), v1::JobSpec::descriptor()->FindOneofByName("kind"));
  return field == nullptr ? "none" : field->name();
}

TransferControl Attempt::InputControl() {
  struct Counter {
    int64_t done = 0;
    absl::Duration reported = -absl::InfiniteDuration();
  };
  const auto counter = std::make_shared<Counter>();
  const int64_t total = MissingInputBytes(lease_, *world_.cache);
  TransferControl control;
  control.scope = &stop_.inputs();
  control.moved = [this, counter, total](int64_t bytes) {
    world_.metrics->Downloaded(bytes);
    counter->done += bytes;
    const absl::Duration now = Monotonic();
    if (now - counter->reported < kDownloadReport && counter->done < total) return;
    counter->reported = now;
    v1::JobEvent event;
    event.mutable_progress()->set_phase("download");
    event.mutable_progress()->set_done(counter->done);
    event.mutable_progress()->set_total(std::max(total, counter->done));
    event.mutable_progress()->set_unit("byte");
    progress_.Update(event.progress(), now);
    keeper_->Add(std::move(event));
  };
  return control;
}

TransferControl Attempt::OutputControl() {
  TransferControl control;
  control.scope = &stop_.outputs();
  control.gate = [this] { return keeper_->Gate(stop_.outputs()); };
  control.moved = [this](int64_t bytes) { world_.metrics->Uploaded(bytes); };
  return control;
}

absl::Status Attempt::Prepare() {
  QD_RETURN_IF_ERROR(folder_.Begin(), "preparing the job's folder");
  QD_RETURN_IF_ERROR(MakeFolders(world_.data + "/cache"));
  const TransferControl control = InputControl();
  QD_RETURN_IF_ERROR(world_.cache->MakeRoom(MissingInputBytes(lease_, *world_.cache)));
  QD_RETURN_IF_ERROR(
      folder_.RestoreCheckpoint(lease_.checkpoint(), *world_.cache, *world_.transfer, control));
  QD_ASSIGN_OR_RETURN(const nlohmann::json inputs,
                      PrepareInputs(lease_, folder_, *world_.cache, *world_.transfer, control));
  QD_RETURN_IF_ERROR(WriteFileAtomic(folder_.inputs_file(), inputs.dump()));
  std::string spec;
  v1::JobSpec for_engine = lease_.spec();
  for_engine.clear_secrets();  // The engine finds them in its environment.
  const auto written = google::protobuf::util::MessageToJsonString(for_engine, &spec);
  if (!written.ok()) {
    return absl::InternalError(absl::StrCat("writing the spec: ", std::string(written.message())));
  }
  QD_RETURN_IF_ERROR(WriteFileAtomic(folder_.spec_file(), spec));
  FaultPoint("worker/prepared");
  return absl::OkStatus();
}

std::vector<std::string> Attempt::SecretValues() const {
  std::vector<std::string> values = world_.secret_values;
  for (const auto& [name, value] : lease_.secrets()) values.push_back(value);
  return values;
}

absl::StatusOr<std::shared_ptr<const Confinement>> Attempt::Confine() {
  const EngineLimits& limits = world_.limits;
  if (!limits.confined) return nullptr;
  ConfinementPlan plan;
  plan.network = NeedsNetwork(lease_.spec());
  plan.as_user = limits.as_user;
  plan.user = limits.user;
  plan.programs = limits.programs;
  for (std::string& path : SpecPaths(lease_.spec(), limits.spec_roots)) {
    plan.readable.push_back(std::move(path));
  }
  plan.readable.push_back(folder_.path());
  plan.writable = {folder_.output(), folder_.work(), folder_.stage(), world_.data + "/cache"};
  if (plan.network) {
    plan.readable.push_back(limits.hub_token);
    plan.writable.push_back(limits.hub_cache);
    MakeFolders(limits.hub_cache).IgnoreError();
  }
  if (plan.as_user) QD_RETURN_IF_ERROR(GiveToUser(plan.user, folder_.path(), plan.writable));
  return Confinement::Prepare(plan);
}

absl::StatusOr<EngineEnd> Attempt::Engine() {
  ChildCommand command;
  command.argv = {world_.engine, "run",
                  "--spec",      folder_.spec_file(),
                  "--inputs",    folder_.inputs_file(),
                  "--output",    folder_.output(),
                  "--work",      folder_.work(),
                  "--cache",     world_.data + "/cache",
                  "--events-fd", absl::StrCat(kEventsFd)};
  command.working_folder = folder_.work();
  // Our own environment comes first.
  for (const OpenMpWait& wait : kOpenMpWaits) {
    command.environment.emplace_back(wait.name, wait.value);
  }
  command.environment.emplace_back("TRACEPARENT",
                                   TraceParent(lease_.lease().job(), lease_.lease().attempt()));
  QD_ASSIGN_OR_RETURN(command.confinement, Confine(), "confining the engine");
  if (command.confinement != nullptr) {
    // Where programs write by themselves; the usual places are closed.
    for (const char* name : {"TMPDIR", "CUDA_CACHE_PATH"}) {
      command.environment.emplace_back(name, folder_.stage());
      command.dropped.push_back(name);
    }
  }
  for (const auto& [name, value] : lease_.secrets()) {
    command.environment.emplace_back(name, value);
    command.dropped.push_back(name);  // The job's own counts, not the worker's.
  }
  command.events = true;
  EngineHooks hooks;
  hooks.redactor = Redactor(SecretValues());
  hooks.event = [this](v1::JobEvent event) {
    if (event.has_artifact()) {
      collector_->AddArtifact(event.artifact().file());
    } else if (event.has_checkpoint()) {
      collector_->AddCheckpoint(std::move(*event.mutable_checkpoint()));
    } else {
      if (event.has_progress()) progress_.Update(event.progress(), Monotonic());
      keeper_->Add(std::move(event));
    }
  };
  hooks.log = [this](v1::LogLine::Source source, const std::string& text) {
    keeper_->AddLog(source, text);
  };
  hooks.full = [this] { return keeper_->Full(); };
  hooks.memory = [this](const ProcessMemory& memory) {
    world_.metrics->EngineMemory(memory.resident_bytes, memory.resident_peak_bytes);
  };
  return RunEngine(command, hooks, stop_, world_.grace);
}

Attempt::Outcome Attempt::Failed(v1::ErrorClass error_class, const absl::Status& status) const {
  Outcome outcome;
  outcome.failure.set_error_class(error_class);
  outcome.failure.set_code(static_cast<int>(status.code()));
  outcome.failure.set_message(std::string(status.message()));
  return outcome;
}

Attempt::Outcome Attempt::Stopped() const {
  Outcome outcome;
  switch (stop_.reason()) {
    case StopReason::kCancelled:
      outcome.kind = Kind::kCancelled;
      return outcome;
    case StopReason::kLeaseLost:
      outcome.kind = Kind::kLost;
      return outcome;
    case StopReason::kRunTimeout:
      outcome = Failed(v1::ERROR_CLASS_RUN_TIMEOUT,
                       absl::DeadlineExceededError("the job's run time limit is used up"));
      outcome.failure.set_remedy("raise limits.run_time, or give the job less to do");
      return outcome;
    case StopReason::kDraining:
    case StopReason::kNone:  // Hurry() without a request: the worker is going down.
      outcome.kind = Kind::kReleased;
      return outcome;
  }
  return outcome;
}

v1::ErrorClass Attempt::ClassOfInputError(const absl::Status& status) const {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDataLoss:
      return v1::ERROR_CLASS_BAD_INPUT;
    case absl::StatusCode::kFailedPrecondition:  // The cache's word for a disk without room.
      return v1::ERROR_CLASS_DISK_FULL;
    default:
      return v1::ERROR_CLASS_INPUT_UNAVAILABLE;
  }
}

std::optional<Attempt::Outcome> Attempt::Reuse() {
  const absl::StatusOr<std::string> digest = world_.inputs->Of(
      lease_, [this] { return stop_.reason() == StopReason::kNone && !stop_.hurry(); });
  if (absl::IsCancelled(digest.status())) return std::nullopt;
  if (!digest.ok()) {
    LogWarning("cannot tell what the job's inputs are; working it out",
               {{"job", lease_.lease().job()}, {"error", digest.status().ToString()}});
    return std::nullopt;
  }
  input_digest_ = *digest;
  if (input_digest_.empty()) return std::nullopt;
  v1::FindResultRequest request;
  *request.mutable_lease() = lease_.lease();
  request.set_input_digest(input_digest_);
  v1::FindResultResponse found;
  CancelScope::Call call(stop_.inputs(), kFindTime);
  // Whatever goes wrong: the work itself can still be done.
  if (!world_.workers->FindResult(&call.context, request, &found).ok()) return std::nullopt;
  LogInfo("an earlier job had the same inputs",
          {{"job", lease_.lease().job()}, {"result_of", found.job()}});
  keeper_->AddLog(v1::LogLine::WORKER,
                  absl::StrCat("the same inputs as ", found.job(),
                               ": its result is taken (submit with --fresh to work it out again)"));
  v1::JobEvent event;
  *event.mutable_result()->mutable_values() = found.success().result();
  keeper_->Add(std::move(event));
  world_.metrics->ResultReused();
  Outcome outcome;
  outcome.kind = Kind::kSuccess;
  outcome.success = found.success();
  return outcome;
}

Attempt::Outcome Attempt::Work() {
  if (std::optional<Outcome> known = Reuse(); known.has_value()) return *std::move(known);
  if (stop_.reason() != StopReason::kNone || stop_.hurry()) return Stopped();
  const absl::Status prepared = Prepare();
  if (stop_.reason() != StopReason::kNone || stop_.hurry()) return Stopped();
  if (!prepared.ok()) return Failed(ClassOfInputError(prepared), prepared);
  collector_ = std::make_unique<OutputCollector>(OutputCollector::Parts{.folder = &folder_,
                                                                        .cache = world_.cache,
                                                                        .transfer = world_.transfer,
                                                                        .keeper = keeper_.get(),
                                                                        .metrics = world_.metrics,
                                                                        .control = OutputControl()},
                                                 lease_.checkpoint());
  const absl::StatusOr<EngineEnd> end = Engine();
  progress_.Finish(Monotonic());
  if (!end.ok()) return Failed(v1::ERROR_CLASS_INTERNAL, end.status());
  return Judge(*end);
}

Attempt::Outcome Attempt::Judge(const EngineEnd& end) {
  const std::string& job = lease_.lease().job();
  device_suspect_ = end.exit.signal != 0 || end.killed_by_us;
  LogInfo("engine ended", {{"job", job},
                           {"attempt", lease_.lease().attempt()},
                           {"exit", DescribeExit(end.exit)},
                           {"resident_peak_bytes", end.memory.resident_peak_bytes}});
  if (end.killed_by_us) {
    keeper_->AddLog(v1::LogLine::WORKER, "the engine did not stop when asked and was killed");
  }
  const bool finished = end.exit.signal == 0 && end.exit.code == 0 && end.result.has_value();
  Outcome outcome;
  if (finished && stop_.reason() != StopReason::kLeaseLost) {
    *outcome.success.mutable_result() = end.result->values();
    outcome.success.set_input_digest(input_digest_);
    const absl::Status collected = CollectOutput(&outcome);
    if (collected.ok()) {
      v1::JobEvent event;  // For those who watch; the outcome itself says it again.
      *event.mutable_result() = *end.result;
      keeper_->Add(std::move(event));
      outcome.kind = Kind::kSuccess;
      return outcome;
    }
    if (stop_.reason() != StopReason::kNone || stop_.hurry()) return Stopped();
    return Failed(
        absl::IsInternal(collected) ? v1::ERROR_CLASS_INTERNAL : v1::ERROR_CLASS_INPUT_UNAVAILABLE,
        collected);
  }
  if (stop_.reason() != StopReason::kNone || stop_.hurry()) {
    // The files of the last block are worth the seconds that are left.
    if (stop_.reason() == StopReason::kDraining) collector_->Settle();
    return Stopped();
  }
  outcome.failure = DescribeFailure(end);
  if (!end.failure.has_value()) {
    device_suspect_ = true;
    world_.metrics->EngineCrashed();
  }
  if (outcome.failure.error_class() == v1::ERROR_CLASS_DEVICE_FAULT) device_suspect_ = true;
  // A next attempt goes on from here, on whichever worker.
  collector_->Settle();
  return outcome;
}

absl::Status Attempt::CollectOutput(Outcome* outcome) {
  QD_ASSIGN_OR_RETURN(const v1::Manifest output, collector_->Finish());
  if (output.files_size() > 0) *outcome->success.mutable_output() = output;
  return absl::OkStatus();
}

std::string Attempt::Complete(Outcome outcome) {
  for (int tries = 1;; ++tries) {
    v1::CompleteJobRequest request;
    std::string words = "failed";
    if (outcome.kind == Kind::kSuccess) {
      words = "succeeded";
      *request.mutable_success() = outcome.success;
    } else if (outcome.kind == Kind::kCancelled) {
      words = "cancelled";
      request.mutable_cancelled();
    } else {
      outcome.failure.set_attempt(lease_.lease().attempt());
      *request.mutable_failure() = outcome.failure;
    }
    const absl::StatusOr<v1::JobState> state = keeper_->Complete(std::move(request), last_words_);
    if (state.ok()) {
      keep_checkpoint_ = *state == v1::JOB_STATE_QUEUED || *state == v1::JOB_STATE_PENDING;
      return words;
    }
    if (absl::IsAborted(state.status())) return "lease_lost";
    if (absl::IsCancelled(state.status())) return "released";
    LogError(
        "the scheduler refuses an outcome",
        {{"job", lease_.lease().job()}, {"outcome", words}, {"error", state.status().ToString()}});
    if (tries > kMissingBlobTries) return "lease_lost";
    const bool blobs_missing = outcome.kind == Kind::kSuccess &&
                               absl::IsFailedPrecondition(state.status()) &&
                               tries < kMissingBlobTries;
    const absl::Status collected =
        blobs_missing && collector_ != nullptr ? CollectOutput(&outcome) : state.status();
    if (!collected.ok()) outcome = Failed(v1::ERROR_CLASS_INTERNAL, collected);
  }
}

std::string Attempt::Deliver(Outcome outcome) {
  switch (outcome.kind) {
    case Kind::kLost:
      return "lease_lost";
    case Kind::kReleased: {
      keep_checkpoint_ = true;
      const absl::Status released = keeper_->Release("preempted", last_words_);
      if (!released.ok()) {
        LogWarning("could not give the job back; its lease will run out",
                   {{"job", lease_.lease().job()}, {"error", released.ToString()}});
      }
      return "released";
    }
    case Kind::kSuccess:
    case Kind::kFailure:
    case Kind::kCancelled:
      return Complete(std::move(outcome));
  }
  return "failed";
}

AttemptResult Attempt::Run() {
  const std::string& job = lease_.lease().job();
  const std::string kind = KindName();
  LogInfo("job leased", {{"job", job},
                         {"attempt", lease_.lease().attempt()},
                         {"kind", kind},
                         {"inputs", lease_.inputs_size()},
                         {"resumes", lease_.checkpoint().files_size() > 0 ? "yes" : "no"}});
  world_.metrics->LeaseTaken();
  FaultPoint("worker/leased");
  Outcome outcome = Work();
  const v1::Failure failure = outcome.failure;
  AttemptResult result;
  FaultPoint("worker/worked");
  result.outcome = Deliver(std::move(outcome));
  FaultPoint("worker/delivered");
  result.device_suspect = device_suspect_;
  collector_.reset();
  std::unique_ptr<LeaseKeeper> keeper;
  {
    absl::MutexLock lock(&keeper_mutex_);
    keeper = std::move(keeper_);
  }
  keeper.reset();
  if (result.outcome == "lease_lost") world_.metrics->LeaseLost();
  world_.metrics->AttemptEnded(kind, result.outcome, Monotonic() - started_);
  if (const absl::Status ended = folder_.End(keep_checkpoint_); !ended.ok()) {
    LogWarning("cannot tidy a job's folder", {{"job", job}, {"error", ended.ToString()}});
  }
  LogInfo("attempt ended", {{"job", job},
                            {"attempt", lease_.lease().attempt()},
                            {"outcome", result.outcome},
                            {"error_class", v1::ErrorClass_Name(failure.error_class())},
                            {"error", failure.message()},
                            {"seconds", absl::ToDoubleSeconds(Monotonic() - started_)}});
  return result;
}

}  // namespace quantd
