// Parts are declared in the order in which they may depend on each other, so that destruction
// undoes it.
#include "server/server.h"

#include <dlfcn.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel.h"
#include "proto/names.h"
#include "server/acceptor.h"
#include "server/artifacts/local_artifact_store.h"
#include "server/artifacts/s3_artifact_store.h"
#include "server/artifacts/secret.h"
#include "server/garbage/collector.h"
#include "server/services/access_service.h"
#include "server/services/artifact_service.h"
#include "server/services/job_service.h"
#include "server/services/sweep_service.h"
#include "server/services/worker_service.h"
#include "server/store/postgres_job_store.h"
#include "server/store/sqlite_job_store.h"

namespace quantd {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
constexpr absl::Duration kUploadSweep = absl::Hours(1);
// Of what another scheduler left behind; our own is done at start.
constexpr absl::Duration kNaming = absl::Minutes(1);
// A token that another scheduler revoked is good for so long yet.
constexpr absl::Duration kTokenRefresh = absl::Seconds(5);
constexpr int kReadThreads = 4;  // Database reads are short; the page cache is shared.
constexpr int kPageThreads = 2;
constexpr int kDiskThreads = 4;     // A disk does not get faster with more.
constexpr int kBucketThreads = 16;  // A bucket does: they wait for its answers.
constexpr const char* kServices[] = {"",
                                     "quantd.v1.JobService",
                                     "quantd.v1.SweepService",
                                     "quantd.v1.WorkerService",
                                     "quantd.v1.CatalogService",
                                     "quantd.v1.ArtifactService",
                                     "quantd.v1.AccessService"};

// A scheduler whose clocks stood still for longer than this (or half a lease time, if that is more)
// takes nobody's lease away for it.
constexpr absl::Duration kAway = absl::Seconds(5);

absl::StatusOr<std::unique_ptr<JobStore>> OpenStore(const std::string& database) {
  if (IsPostgresUrl(database)) return OpenPostgresJobStore(database);
  QD_ASSIGN_OR_RETURN(auto store, OpenSqliteJobStore({.path = database}), "opening the database ",
                      database);
  return store;
}

absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenArtifacts(const ServerOptions& options,
                                                             const std::string& secret) {
  LocalArtifactStoreOptions local;
  local.free_bytes_min = options.free_bytes_min;
  const absl::Time now = Clock::Real().Now();
  if (!options.bucket.has_value()) {
    local.folder = options.artifacts.empty() ? options.data + "/artifacts" : options.artifacts;
    return LocalArtifactStore::Open(std::move(local), now);
  }
  local.folder = options.data + "/outgoing";
  local.secret = secret;
  return S3ArtifactStore::Open(*options.bucket, std::move(local), now);
}

// The secret that all schedulers over one store share: a page token of one is good at the others.
// The first scheduler derives it from its key, which itself never goes into the store: what the key
// seals lies there.
absl::StatusOr<std::string> SharedSecret(JobStore* store, absl::string_view key) {
  constexpr char kName[] = "secret";
  std::string secret;
  QD_RETURN_IF_ERROR(store->Run([&](Txn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(secret, txn.GetSetting(kName));
    if (!secret.empty()) return absl::OkStatus();
    secret = Mac(key, "page tokens");
    return txn.PutSetting(kName, secret);
  }),
                     "reading the schedulers' secret");
  return secret;
}

// Artifacts that were made before tenants had limits are taken into their books, once a store.
absl::Status CountArtifacts(JobStore* store, ArtifactStore* artifacts) {
  constexpr char kCounted[] = "artifacts counted";
  constexpr int64_t kPage = 200;
  std::string counted;
  QD_RETURN_IF_ERROR(store->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(counted, txn.GetSetting(kCounted));
    return absl::OkStatus();
  }));
  if (!counted.empty()) return absl::OkStatus();
  std::string after;
  while (true) {
    QD_ASSIGN_OR_RETURN(const auto names, artifacts->ListNames(after, kPage));
    std::vector<std::pair<TenantResource, int64_t>> sizes;
    for (const std::string& text : names) {
      QD_ASSIGN_OR_RETURN(TenantResource name, ParseArtifactName(text));
      const auto artifact = artifacts->GetArtifact(name.tenant, name.id);
      if (absl::IsUnavailable(artifact.status())) return artifact.status();
      if (!artifact.ok()) continue;  // Damaged: it is of no use, and of no size.
      sizes.emplace_back(std::move(name), artifact->manifest().total_bytes());
    }
    QD_RETURN_IF_ERROR(store->Run([&](Txn& txn) -> absl::Status {
      for (const auto& [name, bytes] : sizes) {
        QD_RETURN_IF_ERROR(txn.PutArtifactBytes(name.tenant, name.id, bytes));
      }
      return names.empty() ? txn.PutSetting(kCounted, "1") : absl::OkStatus();
    }));
    if (names.empty()) return absl::OkStatus();
    after = names.back();
  }
}

}  // namespace

