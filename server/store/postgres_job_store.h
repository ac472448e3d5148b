// The JobStore of several schedulers side by side: one PostgreSQL database. Every write transaction
// begins by taking one advisory lock that it holds until its end, so that writes happen one after
// the other, over all schedulers, exactly as SQLite's do in one process: what is right there is
// right here, and no isolation level has to be leaned on. Within a scheduler the writes that wait
// share a commit, so the lock costs a round trip a group. Readers have connections and snapshots of
// their own and wait for nobody.
//
// Loss of the server fails what is under way with Unavailable; the store connects again by itself.
// When it went away in the middle of a commit, the transaction's fate is asked for by its number
// afterwards, so that an answer is true whenever the server comes back soon.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/job_store.h"

namespace quantd {

// "postgres://..." or "postgresql://...".
bool IsPostgresUrl(absl::string_view database);

// Creates or migrates the tables. `url` as in postgres.h.
absl::StatusOr<std::unique_ptr<JobStore>> OpenPostgresJobStore(const std::string& url);

}  // namespace quantd
