// Events are counted in prometheus-cpp's registry; figures of others are a table turned into
// families.
#include "server/metrics/server_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <exception>
#include <limits>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/scheduler/transitions.h"

namespace quantd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::vector<std::pair<std::string, std::string>>;

// Short calls are a millisecond, long polls twenty seconds.
const prometheus::Histogram::BucketBoundaries kCallSeconds = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 25};
// From an idle worker's pick-up to a weekend's queue.
const prometheus::Histogram::BucketBoundaries kJobSeconds = {0.1, 1,    5,    30,    120,
                                                             600, 1800, 7200, 28800, 86400};

constexpr const char* kCodeNames[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// "succeeded" for JOB_STATE_SUCCEEDED.
std::string StateLabel(int state) {
  const std::string name = v1::JobState_Name(static_cast<v1::JobState>(state));
  return absl::AsciiStrToLower(name.substr(sizeof("JOB_STATE_") - 1));
}

// All kinds of job, so that every series is there from the start.
const std::vector<std::string>& Kinds() {
  static const auto& kinds = *[] {
    auto* names = new std::vector<std::string>;
    const auto* oneof = v1::JobSpec::descriptor()->FindOneofByName("kind");
    for (int i = 0; i < oneof->field_count(); ++i) names->push_back(oneof->field(i)->name());
    return names;
  }();
  return kinds;
}

template <typename Counts, typename Key>
double Of(const Counts& counts, const Key& key) {
  const auto found = counts.find(key);
  return found == counts.end() ? 0 : static_cast<double>(found->second);
}

class Families {
 public:
  void Gauge(const char* name, const char* help, double value, const Labels& labels = {}) {
    ClientMetric& metric = Add(name, help, MetricType::Gauge, labels);
    metric.gauge.value = value;
  }
  void Counter(const char* name, const char* help, double value, const Labels& labels = {}) {
    ClientMetric& metric = Add(name, help, MetricType::Counter, labels);
    metric.counter.value = value;
  }
  void Histogram(const char* name, const char* help, const std::vector<double>& bounds,
                 const std::vector<int64_t>& counts, double sum) {
    ClientMetric& metric = Add(name, help, MetricType::Histogram, {});
    uint64_t cumulative = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      cumulative += static_cast<uint64_t>(counts[i]);
      const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = sum;
  }
  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  ClientMetric& Add(const char* name, const char* help, MetricType type, const Labels& labels) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({name, help, type, {}});
    }
    ClientMetric& metric = families_.back().metric.emplace_back();
    for (const auto& [key, value] : labels) metric.label.push_back({key, value});
    return metric;
  }
  std::vector<MetricFamily> families_;
};

void AddQueue(const QueueCounters& counters, const QueueStatistics& statistics, Families* out) {
  for (const std::string& kind : Kinds()) {
    for (int state = 1; state < kJobStateCount; ++state) {
      out->Gauge("quantd_jobs", "Jobs in the store.",
                 Of(statistics.jobs, std::pair(kind, static_cast<v1::JobState>(state))),
                 {{"kind", kind}, {"state", StateLabel(state)}});
    }
  }
  for (const std::string& kind : Kinds()) {
    out->Counter("quantd_jobs_submitted_total", "Jobs accepted, those of sweeps included.",
                 Of(counters.jobs_submitted, kind), {{"kind", kind}});
  }
  for (const std::string& kind : Kinds()) {
    for (const auto state : {v1::JOB_STATE_SUCCEEDED, v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED,
                             v1::JOB_STATE_SKIPPED}) {
      out->Counter("quantd_jobs_finished_total", "Jobs that ended.",
                   Of(counters.jobs_ended, std::pair(kind, state)),
                   {{"kind", kind}, {"outcome", StateLabel(state)}});
    }
  }
  const auto count = [&](const char* name, const char* help, int64_t value) {
    out->Counter(name, help, static_cast<double>(value));
  };
  count("quantd_leases_granted_total", "Attempts handed to workers.", counters.leases_granted);
  count("quantd_lease_expirations_total", "Leases that ran out.", counters.lease_expirations);
  count("quantd_lease_releases_total", "Jobs that workers gave back undone.", counters.releases);
  count("quantd_fenced_writes_total", "Workers' writes refused because their lease was over.",
        counters.fenced_writes);
  count("quantd_idempotent_replays_total", "Submits answered with the job of the same request id.",
        counters.idempotent_replays);
  count("quantd_repeated_completions_total",
        "Outcomes that came again and were answered as before.", counters.repeated_completions);
  count("quantd_duplicate_completions_total",
        "Second outcomes of an ended attempt; all were refused.", counters.duplicate_completions);
  count("quantd_retries_scheduled_total", "Failed attempts that will be tried again.",
        counters.retries_scheduled);
  count("quantd_jobs_removed_total", "Ended jobs removed because of their age.",
        counters.jobs_removed);
  for (const char* limit : {"queued-max", "artifact-gib-max"}) {
    out->Counter("quantd_quota_refusals_total", "Requests refused because of a tenant's limit.",
                 Of(counters.quota_refusals, std::string(limit)), {{"limit", limit}});
  }
  count("quantd_clock_timeouts_total", "Attempts ended by one of the three clocks.",
        counters.clock_timeouts);
  const std::pair<const char*, int64_t> kWorkers[] = {{"idle", statistics.workers_idle},
                                                      {"busy", statistics.workers_busy},
                                                      {"draining", statistics.workers_draining},
                                                      {"lost", statistics.workers_lost}};
  for (const auto& [state, value] : kWorkers) {
    out->Gauge("quantd_workers", "Registered workers by state.", static_cast<double>(value),
               {{"state", state}});
  }
}

