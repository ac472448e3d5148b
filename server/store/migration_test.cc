// Stores of older versions, brought up to date: what was in them is found again, in both databases.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "server/store/postgres_job_store.h"
#include "server/store/postgres_schema.h"
#include "server/store/sqlite_job_store.h"
#include "server/store/sqlite_schema.h"
#include "server/store/testing/postgres_server.h"

namespace quantd {
namespace {

struct OldStore {
  const char* name;
  // The last version that kept results among the records.
  absl::StatusOr<std::unique_ptr<SqlConnection>> (*prepare)(const std::string& place);
  absl::StatusOr<std::unique_ptr<JobStore>> (*open)(const std::string& place);
  std::string (*place)(const std::string& folder);
};

const OldStore kStores[] = {
    {"sqlite",
     [](const std::string& path) -> absl::StatusOr<std::unique_ptr<SqlConnection>> {
       QD_ASSIGN_OR_RETURN(auto connection, SqliteConnection::Open(path, /*read_only=*/false));
       QD_RETURN_IF_ERROR(PrepareSchema(connection.get(), 4));
       return connection;
     },
     [](const std::string& path) { return OpenSqliteJobStore({.path = path, .durable = false}); },
     [](const std::string& folder) { return folder + "/store.db"; }},
    {"postgres",
     [](const std::string& url) -> absl::StatusOr<std::unique_ptr<SqlConnection>> {
       QD_ASSIGN_OR_RETURN(auto connection, PostgresConnection::Open(url));
       QD_RETURN_IF_ERROR(PreparePostgresSchema(connection.get(), 2));
       return connection;
     },
     [](const std::string& url) { return OpenPostgresJobStore(url); },
     [](const std::string&) { return SharedPostgresServer().NewDatabase(); }},
};

class MigrationTest : public ::testing::TestWithParam<OldStore> {
 protected:
  MigrationTest() {
    char pattern[] = "/tmp/quantd-migration-XXXXXX";
    folder_ = mkdtemp(pattern);
    place_ = GetParam().place(folder_);
  }
  ~MigrationTest() override { RemoveTree(folder_).IgnoreError(); }

  std::string folder_;
  std::string place_;
};

// A job's row as those versions wrote it.
std::string InsertJobSql(int seq, int state) {
  return absl::StrCat(
      "INSERT INTO jobs(seq, name, tenant, sweep, needs, version, state, priority, not_before, "
      "clock_due, lease_expires, queued_time, run_time, progress_time, end_time, lease_worker, "
      "fencing_token, lease_reported, attempt_events, counted_attempts, blocks_done, "
      "released_in_row, outcome_token, outcome_digest, outcome_state, last_sequence, record) "
      "VALUES(",
      seq, ", 'tenants/t/jobs/", seq, "', 't', 0, 1, 1, ", state, ", 0, 0, ",
      "9223372036854775807, 9223372036854775807, 0, 0, 0, 10, '', ",
      "1, 0, 0, 0, 0, 0, 0, '', 0, 0, '')");
}

TEST_P(MigrationTest, ResultsAmongTheRecordsAreFoundAndThoseOfRemovedJobsForgotten) {
  {
    auto old = GetParam().prepare(place_);
    ASSERT_TRUE(old.ok()) << old.status();
    ASSERT_TRUE((*old)->Execute(InsertJobSql(7, 5)).ok());
    ASSERT_TRUE((*old)->Execute(InsertJobSql(8, 2)).ok());
    for (const auto& [collection, key, body] :
         std::vector<std::array<const char*, 3>>{{"results/t", "found", "tenants/t/jobs/7"},
                                                 {"results/t", "removed", "tenants/t/jobs/6"},
                                                 {"tokens", "kept", "tenants/t/jobs/7"}}) {
      ASSERT_TRUE((*old)
                      ->Query("INSERT INTO records(collection, key, body) VALUES(?, ?, ?)",
                              collection, key, body)
                      .Run()
                      .ok());
    }
  }
  auto store = GetParam().open(place_);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)
                  ->Read([&](ReadTxn& txn) -> absl::Status {
                    EXPECT_EQ(*txn.FindResult("t", "found"), std::optional<int64_t>(7));
                    EXPECT_EQ(*txn.FindResult("t", "removed"), std::nullopt);
                    EXPECT_EQ(*txn.FindResult("other", "found"), std::nullopt);
                    EXPECT_EQ(txn.Records("results/t")->size(), 0u);
                    EXPECT_EQ(txn.Records("tokens")->size(), 1u);
                    EXPECT_EQ(txn.GetJob(7)->gpus, 0);
                    EXPECT_EQ(txn.TenantCounts()->size(), 1u) << "of the one that is queued";
                    return absl::OkStatus();
                  })
                  .ok());
}

INSTANTIATE_TEST_SUITE_P(Stores, MigrationTest, ::testing::ValuesIn(kStores),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quantd
