// How a client or worker reaches the scheduler: plain or TLS, and the access token that goes with
// each call. A token is never sent in the clear to another machine, unless that is asked for; files
// (certificates, the token) are read again when they change, so that long-lived workers follow a
// rotation.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/support/channel_arguments.h"

namespace quantd {

struct ConnectOptions {
  std::string address;      // "host:port", or "unix:PATH".
  bool tls = false;         // With the system's authorities; the next four imply it.
  std::string tls_ca = {};  // PEM files.
  std::string tls_cert = {};
  std::string tls_key = {};
  std::string tls_server_name = {};  // Expected in the certificate, instead of the address's host.
  std::string token = {};            // The token itself, or ...
  std::string token_file = {};       // ... the file that holds it. Both empty: none.
  // Sends a token without TLS to an address that is not this machine's.
  bool insecure = false;

  bool UsesTls() const {
    return tls || !tls_ca.empty() || !tls_cert.empty() || !tls_server_name.empty();
  }
};

// Fills what is still empty from QUANTD_TOKEN, QUANTD_TOKEN_FILE, QUANTD_TLS ("1") and
// QUANTD_TLS_{CA,CERT,KEY,SERVER_NAME}. `variable` may return nullptr.
void ConnectFromEnvironment(const std::function<const char*(const char*)>& variable,
                            ConnectOptions* options);

// Whether an address is this machine's own: loopback or a unix socket.
bool IsLoopbackAddress(absl::string_view address);

// The token of a file: its first line that is neither empty nor a comment.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

// InvalidArgument, NotFound and the like for what is wrong with the options' files; whether
// somebody answers at the address shows with the first call.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const ConnectOptions& options,
                                                       const grpc::ChannelArguments& arguments);

}  // namespace quantd
