// The conformance test of every JobStore, parameterised by a factory, and what is SQLite's own: the
// lock, foreign files, a full disk. What is PostgreSQL's own is in postgres_store_test.cc.
#include "server/store/job_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <atomic>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/status_macros.h"
#include "server/store/postgres_job_store.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct StoreFactory {
  const char* name;
  absl::StatusOr<std::unique_ptr<JobStore>> (*open)(const std::string& folder);
};

// The URL of a database that belongs to this folder's test.
std::string DatabaseOf(const std::string& folder) {
  static auto& urls = *new std::map<std::string, std::string>();
  std::string& url = urls[folder];
  if (url.empty()) url = SharedPostgresServer().NewDatabase();
  return url;
}

const StoreFactory kStores[] = {
    {"sqlite",
     [](const std::string& folder) {
       return OpenSqliteJobStore({.path = folder + "/store.db", .durable = true});
     }},
    {"postgres",
     [](const std::string& folder) { return OpenPostgresJobStore(DatabaseOf(folder)); }},
};

class JobStoreTest : public ::testing::TestWithParam<StoreFactory> {
 protected:
  JobStoreTest() {
    char pattern[] = "/tmp/quantd-store-XXXXXX";
    folder_ = mkdtemp(pattern);
    Reopen();
  }
  ~JobStoreTest() override {
    store_.reset();
    RemoveTree(folder_).IgnoreError();
  }
  void Reopen() {
    store_.reset();
    auto opened = GetParam().open(folder_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  JobRow Insert(const std::string& id, const std::function<void(JobRow*)>& change = {}) {
    JobRow row;
    row.name = "tenants/t/jobs/" + id;
    row.tenant = "t";
    row.state = v1::JOB_STATE_QUEUED;
    const absl::Status status = store_->Run([&](Txn& txn) -> absl::Status {
      JobRow fresh = row;
      QD_ASSIGN_OR_RETURN(fresh.needs, txn.InternNeeds("any"));
      if (change) change(&fresh);
      v1::JobSpec spec;
      spec.set_display_name(id);
      QD_RETURN_IF_ERROR(txn.InsertJob(&fresh, spec));
      row = fresh;
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return row;
  }
  template <typename T>
  T Read(const std::function<absl::StatusOr<T>(ReadTxn&)>& read) {
    T value{};
    const absl::Status status = store_->Read([&](ReadTxn& txn) -> absl::Status {
      QD_ASSIGN_OR_RETURN(value, read(txn));
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return value;
  }
  bool Exists(const std::string& id) {
    return store_->Read([&](ReadTxn& txn) { return txn.GetJob("tenants/t/jobs/" + id).status(); })
        .ok();
  }

  std::string folder_;
  std::unique_ptr<JobStore> store_;
};

TEST_P(JobStoreTest, ARowComesBackAsItWas) {
  const absl::Time time = absl::FromUnixMicros(1'750'000'000'123'456);
  const JobRow row = Insert("a", [&](JobRow* r) {
    r->priority = -7;
    r->not_before = time;
    r->lease_worker = "workers/w";
    r->lease_reported = true;
    r->outcome_digest = std::string("x\0y", 3);
    r->record.set_attempt(3);
  });
  Reopen();
  const JobRow back = Read<JobRow>([&](ReadTxn& txn) { return txn.GetJob(row.seq); });
  EXPECT_EQ(back.name, row.name);
  EXPECT_EQ(back.priority, -7);
  EXPECT_EQ(back.not_before, time);
  EXPECT_EQ(back.clock_due, absl::InfiniteFuture());
  EXPECT_EQ(back.lease_worker, "workers/w");
  EXPECT_TRUE(back.lease_reported);
  EXPECT_EQ(back.outcome_digest.size(), 3u);
  EXPECT_EQ(back.record.attempt(), 3);
  EXPECT_EQ(Read<v1::JobSpec>([&](ReadTxn& txn) { return txn.GetSpec(row.seq); }).display_name(),
            "a");
}

TEST_P(JobStoreTest, AFailedTransactionLeavesNothingAndSpoilsNoOther) {
  std::atomic<int> left = 3;
  std::vector<absl::Status> results(3);
  for (int i = 0; i < 3; ++i) {
    store_->Submit(
        [i](Txn& txn) -> absl::Status {
          JobRow row;
          row.name = absl::StrCat("tenants/t/jobs/", i);
          row.tenant = "t";
          QD_RETURN_IF_ERROR(txn.InsertJob(&row, v1::JobSpec()));
          return i == 1 ? absl::NotFoundError("on purpose") : absl::OkStatus();
        },
        [&, i](absl::Status status) {
          results[i] = status;
          --left;
        });
  }
  while (left > 0) std::this_thread::yield();
  EXPECT_TRUE(results[0].ok());
  EXPECT_TRUE(absl::IsNotFound(results[1]));
  EXPECT_TRUE(results[2].ok());
  EXPECT_TRUE(Exists("0"));
  EXPECT_FALSE(Exists("1"));
  EXPECT_TRUE(Exists("2"));
}

TEST_P(JobStoreTest, NamesAreUniqueAndUpdatesAreCompareAndSet) {
  JobRow row = Insert("a");
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Run([&](Txn& txn) {
    JobRow copy = row;
    return txn.InsertJob(&copy, v1::JobSpec());
  })));
  JobRow stale = row;
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) {
                    JobRow copy = row;
                    copy.priority = 5;
                    return txn.UpdateJob(&copy);
                  })
                  .ok());
  stale.priority = 9;
  EXPECT_TRUE(absl::IsAborted(store_->Run([&](Txn& txn) {
    JobRow copy = stale;
    return txn.UpdateJob(&copy);
  })));
  EXPECT_EQ(Read<JobRow>([&](ReadTxn& txn) { return txn.GetJob(row.name); }).priority, 5);
}

TEST_P(JobStoreTest, EventsAreNumberedPerJobAndOrderedPerSweep) {
  SweepRow sweep;
  sweep.name = "tenants/t/sweeps/s";
  sweep.tenant = "t";
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.InsertSweep(&sweep, v1::SweepSpec()); }).ok());
  std::vector<JobRow> jobs = {Insert("a", [&](JobRow* r) { r->sweep_seq = sweep.seq; }),
                              Insert("b", [&](JobRow* r) { r->sweep_seq = sweep.seq; })};
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(store_
                    ->Run([&](Txn& txn) -> absl::Status {
                      QD_ASSIGN_OR_RETURN(JobRow row, txn.GetJob(jobs[i % 2].seq));
                      v1::JobEvent event;
                      if (i < 4)
                        event.mutable_log()->set_text(absl::StrCat(i));
                      else
                        event.mutable_progress()->set_done(i);
                      QD_RETURN_IF_ERROR(txn.AppendEvent(&row, event));
                      return txn.UpdateJob(&row);
                    })
                    .ok());
  }
  const auto of_a =
      Read<std::vector<EventRow>>([&](ReadTxn& txn) { return txn.ReadEvents(jobs[0].seq, {}); });
  ASSERT_EQ(of_a.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(of_a[i].event.sequence(), i + 1);
  EXPECT_EQ(of_a[0].event.job(), jobs[0].name);
  const auto logs = Read<std::vector<EventRow>>([&](ReadTxn& txn) {
    return txn.ReadEvents(jobs[0].seq, {.after = 1, .kinds = 1u << v1::JobEvent::kLog});
  });
  ASSERT_EQ(logs.size(), 1u);
  EXPECT_EQ(logs[0].event.log().text(), "2");
  const auto all = Read<std::vector<EventRow>>(
      [&](ReadTxn& txn) { return txn.ReadSweepEvents(sweep.seq, {.limit = 4}); });
  ASSERT_EQ(all.size(), 4u);
  const auto rest = Read<std::vector<EventRow>>(
      [&](ReadTxn& txn) { return txn.ReadSweepEvents(sweep.seq, {.after = all[3].position}); });
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[1].event.progress().done(), 5);
  const auto few = Read<std::vector<EventRow>>(
      [&](ReadTxn& txn) { return txn.ReadEvents(jobs[0].seq, {.bytes_max = 1}); });
  EXPECT_EQ(few.size(), 1u) << "a page holds at least one event";
}

