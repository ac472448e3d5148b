// gRPC's file watcher does the reloading; OpenSSL looks at the files first.
#include "server/auth/tls.h"

#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kPemBytesMax = 1 << 20;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};

absl::StatusOr<std::unique_ptr<X509, Free>> ReadCertificate(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kPemBytesMax));
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  std::unique_ptr<X509, Free> certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds no certificate in PEM form"));
  }
  return certificate;
}

absl::Status CheckKey(const std::string& path, X509* certificate,
                      const std::string& certificate_path) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kPemBytesMax));
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  const std::unique_ptr<EVP_PKEY, Free> key(
      PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, const_cast<char*>("")));
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds no private key in PEM form that needs no password"));
  }
  if (X509_check_private_key(certificate, key.get()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key in ", path, " is not that of the certificate in ", certificate_path));
  }
  return absl::OkStatus();
}

absl::Time ExpiryOf(X509* certificate) {
  tm time = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1) return absl::InfinitePast();
  return absl::FromTM(time, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& path) {
  QD_ASSIGN_OR_RETURN(const auto certificate, ReadCertificate(path));
  return ExpiryOf(certificate.get());
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  if (!files.enabled()) return grpc::InsecureServerCredentials();
  QD_ASSIGN_OR_RETURN(const auto certificate, ReadCertificate(files.certificate));
  QD_RETURN_IF_ERROR(CheckKey(files.key, certificate.get(), files.certificate));
  if (ExpiryOf(certificate.get()) < absl::Now()) {
    LogWarning("the TLS certificate has expired; clients will refuse it",
               {{"certificate", files.certificate}});
  }
  if (!files.client_ca.empty()) QD_RETURN_IF_ERROR(ReadCertificate(files.client_ca).status());
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_ca,
      static_cast<unsigned>(absl::ToInt64Seconds(files.reload)));
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace quantd
