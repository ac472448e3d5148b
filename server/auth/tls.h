// TLS of the API's port, from PEM files that are read again when they change, so that a renewed
// certificate needs no restart. With `client_ca` a client has to show a certificate of that
// authority before a byte of its call is read; who it is, its token says.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"

namespace quantd {

struct TlsFiles {
  std::string certificate = {};  // The chain, the server's own certificate first. Empty: no TLS.
  std::string key = {};
  std::string client_ca = {};  // Empty: clients need no certificate.
  // How often the files are looked at.
  absl::Duration reload = absl::Seconds(10);

  bool enabled() const { return !certificate.empty(); }
};

// Insecure credentials without TLS. InvalidArgument says what is wrong with which file: gRPC itself
// would only refuse every handshake.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

// Until when the first certificate of a PEM file is valid.
absl::StatusOr<absl::Time> CertificateExpiry(const std::string& path);

}  // namespace quantd
