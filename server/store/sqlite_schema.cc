// One entry of kMigrations for every version of the schema; entries are never changed, only added.
// State numbers in the partial indexes are JobState's: 2 is QUEUED.
#include "server/store/sqlite_schema.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kApplicationId = 0x71746431;  // "qtd1": tells `file` and us whose database it is.

constexpr const char* kMigrations[] = {
    R"sql(
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES('fencing_token', 0), ('open', 0);

CREATE TABLE needs(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE);

-- AUTOINCREMENT: a removed job's number never comes back, so page tokens and positions stay true.
CREATE TABLE sweeps(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  version INTEGER NOT NULL, max_parallel INTEGER NOT NULL, record BLOB NOT NULL,
  spec BLOB NOT NULL);
CREATE INDEX sweeps_tenant ON sweeps(tenant, seq);

CREATE TABLE jobs(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  sweep INTEGER NOT NULL, needs INTEGER NOT NULL, version INTEGER NOT NULL, state INTEGER NOT NULL,
  priority INTEGER NOT NULL, not_before INTEGER NOT NULL, clock_due INTEGER NOT NULL,
  lease_expires INTEGER NOT NULL, queued_time INTEGER NOT NULL, run_time INTEGER NOT NULL,
  progress_time INTEGER NOT NULL, end_time INTEGER NOT NULL, lease_worker TEXT NOT NULL,
  fencing_token INTEGER NOT NULL, lease_reported INTEGER NOT NULL, attempt_events INTEGER NOT NULL,
  counted_attempts INTEGER NOT NULL, lost_in_row INTEGER NOT NULL, released_in_row INTEGER NOT NULL,
  outcome_token INTEGER NOT NULL, outcome_digest TEXT NOT NULL, outcome_state INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX jobs_runnable ON jobs(needs, priority DESC, seq, not_before, sweep) WHERE state = 2;
CREATE INDEX jobs_position ON jobs(priority DESC, seq) WHERE state = 2;
CREATE INDEX jobs_not_before ON jobs(not_before) WHERE state = 2;
CREATE INDEX jobs_lease ON jobs(lease_expires) WHERE lease_worker != '';
CREATE INDEX jobs_worker ON jobs(lease_worker) WHERE lease_worker != '';
CREATE INDEX jobs_clock ON jobs(clock_due) WHERE clock_due < 9223372036854775807;
CREATE INDEX jobs_sweep ON jobs(sweep, seq) WHERE sweep != 0;
CREATE INDEX jobs_tenant ON jobs(tenant, seq);
CREATE INDEX jobs_state ON jobs(state);
CREATE INDEX jobs_end ON jobs(end_time) WHERE end_time < 9223372036854775807;

-- Number of QUEUED jobs by priority: a job's place in the queue without counting the queue.
CREATE TABLE queued_counts(priority INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TRIGGER jobs_queued_insert AFTER INSERT ON jobs WHEN NEW.state = 2 BEGIN
  INSERT INTO queued_counts VALUES(NEW.priority, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER jobs_queued_enter AFTER UPDATE OF state ON jobs
  WHEN NEW.state = 2 AND OLD.state != 2 BEGIN
  INSERT INTO queued_counts VALUES(NEW.priority, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER jobs_queued_leave AFTER UPDATE OF state ON jobs
  WHEN NEW.state != 2 AND OLD.state = 2 BEGIN
  UPDATE queued_counts SET count = count - 1 WHERE priority = OLD.priority;
END;
CREATE TRIGGER jobs_queued_priority AFTER UPDATE OF priority ON jobs
  WHEN NEW.state = 2 AND OLD.state = 2 AND NEW.priority != OLD.priority BEGIN
  UPDATE queued_counts SET count = count - 1 WHERE priority = OLD.priority;
  INSERT INTO queued_counts VALUES(NEW.priority, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;

-- kind: 1 spec, 2 outcome, 3 checkpoint.
CREATE TABLE job_blobs(
  job INTEGER NOT NULL REFERENCES jobs(seq) ON DELETE CASCADE, kind INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job, kind));

CREATE TABLE job_labels(
  job INTEGER NOT NULL REFERENCES jobs(seq) ON DELETE CASCADE, key TEXT NOT NULL,
  value TEXT NOT NULL, PRIMARY KEY(job, key)) WITHOUT ROWID;

CREATE TABLE dependencies(
  job INTEGER NOT NULL REFERENCES jobs(seq) ON DELETE CASCADE,
  on_job INTEGER NOT NULL REFERENCES jobs(seq), condition INTEGER NOT NULL,
  PRIMARY KEY(job, on_job)) WITHOUT ROWID;
CREATE INDEX dependencies_on ON dependencies(on_job, job);

CREATE TABLE events(
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  job INTEGER NOT NULL REFERENCES jobs(seq) ON DELETE CASCADE, sequence INTEGER NOT NULL,
  sweep INTEGER NOT NULL, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX events_sequence ON events(job, sequence);
CREATE INDEX events_sweep ON events(sweep, position) WHERE sweep != 0;

CREATE TABLE workers(
  name TEXT PRIMARY KEY, instance_id TEXT NOT NULL, past_instances TEXT NOT NULL,
  draining INTEGER NOT NULL, register_time INTEGER NOT NULL, last_seen INTEGER NOT NULL,
  disk_free_bytes INTEGER NOT NULL, request_id TEXT NOT NULL, request_job TEXT NOT NULL,
  request_token INTEGER NOT NULL, record BLOB NOT NULL);

CREATE TABLE requests(
  tenant TEXT NOT NULL, request_id TEXT NOT NULL, body_digest TEXT NOT NULL,
  resource TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY(tenant, request_id)) WITHOUT ROWID;
CREATE INDEX requests_time ON requests(time);
)sql",
    // Counts by kind of job come out of the index alone; attempts are counted from the last new
    // checkpoint.
    R"sql(
DROP INDEX jobs_state;
CREATE INDEX jobs_needs_state ON jobs(needs, state);
ALTER TABLE jobs RENAME COLUMN lost_in_row TO blocks_done;
UPDATE jobs SET blocks_done = 0;
)sql",
    // Access tokens and sealed secrets.
    R"sql(
CREATE TABLE records(
  collection TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY(collection, key)) WITHOUT ROWID;
)sql",
    "CREATE TABLE settings(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;",
    // What inputs led to: before, a record for each, which outlived its job.
    R"sql(
CREATE TABLE results(
  tenant TEXT NOT NULL, inputs TEXT NOT NULL,
  job INTEGER NOT NULL REFERENCES jobs(seq) ON DELETE CASCADE,
  PRIMARY KEY(tenant, inputs)) WITHOUT ROWID;
CREATE INDEX results_job ON results(job);
INSERT INTO results SELECT substr(r.collection, 9), r.key, j.seq FROM records r
  JOIN jobs j ON j.name = CAST(r.body AS TEXT) WHERE r.collection LIKE 'results/%';
DELETE FROM records WHERE collection LIKE 'results/%';
)sql",
    // What lies in the artifact store and no job leads to.
    R"sql(
CREATE TABLE garbage(
  key TEXT PRIMARY KEY, since INTEGER NOT NULL, doomed INTEGER NOT NULL) WITHOUT ROWID;
)sql",
    // Tenants share the workers: what each has waiting and running, has had of the leases, of GPU
    // time and of the artifacts.
    R"sql(
ALTER TABLE jobs ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_runnable;
CREATE INDEX jobs_runnable ON jobs(needs, tenant, priority DESC, seq, not_before, sweep)
  WHERE state = 2;
DROP INDEX jobs_position;
CREATE INDEX jobs_position ON jobs(tenant, priority, seq) WHERE state = 2;

-- Jobs that have not ended (states 1 to 4), counted by triggers.
DROP TRIGGER jobs_queued_insert;
DROP TRIGGER jobs_queued_enter;
DROP TRIGGER jobs_queued_leave;
DROP TRIGGER jobs_queued_priority;
DROP TABLE queued_counts;
CREATE TABLE tenant_counts(
  tenant TEXT NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(tenant, state, priority)) WITHOUT ROWID;
INSERT INTO tenant_counts SELECT tenant, state, priority, COUNT(*) FROM jobs
  WHERE state BETWEEN 1 AND 4 GROUP BY tenant, state, priority;
CREATE TRIGGER jobs_count_insert AFTER INSERT ON jobs WHEN NEW.state BETWEEN 1 AND 4 BEGIN
  INSERT INTO tenant_counts VALUES(NEW.tenant, NEW.state, NEW.priority, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER jobs_count_update AFTER UPDATE OF state, priority ON jobs
  WHEN NEW.state != OLD.state OR NEW.priority != OLD.priority BEGIN
  UPDATE tenant_counts SET count = count - 1
    WHERE tenant = OLD.tenant AND state = OLD.state AND priority = OLD.priority;
  INSERT INTO tenant_counts SELECT NEW.tenant, NEW.state, NEW.priority, 1
    WHERE NEW.state BETWEEN 1 AND 4 ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TABLE tenant_shares(tenant TEXT PRIMARY KEY, had INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gpu_seconds(
  tenant TEXT NOT NULL, day INTEGER NOT NULL, seconds INTEGER NOT NULL,
  PRIMARY KEY(tenant, day)) WITHOUT ROWID;
CREATE TABLE artifact_bytes(
  tenant TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(tenant, sha256)) WITHOUT ROWID;
)sql",
};
constexpr int64_t kVersion = std::size(kMigrations);

absl::Status Migrate(SqliteConnection* connection, int64_t from, int64_t to) {
  for (int64_t version = from; version < to; ++version) {
    QD_RETURN_IF_ERROR(connection->Execute(kMigrations[version]),
                       "migrating the database from version ", version, " to ", version + 1);
  }
  return connection->Execute(
      absl::StrCat("PRAGMA application_id=", kApplicationId, "; PRAGMA user_version=", to));
}

}  // namespace

absl::Status PrepareSchema(SqliteConnection* connection, int64_t wanted) {
  QD_ASSIGN_OR_RETURN(const int64_t id, connection->Integer(0, "PRAGMA application_id"));
  QD_ASSIGN_OR_RETURN(const int64_t version, connection->Integer(0, "PRAGMA user_version"));
  QD_ASSIGN_OR_RETURN(const int64_t tables,
                      connection->Integer(0, "SELECT COUNT(*) FROM sqlite_schema"));
  if (tables > 0 && id != kApplicationId) {
    return absl::FailedPreconditionError(
        "this SQLite file belongs to another program; give quantd a database path of its own");
  }
  if (version > kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a newer quantd wrote this database (schema version ", version,
        "; this program knows up to ", kVersion, "); start that version, or give another path"));
  }
  if (version == kVersion) return absl::OkStatus();
  QD_RETURN_IF_ERROR(connection->Execute("BEGIN IMMEDIATE"));
  if (absl::Status status =
          Migrate(connection, version, wanted == kNewestSchema ? kVersion : wanted);
      !status.ok()) {
    connection->Execute("ROLLBACK").IgnoreError();
    return status;
  }
  return connection->Execute("COMMIT");
}

}  // namespace quantd
