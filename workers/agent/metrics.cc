// Families are made once, with their help; the methods only set values.
#include "workers/agent/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <exception>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Histogram;

// First words of Progress.phase; anything else counts as "other".
constexpr std::array<absl::string_view, 10> kPhases = {
    "download", "load",     "calibrate", "quantize", "write",
    "verify",   "evaluate", "benchmark", "compare",  "report"};

const Histogram::BucketBoundaries& SecondsBuckets() {
  static const auto* buckets =
      new Histogram::BucketBoundaries{0.1, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400};
  return *buckets;
}

double UnixNow() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

std::string CodeLabel(absl::StatusCode code) { return absl::StatusCodeToString(code); }

}  // namespace

AgentMetrics::AgentMetrics() : registry_(std::make_shared<prometheus::Registry>()) {
  prometheus::Registry& r = *registry_;
  const auto counter = [&](const char* name, const char* help) {
    return &BuildCounter().Name(name).Help(help).Register(r).Add({});
  };
  const auto gauge = [&](const char* name, const char* help) {
    return &BuildGauge().Name(name).Help(help).Register(r).Add({});
  };
  build_info_ = &BuildGauge()
                     .Name("quantd_worker_build_info")
                     .Help("Versions of the worker and of its engine; always 1")
                     .Register(r);
  last_answer_ = gauge("quantd_worker_last_answer_timestamp_seconds",
                       "When the scheduler last answered this worker");
  call_failures_ = &BuildCounter()
                        .Name("quantd_worker_calls_failed_total")
                        .Help("Calls to the scheduler that did not succeed")
                        .Register(r);
  leases_ = counter("quantd_worker_leases_total", "Leases taken");
  leases_lost_ = counter("quantd_worker_leases_lost_total", "Leases lost while the job ran");
  results_reused_ = counter("quantd_worker_results_reused_total",
                            "Jobs whose result was that of an earlier job with the same inputs");
  busy_ = gauge("quantd_worker_jobs_running", "Jobs being worked on now");
  attempts_ = &BuildCounter()
                   .Name("quantd_worker_attempts_total")
                   .Help("Attempts that have ended, by kind and outcome")
                   .Register(r);
  attempt_seconds_ = &BuildHistogram()
                          .Name("quantd_worker_attempt_seconds")
                          .Help("Time from lease to outcome")
                          .Register(r);
  phase_seconds_ = &BuildHistogram()
                        .Name("quantd_worker_phase_seconds")
                        .Help("Time spent in each phase of jobs")
                        .Register(r);
  blocks_ = counter("quantd_worker_layers_done_total", "Decoder blocks quantized");
  samples_ = &BuildCounter()
                  .Name("quantd_worker_eval_samples_total")
                  .Help("Samples evaluated, by task")
                  .Register(r);
  uploaded_bytes_ = counter("quantd_worker_uploaded_bytes_total", "Artifact bytes sent");
  downloaded_bytes_ = counter("quantd_worker_downloaded_bytes_total", "Artifact bytes received");
  resident_ = gauge("quantd_worker_engine_resident_bytes", "Host memory of the engine now");
  resident_peak_ = gauge("quantd_worker_engine_resident_peak_bytes",
                         "Largest host memory of the current or last engine");
  crashes_ = counter("quantd_worker_engine_crashes_total", "Engines that died or went wordless");
  checkpoint_time_ = gauge("quantd_worker_checkpoint_last_success_timestamp_seconds",
                           "When a checkpoint was last stored");
  canary_failures_ = counter("quantd_worker_cuda_canary_failures_total",
                             "Device checks after a crash that failed");
  disk_free_ = gauge("quantd_worker_disk_free_bytes", "Free disk below the data folder");
  cache_bytes_ = gauge("quantd_worker_cache_bytes", "Size of the blob cache");
  const auto gauges = [&](const char* name, const char* help) {
    return &BuildGauge().Name(name).Help(help).Register(r);
  };
  gpu_memory_used_ = gauges("quantd_worker_gpu_memory_used_bytes", "GPU memory in use, by all");
  gpu_utilization_ = gauges("quantd_worker_gpu_utilization_ratio", "Share of time a kernel ran");
  gpu_temperature_ = gauges("quantd_worker_gpu_temperature_celsius", "Temperature of the GPU");
}