struct Server::Parts {
  ServerOptions options;
  std::string address;
  std::string metrics_address = "off";
  std::string worker_address;
  std::string worker_token;
  absl::Time start_time;

  std::unique_ptr<JobStore> store;
  std::unique_ptr<ArtifactStore> artifacts;
  std::unique_ptr<Hub> hub;
  std::unique_ptr<Queue> queue;
  std::unique_ptr<Keeper> keeper;
  std::unique_ptr<GarbageCollector> garbage;
  std::unique_ptr<CatalogCache> catalog;
  std::unique_ptr<TokenBook> tokens;
  std::unique_ptr<Guard> guard;
  std::unique_ptr<SecretKeeper> secrets;
  std::unique_ptr<AuditLog> audit;
  ServerMetrics metrics;
  std::unique_ptr<WorkPool> reads;
  std::unique_ptr<WorkPool> disk;
  std::unique_ptr<WorkPool> pages;
  ServiceContext context;
  std::unique_ptr<JobServiceImpl> jobs;
  std::unique_ptr<SweepServiceImpl> sweeps;
  std::unique_ptr<WorkerServiceImpl> workers;
  std::unique_ptr<CatalogServiceImpl> catalogs;
  std::unique_ptr<ArtifactServiceImpl> artifact_service;
  std::unique_ptr<AccessServiceImpl> access;
  std::unique_ptr<Acceptor> acceptor;
  std::unique_ptr<grpc::Server> grpc;
  absl::Notification stop_ticking;
  std::thread ticker;
  absl::Mutex drain_mutex;
  bool drained ABSL_GUARDED_BY(drain_mutex) = false;
  // Of the ticker's thread.
  bool serving = false;
  absl::Duration last_tick = absl::InfiniteDuration();  // Monotonic; of the last that succeeded.
  // By the store's clock, in nanoseconds; the queue asks for it, too.
  std::atomic<int64_t> last_tick_time{0};

  absl::Status Open();
  absl::Status OpenAccess();
  absl::Status Listen();
  absl::Status ServeMetrics();
  void SetHealth(bool healthy);
  void TickOnce();
  // So long without a tick is a time in which nobody could report.
  absl::Duration AwayLimit() const { return std::max(kAway, options.lease_time / 2); }
  // Tick, or Renew after such a time and while the store takes no writes.
  absl::Status RunClocks();
  void TickLoop();
};

