// The lease loop.
#include "workers/agent/agent.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"
#include "workers/agent/child_process.h"
#include "workers/agent/machine_state.h"

namespace quantd {
namespace {

constexpr absl::Duration kCallTime = absl::Seconds(10);
constexpr absl::Duration kPollSlack = absl::Seconds(10);  // Beyond the wait that was asked for.
constexpr absl::Duration kCapabilitiesTime = absl::Seconds(60);  // A GPU's first use takes seconds.
constexpr absl::Duration kCanaryTime = absl::Seconds(60);
constexpr size_t kJobFoldersKept = 4;  // Checkpoints of jobs that may come back.
constexpr size_t kQuotedBytes = 2'000;

std::string Tail(const std::string& text) {
  return text.size() <= kQuotedBytes ? text : text.substr(text.size() - kQuotedBytes);
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

// Is there as long as the device is not known to be sane.
std::string SuspectPath(const std::string& data) { return data + "/device_suspect"; }

}  // namespace

std::string NewUuid() {
  std::random_device random;
  const uint32_t a = random(), b = random(), c = random(), d = random();
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%04x%08x", a, b >> 16, b & 0xfff,
                         0x8000 | ((c >> 16) & 0x3fff), c & 0xffff, d);
}

Agent::Agent(AgentOptions options, std::shared_ptr<grpc::ChannelInterface> channel,
             AgentMetrics* metrics)
    : options_(std::move(options)),
      metrics_(metrics),
      workers_(v1::WorkerService::NewStub(channel)),
      artifacts_(v1::ArtifactService::NewStub(channel)),
      transfer_(artifacts_.get()) {}

Agent::~Agent() {
  ended_.Cancel();
  std::thread clock;
  {
    absl::MutexLock lock(&mutex_);
    clock = std::move(drain_clock_);
  }
  if (clock.joinable()) clock.join();
}

absl::StatusOr<std::unique_ptr<Agent>> Agent::Create(
    AgentOptions options, std::shared_ptr<grpc::ChannelInterface> channel, AgentMetrics* metrics) {
  std::unique_ptr<Agent> agent(new Agent(std::move(options), std::move(channel), metrics));
  QD_RETURN_IF_ERROR(agent->LoadCatalog());
  {
    absl::MutexLock lock(&agent->mutex_);
    agent->inputs_ = std::make_unique<InputDigest>(agent->options_.engine, agent->catalog_);
  }
  QD_ASSIGN_OR_RETURN(
      agent->cache_, BlobCache::Open(agent->options_.data + "/blobs", agent->options_.cache_bytes));
  return agent;
}

absl::Status Agent::LoadCatalog() {
  const std::string words = absl::StrCat("asking \"", options_.engine, " capabilities\"");
  QD_ASSIGN_OR_RETURN(const CommandOutput output,
                      RunCommand({.argv = {options_.engine, "capabilities"},
                                  .working_folder = options_.data,
                                  .separate_errors = true},
                                 kCapabilitiesTime),
                      words);
  if (output.exit.code != 0 || output.exit.signal != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        words, ": it ended with ", DescribeExit(output.exit), ": ", Tail(output.output)));
  }
  v1::Catalog catalog;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto parsed = google::protobuf::util::JsonStringToMessage(output.output, &catalog, options);
  if (!parsed.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(words, ": its answer is not a Catalog: ", std::string(parsed.message())));
  }
  metrics_->SetCatalog(catalog);
  absl::MutexLock lock(&mutex_);
  catalog_ = std::move(catalog);
  return absl::OkStatus();
}

absl::Status Agent::Refresh() {
  QD_RETURN_IF_ERROR(LoadCatalog());
  ++catalog_version_;
  return absl::OkStatus();
}

