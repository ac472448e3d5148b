// The group commit under the advisory lock, the fate of commits in doubt, the shared clock, and the
// news from other schedulers by LISTEN and NOTIFY.
#include "server/store/postgres_job_store.h"

#include <poll.h>

#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/group_writer.h"
#include "server/store/postgres.h"
#include "server/store/postgres_schema.h"
#include "server/store/reader_pool.h"
#include "server/store/sql_txn.h"

namespace quantd {
namespace {

constexpr size_t kGroupMax = 256;
// A server that restarts is back within this, and a commit's fate known.
constexpr absl::Duration kDoubtTime = absl::Seconds(15);
constexpr absl::Duration kReconnectPause = absl::Milliseconds(200);
constexpr absl::Duration kReconnectPauseMax = absl::Seconds(5);
constexpr int kNewsPollMs = 200;           // How long closing may wait.
constexpr size_t kPayloadBytesMax = 7900;  // PostgreSQL takes less than 8,000.
constexpr char kChannel[] = "quantd";

// Text that goes into a statement as a literal.
std::string Literal(PGconn* connection, const std::string& text) {
  char* const quoted = PQescapeLiteral(connection, text.data(), text.size());
  std::string literal = quoted == nullptr ? "''" : quoted;
  PQfreemem(quoted);
  return literal;
}

class PostgresJobStore final : public JobStore {
 public:
  PostgresJobStore(std::string url, std::unique_ptr<PostgresConnection> writer)
      : url_(std::move(url)),
        place_(PostgresPlace(url_)),
        writer_(std::move(writer)),
        readers_([this] { return PostgresConnection::Open(url_); }) {
    writer_pid_ = PQbackendPID(writer_->handle());
    group_writer_ = std::make_unique<GroupWriter>(
        place_, kGroupMax, [this](std::vector<GroupWriter::Write>* group, bool after_failure) {
          return RunGroup(group, after_failure);
        });
    news_thread_ = std::thread([this] { NewsLoop(); });
  }
  ~PostgresJobStore() override {
    {
      absl::MutexLock lock(&mutex_);
      closing_ = true;
    }
    group_writer_.reset();
    news_thread_.join();
  }

  void Submit(WriteFn write, DoneFn done) override {
    group_writer_->Submit(std::move(write), std::move(done));
  }
  absl::Status Read(const ReadFn& read) override;
  absl::Time Now() const override {
    absl::MutexLock lock(&mutex_);
    return epoch_ + Clock::Real().Monotonic();
  }
  void Follow(NewsFn news) override {
    absl::MutexLock lock(&news_mutex_);
    news_ = std::move(news);
  }
  JobStoreMetrics Metrics() const override { return group_writer_->Metrics(); }
  absl::Status Health() const override { return group_writer_->LastCommit(); }

 private:
  enum class Way { kFast, kCareful };
  struct Attempt {
    absl::Status status;
    bool wrote = false;
    bool spoiled = false;  // One function's failure undid all: to be run again with care.
  };

  // Begins a write transaction: takes the lock, reads the server's clock.
  absl::Status Begin();
  GroupWriter::Commit RunGroup(std::vector<GroupWriter::Write>* group, bool after_failure);
  Attempt TryGroup(std::vector<GroupWriter::Write>* group, bool after_failure, Way way);
  // false: the whole group has to be run again the careful way.
  absl::StatusOr<bool> RunOne(GroupWriter::Write* write, Way way, std::vector<std::string>* news);
  absl::Status Commit(const std::vector<std::string>& news, bool wrote);
  // What became of a transaction whose commit was not answered.
  absl::Status Fate(int64_t transaction);
  absl::Status Connect();
  void Rollback() {
    if (!writer_->lost()) writer_->Execute("ROLLBACK").IgnoreError();
  }

  void NewsLoop();
  // Until the connection is lost or the store closes.
  void Listen(PostgresConnection* connection);
  void Tell(absl::string_view news);
  bool Closing() const {
    absl::MutexLock lock(&mutex_);
    return closing_;
  }

  const std::string url_;
  const std::string place_;
  std::unique_ptr<PostgresConnection> writer_;  // Of the write thread.
  ReaderPool<PostgresConnection> readers_;

