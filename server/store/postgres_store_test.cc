// What is PostgreSQL's own: several stores over one database, sessions and servers that go away in
// the middle of things, migrations killed halfway, one clock for all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "server/store/copy_store.h"
#include "server/store/postgres.h"
#include "server/store/postgres_job_store.h"
#include "server/store/postgres_schema.h"
#include "server/store/sqlite_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class PostgresStoreTest : public ::testing::Test {
 protected:
  static PostgresServer& Server() { return SharedPostgresServer(); }
  void SetUp() override { Server().Start(); }

  std::unique_ptr<JobStore> Open() {
    auto store = OpenPostgresJobStore(url_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static absl::Status Insert(JobStore* store, const std::string& id) {
    return store->Run([&](Txn& txn) -> absl::Status {
      JobRow row;
      row.name = "tenants/t/jobs/" + id;
      row.tenant = "t";
      QD_ASSIGN_OR_RETURN(row.needs, txn.InternNeeds("any"));
      QD_RETURN_IF_ERROR(txn.InsertJob(&row, v1::JobSpec()));
      txn.Publish("inserted " + id);
      return absl::OkStatus();
    });
  }
  static bool Exists(JobStore* store, const std::string& id) {
    return store->Read([&](ReadTxn& txn) { return txn.GetJob("tenants/t/jobs/" + id).status(); })
        .ok();
  }
  // Runs until it succeeds: what a client that is told Unavailable does.
  static void InsertSurely(JobStore* store, const std::string& id) {
    absl::Status status;
    for (int i = 0; i < 300; ++i) {
      status = Insert(store, id);
      if (status.ok() || absl::IsAlreadyExists(status)) return;
      ASSERT_TRUE(absl::IsUnavailable(status)) << status;
      absl::SleepFor(absl::Milliseconds(50));
    }
    ADD_FAILURE() << status;
  }

  const std::string url_ = Server().NewDatabase();
};

TEST_F(PostgresStoreTest, StoresSideBySideCountWithoutGapOrDouble) {
  constexpr int kStores = 3;
  constexpr int kEach = 100;
  std::vector<std::unique_ptr<JobStore>> stores;
  for (int i = 0; i < kStores; ++i) stores.push_back(Open());
  absl::Mutex mutex;
  std::vector<int64_t> tokens;
  std::vector<std::thread> threads;
  for (int i = 0; i < kStores * 2; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < kEach; ++k) {
        int64_t token = 0;
        const absl::Status status = stores[i % kStores]->Run([&](Txn& txn) -> absl::Status {
          QD_ASSIGN_OR_RETURN(token, txn.NextFencingToken());
          // Read, think, write: an increment is lost unless transactions exclude each other.
          QD_ASSIGN_OR_RETURN(const std::string count, txn.GetSetting("count"));
          return txn.PutSetting("count", absl::StrCat(std::atoi(count.c_str()) + 1));
        });
        EXPECT_TRUE(status.ok()) << status;
        absl::MutexLock lock(&mutex);
        tokens.push_back(token);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<int64_t>(tokens.begin(), tokens.end()).size(), kStores * 2u * kEach);
  std::string count;
  ASSERT_TRUE(stores[0]
                  ->Read([&](ReadTxn& txn) -> absl::Status {
                    QD_ASSIGN_OR_RETURN(count, txn.GetSetting("count"));
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(count, absl::StrCat(kStores * 2 * kEach));
}

TEST_F(PostgresStoreTest, AFailureThatWroteSpoilsNoOtherOfItsGroup) {
  auto store = Open();
  // Of one group, because the first one holds it back while the others come in.
  absl::Notification all_in;
  std::atomic<int> left = 21;
  std::vector<absl::Status> results(21);
  for (int i = 0; i <= 20; ++i) {
    store->Submit(
        [&, i](Txn& txn) -> absl::Status {
          if (i == 0) all_in.WaitForNotification();
          JobRow row;
          row.name = absl::StrCat("tenants/t/jobs/", i % 7 == 3 ? 0 : i);
          row.tenant = "t";
          QD_RETURN_IF_ERROR(txn.InsertJob(&row, v1::JobSpec()));
          return i % 5 == 4 ? absl::NotFoundError("on purpose") : absl::OkStatus();
        },
        [&, i](absl::Status status) {
          results[i] = status;
          --left;
        });
  }
  all_in.Notify();
  while (left > 0) std::this_thread::yield();
  for (int i = 0; i <= 20; ++i) {
    const bool taken = i % 7 == 3;
    EXPECT_EQ(results[i].code(), taken        ? absl::StatusCode::kAlreadyExists
                                 : i % 5 == 4 ? absl::StatusCode::kNotFound
                                              : absl::StatusCode::kOk)
        << i << results[i];
    EXPECT_EQ(Exists(store.get(), absl::StrCat(i)), results[i].ok()) << i;
  }
}

TEST_F(PostgresStoreTest, NewsOfOthersComeInOrderAndOwnOnesDoNot) {
  auto a = Open();
  auto b = Open();
  absl::Mutex mutex;
  std::vector<std::string> heard;
  int restarts = 0;
  b->Follow([&](absl::string_view news) {
    absl::MutexLock lock(&mutex);
    if (news.empty()) {
      ++restarts;
    } else {
      heard.emplace_back(news);
    }
  });
  const auto heard_count = [&](size_t count, absl::Duration limit) {
    absl::MutexLock lock(&mutex);
    const auto enough = [&] { return heard.size() >= count; };
    return mutex.AwaitWithTimeout(absl::Condition(&enough), limit);
  };
  // Of what came before the listener was there it is told only that it missed something.
  for (int i = 0; i < 200 && !heard_count(1, absl::Milliseconds(100)); ++i) {
    ASSERT_TRUE(Insert(a.get(), absl::StrCat("probe", i)).ok());
  }
  {
    absl::MutexLock lock(&mutex);
    heard.clear();
  }
  ASSERT_TRUE(Insert(b.get(), "own").ok());
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(Insert(a.get(), absl::StrCat("n", i)).ok());
  ASSERT_TRUE(heard_count(50, absl::Seconds(20)));
  {
    absl::MutexLock lock(&mutex);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(heard[i], absl::StrCat("inserted n", i));
    EXPECT_EQ(heard.size(), 50u);
    restarts = 0;
  }
  Server().CutSessions();
  absl::MutexLock lock(&mutex);
  const auto told = [&] { return restarts > 0; };
  EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&told), absl::Seconds(20)))
      << "a listener whose session broke has to say that it may have missed something";
}

TEST_F(PostgresStoreTest, AServerThatIsKilledAndComesBackLosesNothing) {
  auto store = Open();
  std::atomic<bool> stop{false};
  std::atomic<int> acknowledged{0};
  absl::Mutex mutex;
  std::vector<std::string> kept;
  std::vector<std::string> refused;
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; !stop; ++i) {
        const std::string id = absl::StrCat("w", w, "-", i);
        const absl::Status status = Insert(store.get(), id);
        absl::MutexLock lock(&mutex);
        if (status.ok()) {
          kept.push_back(id);
          ++acknowledged;
        } else {
          EXPECT_TRUE(absl::IsUnavailable(status)) << status;
          if (!absl::StrContains(status.message(), "not known")) refused.push_back(id);
        }
        if (!status.ok()) absl::SleepFor(absl::Milliseconds(5));
      }
    });
  }
  for (int round = 0; round < 3; ++round) {
    const int before = acknowledged;
    while (acknowledged < before + 50) absl::SleepFor(absl::Milliseconds(5));
    if (round == 1) {
      Server().CutSessions();
    } else {
      Server().Kill();
      EXPECT_FALSE(Exists(store.get(), "w0-0")) << "reads fail while the server is away";
      Server().Start();
    }
  }
  const int before = acknowledged;
  for (int i = 0; i < 2000 && acknowledged < before + 50; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_GE(acknowledged, before + 50) << "the store connects again by itself";
  EXPECT_TRUE(store->Health().ok()) << store->Health();
  EXPECT_FALSE(refused.empty());
  for (const std::string& id : kept) EXPECT_TRUE(Exists(store.get(), id)) << id;
  for (const std::string& id : refused) EXPECT_FALSE(Exists(store.get(), id)) << id;
}

