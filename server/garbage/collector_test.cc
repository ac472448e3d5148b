// Two schedulers over one store and one storage, under a fake clock: clients upload, put manifests
// together and submit, workers report files, checkpoints and outputs, retention removes jobs, and
// collectors run: between any two steps of these another one may happen, a whole run of a collector
// in the middle of a request included. After every step whatever is reachable has to be there with
// its bytes; at the end, when no job is left, nothing else may be. The same with one rule broken on
// purpose (GarbageFaults) has to be caught, or the test proves nothing.
//
// QUANTD_GARBAGE_SEEDS=N runs N seeds, QUANTD_GARBAGE_SEED=S exactly one.
#include "server/garbage/collector.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"
#include "server/artifacts/local_artifact_store.h"
#include "server/artifacts/s3_artifact_store.h"
#include "server/artifacts/testing/s3_server.h"
#include "server/garbage/keeper.h"
#include "server/scheduler/queue_testing.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/transitions.h"
#include "server/services/artifact_service.h"
#include "server/store/postgres_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quantd {
namespace {

constexpr absl::Duration kGrace = absl::Hours(2);
constexpr absl::Duration kRetention = absl::Hours(3);
constexpr int kBlobs = 14;
constexpr int kSchedulers = 2;

struct Place {
  const char* name;
  bool (*available)();
  absl::StatusOr<std::unique_ptr<JobStore>> (*open_jobs)(const TestFolder& folder);
  absl::StatusOr<std::unique_ptr<ArtifactStore>> (*open_artifacts)(const TestFolder& folder,
                                                                   int scheduler);
  int seeds;
  int steps;
};

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqlite(const TestFolder& folder) {
  return OpenSqliteJobStore({.path = folder / "queue.db", .durable = false});
}

absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenLocal(const TestFolder& folder, int) {
  return LocalArtifactStore::Open({.folder = folder / "artifacts", .free_bytes_min = 0},
                                  absl::Now());
}

const Place kPlaces[] = {
    {"local", [] { return true; }, OpenSqlite, OpenLocal, 12, 120},
    {"postgres", [] { return true; },
     [](const TestFolder&) { return OpenPostgresJobStore(SharedPostgresServer().NewDatabase()); },
     OpenLocal, 1, 60},
    {"s3", &S3Server::Available, OpenSqlite,
     [](const TestFolder& folder, int scheduler) -> absl::StatusOr<std::unique_ptr<ArtifactStore>> {
       return S3ArtifactStore::Open(
           SharedS3Server().Config((folder / "bucket/").substr(1)),
           {.folder = folder / absl::StrCat("outgoing", scheduler), .free_bytes_min = 0},
           absl::Now());
     },
     1, 20},
};

class World {
 public:
  World(const Place& place, uint64_t seed, GarbageFaults faults);

  // The first broken promise; empty when all were kept.
  std::string Run(int steps);
  GarbageCounters Sum() const;

 private:
  struct Scheduler {
    std::unique_ptr<ArtifactStore> artifacts;
    std::unique_ptr<Queue> queue;
    std::unique_ptr<Keeper> keeper;
    std::unique_ptr<GarbageCollector> collector;
    ServiceContext context;
  };
  struct Work {
    v1::Lease lease;
    int64_t events = 0;
    v1::Manifest files;
  };

  void Broken(const std::string& what) {
    if (violation_.empty()) violation_ = absl::StrCat(what, " at ", absl::FormatTime(now_));
  }
  // What may pass by itself is no broken promise; everything else is.
  bool Passed(const absl::Status& status, const char* what) {
    // A run whose turn ends while others act leaves the rest to the next one.
    if (!status.ok() && !absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) {
      Broken(absl::StrCat(what, ": ", status.ToString()));
    }
    return status.ok();
  }
  Scheduler& Any() { return schedulers_[static_cast<size_t>(random_.Below(kSchedulers))]; }
  std::string TextOf(int blob) const { return absl::StrCat("blob ", blob, " of ", seed_); }
  v1::ManifestFile FileOf(int blob) const;
  int AnyBlob() { return static_cast<int>(random_.Below(kBlobs)); }

  // Others act between two steps of a request or a run.
  void Meanwhile();
  void Step();
  bool Upload(int blob);
  // As the services do it. False: another time.
  bool Check(v1::Manifest* manifest);
  void CreateArtifact();
  void Submit();
  void Lease();
  void WorkOn(Work* work);
  bool Report(Work* work, const v1::JobEvent& event);
  void Complete(Work* work);
  void Pass(absl::Duration at_most);

