// The writer thread, the group commit, the pool of readers and the checkpoints.
#include "server/store/sqlite_job_store.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_lock.h"
#include "server/store/sqlite_schema.h"
#include "server/store/sqlite_txn.h"

namespace quantd {
namespace {

constexpr size_t kGroupMax = 256;  // Bounds how long the first of a group waits for its commit.
constexpr size_t kPendingMax =
    20'000;  // Beyond it a caller is told to come back, instead of memory growing.
constexpr size_t kReadersMax = 8;  // More would only fight for two cores.
constexpr int kCheckpointPages =
    1'000;  // 4 MiB of WAL: copied into the database beside the writer.
constexpr int kTruncatePages =
    16'384;  // 64 MiB: readers kept it from shrinking; the writer waits for them.
constexpr int64_t kReserveBytes =
    16 << 20;  // With less free disk than this the store calls itself unwell.

// Counts by upper bounds.
struct Histogram {
  explicit Histogram(std::vector<double> upper)
      : bounds(std::move(upper)), counts(bounds.size() + 1) {}
  void Add(double value) {
    ++counts[std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin()];
    sum += value;
  }
  std::vector<double> bounds;
  std::vector<int64_t> counts;
  double sum = 0;
};

class SqliteJobStore final : public JobStore {
 public:
  SqliteJobStore(std::string path, DatabaseLock lock, std::unique_ptr<SqliteConnection> writer,
                 std::unique_ptr<SqliteConnection> checkpointer)
      : path_(std::move(path)),
        lock_(std::move(lock)),
        writer_(std::move(writer)),
        checkpointer_(std::move(checkpointer)) {
    sqlite3_wal_hook(writer_->handle(), &SqliteJobStore::OnWalPages, this);
    write_thread_ = std::thread([this] { WriteLoop(); });
    checkpoint_thread_ = std::thread([this] { CheckpointLoop(); });
  }
  ~SqliteJobStore() override;

  void Submit(WriteFn write, DoneFn done) override;
  absl::Status Read(const ReadFn& read) override;
  JobStoreMetrics Metrics() const override;
  absl::Status Health() const override;

 private:
  struct Write {
    WriteFn run;
    DoneFn done;
    absl::Status result;
  };

  static int OnWalPages(void* self, sqlite3*, const char*, int pages);
  void WriteLoop();
  void CheckpointLoop();
  bool Unwell() const {
    absl::MutexLock lock(&mutex_);
    return !last_commit_.ok();
  }
  // All of a group's writes in one SQLite transaction; sets every result.
  absl::Status RunGroup(std::vector<Write>* group);
  // One write inside a savepoint. An error returned (rather than put into write->result) ends the
  // group.
  absl::Status RunOne(Write* write);
  void Account(const absl::Status& commit, size_t group_size, absl::Duration took, bool wrote);
  absl::StatusOr<std::unique_ptr<SqliteConnection>> TakeReader();
  void GiveReader(std::unique_ptr<SqliteConnection> reader);

  const std::string path_;
  const DatabaseLock lock_;
  const std::unique_ptr<SqliteConnection> writer_;        // Of the write thread.
  const std::unique_ptr<SqliteConnection> checkpointer_;  // Of the checkpoint thread.
  std::thread write_thread_;
  std::thread checkpoint_thread_;

  mutable absl::Mutex mutex_;
  std::deque<Write> pending_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  int wal_pages_ ABSL_GUARDED_BY(mutex_) = 0;
  bool checkpoint_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_commit_ ABSL_GUARDED_BY(mutex_);
  int64_t failed_commits_ ABSL_GUARDED_BY(mutex_) = 0;
  Histogram commit_seconds_ ABSL_GUARDED_BY(mutex_){
      {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}};
  Histogram group_sizes_ ABSL_GUARDED_BY(mutex_){{1, 2, 4, 8, 16, 32, 64, 128, 256}};

