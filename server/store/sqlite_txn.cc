// Writes. The reads are in sqlite_reads.cc.
#include "server/store/sqlite_txn.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/store/sqlite_rows.h"

namespace quantd {
namespace {
enum BlobKind : int64_t { kSpecBlob = 1, kOutcomeBlob = 2, kCheckpointBlob = 3 };
}  // namespace

absl::Status SqliteTxn::ExpectOneRow(absl::string_view what) {
  const int64_t changed = db_.changed_rows();
  if (changed == 1) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("updating ", what, ": it changed meanwhile; try again"));
}

absl::Status SqliteTxn::InsertJob(JobRow* row, const v1::JobSpec& spec) {
  static const std::string sql = InsertSql<JobRow>("INSERT", "jobs", /*with_seq=*/false);
  row->version = 1;
  {
    auto query = db_.Query(sql);
    BindColumns(*row, "name", &query);
    QD_RETURN_IF_ERROR(query.Run(), "inserting ", row->name);
  }
  row->seq = sqlite3_last_insert_rowid(db_.handle());
  QD_RETURN_IF_ERROR(PutJobBlob(row->seq, kSpecBlob, spec));
  for (const auto& [key, value] : spec.labels()) {
    QD_RETURN_IF_ERROR(
        db_.Query("INSERT INTO job_labels(job, key, value) VALUES(?, ?, ?)", row->seq, key, value)
            .Run());
  }
  return absl::OkStatus();
}

absl::Status SqliteTxn::UpdateJob(JobRow* row) {
  static const std::string sql = UpdateSql<JobRow>("jobs", "version", "seq=? AND version=?");
  const int64_t expected = row->version++;
  auto query = db_.Query(sql);
  BindColumns(*row, "version", &query);
  query.Bind(row->seq);
  query.Bind(expected);
  QD_RETURN_IF_ERROR(query.Run(), "updating ", row->name);
  return ExpectOneRow(row->name);
}

absl::Status SqliteTxn::PutJobBlob(int64_t seq, int64_t kind,
                                   const google::protobuf::MessageLite& body) {
  return db_
      .Query("INSERT OR REPLACE INTO job_blobs(job, kind, body) VALUES(?, ?, ?)", seq, kind, body)
      .Run();
}

absl::Status SqliteTxn::PutOutcome(int64_t seq, const v1::Job& outcome) {
  return PutJobBlob(seq, kOutcomeBlob, outcome);
}

absl::Status SqliteTxn::PutCheckpoint(int64_t seq, const v1::Manifest& checkpoint) {
  return PutJobBlob(seq, kCheckpointBlob, checkpoint);
}

absl::Status SqliteTxn::InsertDependency(const DependencyRow& row) {
  return db_
      .Query("INSERT OR REPLACE INTO dependencies(job, on_job, condition) VALUES(?, ?, ?)", row.job,
             row.on, int64_t{row.condition})
      .Run();
}

absl::Status SqliteTxn::AppendEvent(JobRow* row, v1::JobEvent event) {
  event.set_sequence(row->last_sequence + 1);
  event.set_job(row->name);
  QD_RETURN_IF_ERROR(
      db_.Query("INSERT INTO events(job, sequence, sweep, kind, body) VALUES(?, ?, ?, ?, ?)",
                row->seq, event.sequence(), row->sweep_seq, int64_t{event.event_case()}, event)
          .Run(),
      "appending event ", event.sequence(), " of ", row->name);
  row->last_sequence = event.sequence();
  return absl::OkStatus();
}

absl::StatusOr<int64_t> SqliteTxn::InternNeeds(absl::string_view key) {
  QD_ASSIGN_OR_RETURN(const int64_t known, db_.Integer(0, "SELECT id FROM needs WHERE key=?", key));
  if (known != 0) return known;
  QD_RETURN_IF_ERROR(db_.Query("INSERT INTO needs(key) VALUES(?)", key).Run());
  return sqlite3_last_insert_rowid(db_.handle());
}

absl::Status SqliteTxn::InsertSweep(SweepRow* row, const v1::SweepSpec& spec) {
  static const std::string sql =
      InsertSql<SweepRow>("INSERT", "sweeps", /*with_seq=*/false, "spec");
  row->version = 1;
  auto query = db_.Query(sql);
  BindColumns(*row, "name", &query);
  query.Bind(spec);
  QD_RETURN_IF_ERROR(query.Run(), "inserting ", row->name);
  row->seq = sqlite3_last_insert_rowid(db_.handle());
  return absl::OkStatus();
}

