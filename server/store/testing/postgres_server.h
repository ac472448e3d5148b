// A real PostgreSQL server for tests: initdb in a temporary folder, reached through a socket there
// and nowhere else, killed and started again at will, gone with the test. When the test runs as
// root the server runs as an unprivileged user, as it insists.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"

namespace quantd {

class PostgresServer {
 public:
  struct Options {
    bool durable = false;  // fsync: what a benchmark needs and a killed process does not.
  };
  // Ends the test when there is no PostgreSQL or it does not start.
  PostgresServer() : PostgresServer(Options()) {}
  explicit PostgresServer(const Options& options);
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // An empty database of its own: its URL.
  std::string NewDatabase();
  // kill -9 of the server and all its sessions.
  void Kill();
  void Start();
  // Ends every session but the server.
  void CutSessions();
  // SQL against the database of `url`; the first column of the first row.
  std::string Ask(const std::string& url, const std::string& sql);

 private:
  std::string Url(const std::string& database) const;
  std::string Log() const;

  const Options options_;
  std::string folder_;
  std::string programs_;
  pid_t server_ = 0;
  int databases_ = 0;
};

// One for all tests of a process that do not mind each other's databases.
PostgresServer& SharedPostgresServer();

}  // namespace quantd