TEST_F(PostgresStoreTest, AFrozenSchedulerHoldsNobodyUpForLong) {
  auto store = Open();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    // A session of its own, stopped while it holds the write lock.
    auto connection = PostgresConnection::Open(url_);
    const bool held = connection.ok() && (*connection)->Execute("BEGIN").ok() &&
                      (*connection)->Execute(kPostgresWriteLock).ok();
    if (write(ends[1], held ? "y" : "n", 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char held = 0;
  ASSERT_EQ(read(ends[0], &held, 1), 1);
  ASSERT_EQ(held, 'y');
  kill(child, SIGSTOP);
  InsertSurely(store.get(), "after");
  EXPECT_TRUE(Exists(store.get(), "after"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(PostgresStoreTest, AMigrationThatIsKilledIsAsIfItHadNotBegun) {
  for (int round = 0; round < 6; ++round) {
    const std::string url = Server().NewDatabase();
    const pid_t child = fork();
    if (child == 0) {
      auto connection = PostgresConnection::Open(url);
      if (connection.ok()) PreparePostgresSchema(connection->get()).IgnoreError();
      _exit(0);
    }
    absl::SleepFor(absl::Milliseconds(5 + 7 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    auto store = OpenPostgresJobStore(url);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_TRUE(Insert(store->get(), "a").ok());
  }
}

TEST_F(PostgresStoreTest, SchedulersThatStartTogetherMigrateOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> opened{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      auto store = OpenPostgresJobStore(url_);
      EXPECT_TRUE(store.ok()) << store.status();
      opened += store.ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(opened, 4);
}

TEST_F(PostgresStoreTest, ForeignNewerAndMissingDatabasesAreRefused) {
  Server().Ask(url_, "CREATE TABLE photos(x INT)");
  EXPECT_THAT(std::string(OpenPostgresJobStore(url_).status().message()),
              HasSubstr("another program"));
  const std::string newer = Server().NewDatabase();
  auto running = OpenPostgresJobStore(newer);
  ASSERT_TRUE(running.ok());
  Server().Ask(newer, "UPDATE counters SET value=99 WHERE name='schema'");
  EXPECT_THAT(std::string(OpenPostgresJobStore(newer).status().message()),
              HasSubstr("newer quantd"));
  // And one that was running while the newer one migrated writes nothing any more.
  EXPECT_TRUE(absl::IsFailedPrecondition(Insert(running->get(), "late")));
  EXPECT_FALSE((*running)->Health().ok());
  const absl::Status missing =
      OpenPostgresJobStore(absl::StrCat(url_.substr(0, url_.rfind('/')), "x")).status();
  EXPECT_FALSE(missing.ok());
  const absl::Status secret =
      OpenPostgresJobStore("postgres://me:hunter2@127.0.0.1:1/none").status();
  EXPECT_TRUE(absl::IsUnavailable(secret)) << secret;
  EXPECT_FALSE(absl::StrContains(secret.message(), "hunter2")) << secret;
}

TEST_F(PostgresStoreTest, AllShareTheServersClock) {
  auto a = Open();
  auto b = Open();
  EXPECT_LT(absl::AbsDuration(a->Now() - b->Now()), absl::Seconds(5));
  const absl::Time before = a->Now();
  absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GT(a->Now(), before);
}

TEST_F(PostgresStoreTest, ATextThatTheDatabaseCannotKeepIsRefusedAlone) {
  auto store = Open();
  const absl::Status status = Insert(store.get(), std::string("a\0b", 3));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(Insert(store.get(), "fine").ok());
}

// A SQLite store with something of everything.
std::string FilledSqlite(const std::string& folder) {
  const std::string path = folder + "/old.db";
  auto store = OpenSqliteJobStore({.path = path, .durable = false});
  QD_CHECK(store.ok());
  QD_CHECK((*store)
               ->Run([&](Txn& txn) -> absl::Status {
                 SweepRow sweep;
                 sweep.name = "tenants/t/sweeps/s";
                 sweep.tenant = "t";
                 QD_RETURN_IF_ERROR(txn.InsertSweep(&sweep, v1::SweepSpec()));
                 for (int i = 0; i < 300; ++i) {
                   JobRow row;
                   row.name = absl::StrCat("tenants/t/jobs/", i);
                   row.tenant = "t";
                   row.sweep_seq = i % 2 == 0 ? sweep.seq : 0;
                   row.state = v1::JOB_STATE_QUEUED;
                   row.priority = i % 3;
                   row.not_before = absl::InfinitePast();
                   row.outcome_digest = std::string("x\0y", 3);
                   QD_ASSIGN_OR_RETURN(row.needs, txn.InternNeeds(absl::StrCat("n", i % 5)));
                   v1::JobSpec spec;
                   (*spec.mutable_labels())["team"] = "räd";
                   QD_RETURN_IF_ERROR(txn.InsertJob(&row, spec));
                   v1::JobEvent event;
                   event.mutable_log()->set_text(std::string("a\0b", 3));
                   QD_RETURN_IF_ERROR(txn.AppendEvent(&row, event));
                   QD_RETURN_IF_ERROR(txn.UpdateJob(&row));
                   if (i > 0) {
                     QD_RETURN_IF_ERROR(txn.InsertDependency({.job = row.seq, .on = row.seq - 1}));
                   }
                   QD_RETURN_IF_ERROR(txn.NextFencingToken().status());
                 }
                 WorkerRow worker;
                 worker.name = "workers/w";
                 QD_RETURN_IF_ERROR(txn.PutWorker(worker));
                 QD_RETURN_IF_ERROR(txn.PutSetting("secret", std::string("\0\xff", 2)));
                 return txn.InsertRequest({.tenant = "t", .request_id = "r"});
               })
               .ok());
  return path;
}

TEST_F(PostgresStoreTest, ASqliteStoreMovesWithAllItsNumbers) {
  char pattern[] = "/tmp/quantd-copy-XXXXXX";
  const std::string folder = mkdtemp(pattern);
  const std::string path = FilledSqlite(folder);
  // Killed in the middle, again and again: the target stays empty until it is whole.
  for (int round = 0; round < 4; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      CopyStore(path, url_).IgnoreError();
      _exit(0);
    }
    absl::SleepFor(absl::Milliseconds(10 + 15 * round));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) break;  // It was faster.
    auto target = Open();
    int64_t jobs = -1;
    ASSERT_TRUE(target
                    ->Read([&](ReadTxn& txn) -> absl::Status {
                      QD_ASSIGN_OR_RETURN(const auto rows, txn.ListJobs({.tenant = "t"}));
                      jobs = static_cast<int64_t>(rows.size());
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_EQ(jobs, 0);
  }
  {
    auto held = OpenSqliteJobStore({.path = path, .durable = false});
    EXPECT_TRUE(absl::IsFailedPrecondition(CopyStore(path, url_).status()));
  }
  const auto copied = CopyStore(path, url_);
  if (!copied.ok()) {
    EXPECT_THAT(std::string(copied.status().message()), HasSubstr("already")) << copied.status();
  } else {
    EXPECT_EQ(copied->at("jobs"), 300);
    EXPECT_EQ(copied->at("events"), 300);
  }
  EXPECT_THAT(std::string(CopyStore(path, url_).status().message()), HasSubstr("already"));
  auto old = OpenSqliteJobStore({.path = path, .durable = false});
  auto store = Open();
  for (int i = 0; i < 300; i += 37) {
    std::string here;
    std::string there;
    for (auto& [from, text] : {std::pair{old->get(), &here}, std::pair{store.get(), &there}}) {
      ASSERT_TRUE(from->Read([&, text = text](ReadTxn& txn) -> absl::Status {
                        QD_ASSIGN_OR_RETURN(const JobRow row,
                                            txn.GetJob(absl::StrCat("tenants/t/jobs/", i)));
                        QD_ASSIGN_OR_RETURN(const auto events, txn.ReadEvents(row.seq, {}));
                        QD_ASSIGN_OR_RETURN(const auto on, txn.Dependencies(row.seq));
                        QD_ASSIGN_OR_RETURN(const int64_t ahead,
                                            txn.QueuedBetween("t", row.priority, 0, row.seq));
                        *text = absl::StrCat(row.seq, " ", row.sweep_seq, " ", row.outcome_digest,
                                             " ", ToMicros(row.not_before), " ", ahead, " ",
                                             on.size(), " ", events.at(0).position, " ",
                                             events.at(0).event.log().text());
                        return absl::OkStatus();
                      })
                      .ok());
    }
    EXPECT_EQ(here, there);
  }
  int64_t token = 0;
  JobRow next;
  ASSERT_TRUE(store
                  ->Run([&](Txn& txn) -> absl::Status {
                    QD_ASSIGN_OR_RETURN(token, txn.NextFencingToken());
                    next.name = "tenants/t/jobs/next";
                    next.tenant = "t";
                    return txn.InsertJob(&next, v1::JobSpec());
                  })
                  .ok());
  EXPECT_EQ(token, 301);
  EXPECT_EQ(next.seq, 301);
  RemoveTree(folder).IgnoreError();
}

}  // namespace
}  // namespace quantd
