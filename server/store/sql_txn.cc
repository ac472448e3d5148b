// Writes. The reads are in sql_reads.cc.
#include "server/store/sql_txn.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "server/store/sql_rows.h"

namespace quantd {
namespace {
enum BlobKind : int64_t { kSpecBlob = 1, kOutcomeBlob = 2, kCheckpointBlob = 3 };
}  // namespace

absl::Status SqlTxn::InsertJob(JobRow* row, const v1::JobSpec& spec) {
  static const std::string sql = InsertSql<JobRow>("jobs") + " RETURNING seq";
  row->version = 1;
  {
    auto query = db_.Query(sql);
    BindColumns(*row, "name", &query);
    QD_RETURN_IF_ERROR(query.Run(), "inserting ", row->name);
    query.Next(&row->seq);
  }
  FaultPoint("store/job/inserted");
  QD_RETURN_IF_ERROR(PutJobBlob(row->seq, kSpecBlob, spec));
  for (const auto& [key, value] : spec.labels()) {
    QD_RETURN_IF_ERROR(
        db_.Query("INSERT INTO job_labels(job, key, value) VALUES(?, ?, ?)", row->seq, key, value)
            .Run());
  }
  return absl::OkStatus();
}

template <typename Row>
absl::Status SqlTxn::UpdateRow(absl::string_view table, Row* row) {
  static const std::string sql = UpdateSql<Row>(table, "version", "seq=? AND version=?");
  const int64_t expected = row->version++;
  auto query = db_.Query(sql);
  BindColumns(*row, "version", &query);
  query.Bind(row->seq);
  query.Bind(expected);
  QD_RETURN_IF_ERROR(query.Run(), "updating ", row->name);
  if (db_.changed_rows() == 1) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("updating ", row->name, ": it changed meanwhile; try again"));
}

absl::Status SqlTxn::UpdateJob(JobRow* row) {
  QD_RETURN_IF_ERROR(UpdateRow("jobs", row));
  FaultPoint("store/job/updated");
  return absl::OkStatus();
}

absl::Status SqlTxn::UpdateSweep(SweepRow* row) { return UpdateRow("sweeps", row); }

absl::Status SqlTxn::PutJobBlob(int64_t seq, int64_t kind,
                                const google::protobuf::MessageLite& body) {
  return db_
      .Query(
          "INSERT INTO job_blobs(job, kind, body) VALUES(?, ?, ?) "
          "ON CONFLICT(job, kind) DO UPDATE SET body=excluded.body",
          seq, kind, body)
      .Run();
}

absl::Status SqlTxn::PutOutcome(int64_t seq, const v1::Job& outcome) {
  QD_RETURN_IF_ERROR(PutJobBlob(seq, kOutcomeBlob, outcome));
  FaultPoint("store/outcome/put");
  return absl::OkStatus();
}

absl::Status SqlTxn::PutCheckpoint(int64_t seq, const v1::Manifest& checkpoint) {
  QD_RETURN_IF_ERROR(PutJobBlob(seq, kCheckpointBlob, checkpoint));
  FaultPoint("store/checkpoint/put");
  return absl::OkStatus();
}

absl::Status SqlTxn::InsertDependency(const DependencyRow& row) {
  return db_
      .Query(
          "INSERT INTO dependencies(job, on_job, condition) VALUES(?, ?, ?) "
          "ON CONFLICT(job, on_job) DO UPDATE SET condition=excluded.condition",
          row.job, row.on, int64_t{row.condition})
      .Run();
}

absl::Status SqlTxn::AppendEvent(JobRow* row, v1::JobEvent event) {
  event.set_sequence(row->last_sequence + 1);
  event.set_job(row->name);
  QD_RETURN_IF_ERROR(
      db_.Query("INSERT INTO events(job, sequence, sweep, kind, body) VALUES(?, ?, ?, ?, ?)",
                row->seq, event.sequence(), row->sweep_seq, int64_t{event.event_case()}, event)
          .Run(),
      "appending event ", event.sequence(), " of ", row->name);
  FaultPoint("store/event/appended");
  row->last_sequence = event.sequence();
  return absl::OkStatus();
}

absl::StatusOr<int64_t> SqlTxn::InternNeeds(absl::string_view key) {
  QD_ASSIGN_OR_RETURN(const int64_t known, db_.Integer(0, "SELECT id FROM needs WHERE key=?", key));
  if (known != 0) return known;
  return db_.Integer(0, "INSERT INTO needs(key) VALUES(?) RETURNING id", key);
}

absl::Status SqlTxn::InsertSweep(SweepRow* row, const v1::SweepSpec& spec) {
  static const std::string sql = InsertSql<SweepRow>("sweeps", "spec") + " RETURNING seq";
  row->version = 1;
  auto query = db_.Query(sql);
  BindColumns(*row, "name", &query);
  query.Bind(spec);
  QD_RETURN_IF_ERROR(query.Run(), "inserting ", row->name);
  query.Next(&row->seq);
  return absl::OkStatus();
}