  void CheckPromises();
  void CheckBlobs(const v1::Manifest& manifest, const std::string& of);
  void CheckArtifact(const std::string& digest, const std::string& of);
  void CheckJob(const JobReferences& job, const std::vector<EventRow>& events);
  void CheckEmptyAtTheEnd();

  const uint64_t seed_;
  TestRandom random_;
  TestFolder folder_;
  absl::Time now_ = absl::FromUnixSeconds(1'750'000'000);
  std::unique_ptr<JobStore> store_;
  std::vector<Scheduler> schedulers_;
  std::map<int, absl::Time> kept_;   // By blob: when a client was last told that it is there.
  std::set<std::string> artifacts_;  // Digests that were acknowledged.
  std::vector<Work> works_;
  int depth_ = 0;
  int workers_ = 0;
  std::string violation_;
};

World::World(const Place& place, uint64_t seed, GarbageFaults faults)
    : seed_(seed), random_(seed), schedulers_(kSchedulers) {
  auto store = place.open_jobs(folder_);
  QD_CHECK(store.ok(), "", store.status().ToString());
  store_ = *std::move(store);
  for (int i = 0; i < kSchedulers; ++i) {
    Scheduler& scheduler = schedulers_[static_cast<size_t>(i)];
    auto artifacts = place.open_artifacts(folder_, i);
    QD_CHECK(artifacts.ok(), "", artifacts.status().ToString());
    scheduler.artifacts = *std::move(artifacts);
    QueueOptions options;
    options.retention = kRetention;
    options.lease_time = absl::Hours(10'000);
    options.random = [random = std::make_shared<TestRandom>(seed * 2 + static_cast<uint64_t>(i))] {
      return (*random)();
    };
    scheduler.queue = *Queue::Open(store_.get(), options, now_);
    scheduler.keeper = std::make_unique<Keeper>(store_.get(), scheduler.artifacts.get());
    scheduler.collector =
        std::make_unique<GarbageCollector>(store_.get(), scheduler.artifacts.get(),
                                           GarbageOptions{.grace = kGrace,
                                                          .between = [this] { Meanwhile(); },
                                                          .now = [this] { return now_; },
                                                          .faults = faults});
    scheduler.context.artifacts = scheduler.artifacts.get();
    scheduler.context.keeper = scheduler.keeper.get();
  }
}

v1::ManifestFile World::FileOf(int blob) const {
  v1::ManifestFile file;
  file.set_path(absl::StrCat("file", blob));
  file.mutable_blob()->set_sha256(Sha256Hex(TextOf(blob)));
  file.mutable_blob()->set_size_bytes(static_cast<int64_t>(TextOf(blob).size()));
  return file;
}

void World::Pass(absl::Duration at_most) {
  now_ += absl::Seconds(random_.Below(absl::ToInt64Seconds(at_most)));
}

void World::Meanwhile() {
  if (depth_ >= 3 || !violation_.empty() || !random_.OneIn(2)) return;
  ++depth_;
  Pass(absl::Minutes(4));  // A request takes far less than the grace time.
  Step();
  --depth_;
}

bool World::Upload(int blob) {
  Scheduler& scheduler = Any();
  const v1::Blob wanted = FileOf(blob).blob();
  if (!Passed(scheduler.keeper->Keep({BlobKey(wanted.sha256())}), "Keep")) return false;
  const absl::Time kept = now_;
  Meanwhile();
  const auto start = scheduler.artifacts->StartUpload(wanted);
  if (!Passed(start.status(), "StartUpload")) return false;
  if (!start->complete) {
    Meanwhile();
    const auto state = scheduler.artifacts->Append(
        {.upload = start->upload, .offset_bytes = 0, .data = TextOf(blob), .finish = true});
    if (!Passed(state.status(), "Append")) return false;
  }
  kept_[blob] = kept;
  return true;
}

bool World::Check(v1::Manifest* manifest) {
  const absl::Time before = now_;
  const absl::Status files = CheckFiles(Any().context, manifest);
  if (ReasonOf(files) == kReasonBlobMissing) {
    const bool all_kept = std::all_of(
        manifest->files().begin(), manifest->files().end(), [&](const v1::ManifestFile& file) {
          const auto kept = kept_.find(std::stoi(file.path().substr(4)));
          return kept != kept_.end() && before - kept->second < kGrace - absl::Minutes(30);
        });
    if (all_kept) Broken(absl::StrCat("what was there is gone: ", files.ToString()));
    return false;
  }
  return Passed(files, "CheckFiles");
}

void World::CreateArtifact() {
  v1::Artifact artifact;
  std::set<int> blobs;
  for (int64_t i = random_.Below(3); i >= 0; --i) blobs.insert(AnyBlob());
  for (const int blob : blobs) {
    if (!random_.OneIn(6) && !Upload(blob)) return;
    *artifact.mutable_manifest()->add_files() = FileOf(blob);
  }
  if (!Check(artifact.mutable_manifest())) return;
  Meanwhile();
  Scheduler& scheduler = Any();
  const std::string digest = artifact.manifest().sha256();
  artifact.set_name(ArtifactName({"default", digest}));
  if (!Passed(scheduler.keeper->Keep({ArtifactKey("default", digest)}), "Keep")) return;
  Meanwhile();
  if (Passed(scheduler.artifacts->PutArtifact(artifact), "PutArtifact")) artifacts_.insert(digest);
}

void World::Submit() {
  v1::SubmitJobRequest request = QuantizeRequest();
  request.mutable_spec()->mutable_limits()->mutable_no_progress_time()->set_seconds(30'000'000);
  std::string digest;
  if (!artifacts_.empty() && random_.OneIn(2)) {
    digest = *std::next(artifacts_.begin(), random_.Below(static_cast<int64_t>(artifacts_.size())));
    Scheduler& scheduler = Any();
    scheduler.artifacts->Forget();
    if (!scheduler.artifacts->GetArtifact("default", digest).ok()) return;  // Too late.
    request.mutable_spec()->mutable_quantize()->set_model("artifacts/" + digest);
  }
  Passed(Any().queue->SubmitJob(request, now_).status(), "SubmitJob");
}

void World::Lease() {
  Scheduler& scheduler = Any();
  v1::RegisterWorkerRequest worker;
  *worker.mutable_worker() = TestWorker(absl::StrCat("w", ++workers_));
  worker.set_instance_id("i");
  if (!Passed(scheduler.queue->RegisterWorker(worker, now_).status(), "RegisterWorker")) return;
  v1::LeaseJobRequest request;
  request.set_worker(worker.worker().name());
  request.set_instance_id("i");
  const auto leased = scheduler.queue->LeaseJob(request, now_);
  if (Passed(leased.status(), "LeaseJob") && leased->has_lease()) {
    works_.push_back({.lease = leased->lease(), .events = 0, .files = {}});
  }
}

bool World::Report(Work* work, const v1::JobEvent& event) {
  v1::ReportJobRequest request;
  *request.mutable_lease() = work->lease;
  request.set_first_event(work->events + 1);
  *request.add_events() = event;
  const bool reported = Passed(Any().queue->ReportJob(request, now_).status(), "ReportJob");
  work->events += reported;
  return reported;
}

void World::WorkOn(Work* work) {
  const int64_t dice = random_.Below(6);
  if (dice < 3) {
    const int blob = AnyBlob();
    if (!Upload(blob)) return;
    Meanwhile();
    v1::JobEvent event;
    *event.mutable_artifact()->mutable_file() = FileOf(blob);
    if (!Report(work, event)) return;
    for (const v1::ManifestFile& file : work->files.files()) {
      if (file.path() == FileOf(blob).path()) return;
    }
    *work->files.add_files() = FileOf(blob);
    return;
  }
  if (dice == 3 && work->files.files_size() > 0) {
    v1::JobEvent event;
    event.mutable_checkpoint()->set_blocks_done(static_cast<int>(work->events));
    *event.mutable_checkpoint()->mutable_manifest() = work->files;
    if (Check(event.mutable_checkpoint()->mutable_manifest())) Report(work, event);
    return;
  }
  if (dice == 4) Complete(work);
}

void World::Complete(Work* work) {
  v1::CompleteJobRequest request;
  *request.mutable_lease() = work->lease;
  v1::Artifact artifact;
  if (random_.OneIn(4)) {
    request.mutable_failure()->set_error_class(v1::ERROR_CLASS_BAD_INPUT);
  } else {
    v1::Manifest& output = *request.mutable_success()->mutable_output();
    output = work->files;
    // All were reported, so they are reachable: that they are not there would be our fault.
    const absl::Status files = CheckFiles(Any().context, &output);
    if (ReasonOf(files) == kReasonBlobMissing) Broken("a running job's file is gone");
    if (!Passed(files, "CheckFiles")) return;
    Meanwhile();
  }
  Scheduler& scheduler = Any();
  const auto done = scheduler.queue->CompleteJob(request, now_);
  if (!Passed(done.status(), "CompleteJob")) return;
  Meanwhile();
  const std::string job = work->lease.job();
  if (done->state() == v1::JOB_STATE_SUCCEEDED && work->files.files_size() > 0) {
    artifact.set_name(ArtifactName({"default", request.success().output().sha256()}));
    *artifact.mutable_manifest() = request.success().output();
    if (Passed(scheduler.artifacts->PutArtifact(artifact), "PutArtifact")) {
      artifacts_.insert(request.success().output().sha256());
    }
  }
  works_.erase(std::remove_if(works_.begin(), works_.end(),
                              [&](const Work& other) { return other.lease.job() == job; }),
               works_.end());
}

void World::Step() {
  switch (random_.Below(10)) {
    case 0:
    case 1:
      return CreateArtifact();
    case 2:
      Upload(AnyBlob());
      return;
    case 3:
      return Submit();
    case 4:
      if (works_.size() < 4) Lease();
      return;
    case 5:
    case 6: {
      if (works_.empty()) return;
      // By value: it may end meanwhile.
      Work work = works_[static_cast<size_t>(random_.Below(static_cast<int64_t>(works_.size())))];
      if (depth_ > 0) return;
      WorkOn(&work);
      for (Work& other : works_) {
        if (other.lease.job() == work.lease.job()) other = work;
      }
      return;
    }
    case 7:
      Passed(Any().queue->Tick(now_), "Tick");
      return;
    default:
      // A collector in the middle of its run is asked again by nobody but another one.
      if (depth_ == 0) {
        Passed(schedulers_[0].collector->Run(), "Run");
      } else if (depth_ == 1) {
        Passed(schedulers_[1].collector->Run(), "Run");
      }
  }
}

void World::CheckBlobs(const v1::Manifest& manifest, const std::string& of) {
  for (const v1::ManifestFile& file : manifest.files()) {
    const auto reader = schedulers_[0].artifacts->Open(file.blob().sha256());
    const std::string text = TextOf(std::stoi(file.path().substr(4)));
    if (!reader.ok() || (*reader)->Read(0, 1000).value_or("") != text) {
      Broken(absl::StrCat(file.path(), " of ", of, " is gone"));
    }
  }
}

void World::CheckArtifact(const std::string& digest, const std::string& of) {
  schedulers_[0].artifacts->Forget();
  const auto artifact = schedulers_[0].artifacts->GetArtifact("default", digest);
  if (!artifact.ok()) {
    if (!of.empty()) Broken(absl::StrCat("the artifact of ", of, " is gone"));
    artifacts_.erase(digest);
    return;
  }
  CheckBlobs(artifact->manifest(), "an artifact");
}

void World::CheckJob(const JobReferences& job, const std::vector<EventRow>& events) {
  const std::string name = absl::StrCat("job ", job.seq, " ", StateWord(job.state));
  CheckBlobs(job.outcome.output(), "the output of " + name);
  if (job.state == v1::JOB_STATE_SUCCEEDED) return;
  CheckBlobs(job.checkpoint, "the checkpoint of " + name);
  for (const EventRow& row : events) {
    v1::Manifest file;
    *file.add_files() = row.event.artifact().file();
    if (!IsEnded(job.state)) CheckBlobs(file, "the files of " + name);
  }
}

void World::CheckPromises() {
  std::vector<std::pair<JobReferences, std::vector<EventRow>>> jobs;
  const absl::Status read = store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(auto rows, txn.ReadReferences(0, 100'000));
    for (JobReferences& row : rows) {
      QD_ASSIGN_OR_RETURN(
          auto events,
          txn.ReadEvents(row.seq, {.kinds = uint32_t{1} << v1::JobEvent::kArtifactFieldNumber}));
      jobs.emplace_back(std::move(row), std::move(events));
    }
    return absl::OkStatus();
  });
  Passed(read, "Read");
  for (const auto& [job, events] : jobs) {
    CheckJob(job, events);
    const std::string& model = job.spec.quantize().model();
    if (IsArtifactReference(model)) CheckArtifact(model.substr(10), absl::StrCat("job ", job.seq));
  }
  for (const std::string& digest : std::set<std::string>(artifacts_)) CheckArtifact(digest, "");
}

void World::CheckEmptyAtTheEnd() {
  depth_ = 100;  // Nobody else acts any more.
  while (!works_.empty() && violation_.empty()) {
    v1::CompleteJobRequest request;
    *request.mutable_lease() = works_.back().lease;
    request.mutable_failure()->set_error_class(v1::ERROR_CLASS_BAD_INPUT);
    Passed(Any().queue->CompleteJob(request, now_).status(), "CompleteJob");
    works_.pop_back();
  }
  v1::ListJobsRequest all;
  all.set_page_size(1000);
  const auto queued = schedulers_[0].queue->ListJobs(all, now_);
  for (const v1::Job& job : queued->jobs()) {
    v1::CancelJobRequest request;
    request.set_name(job.name());
    Passed(schedulers_[0].queue->CancelJob(request, now_).status(), "CancelJob");
  }
  // Jobs, then the artifacts that they named, then the blobs that these named.
  for (int i = 0; i < 8 && violation_.empty(); ++i) {
    now_ += kGrace + kRetention;
    Passed(Any().queue->Tick(now_), "Tick");
    Passed(Any().collector->Run(), "Run");
  }
  const auto blobs = schedulers_[0].artifacts->ListBlobs("", 100);
  const auto names = schedulers_[0].artifacts->ListNames("", 100);
  if (!blobs.ok() || !blobs->empty() || !names.ok() || !names->empty()) {
    Broken("something stays that nothing leads to");
  }
}

std::string World::Run(int steps) {
  for (int i = 0; i < steps && violation_.empty(); ++i) {
    Pass(absl::Minutes(25));
    Step();
    CheckPromises();
  }
  if (violation_.empty()) CheckEmptyAtTheEnd();
  return violation_;
}

GarbageCounters World::Sum() const {
  GarbageCounters sum;
  for (const Scheduler& scheduler : schedulers_) {
    const GarbageCounters one = scheduler.collector->Counters();
    sum.runs += one.runs;
    sum.failed_runs += one.failed_runs;
    sum.spared += one.spared;
    sum.removed_blobs += one.removed_blobs;
    sum.removed_artifacts += one.removed_artifacts;
    sum.removed_bytes += one.removed_bytes;
  }
  return sum;
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : atoll(text);
}

class Garbage : public ::testing::TestWithParam<Place> {};

TEST_P(Garbage, NothingReachableEverGoesAndTheRestDoes) {
  if (!GetParam().available()) GTEST_SKIP() << "QUANTD_S3_SERVER has none; ./dev test sets it";
  const int64_t only = FromEnvironment("QUANTD_GARBAGE_SEED", 0);
  const int64_t seeds = only != 0 ? 1 : FromEnvironment("QUANTD_GARBAGE_SEEDS", GetParam().seeds);
  GarbageCounters sum;
  for (int64_t i = 1; i <= seeds; ++i) {
    const uint64_t seed = static_cast<uint64_t>(only != 0 ? only : i);
    World world(GetParam(), seed, {});
    EXPECT_EQ(world.Run(GetParam().steps), "") << "QUANTD_GARBAGE_SEED=" << seed << " shows it";
    const GarbageCounters one = world.Sum();
    sum.runs += one.runs;
    sum.spared += one.spared;
    sum.removed_blobs += one.removed_blobs;
    sum.removed_artifacts += one.removed_artifacts;
    sum.removed_bytes += one.removed_bytes;
  }
  printf("%lld seeds: %lld runs, %lld marks taken away, %lld blobs and %lld artifacts removed\n",
         static_cast<long long>(seeds), static_cast<long long>(sum.runs),
         static_cast<long long>(sum.spared), static_cast<long long>(sum.removed_blobs),
         static_cast<long long>(sum.removed_artifacts));
  EXPECT_GT(sum.removed_blobs, 0);
  EXPECT_GT(sum.removed_artifacts, 0);
  EXPECT_GT(sum.removed_bytes, sum.removed_blobs);
}

INSTANTIATE_TEST_SUITE_P(Places, Garbage, ::testing::ValuesIn(kPlaces),
                         [](const auto& info) { return info.param.name; });

struct BrokenVariant {
  const char* name;
  bool GarbageFaults::*fault;
};

class BrokenCollector : public ::testing::TestWithParam<BrokenVariant> {};

TEST_P(BrokenCollector, IsCaught) {
  constexpr uint64_t kSeedsToCatchIt = 40;
  GarbageFaults faults;
  faults.*GetParam().fault = true;
  for (uint64_t seed = 1; seed <= kSeedsToCatchIt; ++seed) {
    const std::string violation = World(kPlaces[0], seed, faults).Run(120);
    if (violation.empty()) continue;
    printf("seed %d: %s\n", static_cast<int>(seed), violation.c_str());
    return;
  }
  FAIL() << kSeedsToCatchIt << " seeds did not notice " << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenCollector,
    ::testing::Values(BrokenVariant{"forget_files", &GarbageFaults::forget_files},
                      BrokenVariant{"believe_old_marks", &GarbageFaults::believe_old_marks}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quantd