absl::Status Agent::Register(const Slot& slot) {
  v1::RegisterWorkerRequest request;
  const MachineState machine = MachineState::Read(options_.data);
  v1::Worker& worker = *request.mutable_worker();
  worker.set_name(slot.name);
  worker.set_hostname(HostName());
  worker.set_version(QUANTD_VERSION);
  worker.set_host_memory_bytes(std::max<int64_t>(machine.memory_total_bytes, 0));
  worker.set_disk_free_bytes(std::max<int64_t>(machine.disk_free_bytes, 0));
  for (const auto& [key, value] : options_.labels) (*worker.mutable_labels())[key] = value;
  {
    absl::MutexLock lock(&mutex_);
    *worker.mutable_catalog() = catalog_;
  }
  request.set_instance_id(slot.instance);
  Backoff backoff;
  while (true) {
    v1::RegisterWorkerResponse response;
    CancelScope::Call call(polls_, kCallTime);
    const absl::Status status =
        FromGrpcStatus(workers_->RegisterWorker(&call.context, request, &response));
    if (status.ok()) {
      metrics_->SchedulerAnswered();
      LogInfo("registered", {{"worker", slot.name}, {"instance", slot.instance}});
      return absl::OkStatus();
    }
    if (polls_.cancelled()) return absl::CancelledError("told to stop");
    metrics_->CallFailed("RegisterWorker", status.code());
    if (absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status) ||
        absl::IsAborted(status)) {
      return Annotate(status, absl::StrCat("registering ", slot.name));
    }
    LogWarning("cannot register; trying on", {{"worker", slot.name}, {"error", status.ToString()}});
    if (!polls_.SleepFor(backoff.Next())) return absl::CancelledError("told to stop");
  }
}