absl::Status SqlTxn::PutWorker(const WorkerRow& row) {
  static const std::string sql = InsertSql<WorkerRow>("workers") + OrReplaceSql<WorkerRow>();
  auto query = db_.Query(sql);
  BindColumns(row, "name", &query);
  return Annotate(query.Run(), absl::StrCat("storing ", row.name));
}

absl::Status SqlTxn::TouchWorker(const WorkerRow& row) {
  return db_
      .Query(
          "UPDATE workers SET draining=?, last_seen=?, disk_free_bytes=?, request_id=?, "
          "request_job=?, request_token=? WHERE name=?",
          row.draining, row.last_seen, row.disk_free_bytes, row.request_id, row.request_job,
          row.request_token, row.name)
      .Run();
}

absl::Status SqlTxn::DeleteWorker(absl::string_view name) {
  return db_.Query("DELETE FROM workers WHERE name=?", name).Run();
}

absl::Status SqlTxn::InsertRequest(const RequestRow& row) {
  static const std::string sql = InsertSql<RequestRow>("requests");
  auto query = db_.Query(sql);
  BindColumns(row, "tenant", &query);
  return Annotate(query.Run(), absl::StrCat("storing request id ", row.request_id));
}

absl::StatusOr<int64_t> SqlTxn::DeleteRequestsBefore(absl::Time time, int64_t limit) {
  QD_RETURN_IF_ERROR(db_.Query("DELETE FROM requests WHERE (tenant, request_id) IN "
                               "(SELECT tenant, request_id FROM requests WHERE time<? LIMIT ?)",
                               time, limit)
                         .Run());
  return db_.changed_rows();
}

absl::Status SqlTxn::PutResult(absl::string_view tenant, absl::string_view inputs, int64_t job) {
  return db_
      .Query(
          "INSERT INTO results(tenant, inputs, job) VALUES(?, ?, ?) "
          "ON CONFLICT(tenant, inputs) DO UPDATE SET job=excluded.job",
          tenant, inputs, job)
      .Run();
}

absl::Status SqlTxn::PutRecord(absl::string_view collection, const KeptRecord& record) {
  return db_
      .Query(
          "INSERT INTO records(collection, key, body) VALUES(?, ?, ?) "
          "ON CONFLICT(collection, key) DO UPDATE SET body=excluded.body",
          collection, record.key, record.body)
      .Run();
}

absl::Status SqlTxn::DeleteRecord(absl::string_view collection, absl::string_view key) {
  return db_.Query("DELETE FROM records WHERE collection=? AND key=?", collection, key).Run();
}

absl::Status SqlTxn::PutSetting(absl::string_view name, absl::string_view value) {
  return db_
      .Query(
          "INSERT INTO settings(name, value) VALUES(?, ?) "
          "ON CONFLICT(name) DO UPDATE SET value=excluded.value",
          name, value)
      .Run();
}

absl::Status SqlTxn::PutGarbageMark(const GarbageMark& mark) {
  return db_
      .Query(
          "INSERT INTO garbage(key, since, doomed) VALUES(?, ?, ?) "
          "ON CONFLICT(key) DO UPDATE SET since=excluded.since, doomed=excluded.doomed",
          mark.key, mark.since, mark.doomed)
      .Run();
}

absl::Status SqlTxn::DeleteGarbageMarks(const std::vector<std::string>& keys) {
  const std::string sql =
      absl::StrCat("DELETE FROM garbage WHERE key IN (", db_.TextsOfJson(), ")");
  return db_.Query(sql, JsonOf(keys)).Run();
}

absl::StatusOr<int64_t> SqlTxn::NextFencingToken() {
  QD_ASSIGN_OR_RETURN(
      const int64_t token,
      db_.Integer(0,
                  "UPDATE counters SET value=value+1 WHERE name='fencing_token' RETURNING value"));
  if (token <= 0) return absl::DataLossError("the fencing counter is missing from the database");
  FaultPoint("store/token/taken");
  return token;
}

absl::StatusOr<int64_t> SqlTxn::DeleteJobsEndedBefore(absl::Time time, int64_t limit) {
  QD_RETURN_IF_ERROR(
      db_.Query("DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs AS j WHERE end_time<? AND "
                "end_time<9223372036854775807 AND "
                "NOT EXISTS(SELECT 1 FROM dependencies WHERE on_job=j.seq) AND NOT EXISTS("
                "SELECT 1 FROM jobs AS k WHERE j.sweep!=0 AND k.sweep=j.sweep AND "
                "k.end_time=9223372036854775807) ORDER BY seq DESC LIMIT ?)",
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
