// PostgreSQL as a SqlConnection, over libpq with binary parameters and results. A connection that
// was lost stays lost: its owner opens another one.
#pragma once

#include <libpq-fe.h>

#include <memory>
#include <string>

#include "server/store/sql.h"

namespace quantd {

class PostgresConnection final : public SqlConnection {
 public:
  // `url`: "postgres://user@host/database?..." or any other form that libpq takes; of several hosts
  // the one that accepts writes. FailedPrecondition when it can never work (no such database, wrong
  // password), Unavailable when it may later.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Open(const std::string& url);
  ~PostgresConnection() override;

  absl::Status Execute(const std::string& sql) override;
  int64_t changed_rows() const override { return changed_rows_; }
  absl::string_view IntegersOfJson() const override {
    return "SELECT CAST(value AS BIGINT) FROM "
           "jsonb_array_elements_text(CAST(CAST(? AS TEXT) AS JSONB))";
  }
  absl::string_view TextsOfJson() const override {
    return "SELECT value FROM jsonb_array_elements_text(CAST(CAST(? AS TEXT) AS JSONB))";
  }
  // The integers in the first row of the last of several statements; empty without a row.
  absl::StatusOr<std::vector<int64_t>> Integers(const std::string& sql);

  // The session is gone, and with it its transaction.
  bool lost() const { return PQstatus(handle_) != CONNECTION_OK; }
  // A statement of the present transaction failed: only a rollback helps.
  bool failed() const { return PQtransactionStatus(handle_) == PQTRANS_INERROR; }
  // INSERTs, UPDATEs and DELETEs that succeeded so far.
  int64_t writes() const { return writes_; }
  PGconn* handle() { return handle_; }

  // Turns an answer into a status and counts what it changed. For the statements.
  absl::Status Take(const PGresult* result, bool writes);

 private:
  PostgresConnection() = default;
  std::unique_ptr<SqlStatement> Prepare(absl::string_view sql) override;

  PGconn* handle_ = nullptr;
  int64_t prepared_ = 0;
  int64_t changed_rows_ = 0;
  int64_t writes_ = 0;
};

// The host and database of a URL without user and password: for logs and errors.
std::string PostgresPlace(const std::string& url);

}  // namespace quantd
