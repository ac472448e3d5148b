// The tables of the PostgreSQL store and how older ones are brought up to date. Refuses a database
// that a newer quantd wrote.
#pragma once

#include "absl/status/status.h"
#include "server/store/postgres.h"

namespace quantd {

// The schema's version that this program works with.
int64_t PostgresSchemaVersion();

// Excludes every other writer until the transaction ends. To be run first in each of them.
inline constexpr char kPostgresWriteLock[] = "SELECT pg_advisory_xact_lock(1903256625, 1)";

// Creates or migrates, in one transaction under the write lock: after a crash in the middle the
// database is as it was before, and of several schedulers that start at once one does it. Tests of
// migrations stop at an older version.
absl::Status PreparePostgresSchema(PostgresConnection* connection,
                                   int64_t wanted = PostgresSchemaVersion());

}  // namespace quantd