absl::Status Server::Parts::Open() {
  QD_RETURN_IF_ERROR(MakeFolders(options.data));
  const std::string database =
      options.database.empty() ? options.data + "/quantd.db" : options.database;
  QD_ASSIGN_OR_RETURN(store, OpenStore(database));
  context.now = [this] { return store->Now(); };
  start_time = context.now();
  last_tick_time = absl::ToUnixNanos(start_time);
  QD_RETURN_IF_ERROR(OpenAccess());
  QD_ASSIGN_OR_RETURN(artifacts, OpenArtifacts(options, context.secret));
  hub = std::make_unique<Hub>(options.streams_max);
  QueueOptions queue_options;
  queue_options.lease_time = options.lease_time;
  queue_options.retention = options.retention;
  queue_options.tenants = options.tenants;
  queue_options.aging = options.aging;
  queue_options.observer = hub.get();
  // A report may come before the tick that gives its lease a full term again.
  queue_options.lease_clock = [this](absl::Time now) {
    const absl::Time last = absl::FromUnixNanos(last_tick_time);
    return now - last > AwayLimit() ? last : now;
  };
  queue_options.find_manifest = [this](const std::string& tenant,
                                       const std::string& sha256) -> absl::StatusOr<v1::Manifest> {
    QD_ASSIGN_OR_RETURN(const v1::Artifact artifact, artifacts->GetArtifact(tenant, sha256));
    return artifact.manifest();
  };
  QD_ASSIGN_OR_RETURN(queue, Queue::Open(store.get(), std::move(queue_options), context.now()),
                      "opening the queue");
  QD_RETURN_IF_ERROR(CountArtifacts(store.get(), artifacts.get()), "counting artifacts");
  keeper = std::make_unique<Keeper>(store.get(), artifacts.get());
  garbage = std::make_unique<GarbageCollector>(
      store.get(), artifacts.get(),
      GarbageOptions{
          .grace = options.artifact_grace,
          .pause = std::clamp(options.artifact_grace / 8, absl::Minutes(1), absl::Hours(1))});
  catalog = std::make_unique<CatalogCache>([this] { return queue->GetCatalog(context.now()); });
  reads = std::make_unique<WorkPool>(kReadThreads);
  disk = std::make_unique<WorkPool>(options.bucket.has_value() ? kBucketThreads : kDiskThreads);
  pages = std::make_unique<WorkPool>(kPageThreads);
  context.queue = queue.get();
  context.artifacts = artifacts.get();
  context.keeper = keeper.get();
  context.hub = hub.get();
  context.metrics = &metrics;
  context.catalog = catalog.get();
  context.reads = reads.get();
  context.disk = disk.get();
  context.pages = pages.get();
  context.times = options.times;
  return absl::OkStatus();
}

absl::Status Server::Parts::OpenAccess() {
  const AccessOptions& access_options = options.access;
  QD_ASSIGN_OR_RETURN(
      const std::string key,
      ReadOrMakeSecret(access_options.secret_key_file.empty() ? options.data + "/secret"
                                                              : access_options.secret_key_file));
  secrets = std::make_unique<SecretKeeper>(store.get(), key);
  QD_ASSIGN_OR_RETURN(context.secret, SharedSecret(store.get(), key));
  TokenFiles files = access_options.token_files;
  if (access_options.tokens && files.admin.empty()) {
    files.admin = options.data + "/admin-token";
    QD_RETURN_IF_ERROR(MakeTokenFile(files.admin), "making the first administrator's token");
  }
  tokens = std::make_unique<TokenBook>(store.get(), files);
  QD_RETURN_IF_ERROR(tokens->Refresh(context.now()));
  guard = std::make_unique<Guard>(access_options.tokens ? tokens.get() : nullptr);
  if (access_options.tokens) {
    LogInfo("calls need an access token", {{"administrator", files.admin}});
    QD_ASSIGN_OR_RETURN(worker_token, tokens->AddPassing({.role = v1::WORKER}));
  }
  const std::string audit_path =
      access_options.audit_log.empty() ? options.data + "/audit.log" : access_options.audit_log;
  QD_ASSIGN_OR_RETURN(audit, AuditLog::Open(audit_path == "off" ? "" : audit_path));
  context.guard = guard.get();
  context.tokens = tokens.get();
  context.secrets = secrets.get();
  context.audit = audit.get();
  return absl::OkStatus();
}