TEST_P(JobStoreTest, HeadsAreTheFirstOfEachTenantAndPriority) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  int64_t any = 0;
  int64_t gpu = 0;
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_ASSIGN_OR_RETURN(any, txn.InternNeeds("any"));
                    QD_ASSIGN_OR_RETURN(gpu, txn.InternNeeds("gpu"));
                    return absl::OkStatus();
                  })
                  .ok());
  const JobRow low = Insert("low", [&](JobRow* r) { r->queued_time = now; });
  Insert("low again");
  Insert("pending", [](JobRow* r) { r->state = v1::JOB_STATE_PENDING; });
  const JobRow high = Insert("high", [](JobRow* r) { r->priority = 5; });
  const JobRow later =
      Insert("later", [&](JobRow* r) { r->priority = 9, r->not_before = now + absl::Seconds(1); });
  const JobRow best = Insert("gpu", [&](JobRow* r) { r->priority = 7, r->needs = gpu; });
  const JobRow swept = Insert("swept", [&](JobRow* r) { r->priority = 6, r->sweep_seq = 44; });
  const JobRow theirs = Insert("theirs", [](JobRow* r) { r->tenant = "u"; });
  Insert("theirs again", [](JobRow* r) { r->tenant = "u"; });
  const auto heads = [&](std::vector<int64_t> needs, std::vector<int64_t> excluded, absl::Time at) {
    std::vector<int64_t> seqs;
    for (const RunnableHead& head : Read<std::vector<RunnableHead>>(
             [&](ReadTxn& txn) { return txn.RunnableHeads(needs, excluded, at); })) {
      seqs.push_back(head.seq);
      if (head.seq != low.seq) continue;
      EXPECT_EQ(head.tenant, "t");
      EXPECT_EQ(head.priority, 0);
      EXPECT_EQ(head.queued_time, now);
    }
    std::sort(seqs.begin(), seqs.end());
    return seqs;
  };
  EXPECT_THAT(heads({any}, {}, now), ElementsAre(low.seq, high.seq, swept.seq, theirs.seq));
  EXPECT_THAT(heads({any}, {44}, now), ElementsAre(low.seq, high.seq, theirs.seq));
  EXPECT_THAT(heads({any, gpu}, {44}, now), ElementsAre(low.seq, high.seq, best.seq, theirs.seq));
  EXPECT_THAT(heads({any}, {44}, now + absl::Seconds(1)),
              ElementsAre(low.seq, high.seq, later.seq, theirs.seq));
  EXPECT_THAT(heads({}, {}, now), ElementsAre());
  const auto queued = Read<std::vector<std::pair<int64_t, std::string>>>(
      [&](ReadTxn& txn) { return txn.QueuedNeeds(); });
  EXPECT_THAT(queued,
              ElementsAre(std::pair(any, std::string("any")), std::pair(gpu, std::string("gpu"))));
  const auto between = [&](const char* tenant, int64_t priority, int64_t first, int64_t end) {
    return Read<int64_t>(
        [&](ReadTxn& txn) { return txn.QueuedBetween(tenant, priority, first, end); });
  };
  EXPECT_EQ(between("t", 0, 0, 1000), 2);
  EXPECT_EQ(between("t", 0, low.seq, low.seq + 1), 1);
  EXPECT_EQ(between("t", 0, low.seq + 1, 1000), 1);
  EXPECT_EQ(between("u", 5, 0, 1000), 0);
  EXPECT_TRUE(
      Read<bool>([&](ReadTxn& txn) { return txn.BecomesRunnable(now, now + absl::Seconds(1)); }));
  EXPECT_FALSE(Read<bool>([&](ReadTxn& txn) {
    return txn.BecomesRunnable(now + absl::Seconds(1), now + absl::Seconds(9));
  }));
}

