// Accepts the API's connections and hands them to gRPC. gRPC 1.51's own listener is deaf for good
// once accept() fails for want of a descriptor (CVE-2023-4785), and it knows no limit; this one
// closes at once what is too much, and goes on.
#pragma once

#include <grpcpp/server_builder.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quantd {

// Lets this process open as many files as it may, up to some ten thousands: every connection is
// one. Call it before Acceptor::Listen.
void RaiseOpenFilesLimit();

class Acceptor {
 public:
  // Listens on all addresses of "host:port" (port 0: any) that nobody else listens on; connections
  // wait until Start. Unavailable with a remedy when there is none. At most about `connections_max`
  // are open at a time, fewer where the process may not open so many files.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Listen(const std::string& address,
                                                          int connections_max);
  // Stops.
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  int port() const { return port_; }
  // Connections that were one too many.
  int64_t refused() const { return refused_; }
  // Before the server is built.
  void AddTo(grpc::ServerBuilder* builder, std::shared_ptr<grpc::ServerCredentials> credentials);
  // After the server was built.
  void Start();
  // Nobody is accepted any more, nor waits to be; what was accepted is gRPC's. Idempotent.
  void Stop();

 private:
  Acceptor() = default;
  // One more listening socket; 0, or why not (errno).
  int Add(int family, const void* address, unsigned size);
  void Loop();
  void Accept(int listener);

  std::vector<int> listeners_;
  int stop_ = -1;  // An eventfd.
  int port_ = 0;
  int fd_max_ = 0;
  absl::Duration said_ = -absl::InfiniteDuration();  // When refusals were last logged; monotonic.
  std::atomic<int64_t> refused_{0};
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> grpc_;
  std::thread thread_;
};

}  // namespace quantd