  mutable absl::Mutex readers_mutex_;
  std::vector<std::unique_ptr<SqliteConnection>> readers_ ABSL_GUARDED_BY(readers_mutex_);
  size_t readers_out_ ABSL_GUARDED_BY(readers_mutex_) = 0;
};

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
  write_thread_.join();
  checkpoint_thread_.join();
  {
    absl::MutexLock lock(&readers_mutex_);
    readers_.clear();
  }
  sqlite3_wal_hook(writer_->handle(), nullptr, nullptr);
  absl::Status status = writer_->Execute("UPDATE counters SET value=0 WHERE name='open'");
  status.Update(writer_->Execute("PRAGMA wal_checkpoint(TRUNCATE)"));
  if (!status.ok()) {
    LogWarning("the database was not closed cleanly; the next start checks it",
               {{"path", path_}, {"error", status.ToString()}});
  }
}

void SqliteJobStore::Submit(WriteFn write, DoneFn done) {
  absl::Status refused;
  {
    absl::MutexLock lock(&mutex_);
    if (!closing_ && pending_.size() < kPendingMax) {
      pending_.push_back({.run = std::move(write), .done = std::move(done), .result = {}});
      return;
    }
    refused = closing_ ? absl::UnavailableError("the store is closing")
                       : absl::ResourceExhaustedError(absl::StrCat(
                             kPendingMax, " writes wait for the disk already; try again later"));
  }
  done(refused);
}

void SqliteJobStore::WriteLoop() {
  while (true) {
    std::vector<Write> group;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](SqliteJobStore* store) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return store->closing_ || !store->pending_.empty();
          },
          this));
      if (pending_.empty()) return;
      while (!pending_.empty() && group.size() < kGroupMax) {
        group.push_back(std::move(pending_.front()));
        pending_.pop_front();
      }
    }
    const absl::Duration start = Clock::Real().Monotonic();
    const int64_t changes = sqlite3_total_changes64(writer_->handle());
    const absl::Status commit = RunGroup(&group);
    Account(commit, group.size(), Clock::Real().Monotonic() - start,
            sqlite3_total_changes64(writer_->handle()) != changes);
    for (Write& write : group) write.done(commit.ok() ? write.result : commit);
    int pages = 0;
    {
      absl::MutexLock lock(&mutex_);
      pages = wal_pages_;
    }
    if (pages >= kTruncatePages) writer_->Execute("PRAGMA wal_checkpoint(TRUNCATE)").IgnoreError();
  }
}

absl::Status SqliteJobStore::RunGroup(std::vector<Write>* group) {
  absl::Status status = writer_->Query("BEGIN IMMEDIATE").Run();
  // After a failed commit even a group that only reads tries a write, so that Health learns of the
  // recovery.
  if (status.ok() && Unwell()) {
    status = writer_->Query("UPDATE counters SET value=value WHERE name='open'").Run();
  }
  for (size_t i = 0; status.ok() && i < group->size(); ++i) status = RunOne(&(*group)[i]);
  if (status.ok()) status = writer_->Query("COMMIT").Run();
  // A full disk may have ended the transaction already.
  if (!status.ok() && sqlite3_get_autocommit(writer_->handle()) == 0) {
    writer_->Query("ROLLBACK").Run().IgnoreError();
  }
  return Annotate(status, "committing to the database");
}

absl::Status SqliteJobStore::RunOne(Write* write) {
  QD_RETURN_IF_ERROR(writer_->Query("SAVEPOINT one").Run());
  {
    SqliteTxn txn(writer_.get());
    write->result = write->run(txn);
  }
  if (sqlite3_get_autocommit(writer_->handle()) != 0) {
    return write->result.ok() ? absl::InternalError("the transaction ended early") : write->result;
  }
  if (!write->result.ok()) QD_RETURN_IF_ERROR(writer_->Query("ROLLBACK TO one").Run());
  return writer_->Query("RELEASE one").Run();
}