TEST_P(JobStoreTest, TenantsAreCountedAsJobsMove) {
  JobRow a = Insert("a");
  JobRow b = Insert("b", [](JobRow* r) { r->state = v1::JOB_STATE_PENDING; });
  Insert("ended", [](JobRow* r) { r->state = v1::JOB_STATE_FAILED; });
  Insert("theirs", [](JobRow* r) { r->tenant = "s", r->priority = -3; });
  const auto counts = [&] {
    std::string text;
    for (const TenantCount& count :
         Read<std::vector<TenantCount>>([](ReadTxn& txn) { return txn.TenantCounts(); })) {
      absl::StrAppend(&text, count.tenant, " ", int{count.state}, " ", count.priority, " ",
                      count.count, "; ");
    }
    return text;
  };
  const auto update = [&](JobRow* row) {
    ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.UpdateJob(row); }).ok());
  };
  EXPECT_EQ(counts(), "s 2 -3 1; t 1 0 1; t 2 0 1; ");
  b.state = v1::JOB_STATE_QUEUED;
  update(&b);
  EXPECT_EQ(counts(), "s 2 -3 1; t 2 0 2; ");
  b.state = v1::JOB_STATE_RUNNING;
  b.lease_worker = "workers/w";
  b.run_time = absl::FromUnixSeconds(77);
  b.gpus = 1;
  update(&b);
  a.priority = 4;
  update(&a);
  EXPECT_EQ(counts(), "s 2 -3 1; t 2 4 1; t 3 0 1; ");
  const auto leased = Read<std::vector<LeasedJob>>([](ReadTxn& txn) { return txn.LeasedJobs(); });
  ASSERT_EQ(leased.size(), 1u);
  EXPECT_EQ(leased[0].tenant, "t");
  EXPECT_EQ(leased[0].run_time, absl::FromUnixSeconds(77));
  EXPECT_EQ(leased[0].gpus, 1);
  a.state = b.state = v1::JOB_STATE_CANCELLED;
  b.lease_worker = "";
  update(&a);
  update(&b);
  EXPECT_EQ(counts(), "s 2 -3 1; ");
}

