// What the stores need of a database: a connection, statements prepared once, typed binding and
// reading, errors as statuses. SQLite and PostgreSQL each implement it, so that the queue's
// statements exist once (sql_txn.h). Not thread-safe: a connection belongs to one thread at a time.
// Times are stored as microseconds since 1970; the infinite ones as the least and the greatest
// integer. Every column is an integer of 64 bits, a text or bytes, and never NULL.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "proto/quantd/v1/job.pb.h"

namespace quantd {

int64_t ToMicros(absl::Time time);
absl::Time FromMicros(int64_t micros);

// A list for TextsOfJson.
std::string JsonOf(const std::vector<std::string>& texts);

// A prepared statement. Parameters and columns count from 0.
class SqlStatement {
 public:
  virtual ~SqlStatement() = default;
  virtual void BindInteger(int parameter, int64_t value) = 0;
  virtual void BindText(int parameter, absl::string_view value) = 0;
  virtual void BindBytes(int parameter, absl::string_view value) = 0;
  // true: a row is there. Errors of preparing and binding come out of the first call.
  virtual absl::StatusOr<bool> Step() = 0;
  // Of the row; the bytes live until the next Step or Reset. A NULL reads as 0 or empty.
  virtual int64_t Integer(int column) const = 0;
  virtual absl::string_view Bytes(int column) const = 0;
  // Ready for another execution.
  virtual void Reset() = 0;
};

// One execution of a statement; gives the statement back when it goes.
class SqlQuery {
 public:
  template <typename... Values>
  explicit SqlQuery(SqlStatement* statement, const Values&... values) : statement_(statement) {
    (Bind(values), ...);
  }
  ~SqlQuery() { statement_->Reset(); }
  SqlQuery(const SqlQuery&) = delete;
  SqlQuery& operator=(const SqlQuery&) = delete;

  // The next parameter, from the left.
  void Bind(int64_t value) { statement_->BindInteger(bound_++, value); }
  void Bind(bool value) { Bind(int64_t{value}); }
  void Bind(v1::JobState value) { Bind(int64_t{value}); }
  void Bind(absl::Time value) { Bind(ToMicros(value)); }
  void Bind(const char* value) { Bind(absl::string_view(value)); }  // Else it would be a bool.
  void Bind(absl::string_view value) { statement_->BindText(bound_++, value); }
  void Bind(const std::string& value) { Bind(absl::string_view(value)); }
  void Bind(const google::protobuf::MessageLite& value) {
    statement_->BindBytes(bound_++, value.SerializeAsString());
  }

  // true: a row is there. Runs a statement without rows in one call.
  absl::StatusOr<bool> Step() {
    column_ = 0;
    return statement_->Step();
  }
  // For statements that return nothing of interest.
  absl::Status Run() { return Step().status(); }

  // The next column of the row, from the left.
  void Next(int64_t* value) { *value = statement_->Integer(column_++); }
  void Next(bool* value) { *value = statement_->Integer(column_++) != 0; }
  void Next(v1::JobState* value) {
    *value = static_cast<v1::JobState>(statement_->Integer(column_++));
  }
  void Next(absl::Time* value) { *value = FromMicros(statement_->Integer(column_++)); }
  void Next(std::string* value) { *value = std::string(statement_->Bytes(column_++)); }
  // Bytes that do not parse make `Parsed` false.
  void Next(google::protobuf::MessageLite* value);
  // DataLoss when a message of this row did not parse.
  absl::Status Parsed() const;

 private:
  SqlStatement* const statement_;
  int bound_ = 0;
  int column_ = 0;
  bool parsed_ = true;
};

class SqlConnection {
 public:
  virtual ~SqlConnection() = default;
  SqlConnection(const SqlConnection&) = delete;
  SqlConnection& operator=(const SqlConnection&) = delete;

  // Any number of statements, results ignored.
  virtual absl::Status Execute(const std::string& sql) = 0;
  // Rows that the last INSERT, UPDATE or DELETE changed.
  virtual int64_t changed_rows() const = 0;
  // What to put behind a table's name where the planner has to be told which index to take.
  virtual std::string IndexHint(absl::string_view index) const { return ""; }
  // Rows of one integer column "value" from a parameter of the form "[1,2,3]".
  virtual absl::string_view IntegersOfJson() const = 0;
  // Rows of one text column "value" from a parameter that JsonOf makes.
  virtual absl::string_view TextsOfJson() const = 0;

  // A prepared statement ('?' for a parameter) with its parameters bound in order.
  template <typename... Values>
  SqlQuery Query(absl::string_view sql, const Values&... values) {
    return SqlQuery(Find(sql), values...);
  }
  // The first column of the first row; `otherwise` when there is none.
  template <typename... Values>
  absl::StatusOr<int64_t> Integer(int64_t otherwise, absl::string_view sql,
                                  const Values&... values) {
    auto query = Query(sql, values...);
    auto row = query.Step();
    if (!row.ok()) return row.status();
    if (*row) query.Next(&otherwise);
    return otherwise;
  }

 protected:
  SqlConnection() = default;
  virtual std::unique_ptr<SqlStatement> Prepare(absl::string_view sql) = 0;
  // To be called before the handle goes.
  void ForgetStatements() { statements_.clear(); }

 private:
  SqlStatement* Find(absl::string_view sql);

  absl::flat_hash_map<std::string, std::unique_ptr<SqlStatement>> statements_;
};

}  // namespace quantd