absl::StatusOr<std::string> AgentMetrics::Listen(const std::string& address) {
  try {
    // Two threads: one scrape may hang on a slow reader without hiding the worker from the next.
    exposer_ = std::make_unique<prometheus::Exposer>(address, 2);
    exposer_->RegisterCollectable(registry_);
    const std::vector<int> ports = exposer_->GetListeningPorts();
    const std::string host = address.substr(0, address.rfind(':'));
    return absl::StrCat(host, ":", ports.empty() ? 0 : ports[0]);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("serving metrics on ", address, ": ", error.what(),
                                               "; choose another --metrics-listen"));
  }
}

std::string AgentMetrics::Render() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

void AgentMetrics::SetCatalog(const v1::Catalog& catalog) {
  build_info_->Add({{"version", QUANTD_VERSION}, {"engine_version", catalog.engine_version()}})
      .Set(1);
  absl::MutexLock lock(&mutex_);
  for (const v1::TaskInfo& task : catalog.tasks()) tasks_.insert(task.name());
}

void AgentMetrics::SchedulerAnswered() { last_answer_->Set(UnixNow()); }

void AgentMetrics::CallFailed(const std::string& method, absl::StatusCode code) {
  call_failures_->Add({{"method", method}, {"code", CodeLabel(code)}}).Increment();
}

void AgentMetrics::LeaseTaken() {
  leases_->Increment();
  busy_->Increment();
}

void AgentMetrics::AttemptEnded(const std::string& kind, const std::string& outcome,
                                absl::Duration time) {
  busy_->Decrement();
  attempts_->Add({{"kind", kind}, {"outcome", outcome}}).Increment();
  attempt_seconds_->Add({{"kind", kind}}, SecondsBuckets()).Observe(absl::ToDoubleSeconds(time));
}

void AgentMetrics::PhaseEnded(absl::string_view phase, absl::Duration time) {
  const absl::string_view word = phase.substr(0, phase.find(' '));
  const bool known = std::find(kPhases.begin(), kPhases.end(), word) != kPhases.end();
  phase_seconds_->Add({{"phase", known ? std::string(word) : "other"}}, SecondsBuckets())
      .Observe(absl::ToDoubleSeconds(time));
}

void AgentMetrics::SamplesDone(absl::string_view phase, int64_t count) {
  const std::vector<std::string> words = absl::StrSplit(phase, ' ');
  absl::MutexLock lock(&mutex_);
  const bool known = words.size() > 1 && tasks_.count(words[1]) > 0;
  samples_->Add({{"task", known ? words[1] : "other"}}).Increment(static_cast<double>(count));
}

void AgentMetrics::EngineMemory(int64_t resident_bytes, int64_t peak_bytes) {
  resident_->Set(static_cast<double>(resident_bytes));
  resident_peak_->Set(static_cast<double>(peak_bytes));
}

void AgentMetrics::CheckpointStored() { checkpoint_time_->Set(UnixNow()); }

void AgentMetrics::Disk(int64_t free_bytes, int64_t cache_bytes) {
  disk_free_->Set(static_cast<double>(free_bytes));
  cache_bytes_->Set(static_cast<double>(cache_bytes));
}

void AgentMetrics::Gpus(const std::vector<GpuState>& states) {
  for (size_t i = 0; i < states.size(); ++i) {
    const prometheus::Labels gpu = {{"gpu", absl::StrCat(i)}};
    gpu_memory_used_->Add(gpu).Set(static_cast<double>(states[i].memory_used_bytes));
    gpu_utilization_->Add(gpu).Set(states[i].utilization_ratio);
    gpu_temperature_->Add(gpu).Set(states[i].temperature_celsius);
  }
}

void ProgressMeter::Update(const v1::Progress& progress, absl::Duration now) {
  if (progress.phase() != phase_) {
    Finish(now);
    phase_ = progress.phase();
    since_ = now;
    done_ = 0;
  }
  const int64_t more = progress.done() - done_;
  if (more <= 0) return;
  done_ = progress.done();
  if (progress.unit() == "block") metrics_->BlocksDone(more);
  if (progress.unit() == "sample") metrics_->SamplesDone(progress.phase(), more);
}

void ProgressMeter::Finish(absl::Duration now) {
  if (!phase_.empty()) metrics_->PhaseEnded(phase_, now - since_);
  phase_.clear();
}

}  // namespace quantd