TEST_P(JobStoreTest, TenantsBooksAreKept) {
  using Pairs = std::vector<std::pair<std::string, int64_t>>;
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_RETURN_IF_ERROR(txn.PutTenantShares({{"", 1}, {"t", 2}}));
                    QD_RETURN_IF_ERROR(txn.PutTenantShares({{"t", 5}}));
                    QD_RETURN_IF_ERROR(txn.AddGpuSeconds("t", 9, 40));
                    QD_RETURN_IF_ERROR(txn.AddGpuSeconds("t", 9, 2));
                    QD_RETURN_IF_ERROR(txn.AddGpuSeconds("u", 8, 7));
                    QD_RETURN_IF_ERROR(txn.PutArtifactBytes("t", "a", 100));
                    QD_RETURN_IF_ERROR(txn.PutArtifactBytes("t", "a", 100));
                    QD_RETURN_IF_ERROR(txn.PutArtifactBytes("t", "b", 11));
                    QD_RETURN_IF_ERROR(txn.PutArtifactBytes("u", "b", 9));
                    QD_RETURN_IF_ERROR(txn.DeleteArtifactBytes("u", "never"));
                    return txn.DeleteArtifactBytes("u", "b");
                  })
                  .ok());
  Reopen();
  EXPECT_EQ(Read<Pairs>([](ReadTxn& txn) { return txn.TenantShares(); }),
            (Pairs{{"", 1}, {"t", 5}}));
  EXPECT_EQ(Read<Pairs>([](ReadTxn& txn) { return txn.GpuSeconds(9); }), (Pairs{{"t", 42}}));
  EXPECT_EQ(Read<int64_t>([](ReadTxn& txn) { return txn.ArtifactBytes("t"); }), 111);
  EXPECT_EQ(Read<int64_t>([](ReadTxn& txn) { return txn.ArtifactBytes("u"); }), 0);
}