void AddGarbage(const GarbageCounters& garbage, Families* out) {
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  out->Gauge("quantd_garbage_marked", "Blobs and artifacts that no job leads to.",
             number(garbage.marked));
  out->Gauge("quantd_garbage_marked_bytes", "Bytes of these blobs.", number(garbage.marked_bytes));
  out->Counter("quantd_garbage_runs_total", "Times that these were looked for.",
               number(garbage.runs - garbage.failed_runs), {{"result", "ok"}});
  out->Counter("quantd_garbage_runs_total", "Times that these were looked for.",
               number(garbage.failed_runs), {{"result", "failed"}});
  out->Counter("quantd_garbage_spared_total", "Of these, some to which something led again.",
               number(garbage.spared));
  out->Counter("quantd_garbage_removed_total", "Of these, those removed after their grace time.",
               number(garbage.removed_blobs), {{"what", "blob"}});
  out->Counter("quantd_garbage_removed_total", "Of these, those removed after their grace time.",
               number(garbage.removed_artifacts), {{"what", "artifact"}});
  out->Counter("quantd_garbage_removed_bytes_total", "Bytes of the removed blobs.",
               number(garbage.removed_bytes));
}

void AddStores(const MetricsSnapshot& snapshot, Families* out) {
  const JobStoreMetrics& store = snapshot.store;
  out->Histogram("quantd_db_commit_seconds", "Time of a commit, sync included.",
                 store.commit_seconds_bounds, store.commit_seconds_counts,
                 store.commit_seconds_sum);
  out->Histogram("quantd_db_group_size", "Transactions that shared a commit.",
                 store.group_size_bounds, store.group_size_counts, store.group_size_sum);
  out->Counter("quantd_db_failed_commits_total", "Commits that failed.",
               static_cast<double>(store.failed_commits));
  out->Gauge("quantd_db_wal_bytes", "Size of the write-ahead log.",
             static_cast<double>(store.wal_bytes));
  out->Gauge("quantd_db_pending_writes", "Transactions that wait for their commit.",
             static_cast<double>(store.pending_writes));
  const ArtifactUsage& artifacts = snapshot.artifacts;
  out->Gauge("quantd_artifact_bytes", "Bytes of whole blobs.",
             static_cast<double>(artifacts.blob_bytes));
  out->Counter("quantd_artifact_upload_bytes_total", "Bytes taken in by uploads.",
               static_cast<double>(artifacts.uploaded_bytes));
  out->Counter("quantd_artifact_verify_failures_total", "Uploads whose digest did not fit.",
               static_cast<double>(artifacts.verify_failures));
  out->Gauge("quantd_disk_free_bytes", "Free space where the artifacts lie.",
             static_cast<double>(artifacts.disk_free_bytes));
  AddGarbage(snapshot.garbage, out);
  out->Gauge("quantd_stream_subscribers", "Open watch streams and long polls.",
             static_cast<double>(snapshot.subscribers));
  out->Counter("quantd_refused_connections_total", "Connections beyond --connections-max.",
               static_cast<double>(snapshot.refused_connections));
}

}  // namespace

