// The token travels in an interceptor: gRPC's call credentials would refuse plain connections, also
// those that never leave the machine.
#include "proto/connect.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/client_interceptor.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kTokenFileBytesMax = 64 << 10;
constexpr absl::Duration kTokenReread = absl::Seconds(5);
constexpr unsigned kCertificateRereadSeconds = 30;

// The current token. Thread-safe.
class TokenSource {
 public:
  TokenSource(std::string token, std::string file)
      : file_(std::move(file)), header_("Bearer " + token) {}

  std::string Header() {
    absl::MutexLock lock(&mutex_);
    const absl::Duration now = Clock::Real().Monotonic();
    if (file_.empty() || now - read_ < kTokenReread) return header_;
    read_ = now;
    const absl::StatusOr<std::string> token = ReadTokenFile(file_);
    if (token.ok()) {
      header_ = "Bearer " + *token;
    } else {
      LogWarning("the access token stays as it was", {{"error", token.status().ToString()}});
    }
    return header_;
  }

 private:
  const std::string file_;
  absl::Mutex mutex_;
  std::string header_ ABSL_GUARDED_BY(mutex_);
  absl::Duration read_ ABSL_GUARDED_BY(mutex_) = Clock::Real().Monotonic();
};

class TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(TokenSource* source) : source_(source) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({"authorization", source_->Header()});
    }
    methods->Proceed();
  }

 private:
  TokenSource* const source_;
};

class TokenInterceptorFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(std::unique_ptr<TokenSource> source)
      : source_(std::move(source)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(source_.get());
  }

 private:
  const std::unique_ptr<TokenSource> source_;
};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ConnectOptions& options) {
  if (!options.UsesTls()) return grpc::InsecureChannelCredentials();
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "a certificate of one's own needs both --tls-cert and --tls-key");
  }
  // gRPC would only fail every handshake.
  for (const std::string& path : {options.tls_ca, options.tls_cert, options.tls_key}) {
    if (!path.empty()) QD_RETURN_IF_ERROR(ReadFile(path, 1 << 20).status(), "reading TLS files");
  }
  grpc::experimental::TlsChannelCredentialsOptions tls;
  if (!options.tls_ca.empty() || !options.tls_cert.empty()) {
    tls.set_certificate_provider(
        std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
            options.tls_key, options.tls_cert, options.tls_ca, kCertificateRereadSeconds));
  }
  if (!options.tls_ca.empty()) tls.watch_root_certs();
  if (!options.tls_cert.empty()) tls.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(tls);
}

}  // namespace

void ConnectFromEnvironment(const std::function<const char*(const char*)>& variable,
                            ConnectOptions* options) {
  const auto fill = [&](const char* name, std::string* field) {
    const char* value = variable(name);
    if (field->empty() && value != nullptr) *field = value;
  };
  if (options->token_file.empty()) fill("QUANTD_TOKEN", &options->token);
  if (options->token.empty()) fill("QUANTD_TOKEN_FILE", &options->token_file);
  fill("QUANTD_TLS_CA", &options->tls_ca);
  fill("QUANTD_TLS_CERT", &options->tls_cert);
  fill("QUANTD_TLS_KEY", &options->tls_key);
  fill("QUANTD_TLS_SERVER_NAME", &options->tls_server_name);
  std::string tls;
  fill("QUANTD_TLS", &tls);
  options->tls = options->tls || tls == "1" || tls == "true";
}

bool IsLoopbackAddress(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  return host == "localhost" || host == "[::1]" ||
         (absl::StartsWith(host, "127.") &&
          host.find_first_not_of("0123456789.") == absl::string_view::npos);
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kTokenFileBytesMax),
                      "reading the access token");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty() && line[0] != '#') return std::string(line);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, " holds no access token"));
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const ConnectOptions& options,
                                                       const grpc::ChannelArguments& arguments) {
  // gRPC works at a lost connection while somebody waits for it. One whose calls fail at once is
  // looked at now and then only, every 5 s unless this says otherwise before gRPC is initialized.
  static const int looks = setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "250", 0);
  if (looks != 0) LogWarning("lost connections come back late");
  QD_ASSIGN_OR_RETURN(const auto credentials, Credentials(options));
  std::string token = options.token;
  if (!options.token_file.empty()) {
    QD_ASSIGN_OR_RETURN(token, ReadTokenFile(options.token_file));
  }
  for (const char c : token) {
    if (!absl::ascii_isgraph(c)) return absl::InvalidArgumentError("the access token is no token");
  }
  if (!token.empty() && !options.UsesTls() && !options.insecure &&
      !IsLoopbackAddress(options.address)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "not sending an access token to ", options.address,
        " in the clear: add --tls, or --tls-ca FILE for an authority of your own; inside a network "
        "that you trust, --insecure"));
  }
  grpc::ChannelArguments all = arguments;
  if (!options.tls_server_name.empty()) all.SetSslTargetNameOverride(options.tls_server_name);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!token.empty()) {
    interceptors.push_back(std::make_unique<TokenInterceptorFactory>(
        std::make_unique<TokenSource>(token, options.token_file)));
  }
  return grpc::experimental::CreateCustomChannelWithInterceptors(options.address, credentials, all,
                                                                 std::move(interceptors));
}

}  // namespace quantd