TEST_P(JobStoreTest, LeasesAndClocksComeDue) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  const JobRow a = Insert("a", [&](JobRow* r) { r->lease_worker = "w", r->lease_expires = now; });
  Insert("b", [&](JobRow* r) { r->lease_worker = "w", r->lease_expires = now + absl::Seconds(1); });
  const JobRow c = Insert("c", [&](JobRow* r) { r->clock_due = now; });
  EXPECT_THAT(Read<std::vector<int64_t>>([&](ReadTxn& t) { return t.ExpiredLeases(now, 9); }),
              ElementsAre(a.seq));
  EXPECT_THAT(Read<std::vector<int64_t>>([&](ReadTxn& t) { return t.DueClocks(now, 9); }),
              ElementsAre(c.seq));
  EXPECT_EQ(Read<std::vector<int64_t>>([&](ReadTxn& t) { return t.Leased(); }).size(), 2u);
  EXPECT_EQ(Read<std::vector<JobRow>>([&](ReadTxn& t) { return t.WorkerLeases("w"); }).size(), 2u);
}

TEST_P(JobStoreTest, FencingTokensGrowOverRestartsAndRollbacks) {
  int64_t last = 0;
  for (int i = 0; i < 6; ++i) {
    int64_t token = 0;
    store_
        ->Run([&](Txn& txn) -> absl::Status {
          QD_ASSIGN_OR_RETURN(token, txn.NextFencingToken());
          return i == 2 ? absl::CancelledError("rolled back") : absl::OkStatus();
        })
        .IgnoreError();
    if (i != 2) {
      EXPECT_GT(token, last);
      last = token;
    }
    if (i == 3) Reopen();
  }
}

TEST_P(JobStoreTest, RequestsWorkersAndNeeds) {
  const RequestRow request{.tenant = "t",
                           .request_id = "r",
                           .body_digest = "d",
                           .resource = "x",
                           .time = absl::FromUnixSeconds(5)};
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.InsertRequest(request); }).ok());
  EXPECT_TRUE(
      absl::IsAlreadyExists(store_->Run([&](Txn& txn) { return txn.InsertRequest(request); })));
  EXPECT_EQ(
      Read<std::optional<RequestRow>>([&](ReadTxn& t) { return t.GetRequest("t", "r"); })->resource,
      "x");
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) {
                    return txn.DeleteRequestsBefore(absl::FromUnixSeconds(6), 9).status();
                  })
                  .ok());
  EXPECT_FALSE(Read<std::optional<RequestRow>>([&](ReadTxn& t) {
                 return t.GetRequest("t", "r");
               }).has_value());

  WorkerRow worker;
  worker.name = "workers/w";
  worker.record.set_hostname("h");
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.PutWorker(worker); }).ok());
  worker.request_token = 7;
  worker.record.set_hostname("not written by a touch");
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.TouchWorker(worker); }).ok());
  const auto back =
      Read<std::optional<WorkerRow>>([&](ReadTxn& t) { return t.GetWorker("workers/w"); });
  EXPECT_EQ(back->request_token, 7);
  EXPECT_EQ(back->record.hostname(), "h");
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.DeleteWorker("workers/w"); }).ok());
  EXPECT_TRUE(Read<std::vector<WorkerRow>>([&](ReadTxn& t) { return t.Workers(); }).empty());
}