absl::Status SqliteTxn::UpdateSweep(SweepRow* row) {
  static const std::string sql = UpdateSql<SweepRow>("sweeps", "version", "seq=? AND version=?");
  const int64_t expected = row->version++;
  auto query = db_.Query(sql);
  BindColumns(*row, "version", &query);
  query.Bind(row->seq);
  query.Bind(expected);
  QD_RETURN_IF_ERROR(query.Run(), "updating ", row->name);
  return ExpectOneRow(row->name);
}

absl::Status SqliteTxn::PutWorker(const WorkerRow& row) {
  static const std::string sql = InsertSql<WorkerRow>("INSERT OR REPLACE", "workers", true);
  auto query = db_.Query(sql);
  BindColumns(row, "name", &query);
  return Annotate(query.Run(), absl::StrCat("storing ", row.name));
}

absl::Status SqliteTxn::TouchWorker(const WorkerRow& row) {
  return db_
      .Query(
          "UPDATE workers SET draining=?, last_seen=?, disk_free_bytes=?, request_id=?, "
          "request_job=?, request_token=? WHERE name=?",
          row.draining, row.last_seen, row.disk_free_bytes, row.request_id, row.request_job,
          row.request_token, row.name)
      .Run();
}

absl::Status SqliteTxn::DeleteWorker(absl::string_view name) {
  return db_.Query("DELETE FROM workers WHERE name=?", name).Run();
}

absl::Status SqliteTxn::InsertRequest(const RequestRow& row) {
  static const std::string sql = InsertSql<RequestRow>("INSERT", "requests", true);
  auto query = db_.Query(sql);
  BindColumns(row, "tenant", &query);
  return Annotate(query.Run(), absl::StrCat("storing request id ", row.request_id));
}

absl::StatusOr<int64_t> SqliteTxn::DeleteRequestsBefore(absl::Time time, int64_t limit) {
  QD_RETURN_IF_ERROR(db_.Query("DELETE FROM requests WHERE (tenant, request_id) IN "
                               "(SELECT tenant, request_id FROM requests WHERE time<? LIMIT ?)",
                               time, limit)
                         .Run());
  return db_.changed_rows();
}

absl::Status SqliteTxn::PutRecord(absl::string_view collection, const KeptRecord& record) {
  return db_
      .Query("INSERT OR REPLACE INTO records(collection, key, body) VALUES(?, ?, ?)", collection,
             record.key, record.body)
      .Run();
}

absl::Status SqliteTxn::DeleteRecord(absl::string_view collection, absl::string_view key) {
  return db_.Query("DELETE FROM records WHERE collection=? AND key=?", collection, key).Run();
}

absl::StatusOr<int64_t> SqliteTxn::NextFencingToken() {
  QD_RETURN_IF_ERROR(
      db_.Query("UPDATE counters SET value=value+1 WHERE name='fencing_token'").Run());
  QD_ASSIGN_OR_RETURN(const int64_t token,
                      db_.Integer(0, "SELECT value FROM counters WHERE name='fencing_token'"));
  if (token <= 0) return absl::DataLossError("the fencing counter is missing from the database");
  return token;
}

absl::StatusOr<int64_t> SqliteTxn::DeleteJobsEndedBefore(absl::Time time, int64_t limit) {
  QD_RETURN_IF_ERROR(
      db_.Query("DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs AS j WHERE end_time<?1 AND "
                "end_time<9223372036854775807 AND "
                "NOT EXISTS(SELECT 1 FROM dependencies WHERE on_job=j.seq) AND NOT EXISTS("
                "SELECT 1 FROM jobs AS k WHERE j.sweep!=0 AND k.sweep=j.sweep AND "
                "k.end_time=9223372036854775807) ORDER BY seq DESC LIMIT ?2)",
                time, limit)
          .Run());
  const int64_t deleted = db_.changed_rows();
  if (deleted > 0) {
    QD_RETURN_IF_ERROR(
        db_.Query("DELETE FROM sweeps WHERE NOT EXISTS(SELECT 1 FROM jobs WHERE sweep=sweeps.seq)")
            .Run());
  }
  return deleted;
}

}  // namespace quantd
