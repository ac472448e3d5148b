// The group commit as savepoints of one transaction, and the checkpoints of the write-ahead log.
#include "server/store/sqlite_job_store.h"

#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/group_writer.h"
#include "server/store/reader_pool.h"
#include "server/store/sql_txn.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_lock.h"
#include "server/store/sqlite_schema.h"

namespace quantd {
namespace {

constexpr size_t kGroupMax = 256;
constexpr int kCheckpointPages =
    1'000;  // 4 MiB of WAL: copied into the database beside the writer.
constexpr int kTruncatePages =
    16'384;  // 64 MiB: readers kept it from shrinking; the writer waits for them.
constexpr int64_t kReserveBytes =
    16 << 20;  // With less free disk than this the store calls itself unwell.

class SqliteJobStore final : public JobStore {
 public:
  SqliteJobStore(std::string path, absl::Time now, DatabaseLock lock,
                 std::unique_ptr<SqliteConnection> writer,
                 std::unique_ptr<SqliteConnection> checkpointer);
  ~SqliteJobStore() override;

  void Submit(WriteFn write, DoneFn done) override {
    group_writer_->Submit(std::move(write), std::move(done));
  }
  absl::Status Read(const ReadFn& read) override;
  absl::Time Now() const override {
    return opened_wall_ + (Clock::Real().Monotonic() - opened_monotonic_);
  }
  // Nobody else writes.
  void Follow(NewsFn news) override {}
  JobStoreMetrics Metrics() const override;
  absl::Status Health() const override;

 private:
  static int OnWalPages(void* self, sqlite3*, const char*, int pages);
  void CheckpointLoop();
  GroupWriter::Commit RunGroup(std::vector<GroupWriter::Write>* group, bool after_failure);
  absl::Status TryGroup(std::vector<GroupWriter::Write>* group, bool after_failure);
  // One write inside a savepoint. An error returned (rather than put into write->result) ends the
  // group.
  absl::Status RunOne(GroupWriter::Write* write);

  const std::string path_;
  const absl::Time opened_wall_;
  const absl::Duration opened_monotonic_ = Clock::Real().Monotonic();
  const DatabaseLock lock_;
  const std::unique_ptr<SqliteConnection> writer_;        // Of the write thread.
  const std::unique_ptr<SqliteConnection> checkpointer_;  // Of the checkpoint thread.
  ReaderPool<SqliteConnection> readers_;
  std::thread checkpoint_thread_;