absl::Status Server::Parts::Listen() {
  jobs = std::make_unique<JobServiceImpl>(&context);
  sweeps = std::make_unique<SweepServiceImpl>(&context);
  workers = std::make_unique<WorkerServiceImpl>(&context);
  catalogs = std::make_unique<CatalogServiceImpl>(&context);
  artifact_service = std::make_unique<ArtifactServiceImpl>(&context);
  access = std::make_unique<AccessServiceImpl>(&context);
  grpc::EnableDefaultHealthCheckService(true);
  if (options.reflection && dlopen(QUANTD_REFLECTION_LIBRARY, RTLD_NOW) == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--reflection: ", dlerror(), "; install gRPC's reflection library or leave the flag out"));
  }
  grpc::ServerBuilder builder;
  ApplyServerArguments(&builder);
  QD_ASSIGN_OR_RETURN(const auto credentials, MakeServerCredentials(options.access.tls));
  QD_ASSIGN_OR_RETURN(acceptor, Acceptor::Listen(options.listen, options.connections_max));
  acceptor->AddTo(&builder, credentials);
  if (options.access.tls.enabled()) {
    // Our own worker cannot know what name the certificate has.
    worker_address = absl::StrCat("unix:", options.data, "/worker.sock");
    builder.AddListeningPort(worker_address, grpc::InsecureServerCredentials());
  }
  for (grpc::Service* service : std::initializer_list<grpc::Service*>{
           jobs.get(), sweeps.get(), workers.get(), catalogs.get(), artifact_service.get(),
           access.get()}) {
    builder.RegisterService(service);
  }
  grpc = builder.BuildAndStart();
  if (grpc == nullptr) return absl::UnavailableError("gRPC's server does not start");
  acceptor->Start();
  address =
      absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":", acceptor->port());
  if (worker_address.empty()) worker_address = address;
  return absl::OkStatus();
}

absl::Status Server::Parts::ServeMetrics() {
  if (options.metrics_listen == "off") return absl::OkStatus();
  const auto snapshot = [this] {
    return MetricsSnapshot{
        .counters = queue->Counters(),
        .statistics = queue->Statistics(context.now()).value_or(QueueStatistics()),
        .store = store->Metrics(),
        .artifacts = artifacts->Usage(),
        .garbage = garbage->Counters(),
        .subscribers = hub->listeners(),
        .refused_connections = acceptor->refused()};
  };
  QD_ASSIGN_OR_RETURN(metrics_address, metrics.Serve(options.metrics_listen, snapshot));
  return absl::OkStatus();
}

void Server::Parts::SetHealth(bool healthy) {
  if (healthy == serving) return;
  serving = healthy;
  grpc::HealthCheckServiceInterface* health = grpc->GetHealthCheckService();
  if (health == nullptr) return;
  for (const char* service : kServices) health->SetServingStatus(service, healthy);
}

void Server::Parts::TickOnce() {
  absl::Status health = store->Health();
  health.Update(artifacts->Health());
  if (health.ok() != serving && !hub->draining()) {
    Log(health.ok() ? LogLevel::kInfo : LogLevel::kError, health.ok() ? "healthy" : "not healthy",
        {{"error", health.ToString()}});
  }
  SetHealth(health.ok() && !hub->draining());
  if (const absl::Status tick = RunClocks(); !tick.ok()) {
    LogError("the queue's clocks stand still", {{"error", tick.ToString()}});
  }
}

absl::Status Server::Parts::RunClocks() {
  const absl::Duration monotonic = Clock::Real().Monotonic();
  const absl::Time now = context.now();
  const absl::Duration passed = monotonic - last_tick;  // Minus infinity at first.
  const absl::Duration by_the_store = now - absl::FromUnixNanos(last_tick_time);
  // The store's clock and ours disagree when somebody set its server's.
  const bool away =
      passed > AwayLimit() ||
      (passed > absl::ZeroDuration() && absl::AbsDuration(by_the_store - passed) > AwayLimit());
  if (away) {
    LogWarning("the clocks stood still or jumped; running jobs get a full lease time",
               {{"seconds", absl::ToDoubleSeconds(passed)},
                {"by_the_store", absl::ToDoubleSeconds(by_the_store)}});
  }
  // A disk that is nearly full takes a tick's few bytes and refuses a worker's report.
  QD_RETURN_IF_ERROR(away || !store->Health().ok() ? queue->Renew(now) : queue->Tick(now));
  last_tick = monotonic;
  last_tick_time = absl::ToUnixNanos(now);
  return absl::OkStatus();
}

