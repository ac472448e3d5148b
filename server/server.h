// The scheduler as one object: database, queue, artifact store, services and metrics, started and
// stopped in the right order. main.cc and the tests run the same one.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/artifacts/s3_config.h"
#include "server/auth/tls.h"
#include "server/auth/token_book.h"
#include "server/services/context.h"

namespace quantd {

struct AccessOptions {
  // Every call needs an access token. Without an administrators' file, data/admin-token is made.
  bool tokens = false;
  TokenFiles token_files;
  TlsFiles tls;
  std::string audit_log;        // Empty: data/audit.log; "off": none.
  std::string secret_key_file;  // The same for all schedulers of one store; empty: data/secret.
};

struct ServerOptions {
  std::string listen = "127.0.0.1:7717";          // host:port; port 0: any.
  std::string metrics_listen = "127.0.0.1:7718";  // "off": none.
  std::string data;                               // Created when missing.
  // The SQLite file, or a "postgres://" URL that several schedulers may share; empty:
  // data/quantd.db.
  std::string database;
  // Where artifacts lie: a bucket that several schedulers may share, or a folder (empty:
  // data/artifacts). What goes to a bucket gathers in data/outgoing.
  std::optional<S3Config> bucket;
  std::string artifacts;
  bool reflection = false;
  // About; fewer where the process may not open so many files. One more is closed at once.
  int connections_max = 16'384;
  // Watches and long polls; one more is told to try again.
  int64_t streams_max = 8'192;
  absl::Duration lease_time = absl::Seconds(30);
  int64_t free_bytes_min = int64_t{512} << 20;
  // As QueueOptions has them.
  TenantPolicies tenants;
  absl::Duration aging = absl::Hours(1);
  // Jobs that ended so long ago are removed; what no job leads to is removed from the artifacts
  // after so long. Infinite: never.
  absl::Duration retention = absl::InfiniteDuration();
  absl::Duration artifact_grace = absl::InfiniteDuration();
  StreamTimes times;
  AccessOptions access;
};

class Server {
 public:
  // AlreadyExists or Unavailable with a remedy when a port or the database is taken.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  // Drains first.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The real addresses, "host:port".
  const std::string& address() const;
  const std::string& metrics_address() const;
  // Where a worker of this process finds the API whatever its certificate says: a socket in the
  // data folder under TLS, address() otherwise. And its token; empty where none is needed.
  const std::string& worker_address() const;
  const std::string& worker_token() const;

  // Health says NOT_SERVING, nothing new is accepted, streams and polls are sent home. Idempotent.
  void StartDraining();
  // StartDraining; then waits for calls, at most `grace`, and closes everything. Jobs are not
  // cancelled: workers go on, and attach again to the next scheduler. Idempotent.
  void Drain(absl::Duration grace = absl::Seconds(10));

  // Whether a worker has registered with this process.
  bool HasWorker() const;
  Queue* queue();

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace quantd
