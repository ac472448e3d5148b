// Statements take '?' as SQLite does; here they become $1, $2, ... Integers travel as eight bytes,
// texts and bytes as they are.
#include "server/store/postgres.h"

#include <endian.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr Oid kInt8Oid = 20;
constexpr int kBinary = 1;

using Result = std::unique_ptr<PGresult, decltype(&PQclear)>;
Result Own(PGresult* result) { return Result(result, &PQclear); }

std::string Words(const char* message) {
  std::vector<absl::string_view> lines = absl::StrSplit(message, '\n', absl::SkipWhitespace());
  return absl::StrCat("PostgreSQL: ", lines.empty() ? "connection lost" : lines.front());
}

// What the five characters of an SQLSTATE mean for the caller; the longest match counts.
struct StateRule {
  const char* prefix;
  absl::StatusCode code;
};
constexpr StateRule kStateRules[] = {
    {"08", absl::StatusCode::kUnavailable},          // the connection
    {"22021", absl::StatusCode::kInvalidArgument},   // a zero byte or broken UTF-8 in a text
    {"23505", absl::StatusCode::kAlreadyExists},     // a broken uniqueness
    {"25006", absl::StatusCode::kUnavailable},       // a standby
    {"25P03", absl::StatusCode::kUnavailable},       // idle in a transaction for too long
    {"28", absl::StatusCode::kFailedPrecondition},   // who we are
    {"3D", absl::StatusCode::kFailedPrecondition},   // no such database
    {"40", absl::StatusCode::kUnavailable},          // deadlock and the like
    {"42501", absl::StatusCode::kPermissionDenied},  // not allowed
    {"53", absl::StatusCode::kResourceExhausted},    // disk, memory, connections
    {"53300", absl::StatusCode::kUnavailable},       // too many connections
    {"55P03", absl::StatusCode::kUnavailable},       // a lock was not to be had in time
    {"57", absl::StatusCode::kUnavailable},          // cancelled, shutting down, starting up
    {"58030", absl::StatusCode::kUnavailable},       // an I/O error
    {"XX001", absl::StatusCode::kDataLoss},          // a damaged page
    {"XX002", absl::StatusCode::kDataLoss},          // a damaged index
};

absl::StatusCode CodeOf(absl::string_view state) {
  const StateRule* best = nullptr;
  for (const StateRule& rule : kStateRules) {
    if (!absl::StartsWith(state, rule.prefix)) continue;
    if (best == nullptr ||
        absl::string_view(rule.prefix).size() > absl::string_view(best->prefix).size()) {
      best = &rule;
    }
  }
  return best == nullptr ? absl::StatusCode::kInternal : best->code;
}