  mutable absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  int wal_pages_ ABSL_GUARDED_BY(mutex_) = 0;
  bool checkpoint_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<GroupWriter> group_writer_;
};

SqliteJobStore::SqliteJobStore(std::string path, absl::Time now, DatabaseLock lock,
                               std::unique_ptr<SqliteConnection> writer,
                               std::unique_ptr<SqliteConnection> checkpointer)
    : path_(std::move(path)),
      opened_wall_(now),
      lock_(std::move(lock)),
      writer_(std::move(writer)),
      checkpointer_(std::move(checkpointer)),
      readers_([this] { return SqliteConnection::Open(path_, /*read_only=*/true); }) {
  sqlite3_wal_hook(writer_->handle(), &SqliteJobStore::OnWalPages, this);
  group_writer_ = std::make_unique<GroupWriter>(
      path_, kGroupMax, [this](std::vector<GroupWriter::Write>* group, bool after_failure) {
        return RunGroup(group, after_failure);
      });
  checkpoint_thread_ = std::thread([this] { CheckpointLoop(); });
}

int SqliteJobStore::OnWalPages(void* self, sqlite3*, const char*, int pages) {
  auto& store = *static_cast<SqliteJobStore*>(self);
  absl::MutexLock lock(&store.mutex_);
  store.wal_pages_ = pages;
  if (pages >= kCheckpointPages) store.checkpoint_wanted_ = true;
  return SQLITE_OK;
}

SqliteJobStore::~SqliteJobStore() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  group_writer_.reset();
  checkpoint_thread_.join();
  sqlite3_wal_hook(writer_->handle(), nullptr, nullptr);
  absl::Status status = writer_->Execute("UPDATE counters SET value=0 WHERE name='open'");
  status.Update(writer_->Execute("PRAGMA wal_checkpoint(TRUNCATE)"));
  if (!status.ok()) {
    LogWarning("the database was not closed cleanly; the next start checks it",
               {{"path", path_}, {"error", status.ToString()}});
  }
}

GroupWriter::Commit SqliteJobStore::RunGroup(std::vector<GroupWriter::Write>* group,
                                             bool after_failure) {
  int pages = 0;
  {
    absl::MutexLock lock(&mutex_);
    pages = wal_pages_;
  }
  if (pages >= kTruncatePages) writer_->Execute("PRAGMA wal_checkpoint(TRUNCATE)").IgnoreError();
  const int64_t changes = sqlite3_total_changes64(writer_->handle());
  const absl::Status status = TryGroup(group, after_failure);
  return {.status = status, .wrote = sqlite3_total_changes64(writer_->handle()) != changes};
}

absl::Status SqliteJobStore::TryGroup(std::vector<GroupWriter::Write>* group, bool after_failure) {
  absl::Status status = writer_->Query("BEGIN IMMEDIATE").Run();
  if (status.ok() && after_failure) {
    status = writer_->Query("UPDATE counters SET value=value WHERE name='open'").Run();
  }
  for (size_t i = 0; status.ok() && i < group->size(); ++i) status = RunOne(&(*group)[i]);
  FaultPoint("store/commit/before");
  if (status.ok()) status = writer_->Query("COMMIT").Run();
  FaultPoint("store/commit/after");
  // A full disk may have ended the transaction already.
  if (!status.ok() && sqlite3_get_autocommit(writer_->handle()) == 0) {
    writer_->Query("ROLLBACK").Run().IgnoreError();
  }
  return status;
}

absl::Status SqliteJobStore::RunOne(GroupWriter::Write* write) {
  QD_RETURN_IF_ERROR(writer_->Query("SAVEPOINT one").Run());
  {
    SqlTxn txn(writer_.get());
    write->result = write->run(txn);
  }
  FaultPoint("store/write/ran");
  if (sqlite3_get_autocommit(writer_->handle()) != 0) {
    return write->result.ok() ? absl::InternalError("the transaction ended early") : write->result;
  }
  if (!write->result.ok()) QD_RETURN_IF_ERROR(writer_->Query("ROLLBACK TO one").Run());
  return writer_->Query("RELEASE one").Run();
}

void SqliteJobStore::CheckpointLoop() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](SqliteJobStore* store) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return store->closing_ || store->checkpoint_wanted_;
          },
          this));
      if (closing_) return;
      checkpoint_wanted_ = false;
    }
    FaultPoint("store/log/copying");
    if (absl::Status status = checkpointer_->Execute("PRAGMA wal_checkpoint(PASSIVE)");
        !status.ok()) {
      LogWarning("checkpoint failed", {{"path", path_}, {"error", status.ToString()}});
    }
    FaultPoint("store/log/copied");
  }
}

absl::Status SqliteJobStore::Read(const ReadFn& read) {
  QD_ASSIGN_OR_RETURN(auto reader, readers_.Take());
  absl::Status status = reader->Query("BEGIN").Run();
  if (status.ok()) {
    SqlTxn txn(reader.get());
    status = read(txn);
    if (sqlite3_get_autocommit(reader->handle()) == 0) {
      reader->Query("ROLLBACK").Run().IgnoreError();
    }
  }
  readers_.Give(std::move(reader));
  return status;
}

JobStoreMetrics SqliteJobStore::Metrics() const {
  JobStoreMetrics metrics = group_writer_->Metrics();
  metrics.wal_bytes = FileSize(path_ + "-wal").value_or(0);
  return metrics;
}

absl::Status SqliteJobStore::Health() const {
  QD_RETURN_IF_ERROR(group_writer_->LastCommit());
  QD_ASSIGN_OR_RETURN(const int64_t free_bytes, FreeDiskBytes(path_));
  if (free_bytes >= kReserveBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("only ", FormatBytes(free_bytes), " of disk are free beside ", path_));
}