TEST_P(JobStoreTest, RecordsAreKeptByCollectionAndKey) {
  const std::string body("any\0bytes\xff", 10);
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_RETURN_IF_ERROR(txn.PutRecord("tokens", {"b", "old"}));
                    QD_RETURN_IF_ERROR(txn.PutRecord("tokens", {"b", body}));
                    QD_RETURN_IF_ERROR(txn.PutRecord("tokens", {"a", ""}));
                    QD_RETURN_IF_ERROR(txn.PutRecord("tokens", {"c", "gone"}));
                    QD_RETURN_IF_ERROR(txn.DeleteRecord("tokens", "c"));
                    QD_RETURN_IF_ERROR(txn.DeleteRecord("tokens", "never there"));
                    return txn.PutRecord("secrets", {"b", "another"});
                  })
                  .ok());
  Reopen();
  const auto tokens =
      Read<std::vector<KeptRecord>>([](ReadTxn& txn) { return txn.Records("tokens"); });
  const auto record = [&](const char* key) {
    return Read<std::optional<std::string>>(
        [&](ReadTxn& txn) { return txn.GetRecord("tokens", key); });
  };
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_EQ(tokens[0].key, "a");
  EXPECT_EQ(tokens[1].body, body);
  EXPECT_EQ(record("b"), body);
  EXPECT_EQ(record("a"), "");
  EXPECT_EQ(record("c"), std::nullopt);
  EXPECT_EQ(Read<std::vector<KeptRecord>>([](ReadTxn& txn) { return txn.Records("none"); }).size(),
            0u);
}

TEST_P(JobStoreTest, ReadersSeeOneMomentAndDoNotWaitForTheWriter) {
  Insert("a");
  ASSERT_TRUE(store_
                  ->Read([&](ReadTxn& txn) -> absl::Status {
                    EXPECT_EQ(txn.ListJobs({.tenant = "t"})->size(), 1u);
                    std::thread([&] { Insert("b"); }).join();
                    EXPECT_EQ(txn.ListJobs({.tenant = "t"})->size(), 1u);
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(
      Read<std::vector<JobRow>>([&](ReadTxn& t) { return t.ListJobs({.tenant = "t"}); }).size(),
      2u);
}

TEST_P(JobStoreTest, ManyWritersShareCommits) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 10; ++k) Insert(absl::StrCat(i, "-", k));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Read<std::vector<JobRow>>([&](ReadTxn& t) {
              return t.ListJobs({.tenant = "t", .limit = 1000});
            }).size(),
            160u);
  const JobStoreMetrics metrics = store_->Metrics();
  EXPECT_GE(metrics.group_size_sum, 160);
  EXPECT_EQ(metrics.failed_commits, 0);
  EXPECT_TRUE(store_->Health().ok());
}

TEST_P(JobStoreTest, SettingsAreKept) {
  const auto get = [&] {
    return Read<std::string>([&](ReadTxn& txn) { return txn.GetSetting("secret"); });
  };
  EXPECT_EQ(get(), "");
  const std::string bytes("a\0b\xff", 4);
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.PutSetting("secret", "x"); }).ok());
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.PutSetting("secret", bytes); }).ok());
  Reopen();
  EXPECT_EQ(get(), bytes);
}