struct ServerMetrics::State : prometheus::Collectable {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Counter>& handled = prometheus::BuildCounter()
                                                         .Name("grpc_server_handled_total")
                                                         .Help("Calls by their code.")
                                                         .Register(*registry);
  prometheus::Family<prometheus::Histogram>& seconds =
      prometheus::BuildHistogram()
          .Name("grpc_server_handling_seconds")
          .Help("Time from a call's start to its status.")
          .Register(*registry);
  prometheus::Family<prometheus::Histogram>& waited =
      prometheus::BuildHistogram()
          .Name("quantd_job_queue_wait_seconds")
          .Help("From submission to the first attempt.")
          .Register(*registry);
  prometheus::Family<prometheus::Histogram>& ran =
      prometheus::BuildHistogram()
          .Name("quantd_job_run_seconds")
          .Help("From the attempt's start to the job's end.")
          .Register(*registry);
  prometheus::Counter& dropped = prometheus::BuildCounter()
                                     .Name("quantd_stream_dropped_total")
                                     .Help("Watch streams ended because nobody read them.")
                                     .Register(*registry)
                                     .Add({});
  std::function<MetricsSnapshot()> snapshot;
  std::unique_ptr<prometheus::Exposer> exposer;

  std::vector<MetricFamily> Collect() const override {
    const MetricsSnapshot now = snapshot();
    Families families;
    AddQueue(now.counters, now.statistics, &families);
    AddStores(now, &families);
    return families.Take();
  }
};

ServerMetrics::ServerMetrics() : state_(std::make_shared<State>()) {
  prometheus::BuildGauge()
      .Name("quantd_build_info")
      .Help("Always 1; the labels tell the build.")
      .Register(*state_->registry)
      .Add({{"version", QUANTD_VERSION}})
      .Set(1);
}

ServerMetrics::~ServerMetrics() { Stop(); }

void ServerMetrics::CallHandled(const char* service, const char* method, int code,
                                absl::Duration took) {
  const char* name = code >= 0 && code < 17 ? kCodeNames[code] : "UNKNOWN";
  state_->handled.Add({{"grpc_service", service}, {"grpc_method", method}, {"grpc_code", name}})
      .Increment();
  state_->seconds.Add({{"grpc_service", service}, {"grpc_method", method}}, kCallSeconds)
      .Observe(absl::ToDoubleSeconds(took));
}

void ServerMetrics::JobStarted(const std::string& kind, absl::Duration waited) {
  state_->waited.Add({{"kind", kind}}, kJobSeconds).Observe(absl::ToDoubleSeconds(waited));
}

void ServerMetrics::JobEnded(const std::string& kind, absl::Duration ran) {
  state_->ran.Add({{"kind", kind}}, kJobSeconds).Observe(absl::ToDoubleSeconds(ran));
}

void ServerMetrics::StreamDropped() { state_->dropped.Increment(); }

absl::StatusOr<std::string> ServerMetrics::Serve(const std::string& address,
                                                 std::function<MetricsSnapshot()> snapshot) {
  state_->snapshot = std::move(snapshot);
  try {
    state_->exposer = std::make_unique<prometheus::Exposer>(address, 2);
    state_->exposer->RegisterCollectable(state_->registry);
    state_->exposer->RegisterCollectable(state_);
    const auto ports = state_->exposer->GetListeningPorts();
    const std::string host = address.substr(0, address.rfind(':'));
    if (!ports.empty()) return absl::StrCat(host, ":", ports.front());
  } catch (const std::exception& error) {
    state_->exposer.reset();
    return absl::AlreadyExistsError(absl::StrCat(
        "serving metrics on ", address, ": ", error.what(),
        "; is the port taken? Choose another one with --metrics-listen (port 0 takes any)"));
  }
  return absl::InternalError(absl::StrCat("serving metrics on ", address, ": no port is open"));
}

void ServerMetrics::Stop() { state_->exposer.reset(); }

}  // namespace quantd
