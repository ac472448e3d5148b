// OpenSSL's HMAC and random numbers.
#include "server/artifacts/secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr size_t kSecretBytes = 32;
constexpr size_t kMacDigits = 32;
constexpr size_t kTokenBytesMax = 2048;

}  // namespace

absl::StatusOr<std::string> ReadOrMakeSecret(const std::string& path) {
  if (FileExists(path)) {
    QD_ASSIGN_OR_RETURN(std::string secret, ReadFile(path, 1024));
    if (secret.size() == kSecretBytes) return secret;
    return absl::DataLossError(
        absl::StrCat(path, " is damaged; remove it and a new secret is made"));
  }
  std::string secret(kSecretBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), kSecretBytes) != 1) {
    return absl::InternalError("no random numbers to be had");
  }
  QD_RETURN_IF_ERROR(WriteFileAtomic(path, secret));
  if (chmod(path.c_str(), 0600) != 0) return ErrnoStatus(errno, "protecting ", path);
  return secret;
}

std::string Mac(absl::string_view secret, absl::string_view text) {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size_bytes = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size_bytes);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(mac), kMacDigits / 2));
}

bool ConstantTimeEqual(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string SealToken(absl::string_view secret, absl::string_view inner) {
  if (inner.empty()) return "";
  return absl::WebSafeBase64Escape(absl::StrCat(Mac(secret, inner), inner));
}

absl::StatusOr<std::string> OpenToken(absl::string_view secret, absl::string_view token,
                                      absl::string_view field) {
  if (token.empty()) return "";
  std::string sealed;
  if (token.size() <= kTokenBytesMax && absl::WebSafeBase64Unescape(token, &sealed) &&
      sealed.size() > kMacDigits) {
    const absl::string_view inner = absl::string_view(sealed).substr(kMacDigits);
    if (ConstantTimeEqual(absl::string_view(sealed).substr(0, kMacDigits), Mac(secret, inner))) {
      return std::string(inner);
    }
  }
  return FieldError(field,
                    "is no token of this scheduler; leave it empty to start from the beginning");
}

}  // namespace quantd