absl::StatusOr<std::string> Integrity(SqliteConnection* connection) {
  auto query = connection->Query("PRAGMA integrity_check(10)");
  std::string words;
  while (true) {
    QD_ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return words;
    std::string line;
    query.Next(&line);
    absl::StrAppend(&words, words.empty() ? "" : "; ", line);
  }
}

// What every start does before the first transaction.
absl::Status Prepare(SqliteConnection* db, const SqliteJobStoreOptions& options) {
  QD_RETURN_IF_ERROR(
      db->Execute("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; "
                  "PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-32768"));
  QD_RETURN_IF_ERROR(
      db->Execute(absl::StrCat("PRAGMA synchronous=", options.durable ? "FULL" : "OFF")));
  QD_RETURN_IF_ERROR(PrepareSchema(db));
  QD_ASSIGN_OR_RETURN(const int64_t open,
                      db->Integer(0, "SELECT value FROM counters WHERE name='open'"));
  if (open != 0 && options.durable) {
    LogInfo("the database was not closed cleanly; checking it", {{"path", options.path}});
    QD_ASSIGN_OR_RETURN(const std::string words, Integrity(db));
    if (words != "ok") {
      return absl::DataLossError(
          absl::StrCat("the database ", options.path, " is damaged (", words,
                       "); restore a backup, or move the file away to start with an empty queue"));
    }
  }
  FaultPoint("store/open/checked");
  QD_RETURN_IF_ERROR(db->Execute("UPDATE counters SET value=1 WHERE name='open'"));
  FaultPoint("store/open/marked");
  return absl::OkStatus();
}

// The wall clock's time, unless it was set back since the last run: the store's time never goes
// back, for what is in it (pauses, ends, a job's events) was measured by it.
absl::StatusOr<absl::Time> TimeToGoOnFrom(SqliteConnection* db) {
  const absl::Time now = Clock::Real().Now();
  QD_ASSIGN_OR_RETURN(
      const int64_t last,
      db->Integer(0,
                  "SELECT MAX(t) FROM (SELECT MAX(time) AS t FROM requests"
                  " UNION ALL SELECT MAX(last_seen) FROM workers"
                  " UNION ALL SELECT MAX(end_time) FROM jobs WHERE end_time < 9223372036854775807"
                  " UNION ALL SELECT MAX(queued_time) FROM jobs"
                  " WHERE queued_time < 9223372036854775807)"));
  if (ToMicros(now) >= last) return now;
  LogWarning("the wall clock was set back; the store's time goes on from where it was",
             {{"seconds", absl::ToDoubleSeconds(FromMicros(last) - now)}});
  return FromMicros(last);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const SqliteJobStoreOptions& options) {
  QD_ASSIGN_OR_RETURN(DatabaseLock lock, DatabaseLock::Take(options.path));
  QD_ASSIGN_OR_RETURN(auto writer, SqliteConnection::Open(options.path, /*read_only=*/false));
  QD_RETURN_IF_ERROR(Prepare(writer.get(), options), "opening ", options.path);
  QD_ASSIGN_OR_RETURN(auto checkpointer, SqliteConnection::Open(options.path, /*read_only=*/false));
  QD_RETURN_IF_ERROR(checkpointer->Execute(absl::StrCat(
      "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=", options.durable ? "FULL" : "OFF")));
  QD_ASSIGN_OR_RETURN(const absl::Time now, TimeToGoOnFrom(writer.get()), "opening ", options.path);
  return std::make_unique<SqliteJobStore>(options.path, now, std::move(lock), std::move(writer),
                                          std::move(checkpointer));
}

absl::StatusOr<std::string> CheckSqliteIntegrity(const std::string& path) {
  QD_ASSIGN_OR_RETURN(DatabaseLock lock, DatabaseLock::Take(path));
  QD_ASSIGN_OR_RETURN(auto connection, SqliteConnection::Open(path, /*read_only=*/false));
  return Integrity(connection.get());
}

}  // namespace quantd