// "SELECT a WHERE b=? AND c=?" with $1 and $2. No statement of ours has a '?' in a literal.
std::string Numbered(absl::string_view sql) {
  std::string out;
  int number = 0;
  for (const char c : sql) {
    if (c == '?') {
      absl::StrAppend(&out, "$", ++number);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

int64_t IntegerOf(const PGresult* result, int row, int column) {
  const char* bytes = PQgetvalue(result, row, column);
  switch (PQgetlength(result, row, column)) {
    case 8:
      uint64_t wide;
      std::memcpy(&wide, bytes, sizeof(wide));
      return static_cast<int64_t>(be64toh(wide));
    case 4:
      uint32_t narrow;
      std::memcpy(&narrow, bytes, sizeof(narrow));
      return static_cast<int32_t>(be32toh(narrow));
    default:
      return 0;  // NULL.
  }
}

class PostgresStatement final : public SqlStatement {
 public:
  PostgresStatement(PostgresConnection* connection, std::string name, absl::string_view sql)
      : connection_(*connection),
        name_(std::move(name)),
        sql_(Numbered(sql)),
        writes_(absl::StartsWith(sql, "INSERT") || absl::StartsWith(sql, "UPDATE") ||
                absl::StartsWith(sql, "DELETE")) {}

  void BindInteger(int parameter, int64_t value) override {
    const uint64_t wire = htobe64(static_cast<uint64_t>(value));
    Parameter(parameter, kInt8Oid).assign(reinterpret_cast<const char*>(&wire), sizeof(wire));
  }
  // The type is the column's, text or bytea: both travel as they are.
  void BindText(int parameter, absl::string_view value) override {
    Parameter(parameter, 0).assign(value.data(), value.size());
  }
  void BindBytes(int parameter, absl::string_view value) override { BindText(parameter, value); }

  absl::StatusOr<bool> Step() override {
    if (result_ == nullptr) QD_RETURN_IF_ERROR(Send());
    return ++row_ < PQntuples(result_.get());
  }
  int64_t Integer(int column) const override { return IntegerOf(result_.get(), row_, column); }
  absl::string_view Bytes(int column) const override {
    return {PQgetvalue(result_.get(), row_, column),
            static_cast<size_t>(PQgetlength(result_.get(), row_, column))};
  }
  void Reset() override {
    result_.reset();
    row_ = -1;
  }

 private:
  std::string& Parameter(int index, Oid type) {
    if (values_.size() <= static_cast<size_t>(index)) {
      values_.resize(static_cast<size_t>(index) + 1);
      types_.resize(values_.size());
    }
    types_[static_cast<size_t>(index)] = type;
    return values_[static_cast<size_t>(index)];
  }

  absl::Status Send() {
    if (!prepared_) {
      const Result answer = Own(PQprepare(connection_.handle(), name_.c_str(), sql_.c_str(),
                                          static_cast<int>(types_.size()), types_.data()));
      QD_RETURN_IF_ERROR(connection_.Take(answer.get(), false));
      prepared_ = true;
    }
    std::vector<const char*> bytes;
    std::vector<int> sizes;
    for (const std::string& value : values_) {
      bytes.push_back(value.data());
      sizes.push_back(static_cast<int>(value.size()));
    }
    const std::vector<int> formats(values_.size(), kBinary);
    result_ =
        Own(PQexecPrepared(connection_.handle(), name_.c_str(), static_cast<int>(values_.size()),
                           bytes.data(), sizes.data(), formats.data(), kBinary));
    return connection_.Take(result_.get(), writes_);
  }

  PostgresConnection& connection_;
  const std::string name_;
  const std::string sql_;
  const bool writes_;
  bool prepared_ = false;
  std::vector<std::string> values_;
  std::vector<Oid> types_;
  Result result_ = Own(nullptr);
  int row_ = -1;
};

// What the session needs to be: a scheduler that hangs in the middle of a transaction must not hold
// the others up for long, a plan must not depend on a table having been empty a minute ago, no
// statement is compiled (without sequential scans costs look huge, and compiling took a second for
// every lease), and an acknowledged write is on disk even where somebody chose speed.
constexpr char kSessionSql[] =
    "SET client_min_messages=warning; SET idle_in_transaction_session_timeout='5s'; "
    "SET lock_timeout='20s'; SET statement_timeout='30s'; SET enable_seqscan=off; "
    "SET plan_cache_mode=force_generic_plan; SET jit=off; SET TimeZone='UTC'; "
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
    "WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)";

// Parameters that a URL may leave out.
constexpr std::pair<const char*, const char*> kDefaults[] = {
    {"connect_timeout", "5"},      {"keepalives_idle", "10"},
    {"keepalives_interval", "5"},  {"keepalives_count", "3"},
    {"tcp_user_timeout", "15000"}, {"target_session_attrs", "read-write"},
    {"application_name", "quantd"}};

}  // namespace

std::string PostgresPlace(const std::string& url) {
  PQconninfoOption* const options = PQconninfoParse(url.c_str(), nullptr);
  std::string host;
  std::string database;
  for (const PQconninfoOption* option = options; option != nullptr && option->keyword != nullptr;
       ++option) {
    if (option->val == nullptr) continue;
    if (absl::string_view(option->keyword) == "host") host = option->val;
    if (absl::string_view(option->keyword) == "dbname") database = option->val;
  }
  PQconninfoFree(options);
  return absl::StrCat("postgres://", host, "/", database);
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Open(
    const std::string& url) {
  std::vector<const char*> names;
  std::vector<const char*> values;
  for (const auto& [name, value] : kDefaults) {
    names.push_back(name);
    values.push_back(value);
  }
  names.push_back("dbname");  // Holds the whole URL, whose words come later and win.
  values.push_back(url.c_str());
  names.push_back("client_encoding");
  values.push_back("UTF8");
  names.push_back(nullptr);
  values.push_back(nullptr);
  std::unique_ptr<PostgresConnection> connection(new PostgresConnection());
  connection->handle_ = PQconnectdbParams(names.data(), values.data(), /*expand_dbname=*/1);
  if (connection->lost()) {
    // libpq has no code here; the words of a server that is not there now name none of these.
    const std::string words = Words(PQerrorMessage(connection->handle_));
    const bool never = absl::StrContains(words, "does not exist") ||
                       absl::StrContains(words, "authentication failed") ||
                       absl::StrContains(words, "no pg_hba.conf entry") ||
                       absl::StrContains(words, "invalid");
    const bool here = absl::StrContains(words, "No such file or directory");
    return absl::Status(
        never && !here ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kUnavailable,
        absl::StrCat("connecting to ", PostgresPlace(url), ": ", words));
  }
  PQsetNoticeProcessor(
      connection->handle_, [](void*, const char*) {}, nullptr);
  QD_RETURN_IF_ERROR(connection->Execute(kSessionSql), "connecting to ", PostgresPlace(url));
  return connection;
}

PostgresConnection::~PostgresConnection() {
  ForgetStatements();
  PQfinish(handle_);
}

absl::Status PostgresConnection::Take(const PGresult* result, bool writes) {
  const ExecStatusType status = PQresultStatus(result);
  if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
    changed_rows_ = 0;
    if (!absl::SimpleAtoi(PQcmdTuples(const_cast<PGresult*>(result)), &changed_rows_)) {
      changed_rows_ = 0;
    }
    writes_ += writes;
    return absl::OkStatus();
  }
  if (lost() || result == nullptr) {
    return absl::UnavailableError(Words(PQerrorMessage(handle_)));
  }
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const absl::string_view code = state == nullptr ? "" : state;
  return absl::Status(CodeOf(code),
                      absl::StrCat(Words(PQresultErrorMessage(result)), " (", code, ")"));
}

absl::Status PostgresConnection::Execute(const std::string& sql) {
  const Result result = Own(PQexec(handle_, sql.c_str()));
  return Take(result.get(), false);
}

absl::StatusOr<std::vector<int64_t>> PostgresConnection::Integers(const std::string& sql) {
  const Result result = Own(PQexec(handle_, sql.c_str()));
  QD_RETURN_IF_ERROR(Take(result.get(), false));
  std::vector<int64_t> numbers;
  for (int column = 0; PQntuples(result.get()) > 0 && column < PQnfields(result.get()); ++column) {
    // Several statements in one message are answered in text.
    int64_t& number = numbers.emplace_back(0);
    if (!absl::SimpleAtoi(PQgetvalue(result.get(), 0, column), &number)) number = 0;
  }
  return numbers;
}

std::unique_ptr<SqlStatement> PostgresConnection::Prepare(absl::string_view sql) {
  return std::make_unique<PostgresStatement>(this, absl::StrCat("q", ++prepared_), sql);
}

}  // namespace quantd
