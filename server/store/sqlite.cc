// SQLite's calls and codes.
#include "server/store/sqlite.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr int kBusyTimeoutMs = 5000;  // Only start-up and checkpoints ever meet another holder.

class SqliteStatement final : public SqlStatement {
 public:
  SqliteStatement(SqliteConnection* connection, absl::string_view sql) : connection_(*connection) {
    prepared_ = code_ =
        sqlite3_prepare_v3(connection->handle(), sql.data(), static_cast<int>(sql.size()),
                           SQLITE_PREPARE_PERSISTENT, &statement_, nullptr);
  }
  ~SqliteStatement() override { sqlite3_finalize(statement_); }

  void BindInteger(int parameter, int64_t value) override {
    if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, parameter + 1, value);
  }
  void BindText(int parameter, absl::string_view value) override {
    if (code_ != SQLITE_OK) return;
    code_ = sqlite3_bind_text64(statement_, parameter + 1, value.empty() ? "" : value.data(),
                                value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  void BindBytes(int parameter, absl::string_view value) override {
    if (code_ != SQLITE_OK) return;
    code_ = sqlite3_bind_blob64(statement_, parameter + 1, value.empty() ? "" : value.data(),
                                value.size(), SQLITE_TRANSIENT);
  }
  absl::StatusOr<bool> Step() override {
    if (code_ != SQLITE_OK) return connection_.Error(code_);
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return connection_.Error(code);
  }
  int64_t Integer(int column) const override { return sqlite3_column_int64(statement_, column); }
  absl::string_view Bytes(int column) const override {
    const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
    return bytes == nullptr ? absl::string_view() : absl::string_view(bytes, size);
  }
  void Reset() override {
    code_ = prepared_;
    if (statement_ == nullptr) return;
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }

 private:
  SqliteConnection& connection_;
  sqlite3_stmt* statement_ = nullptr;
  int prepared_;
  int code_;
};

}  // namespace

std::unique_ptr<SqlStatement> SqliteConnection::Prepare(absl::string_view sql) {
  return std::make_unique<SqliteStatement>(this, sql);
}

std::string SqliteConnection::IndexHint(absl::string_view index) const {
  return absl::StrCat(" INDEXED BY ", index);
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path,
                                                                         bool read_only) {
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection());
  // Read-only ones open for writing too: a reader of a WAL takes part in its shared index.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (read_only ? 0 : SQLITE_OPEN_CREATE);
  const int code = sqlite3_open_v2(path.c_str(), &connection->handle_, flags, nullptr);
  if (code != SQLITE_OK) {
    return Annotate(connection->Error(code), absl::StrCat("opening the database ", path));
  }
  sqlite3_busy_timeout(connection->handle_, kBusyTimeoutMs);
  QD_RETURN_IF_ERROR(
      connection->Execute(read_only ? "PRAGMA query_only=ON" : "PRAGMA foreign_keys=ON"),
      "opening the database ", path);
  return connection;
}

SqliteConnection::~SqliteConnection() {
  ForgetStatements();
  sqlite3_close(handle_);
}

absl::Status SqliteConnection::Execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::Status SqliteConnection::Error(int code) const {
  const std::string words =
      absl::StrCat("SQLite: ", handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_),
                   " (", code, ")");
  switch (code & 0xff) {  // The primary code; the rest says where.
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(
          absl::StrCat("the disk that holds the database is full: ", words));
    case SQLITE_IOERR:
      if (handle_ != nullptr && sqlite3_system_errno(handle_) == ENOSPC) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the disk that holds the database is full: ", words));
      }
      return absl::UnavailableError(words);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PROTOCOL:
    case SQLITE_NOMEM:
      return absl::UnavailableError(words);
    case SQLITE_CONSTRAINT:
      if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) {
        return absl::AlreadyExistsError(words);
      }
      return absl::InternalError(words);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(words);
    default:
      return absl::InternalError(words);
  }
}

}  // namespace quantd