void Server::Parts::TickLoop() {
  absl::Duration swept = Clock::Real().Monotonic();
  absl::Duration refreshed = swept;
  absl::Duration named = -absl::InfiniteDuration();
  while (!stop_ticking.WaitForNotificationWithTimeout(kTick)) {
    TickOnce();
    if (Clock::Real().Monotonic() - refreshed >= kTokenRefresh) {
      refreshed = Clock::Real().Monotonic();
      if (const absl::Status read = tokens->Refresh(context.now()); !read.ok()) {
        LogError("access tokens are as they were", {{"error", read.ToString()}});
      }
    }
    if (Clock::Real().Monotonic() - named >= kNaming) {
      named = Clock::Real().Monotonic();
      disk->PostAlways([this] {  // A bucket may take its time, and the clocks must not stand.
        if (const absl::Status outputs = NameOutputs(context); !outputs.ok()) {
          LogWarning("outputs without a name stay so for now", {{"error", outputs.ToString()}});
        }
      });
    }
    if (Clock::Real().Monotonic() - swept < kUploadSweep) continue;
    swept = Clock::Real().Monotonic();
    if (const absl::Status sweep = artifacts->Sweep(Clock::Real().Now()); !sweep.ok()) {
      LogWarning("stale uploads stay", {{"error", sweep.ToString()}});
    }
  }
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  auto parts = std::make_unique<Parts>();
  parts->options = options;
  QD_RETURN_IF_ERROR(parts->Open());
  QD_RETURN_IF_ERROR(parts->Listen());
  Parts* const raw = parts.get();
  raw->grpc->GetHealthCheckService()->SetServingStatus(false);
  raw->TickOnce();
  raw->ticker = std::thread([raw] { raw->TickLoop(); });
  raw->garbage->Start();
  std::unique_ptr<Server> server(new Server(std::move(parts)));
  QD_RETURN_IF_ERROR(raw->ServeMetrics());
  return server;
}

Server::~Server() { Drain(); }

const std::string& Server::address() const { return parts_->address; }
const std::string& Server::metrics_address() const { return parts_->metrics_address; }
const std::string& Server::worker_address() const { return parts_->worker_address; }
const std::string& Server::worker_token() const { return parts_->worker_token; }
Queue* Server::queue() { return parts_->queue.get(); }

bool Server::HasWorker() const {
  const auto workers = parts_->queue->ListWorkers({}, parts_->context.now());
  if (!workers.ok()) return false;
  for (const v1::Worker& worker : workers->workers()) {
    if (absl::FromUnixSeconds(worker.register_time().seconds() + 1) >= parts_->start_time)
      return true;
  }
  return false;
}

void Server::StartDraining() {
  if (parts_->hub->draining()) return;
  for (const char* service : kServices)
    parts_->grpc->GetHealthCheckService()->SetServingStatus(service, false);
  parts_->hub->Drain();
}

void Server::Drain(absl::Duration grace) {
  absl::MutexLock lock(&parts_->drain_mutex);
  if (std::exchange(parts_->drained, true)) return;
  StartDraining();
  parts_->acceptor->Stop();
  parts_->grpc->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  parts_->grpc->Wait();
  parts_->stop_ticking.Notify();
  parts_->ticker.join();
  parts_->garbage->Stop();
  parts_->metrics.Stop();
  // What calls have posted ends before what it uses.
  parts_->reads.reset();
  parts_->disk.reset();
  parts_->pages.reset();
  parts_->hub.reset();
  parts_->queue.reset();
  parts_->store.reset();  // Flushes, and folds the write-ahead log into the file.
}

}  // namespace quantd
