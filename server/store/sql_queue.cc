// What the queue asks at every lease and for every waiting job. Each hops over an index from one
// value to the next, so that it does not matter how many jobs wait.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/store/sql_rows.h"
#include "server/store/sql_txn.h"

namespace quantd {

absl::StatusOr<int64_t> SqlTxn::QueuedBetween(absl::string_view tenant, int64_t priority,
                                              int64_t first, int64_t end) {
  return db_.Integer(
      0,
      absl::StrCat("SELECT COUNT(*) FROM jobs", db_.IndexHint("jobs_position"),
                   " WHERE state=2 AND tenant=? AND priority=? AND seq>=? AND seq<?"),
      tenant, priority, first, end);
}

absl::StatusOr<std::vector<TenantCount>> SqlTxn::TenantCounts() {
  return Rows<TenantCount>(
      db_.Query("SELECT tenant, state, priority, count FROM tenant_counts WHERE count>0 "
                "ORDER BY tenant, state, priority"));
}

absl::StatusOr<std::vector<std::pair<int64_t, std::string>>> SqlTxn::QueuedNeeds() {
  const std::string least =
      absl::StrCat("SELECT MIN(needs) FROM jobs", db_.IndexHint("jobs_runnable"), " WHERE state=2");
  return Rows<std::pair<int64_t, std::string>>(
      db_.Query(absl::StrCat("WITH RECURSIVE hop(id) AS (", least, " UNION ALL SELECT (", least,
                             " AND needs>hop.id) FROM hop WHERE hop.id IS NOT NULL) "
                             "SELECT needs.id, needs.key FROM hop JOIN needs ON needs.id=hop.id "
                             "ORDER BY needs.id")));
}

absl::StatusOr<std::vector<SweepLoad>> SqlTxn::SweepLoads() {
  return Rows<SweepLoad>(db_.Query(
      "SELECT j.sweep, COUNT(*), s.max_parallel FROM jobs j JOIN sweeps s ON s.seq=j.sweep "
      "WHERE j.lease_worker!='' AND s.max_parallel>0 GROUP BY j.sweep, s.max_parallel"));
}

absl::StatusOr<std::vector<RunnableHead>> SqlTxn::RunnableHeads(
    const std::vector<int64_t>& needs, const std::vector<int64_t>& excluded_sweeps,
    absl::Time now) {
  // From tenant to tenant, within each from priority to priority, then the first job of each.
  const std::string jobs =
      absl::StrCat(" FROM jobs q", db_.IndexHint("jobs_runnable"), " WHERE q.state=2 AND q.needs=");
  const std::string sql = absl::StrCat(
      "WITH RECURSIVE tenants(needs, tenant) AS (SELECT w.value, (SELECT MIN(q.tenant)", jobs,
      "w.value) FROM (", db_.IntegersOfJson(),
      ") w UNION ALL SELECT t.needs, (SELECT MIN(q.tenant)", jobs,
      "t.needs AND q.tenant>t.tenant) FROM tenants t WHERE t.tenant IS NOT NULL), "
      "levels(needs, tenant, priority) AS (SELECT t.needs, t.tenant, (SELECT MAX(q.priority)",
      jobs,
      "t.needs AND q.tenant=t.tenant) FROM tenants t WHERE t.tenant IS NOT NULL UNION ALL "
      "SELECT l.needs, l.tenant, (SELECT MAX(q.priority)",
      jobs,
      "l.needs AND q.tenant=l.tenant AND q.priority<l.priority) FROM levels l "
      "WHERE l.priority IS NOT NULL), heads(tenant, priority, seq) AS (SELECT l.tenant, "
      "l.priority, (SELECT q.seq",
      jobs,
      "l.needs AND q.tenant=l.tenant AND q.priority=l.priority AND q.not_before<=? AND "
      "q.sweep NOT IN (",
      db_.IntegersOfJson(),
      ") ORDER BY q.seq LIMIT 1) FROM levels l WHERE l.priority IS NOT NULL) "
      // No join: PostgreSQL expects a million heads and would read all jobs for them.
      "SELECT h.seq, h.tenant, h.priority, (SELECT j.queued_time FROM jobs j WHERE j.seq=h.seq) "
      "FROM heads h WHERE h.seq IS NOT NULL");
  const auto json = [](const std::vector<int64_t>& values) {
    return absl::StrCat("[", absl::StrJoin(values, ","), "]");
  };
  return Rows<RunnableHead>(db_.Query(sql, json(needs), now, json(excluded_sweeps)));
}

absl::StatusOr<std::vector<LeasedJob>> SqlTxn::LeasedJobs() {
  return Rows<LeasedJob>(
      db_.Query("SELECT tenant, run_time, gpus FROM jobs WHERE lease_worker!='' ORDER BY seq"));
}

absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> SqlTxn::TenantShares() {
  return Rows<std::pair<std::string, int64_t>>(
      db_.Query("SELECT tenant, had FROM tenant_shares ORDER BY tenant"));
}

absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> SqlTxn::GpuSeconds(int64_t day) {
  return Rows<std::pair<std::string, int64_t>>(
      db_.Query("SELECT tenant, seconds FROM gpu_seconds WHERE day=? ORDER BY tenant", day));
}

absl::StatusOr<int64_t> SqlTxn::ArtifactBytes(absl::string_view tenant) {
  return db_.Integer(0, "SELECT CAST(SUM(bytes) AS BIGINT) FROM artifact_bytes WHERE tenant=?",
                     tenant);
}

absl::Status SqlTxn::PutTenantShares(const std::vector<std::pair<std::string, int64_t>>& shares) {
  for (const auto& [tenant, had] : shares) {
    QD_RETURN_IF_ERROR(db_.Query("INSERT INTO tenant_shares(tenant, had) VALUES(?, ?) "
                                 "ON CONFLICT(tenant) DO UPDATE SET had=excluded.had",
                                 tenant, had)
                           .Run());
  }
  return absl::OkStatus();
}

absl::Status SqlTxn::AddGpuSeconds(absl::string_view tenant, int64_t day, int64_t seconds) {
  return db_
      .Query(
          "INSERT INTO gpu_seconds(tenant, day, seconds) VALUES(?, ?, ?) "
          "ON CONFLICT(tenant, day) DO UPDATE SET seconds=gpu_seconds.seconds+excluded.seconds",
          tenant, day, seconds)
      .Run();
}

absl::Status SqlTxn::PutArtifactBytes(absl::string_view tenant, absl::string_view sha256,
                                      int64_t bytes) {
  return db_
      .Query(
          "INSERT INTO artifact_bytes(tenant, sha256, bytes) VALUES(?, ?, ?) "
          "ON CONFLICT(tenant, sha256) DO UPDATE SET bytes=excluded.bytes",
          tenant, sha256, bytes)
      .Run();
}

absl::Status SqlTxn::DeleteArtifactBytes(absl::string_view tenant, absl::string_view sha256) {
  return db_.Query("DELETE FROM artifact_bytes WHERE tenant=? AND sha256=?", tenant, sha256).Run();
}

}  // namespace quantd
