// Reads of what is stored. What the queue asks is in sql_queue.cc, the writes are in sql_txn.cc.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/store/sql_rows.h"
#include "server/store/sql_txn.h"

namespace quantd {
namespace {

// A database may hand over a whole answer at once: bounds what is in memory beside the page.
constexpr int64_t kEventsAtOnce = 64;

std::string Placeholders(size_t count) {
  return absl::StrJoin(std::vector<std::string>(count, "?"), ", ");
}

template <typename Row>
absl::StatusOr<Row> One(std::vector<Row> rows, absl::string_view name) {
  if (rows.empty()) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  return std::move(rows.front());
}

}  // namespace

absl::StatusOr<JobRow> SqlTxn::GetJob(absl::string_view name) {
  static const std::string sql = SelectSql<JobRow>("jobs", "WHERE name=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<JobRow>(db_.Query(sql, name)), "reading ", name);
  return One(std::move(rows), name);
}

absl::StatusOr<JobRow> SqlTxn::GetJob(int64_t seq) {
  static const std::string sql = SelectSql<JobRow>("jobs", "WHERE seq=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<JobRow>(db_.Query(sql, seq)), "reading job ", seq);
  return One(std::move(rows), absl::StrCat("job ", seq));
}

template <typename Message>
absl::StatusOr<Message> SqlTxn::JobBlob(int64_t seq, int64_t kind) {
  auto query = db_.Query("SELECT body FROM job_blobs WHERE job=? AND kind=?", seq, kind);
  Message message;
  QD_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (there) query.Next(&message);
  QD_RETURN_IF_ERROR(query.Parsed(), "reading job ", seq);
  return message;
}

absl::StatusOr<v1::JobSpec> SqlTxn::GetSpec(int64_t seq) { return JobBlob<v1::JobSpec>(seq, 1); }

absl::StatusOr<v1::Job> SqlTxn::GetOutcome(int64_t seq) { return JobBlob<v1::Job>(seq, 2); }

absl::StatusOr<v1::Manifest> SqlTxn::GetCheckpoint(int64_t seq) {
  return JobBlob<v1::Manifest>(seq, 3);
}

absl::StatusOr<std::vector<JobRow>> SqlTxn::ListJobs(const JobFilter& filter) {
  std::string where = "WHERE tenant=? AND (?=0 OR seq<?)";
  if (filter.sweep_seq != 0) absl::StrAppend(&where, " AND sweep=?");
  if (!filter.states.empty()) {
    absl::StrAppend(&where, " AND state IN (", Placeholders(filter.states.size()), ")");
  }
  for (size_t i = 0; i < filter.labels.size(); ++i) {
    absl::StrAppend(&where,
                    " AND EXISTS(SELECT 1 FROM job_labels WHERE job=seq AND key=? AND value=?)");
  }
  absl::StrAppend(&where, " ORDER BY seq DESC LIMIT ?");
  auto query = db_.Query(SelectSql<JobRow>("jobs", where), filter.tenant, filter.before_seq,
                         filter.before_seq);
  if (filter.sweep_seq != 0) query.Bind(filter.sweep_seq);
  for (const v1::JobState state : filter.states) query.Bind(state);
  for (const auto& [key, value] : filter.labels) {
    query.Bind(key);
    query.Bind(value);
  }
  query.Bind(filter.limit);
  return Rows<JobRow>(std::move(query));
}

absl::StatusOr<std::vector<JobRow>> SqlTxn::SweepJobs(int64_t sweep_seq) {
  static const std::string sql =
      SelectSql<JobRow>("jobs", "WHERE sweep=? AND sweep!=0 ORDER BY seq");
  return Rows<JobRow>(db_.Query(sql, sweep_seq));
}

absl::StatusOr<int64_t> SqlTxn::UnendedSweepJobs(int64_t sweep_seq) {
  return db_.Integer(
      0, "SELECT COUNT(*) FROM jobs WHERE sweep=? AND sweep!=0 AND end_time=9223372036854775807",
      sweep_seq);
}

absl::StatusOr<std::vector<JobCount>> SqlTxn::CountJobs() {
  auto query = db_.Query(
      "SELECT n.key, c.state, c.jobs FROM (SELECT needs, state, COUNT(*) AS jobs FROM jobs "
      "GROUP BY needs, state) c JOIN needs n ON n.id=c.needs");
  std::vector<JobCount> counts;
  while (true) {
    QD_ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return counts;
    JobCount& count = counts.emplace_back();
    query.Next(&count.needs_key);
    query.Next(&count.state);
    query.Next(&count.count);
  }
}

absl::StatusOr<std::vector<DependencyRow>> SqlTxn::Dependencies(int64_t seq) {
  return Rows<DependencyRow>(
      db_.Query("SELECT d.job, d.on_job, d.condition, j.state FROM dependencies d JOIN jobs j ON "
                "j.seq=d.on_job WHERE d.job=? ORDER BY d.on_job",
                seq));
}

absl::StatusOr<std::vector<DependencyRow>> SqlTxn::Dependents(int64_t seq) {
  return Rows<DependencyRow>(
      db_.Query("SELECT d.job, d.on_job, d.condition, j.state FROM dependencies d JOIN jobs j ON "
                "j.seq=d.on_job WHERE d.on_job=? ORDER BY d.job",
                seq));
}

absl::StatusOr<std::vector<EventRow>> SqlTxn::Events(absl::string_view sql, int64_t owner,
                                                     const EventFilter& filter,
                                                     int64_t (*after_of)(const EventRow&)) {
  std::vector<EventRow> rows;
  int64_t bytes = 0;
  int64_t after = filter.after;
  for (int64_t left = filter.limit; left > 0 && bytes < filter.bytes_max; left -= kEventsAtOnce) {
    const int64_t wanted = std::min(left, kEventsAtOnce);
    auto query = db_.Query(sql, owner, after, int64_t{filter.kinds}, wanted);
    int64_t got = 0;
    while (bytes < filter.bytes_max) {
      QD_ASSIGN_OR_RETURN(const bool more, query.Step());
      if (!more) break;
      EventRow& row = rows.emplace_back();
      query.Next(&row.position);
      query.Next(&row.event);
      QD_RETURN_IF_ERROR(query.Parsed());
      bytes += row.event.ByteSizeLong();
      after = after_of(row);
      ++got;
    }
    if (got < wanted) break;
  }
  return rows;
}

absl::StatusOr<std::vector<EventRow>> SqlTxn::ReadEvents(int64_t seq, const EventFilter& filter) {
  return Events(
      "SELECT position, body FROM events WHERE job=? AND sequence>? AND "
      "((? >> CAST(kind AS INTEGER)) & 1)=1 ORDER BY sequence LIMIT ?",
      seq, filter, [](const EventRow& row) { return row.event.sequence(); });
}

absl::StatusOr<std::vector<EventRow>> SqlTxn::ReadSweepEvents(int64_t sweep_seq,
                                                              const EventFilter& filter) {
  return Events(
      "SELECT position, body FROM events WHERE sweep=? AND sweep!=0 AND position>? AND "
      "((? >> CAST(kind AS INTEGER)) & 1)=1 ORDER BY position LIMIT ?",
      sweep_seq, filter, [](const EventRow& row) { return row.position; });
}

absl::StatusOr<SweepRow> SqlTxn::GetSweep(absl::string_view name) {
  static const std::string sql = SelectSql<SweepRow>("sweeps", "WHERE name=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<SweepRow>(db_.Query(sql, name)), "reading ", name);
  return One(std::move(rows), name);
}

absl::StatusOr<SweepRow> SqlTxn::GetSweep(int64_t seq) {
  static const std::string sql = SelectSql<SweepRow>("sweeps", "WHERE seq=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<SweepRow>(db_.Query(sql, seq)), "reading sweep ", seq);
  return One(std::move(rows), absl::StrCat("sweep ", seq));
}

absl::StatusOr<v1::SweepSpec> SqlTxn::GetSweepSpec(int64_t seq) {
  auto query = db_.Query("SELECT spec FROM sweeps WHERE seq=?", seq);
  v1::SweepSpec spec;
  QD_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (there) query.Next(&spec);
  QD_RETURN_IF_ERROR(query.Parsed(), "reading sweep ", seq);
  return spec;
}

absl::StatusOr<std::vector<SweepRow>> SqlTxn::ListSweeps(absl::string_view tenant,
                                                         int64_t before_seq, int64_t limit) {
  static const std::string sql =
      SelectSql<SweepRow>("sweeps", "WHERE tenant=? AND (?=0 OR seq<?) ORDER BY seq DESC LIMIT ?");
  return Rows<SweepRow>(db_.Query(sql, tenant, before_seq, before_seq, limit));
}

absl::StatusOr<std::optional<WorkerRow>> SqlTxn::GetWorker(absl::string_view name) {
  static const std::string sql = SelectSql<WorkerRow>("workers", "WHERE name=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<WorkerRow>(db_.Query(sql, name)), "reading ", name);
  if (rows.empty()) return std::nullopt;
  return std::move(rows.front());
}

absl::StatusOr<std::vector<WorkerRow>> SqlTxn::Workers() {
  static const std::string sql = SelectSql<WorkerRow>("workers", "ORDER BY name");
  return Rows<WorkerRow>(db_.Query(sql));
}

absl::StatusOr<std::vector<JobRow>> SqlTxn::WorkerLeases(absl::string_view worker) {
  static const std::string sql =
      SelectSql<JobRow>("jobs", "WHERE lease_worker=? AND lease_worker!='' ORDER BY seq");
  return Rows<JobRow>(db_.Query(sql, worker));
}

absl::StatusOr<std::optional<RequestRow>> SqlTxn::GetRequest(absl::string_view tenant,
                                                             absl::string_view request_id) {
  static const std::string sql =
      SelectSql<RequestRow>("requests", "WHERE tenant=? AND request_id=?");
  QD_ASSIGN_OR_RETURN(auto rows, Rows<RequestRow>(db_.Query(sql, tenant, request_id)));
  if (rows.empty()) return std::nullopt;
  return std::move(rows.front());
}

absl::StatusOr<std::optional<int64_t>> SqlTxn::FindResult(absl::string_view tenant,
                                                          absl::string_view inputs) {
  QD_ASSIGN_OR_RETURN(
      const int64_t job,
      db_.Integer(0, "SELECT job FROM results WHERE tenant=? AND inputs=?", tenant, inputs));
  return job == 0 ? std::nullopt : std::optional<int64_t>(job);
}

absl::StatusOr<std::vector<KeptRecord>> SqlTxn::Records(absl::string_view collection) {
  auto query =
      db_.Query("SELECT key, body FROM records WHERE collection=? ORDER BY key", collection);
  std::vector<KeptRecord> records;
  while (true) {
    QD_ASSIGN_OR_RETURN(const bool there, query.Step());
    if (!there) return records;
    KeptRecord& record = records.emplace_back();
    query.Next(&record.key);
    query.Next(&record.body);
  }
}

absl::StatusOr<std::optional<std::string>> SqlTxn::GetRecord(absl::string_view collection,
                                                             absl::string_view key) {
  auto query = db_.Query("SELECT body FROM records WHERE collection=? AND key=?", collection, key);
  QD_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (!there) return std::nullopt;
  std::string body;
  query.Next(&body);
  return body;
}

absl::StatusOr<std::string> SqlTxn::GetSetting(absl::string_view name) {
  auto query = db_.Query("SELECT value FROM settings WHERE name=?", name);
  std::string value;
  QD_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (there) query.Next(&value);
  return value;
}

absl::StatusOr<std::vector<JobReferences>> SqlTxn::ReadReferences(int64_t after, int64_t limit) {
  return Rows<JobReferences>(
      db_.Query("SELECT j.seq, j.tenant, j.state, s.body, o.body, c.body FROM jobs j "
                "LEFT JOIN job_blobs s ON s.job=j.seq AND s.kind=1 "
                "LEFT JOIN job_blobs o ON o.job=j.seq AND o.kind=2 "
                "LEFT JOIN job_blobs c ON c.job=j.seq AND c.kind=3 "
                "WHERE j.seq>? ORDER BY j.seq LIMIT ?",
                after, limit));
}

absl::StatusOr<std::vector<GarbageMark>> SqlTxn::GarbageMarks(
    const std::vector<std::string>& keys) {
  const std::string sql = absl::StrCat("SELECT key, since, doomed FROM garbage WHERE key IN (",
                                       db_.TextsOfJson(), ") ORDER BY key");
  return Rows<GarbageMark>(db_.Query(sql, JsonOf(keys)));
}

absl::StatusOr<std::vector<GarbageMark>> SqlTxn::AllGarbageMarks() {
  return Rows<GarbageMark>(db_.Query("SELECT key, since, doomed FROM garbage ORDER BY key"));
}

absl::StatusOr<std::string> SqlTxn::GetNeeds(int64_t needs) {
  auto query = db_.Query("SELECT key FROM needs WHERE id=?", needs);
  std::string key;
  QD_ASSIGN_OR_RETURN(const bool there, query.Step());
  if (there) query.Next(&key);
  return key;
}

absl::StatusOr<bool> SqlTxn::BecomesRunnable(absl::Time after, absl::Time until) {
  QD_ASSIGN_OR_RETURN(
      const int64_t there,
      db_.Integer(0, "SELECT 1 FROM jobs WHERE state=2 AND not_before>? AND not_before<=? LIMIT 1",
                  after, until));
  return there != 0;
}

absl::StatusOr<std::vector<int64_t>> SqlTxn::ExpiredLeases(absl::Time now, int64_t limit) {
  return Rows<int64_t>(
      db_.Query("SELECT seq FROM jobs WHERE lease_worker!='' AND lease_expires<=? "
                "ORDER BY lease_expires LIMIT ?",
                now, limit));
}

absl::StatusOr<std::vector<int64_t>> SqlTxn::DueClocks(absl::Time now, int64_t limit) {
  return Rows<int64_t>(
      db_.Query("SELECT seq FROM jobs WHERE clock_due<9223372036854775807 AND "
                "clock_due<=? ORDER BY clock_due LIMIT ?",
                now, limit));
}

absl::StatusOr<std::vector<int64_t>> SqlTxn::Leased() {
  return Rows<int64_t>(db_.Query("SELECT seq FROM jobs WHERE lease_worker!='' ORDER BY seq"));
}

}  // namespace quantd