  mutable absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  int writer_pid_ ABSL_GUARDED_BY(mutex_) = 0;
  // The server's time at the origin of our monotonic clock.
  absl::Time epoch_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex news_mutex_;
  NewsFn news_ ABSL_GUARDED_BY(news_mutex_);
  std::thread news_thread_;
  std::unique_ptr<GroupWriter> group_writer_;
};

absl::Status PostgresJobStore::Begin() {
  // The second statement sees what was committed before the first one got the lock: each has a
  // snapshot of its own.
  QD_ASSIGN_OR_RETURN(
      const auto row,
      writer_->Integers(absl::StrCat(
          "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; ", kPostgresWriteLock,
          "; SELECT value, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) "
          "FROM counters WHERE name='schema'")));
  const absl::Duration monotonic = Clock::Real().Monotonic();
  if (row.size() != 2) return absl::DataLossError("the schema's version is missing");
  if (row[0] != PostgresSchemaVersion()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "another quantd has brought the database to schema version ", row[0],
        " while this one, of version ", PostgresSchemaVersion(), ", was running; stop this one"));
  }
  absl::MutexLock lock(&mutex_);
  epoch_ = FromMicros(row[1]) - monotonic;
  return absl::OkStatus();
}

absl::Status PostgresJobStore::Connect() {
  QD_ASSIGN_OR_RETURN(writer_, PostgresConnection::Open(url_));
  LogInfo("connected to the database again", {{"store", place_}});
  absl::MutexLock lock(&mutex_);
  writer_pid_ = PQbackendPID(writer_->handle());
  return absl::OkStatus();
}

GroupWriter::Commit PostgresJobStore::RunGroup(std::vector<GroupWriter::Write>* group,
                                               bool after_failure) {
  for (const Way way : {Way::kFast, Way::kCareful}) {
    if (writer_->lost()) {
      if (absl::Status status = Connect(); !status.ok()) return {.status = status};
    }
    const Attempt attempt = TryGroup(group, after_failure, way);
    if (!attempt.spoiled) return {.status = attempt.status, .wrote = attempt.wrote};
  }
  return {.status = absl::InternalError("a careful group was spoiled")};
}

PostgresJobStore::Attempt PostgresJobStore::TryGroup(std::vector<GroupWriter::Write>* group,
                                                     bool after_failure, Way way) {
  const int64_t writes = writer_->writes();
  std::vector<std::string> news;
  absl::Status status = Begin();
  if (status.ok() && after_failure) {
    status = writer_->Query("UPDATE counters SET value=value WHERE name='schema'").Run();
  }
  bool spoiled = false;
  for (size_t i = 0; status.ok() && !spoiled && i < group->size(); ++i) {
    const absl::StatusOr<bool> kept = RunOne(&(*group)[i], way, &news);
    status = kept.status();
    spoiled = kept.ok() && !*kept;
  }
  const bool wrote = writer_->writes() != writes;
  if (status.ok() && !spoiled) {
    status = Commit(news, wrote);
  } else {
    Rollback();
  }
  return {.status = status, .wrote = wrote, .spoiled = spoiled && status.ok()};
}

absl::StatusOr<bool> PostgresJobStore::RunOne(GroupWriter::Write* write, Way way,
                                              std::vector<std::string>* news) {
  if (way == Way::kCareful) QD_RETURN_IF_ERROR(writer_->Execute("SAVEPOINT one"));
  const int64_t writes = writer_->writes();
  SqlTxn txn(writer_.get());
  write->result = write->run(txn);
  if (writer_->lost()) {
    return write->result.ok() ? absl::UnavailableError("the database went away") : write->result;
  }
  if (writer_->failed() && write->result.ok()) {
    write->result = absl::InternalError("the transaction failed early");
  }
  const bool undo = writer_->failed() || (!write->result.ok() && writer_->writes() != writes);
  if (way == Way::kFast) {
    if (undo) return false;
  } else {
    QD_RETURN_IF_ERROR(writer_->Execute(undo ? "ROLLBACK TO one; RELEASE one" : "RELEASE one"));
  }
  if (!write->result.ok()) return true;
  for (std::string& one : txn.TakeNews()) news->push_back(std::move(one));
  return true;
}

absl::Status PostgresJobStore::Commit(const std::vector<std::string>& news, bool wrote) {
  // One message to the server: notifications, and the transaction's number in case the answer to
  // the commit is lost.
  std::string sql;
  std::string payload;
  const auto flush = [&] {
    if (payload.empty()) return;
    absl::StrAppend(&sql, "SELECT pg_notify('", kChannel, "', ",
                    Literal(writer_->handle(), payload), "); ");
    payload.clear();
  };
  for (const std::string& one : news) {
    if (payload.size() + one.size() + 1 > kPayloadBytesMax) flush();
    absl::StrAppend(&payload, payload.empty() ? "" : "\n", one);
  }
  flush();
  int64_t transaction = 0;
  if (wrote) {
    QD_ASSIGN_OR_RETURN(const auto row,
                        writer_->Integers(absl::StrCat(
                            sql, "SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)")));
    transaction = row.empty() ? 0 : row.front();
    sql.clear();
  }
  const absl::Status status = writer_->Execute(sql + "COMMIT");
  if (status.ok() || !wrote || !writer_->lost()) {
    if (!status.ok()) Rollback();
    return status;
  }
  return Fate(transaction);
}