TEST_P(JobStoreTest, GarbageIsMarkedByKey) {
  const absl::Time time = absl::FromUnixMicros(1'750'000'000'123'456);
  const auto run = [&](const std::function<absl::Status(Txn&)>& write) {
    const absl::Status status = store_->Run(write);
    EXPECT_TRUE(status.ok()) << status;
  };
  run([&](Txn& txn) -> absl::Status {
    for (const char* key : {"blobs/b", "blobs/a", "artifacts/t/a"}) {
      QD_RETURN_IF_ERROR(txn.PutGarbageMark({.key = key, .since = time}));
    }
    return txn.PutGarbageMark({.key = "blobs/a", .since = time + absl::Seconds(1), .doomed = true});
  });
  Reopen();
  using Marks = std::vector<GarbageMark>;
  const auto all = [&] { return Read<Marks>([](ReadTxn& txn) { return txn.AllGarbageMarks(); }); };
  const Marks marks = all();
  ASSERT_EQ(marks.size(), 3u);
  EXPECT_EQ(marks[0].key, "artifacts/t/a");
  EXPECT_EQ(marks[1].key, "blobs/a");
  EXPECT_EQ(marks[1].since, time + absl::Seconds(1));
  EXPECT_TRUE(marks[1].doomed);
  EXPECT_FALSE(marks[2].doomed);
  const Marks some = Read<Marks>([](ReadTxn& txn) {
    return txn.GarbageMarks({"blobs/b", "blobs/none", "blobs/a"});
  });
  ASSERT_EQ(some.size(), 2u);
  EXPECT_EQ(some[0].key, "blobs/a");
  EXPECT_EQ(Read<Marks>([](ReadTxn& txn) { return txn.GarbageMarks({}); }).size(), 0u);
  run([](Txn& txn) { return txn.DeleteGarbageMarks({}); });
  run([](Txn& txn) { return txn.DeleteGarbageMarks({"blobs/a", "never there"}); });
  EXPECT_EQ(all().size(), 2u);
}

TEST_P(JobStoreTest, ReferencesOfAllJobsAreReadInPages) {
  const JobRow bare = Insert("bare");
  const JobRow full = Insert("full", [](JobRow* r) { r->state = v1::JOB_STATE_RUNNING; });
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    v1::Job outcome;
                    outcome.mutable_output()->set_sha256("output");
                    QD_RETURN_IF_ERROR(txn.PutOutcome(full.seq, outcome));
                    v1::Manifest checkpoint;
                    checkpoint.set_sha256("checkpoint");
                    return txn.PutCheckpoint(full.seq, checkpoint);
                  })
                  .ok());
  using Page = std::vector<JobReferences>;
  const Page all = Read<Page>([](ReadTxn& txn) { return txn.ReadReferences(0, 10); });
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].seq, bare.seq);
  EXPECT_EQ(all[0].spec.display_name(), "bare");
  EXPECT_EQ(all[0].outcome.output().sha256(), "");
  EXPECT_EQ(all[1].tenant, "t");
  EXPECT_EQ(all[1].state, v1::JOB_STATE_RUNNING);
  EXPECT_EQ(all[1].outcome.output().sha256(), "output");
  EXPECT_EQ(all[1].checkpoint.sha256(), "checkpoint");
  const Page first = Read<Page>([](ReadTxn& txn) { return txn.ReadReferences(0, 1); });
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(Read<Page>([&](ReadTxn& txn) { return txn.ReadReferences(first[0].seq, 9); }).size(),
            1u);
}