absl::StatusOr<v1::LeaseJobResponse> Agent::Poll(const Slot& slot, const std::string& request_id) {
  v1::LeaseJobRequest request;
  request.set_worker(slot.name);
  request.set_instance_id(slot.instance);
  const absl::Duration wait = std::min(options_.poll, options_.exit_when_idle);
  const int64_t wait_ns = absl::ToInt64Nanoseconds(wait);
  request.mutable_wait()->set_seconds(wait_ns / 1'000'000'000);
  request.mutable_wait()->set_nanos(static_cast<int32_t>(wait_ns % 1'000'000'000));
  request.set_disk_free_bytes(FreeDiskBytes(options_.data).value_or(0));
  request.set_request_id(request_id);
  v1::LeaseJobResponse response;
  CancelScope::Call call(polls_, wait + kPollSlack);
  QD_RETURN_IF_ERROR(FromGrpcStatus(workers_->LeaseJob(&call.context, request, &response)));
  metrics_->SchedulerAnswered();
  return response;
}

absl::Status Agent::CheckDevice() {
  if (!options_.canary) return absl::OkStatus();
  const absl::StatusOr<CommandOutput> canary = RunCommand(
      {.argv = {options_.engine, "canary"}, .working_folder = options_.data}, kCanaryTime);
  if (canary.ok() && canary->exit.code == 0 && canary->exit.signal == 0) return absl::OkStatus();
  metrics_->CanaryFailed();
  WriteFileAtomic(SuspectPath(options_.data), "").IgnoreError();
  return absl::InternalError(absl::StrCat(
      "the device is not sane after an engine's end, so this worker leaves: \"", options_.engine,
      " canary\": ",
      canary.ok() ? absl::StrCat(DescribeExit(canary->exit), ": ", Tail(canary->output))
                  : canary.status().ToString()));
}

absl::Status Agent::WaitUntilSane() {
  const std::string path = SuspectPath(options_.data);
  while (FileExists(path)) {
    const absl::Status sane = CheckDevice();
    if (sane.ok()) return RemoveTree(path);
    LogError("no jobs until the device passes its check", {{"error", sane.ToString()}});
    if (!polls_.SleepFor(options_.canary_retry)) return absl::CancelledError("told to stop");
  }
  return absl::OkStatus();
}

absl::Status Agent::Work(v1::LeaseJobResponse lease) {
  const AttemptWorld world = {.workers = workers_.get(),
                              .transfer = &transfer_,
                              .cache = cache_.get(),
                              .metrics = metrics_,
                              .inputs = inputs_.get(),
                              .engine = options_.engine,
                              .data = options_.data,
                              .secret_values = options_.secret_values,
                              .grace = options_.grace,
                              .limits = options_.limits};
  const std::string folder = JobFolder(options_.data, lease.lease().job()).path();
  if (options_.slots == 1) {
    PruneJobFolders(options_.data, folder, kJobFoldersKept).IgnoreError();
  }
  Attempt attempt(world, std::move(lease));
  {
    absl::MutexLock lock(&mutex_);
    attempts_.insert(&attempt);
    // The request to stop may have come between the lease and this line.
    if (drains_ > 0) attempt.Drain();
    if (drains_ > 1) attempt.Hurry();
  }
  const AttemptResult result = attempt.Run();
  {
    absl::MutexLock lock(&mutex_);
    attempts_.erase(&attempt);
  }
  return result.device_suspect && !polls_.cancelled() ? CheckDevice() : absl::OkStatus();
}

absl::Status Agent::RunSlot(const Slot& slot) {
  QD_RETURN_IF_ERROR(Register(slot));
  int told_version = catalog_version_;
  Backoff backoff;
  std::string request_id = NewUuid();
  absl::Duration busy_until = Clock::Real().Monotonic();
  while (!polls_.cancelled()) {
    if (told_version != catalog_version_) {
      told_version = catalog_version_;
      QD_RETURN_IF_ERROR(Register(slot));
    }
    absl::StatusOr<v1::LeaseJobResponse> lease = Poll(slot, request_id);
    if (!lease.ok()) {
      if (polls_.cancelled()) break;
      const absl::Status& status = lease.status();
      metrics_->CallFailed("LeaseJob", status.code());
      if (absl::IsNotFound(status)) {
        LogInfo("the scheduler does not know this worker", {{"worker", slot.name}});
        QD_RETURN_IF_ERROR(Register(slot));
        continue;
      }
      if (absl::IsAborted(status)) {
        return Annotate(status,
                        absl::StrCat("another process works as ", slot.name,
                                     "; give each worker a --name and a --data folder of its own"));
      }
      LogWarning("cannot ask for a job; trying on", {{"error", status.ToString()}});
      polls_.SleepFor(backoff.Next());
      continue;
    }
    backoff.Reset();
    request_id = NewUuid();
    if (lease->has_lease()) {
      QD_RETURN_IF_ERROR(Work(*std::move(lease)));
      busy_until = Clock::Real().Monotonic();
    } else if (Clock::Real().Monotonic() - busy_until >= options_.exit_when_idle) {
      LogInfo("nothing to do; leaving", {{"worker", slot.name}});
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

void Agent::Deregister(const Slot& slot) {
  v1::DeregisterWorkerRequest request;
  request.set_worker(slot.name);
  request.set_instance_id(slot.instance);
  v1::DeregisterWorkerResponse response;
  CancelScope scope;
  CancelScope::Call call(scope, absl::Seconds(2));
  const absl::Status status =
      FromGrpcStatus(workers_->DeregisterWorker(&call.context, request, &response));
  if (!status.ok()) LogWarning("cannot say good-bye", {{"error", status.ToString()}});
}

absl::Status Agent::Run() {
  if (const absl::Status sane = WaitUntilSane(); !sane.ok()) {
    ended_.Cancel();
    return absl::IsCancelled(sane) ? absl::OkStatus() : sane;
  }
  std::vector<std::thread> threads;
  std::vector<absl::Status> ends(options_.slots);
  for (int i = 0; i < options_.slots; ++i) {
    threads.emplace_back([this, i, &ends] {
      const std::string name = i == 0 ? options_.name : absl::StrCat(options_.name, "-", i + 1);
      const Slot slot = {.name = WorkerName(name), .instance = NewUuid()};
      ends[i] = RunSlot(slot);
      if (absl::IsCancelled(ends[i])) ends[i] = absl::OkStatus();
      if (!absl::IsAborted(ends[i])) Deregister(slot);
      // One slot's bad end is the process's: the device is shared.
      if (!ends[i].ok()) {
        LogError("leaving", {{"worker", slot.name}, {"error", ends[i].ToString()}});
        Drain();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ended_.Cancel();
  for (const absl::Status& end : ends) QD_RETURN_IF_ERROR(end);
  return absl::OkStatus();
}

void Agent::WatchDrain() {
  // The last quarter is for saying good-bye; what is not stored by then is lost time, not lost
  // data.
  if (!ended_.SleepFor(options_.drain_grace * 0.75)) return;
  {
    absl::MutexLock lock(&mutex_);
    for (Attempt* attempt : attempts_) attempt->Hurry();
  }
  if (!ended_.SleepFor(options_.drain_grace * 0.25)) return;
  absl::MutexLock lock(&mutex_);
  for (Attempt* attempt : attempts_) attempt->Abandon();
}

void Agent::Drain() {
  polls_.Cancel();
  absl::MutexLock lock(&mutex_);
  ++drains_;
  for (Attempt* attempt : attempts_) {
    attempt->Drain();
    if (drains_ > 1) attempt->Hurry();
  }
  if (drains_ == 1) drain_clock_ = std::thread([this] { WatchDrain(); });
}

}  // namespace quantd