void SqliteJobStore::Account(const absl::Status& commit, size_t group_size, absl::Duration took,
                             bool wrote) {
  // The first of a row of failures: a full disk would fill the log as well.
  if (!commit.ok() && !Unwell()) {
    LogError("commits fail",
             {{"path", path_}, {"error", commit.ToString()}, {"writes", group_size}});
  }
  absl::MutexLock lock(&mutex_);
  if (!commit.ok()) ++failed_commits_;
  if (!commit.ok() || wrote) last_commit_ = commit;
  if (!wrote) return;
  commit_seconds_.Add(absl::ToDoubleSeconds(took));
  group_sizes_.Add(static_cast<double>(group_size));
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
    if (absl::Status status = checkpointer_->Execute("PRAGMA wal_checkpoint(PASSIVE)");
        !status.ok()) {
      LogWarning("checkpoint failed", {{"path", path_}, {"error", status.ToString()}});
    }
  }
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteJobStore::TakeReader() {
  {
    absl::MutexLock lock(&readers_mutex_);
    readers_mutex_.Await(absl::Condition(
        +[](SqliteJobStore* store) ABSL_NO_THREAD_SAFETY_ANALYSIS {
          return !store->readers_.empty() || store->readers_out_ < kReadersMax;
        },
        this));
    ++readers_out_;
    if (!readers_.empty()) {
      auto reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  auto opened = SqliteConnection::Open(path_, /*read_only=*/true);
  if (!opened.ok()) GiveReader(nullptr);
  return opened;
}

void SqliteJobStore::GiveReader(std::unique_ptr<SqliteConnection> reader) {
  absl::MutexLock lock(&readers_mutex_);
  --readers_out_;
  if (reader != nullptr) readers_.push_back(std::move(reader));
}

absl::Status SqliteJobStore::Read(const ReadFn& read) {
  QD_ASSIGN_OR_RETURN(auto reader, TakeReader());
  absl::Status status = reader->Query("BEGIN").Run();
  if (status.ok()) {
    SqliteTxn txn(reader.get());
    status = read(txn);
    if (sqlite3_get_autocommit(reader->handle()) == 0) {
      reader->Query("ROLLBACK").Run().IgnoreError();
    }
  }
  GiveReader(std::move(reader));
  return status;
}

JobStoreMetrics SqliteJobStore::Metrics() const {
  JobStoreMetrics metrics;
  metrics.wal_bytes = FileSize(path_ + "-wal").value_or(0);
  absl::MutexLock lock(&mutex_);
  metrics.commit_seconds_bounds = commit_seconds_.bounds;
  metrics.commit_seconds_counts = commit_seconds_.counts;
  metrics.commit_seconds_sum = commit_seconds_.sum;
  metrics.group_size_bounds = group_sizes_.bounds;
  metrics.group_size_counts = group_sizes_.counts;
  metrics.group_size_sum = group_sizes_.sum;
  metrics.failed_commits = failed_commits_;
  metrics.pending_writes = static_cast<int64_t>(pending_.size());
  return metrics;
}

absl::Status SqliteJobStore::Health() const {
  {
    absl::MutexLock lock(&mutex_);
    if (closing_) return absl::UnavailableError("the store is closing");
    if (!last_commit_.ok()) return Annotate(last_commit_, "the last write failed");
  }
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
  return db->Execute("UPDATE counters SET value=1 WHERE name='open'");
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(const SqliteJobStoreOptions& options) {
  QD_ASSIGN_OR_RETURN(DatabaseLock lock, DatabaseLock::Take(options.path));
  QD_ASSIGN_OR_RETURN(auto writer, SqliteConnection::Open(options.path, /*read_only=*/false));
  QD_RETURN_IF_ERROR(Prepare(writer.get(), options), "opening ", options.path);
  QD_ASSIGN_OR_RETURN(auto checkpointer, SqliteConnection::Open(options.path, /*read_only=*/false));
  QD_RETURN_IF_ERROR(checkpointer->Execute(absl::StrCat(
      "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=", options.durable ? "FULL" : "OFF")));
  return std::make_unique<SqliteJobStore>(options.path, std::move(lock), std::move(writer),
                                          std::move(checkpointer));
}

absl::StatusOr<std::string> CheckSqliteIntegrity(const std::string& path) {
  QD_ASSIGN_OR_RETURN(DatabaseLock lock, DatabaseLock::Take(path));
  QD_ASSIGN_OR_RETURN(auto connection, SqliteConnection::Open(path, /*read_only=*/false));
  return Integrity(connection.get());
}

}  // namespace quantd