absl::Status PostgresJobStore::Fate(int64_t transaction) {
  const absl::Duration start = Clock::Real().Monotonic();
  absl::Status problem;
  while (Clock::Real().Monotonic() - start < kDoubtTime) {
    problem = writer_->lost() ? Connect() : absl::OkStatus();
    if (problem.ok()) {
      const auto row = writer_->Integers(
          absl::StrCat("SELECT CASE pg_xact_status(CAST('", transaction,
                       "' AS xid8)) WHEN 'committed' THEN 1 WHEN 'aborted' THEN 2 ELSE 0 END"));
      problem = row.status();
      const int64_t fate = row.ok() && !row->empty() ? row->front() : 0;
      if (fate == 1) return absl::OkStatus();
      if (fate == 2) {
        return absl::UnavailableError("the database went away before the commit; try again");
      }
    }
    // The old session may not have been noticed dead yet.
    absl::SleepFor(kReconnectPause);
  }
  return absl::UnavailableError(
      absl::StrCat("the database went away while it committed, and whether it did is not known: ",
                   problem.message()));
}

absl::Status PostgresJobStore::Read(const ReadFn& read) {
  QD_ASSIGN_OR_RETURN(auto reader, readers_.Take());
  constexpr char kBegin[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
  absl::Status status = reader->Execute(kBegin);
  if (reader->lost()) {
    // An idle connection does not notice that the server was restarted.
    auto fresh = PostgresConnection::Open(url_);
    if (!fresh.ok()) {
      readers_.Give(nullptr);
      return fresh.status();
    }
    reader = *std::move(fresh);
    status = reader->Execute(kBegin);
  }
  if (status.ok()) {
    SqlTxn txn(reader.get());
    status = read(txn);
    if (!reader->lost()) reader->Execute("ROLLBACK").IgnoreError();
  }
  if (reader->lost()) reader = nullptr;
  readers_.Give(std::move(reader));
  return status;
}

void PostgresJobStore::Tell(absl::string_view news) {
  absl::MutexLock lock(&news_mutex_);
  if (news_) news_(news);
}

void PostgresJobStore::Listen(PostgresConnection* connection) {
  PGconn* const handle = connection->handle();
  while (!Closing() && !connection->lost()) {
    pollfd wait{.fd = PQsocket(handle), .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, kNewsPollMs) <= 0) continue;
    if (PQconsumeInput(handle) == 0) return;
    while (PGnotify* const notify = PQnotifies(handle)) {
      bool own = false;
      {
        absl::MutexLock lock(&mutex_);
        own = notify->be_pid == writer_pid_;
      }
      if (!own) {
        for (const absl::string_view line : absl::StrSplit(notify->extra, '\n')) {
          if (!line.empty()) Tell(line);
        }
      }
      PQfreemem(notify);
    }
  }
}

void PostgresJobStore::NewsLoop() {
  absl::Duration pause = kReconnectPause;
  while (!Closing()) {
    auto connection = PostgresConnection::Open(url_);
    if (connection.ok() && (*connection)->Execute(absl::StrCat("LISTEN ", kChannel)).ok()) {
      pause = kReconnectPause;
      Tell("");  // What was published before is not known.
      Listen(connection->get());
      continue;
    }
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&closing_), pause);
    pause = std::min(2 * pause, kReconnectPauseMax);
  }
}

}  // namespace

bool IsPostgresUrl(absl::string_view database) {
  return absl::StartsWith(database, "postgres://") || absl::StartsWith(database, "postgresql://");
}

absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(const std::string& url) {
  QD_ASSIGN_OR_RETURN(auto writer, PostgresConnection::Open(url));
  QD_RETURN_IF_ERROR(PreparePostgresSchema(writer.get()), "opening ", PostgresPlace(url));
  auto store = std::make_unique<PostgresJobStore>(url, std::move(writer));
  // The first write sets the shared clock.
  QD_RETURN_IF_ERROR(store->Run([](Txn&) { return absl::OkStatus(); }), "opening ",
                     PostgresPlace(url));
  return store;
}

}  // namespace quantd