TEST_P(JobStoreTest, RetentionKeepsWhatIsNeeded) {
  const absl::Time old = absl::FromUnixSeconds(10);
  SweepRow sweep;
  sweep.name = "tenants/t/sweeps/s";
  sweep.tenant = "t";
  ASSERT_TRUE(store_->Run([&](Txn& txn) { return txn.InsertSweep(&sweep, v1::SweepSpec()); }).ok());
  const auto ended = [&](JobRow* r) { r->state = v1::JOB_STATE_SUCCEEDED, r->end_time = old; };
  const JobRow gone = Insert("gone", ended);
  const JobRow needed = Insert("needed", ended);
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_RETURN_IF_ERROR(txn.PutResult("t", "of gone", gone.seq));
                    QD_RETURN_IF_ERROR(txn.PutResult("t", "of both", gone.seq));
                    QD_RETURN_IF_ERROR(txn.PutResult("t", "of both", needed.seq));
                    return txn.PutResult("other", "of gone", needed.seq);
                  })
                  .ok());
  const JobRow waiting = Insert("waiting");
  Insert("of-live-sweep", [&](JobRow* r) { ended(r), r->sweep_seq = sweep.seq; });
  Insert("live", [&](JobRow* r) { r->sweep_seq = sweep.seq; });
  Insert("young", [&](JobRow* r) { ended(r), r->end_time = old + absl::Hours(1); });
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    JobRow row = gone;
                    QD_RETURN_IF_ERROR(txn.AppendEvent(&row, v1::JobEvent()));
                    QD_RETURN_IF_ERROR(txn.UpdateJob(&row));
                    return txn.InsertDependency({.job = waiting.seq, .on = needed.seq});
                  })
                  .ok());
  int64_t removed = 0;
  ASSERT_TRUE(store_
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_ASSIGN_OR_RETURN(removed,
                                        txn.DeleteJobsEndedBefore(old + absl::Seconds(1), 100));
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(removed, 1);
  EXPECT_FALSE(Exists("gone"));
  Reopen();
  using Found = std::optional<int64_t>;
  EXPECT_EQ(Read<Found>([](ReadTxn& txn) { return txn.FindResult("t", "of gone"); }), Found());
  EXPECT_EQ(Read<Found>([](ReadTxn& txn) { return txn.FindResult("t", "of both"); }), needed.seq);
  EXPECT_EQ(Read<Found>([](ReadTxn& txn) { return txn.FindResult("other", "of gone"); }),
            needed.seq);
  for (const char* kept : {"needed", "waiting", "of-live-sweep", "live", "young"}) {
    EXPECT_TRUE(Exists(kept)) << kept;
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, JobStoreTest, ::testing::ValuesIn(kStores),
                         [](const auto& info) { return info.param.name; });

class SqliteStoreTest : public JobStoreTest {};
INSTANTIATE_TEST_SUITE_P(Sqlite, SqliteStoreTest, ::testing::Values(kStores[0]));

TEST_P(SqliteStoreTest, ASecondSchedulerIsRefused) {
  const auto second = GetParam().open(folder_);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another scheduler"));
}

TEST_P(SqliteStoreTest, ForeignAndNewerFilesAreRefused) {
  {
    auto foreign = SqliteConnection::Open(folder_ + "/other/store.db", false);
    EXPECT_FALSE(foreign.ok());
    ASSERT_TRUE(MakeFolders(folder_ + "/other").ok());
    foreign = SqliteConnection::Open(folder_ + "/other/store.db", false);
    ASSERT_TRUE(foreign.ok());
    ASSERT_TRUE((*foreign)->Execute("CREATE TABLE photos(x)").ok());
  }
  EXPECT_THAT(std::string(GetParam().open(folder_ + "/other").status().message()),
              HasSubstr("another program"));
  store_.reset();
  {
    auto newer = SqliteConnection::Open(folder_ + "/store.db", false);
    ASSERT_TRUE((*newer)->Execute("PRAGMA user_version=99").ok());
  }
  EXPECT_THAT(std::string(GetParam().open(folder_).status().message()), HasSubstr("newer quantd"));
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/other/store.db", std::string(8192, 'x')).ok());
  EXPECT_TRUE(absl::IsDataLoss(GetParam().open(folder_ + "/other").status()));
}

TEST_P(SqliteStoreTest, AFullDiskIsSurvived) {
  Insert("before");
  const int64_t used = *FileSize(folder_ + "/store.db-wal");
  // No file may grow beyond this: every write of a page fails as on a full disk.
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit tight = old;
  tight.rlim_cur = used + 8192;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  int refused = 0;
  for (int i = 0; i < 20; ++i) {
    const absl::Status status = store_->Run([&](Txn& txn) -> absl::Status {
      JobRow row;
      row.name = absl::StrCat("tenants/t/jobs/full", i);
      row.tenant = "t";
      v1::JobSpec spec;
      spec.set_display_name(std::string(5000, 'x'));
      return txn.InsertJob(&row, spec);
    });
    EXPECT_EQ(Exists(absl::StrCat("full", i)), status.ok()) << "acknowledged if and only if there";
    refused += !status.ok();
    if (!status.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) << status;
    }
  }
  EXPECT_GT(refused, 10);
  EXPECT_FALSE(store_->Health().ok());
  EXPECT_TRUE(Exists("before"));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  Insert("after");
  EXPECT_TRUE(Exists("after"));
  EXPECT_TRUE(store_->Health().ok());
  store_.reset();
  EXPECT_EQ(*CheckSqliteIntegrity(folder_ + "/store.db"), "ok");
  Reopen();
  EXPECT_TRUE(Exists("after"));
}

}  // namespace
}  // namespace quantd
