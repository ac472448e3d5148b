// OpenSSL's AES-256-GCM over rows of the store.
#include "server/auth/secret_keeper.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "proto/errors.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr char kCollection[] = "secrets";
constexpr size_t kKeyBytes = 32;
constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
constexpr size_t kValueBytesMax = 16 << 10;
constexpr size_t kIdBytesMax = 63;
constexpr size_t kSecretsMax = 100;  // Of one tenant.
// The installation's secret has other uses; what is derived for this one serves no other.
constexpr char kPurpose[] = "quantd sealed secrets";
// "HF_" would do for HF_TOKEN, but not every variable of that name is one: HF_HOME moves files.
constexpr const char* kAllowed[] = {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                                    "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS_JSON"};
constexpr char kAllowedPrefix[] = "QUANTD_SECRET_";

unsigned char* Bytes(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }
const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

struct FreeCipher {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Cipher = std::unique_ptr<EVP_CIPHER_CTX, FreeCipher>;

std::string Derive(absl::string_view key) {
  std::string derived(kKeyBytes, '\0');
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), Bytes(absl::string_view(kPurpose)),
       sizeof(kPurpose) - 1, Bytes(derived), &size);
  return derived;
}

struct SecretName {
  std::string tenant;
  std::string id;
};

// "tenants/{t}/secrets/{ID}".
absl::StatusOr<SecretName> ParseSecretName(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != 4 || parts[0] != "tenants" || parts[2] != "secrets" ||
      !IsResourceId(parts[1])) {
    return FieldError("name", "is no name of the form tenants/{tenant}/secrets/{NAME}");
  }
  const absl::Status id = CheckSecretId(parts[3]);
  if (!id.ok()) return FieldError("name", id.message());
  return SecretName{parts[1], parts[3]};
}

std::string NameOf(absl::string_view tenant, absl::string_view id) {
  return absl::StrCat("tenants/", tenant, "/secrets/", id);
}

}  // namespace

absl::StatusOr<std::string> Seal(absl::string_view key, absl::string_view name,
                                 absl::string_view value) {
  std::string sealed(kNonceBytes + value.size() + kTagBytes, '\0');
  const Cipher cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool done =
      key.size() == kKeyBytes && cipher != nullptr && RAND_bytes(Bytes(sealed), kNonceBytes) == 1 &&
      EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key), Bytes(sealed)) ==
          1 &&
      EVP_EncryptUpdate(cipher.get(), nullptr, &size, Bytes(name), static_cast<int>(name.size())) ==
          1 &&
      EVP_EncryptUpdate(cipher.get(), Bytes(sealed) + kNonceBytes, &size, Bytes(value),
                        static_cast<int>(value.size())) == 1 &&
      EVP_EncryptFinal_ex(cipher.get(), Bytes(sealed) + kNonceBytes + size, &size) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes,
                          Bytes(sealed) + kNonceBytes + value.size()) == 1;
  if (!done) return absl::InternalError("sealing a secret failed");
  return sealed;
}

absl::StatusOr<std::string> Unseal(absl::string_view key, absl::string_view name,
                                   absl::string_view sealed) {
  const absl::Status damaged = absl::DataLossError(absl::StrCat(
      name, " cannot be opened: it was sealed with another key, or is damaged; put it again"));
  if (key.size() != kKeyBytes || sealed.size() < kNonceBytes + kTagBytes) return damaged;
  const size_t value_bytes = sealed.size() - kNonceBytes - kTagBytes;
  std::string value(value_bytes, '\0');
  std::string tag(sealed.substr(kNonceBytes + value_bytes));
  const Cipher cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool done =
      cipher != nullptr &&
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key), Bytes(sealed)) ==
          1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &size, Bytes(name), static_cast<int>(name.size())) ==
          1 &&
      EVP_DecryptUpdate(cipher.get(), Bytes(value), &size, Bytes(sealed) + kNonceBytes,
                        static_cast<int>(value_bytes)) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), Bytes(value) + size, &size) == 1;
  if (!done) return damaged;
  return value;
}

absl::Status CheckSecretId(absl::string_view id) {
  for (const char* allowed : kAllowed) {
    if (id == allowed) return absl::OkStatus();
  }
  bool good = absl::StartsWith(id, kAllowedPrefix) && id.size() <= kIdBytesMax &&
              id.size() > sizeof(kAllowedPrefix) - 1;
  for (const char c : id)
    good = good && (absl::ascii_isupper(c) || absl::ascii_isdigit(c) || c == '_');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(id.substr(0, 80)),
                   "\" is no name of a secret: it must be HF_TOKEN, AWS_ACCESS_KEY_ID, "
                   "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, GOOGLE_APPLICATION_CREDENTIALS_JSON "
                   "or QUANTD_SECRET_ and more of A-Z, 0-9 and _"));
}

SecretKeeper::SecretKeeper(JobStore* store, absl::string_view key)
    : store_(store), key_(Derive(key)) {}

absl::StatusOr<std::vector<v1::StoredSecret>> SecretKeeper::Read(absl::string_view tenant) const {
  std::vector<KeptRecord> records;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(records, txn.Records(absl::StrCat(kCollection, "/", tenant)));
    return absl::OkStatus();
  }),
                     "reading the secrets of tenants/", tenant);
  std::vector<v1::StoredSecret> secrets;
  for (const KeptRecord& record : records) {
    v1::StoredSecret& secret = secrets.emplace_back();
    if (!secret.ParseFromString(record.body)) {
      return absl::DataLossError(absl::StrCat(NameOf(tenant, record.key), " is damaged"));
    }
  }
  return secrets;
}

absl::StatusOr<v1::Secret> SecretKeeper::Put(const v1::PutSecretRequest& request, absl::Time now) {
  QD_ASSIGN_OR_RETURN(const SecretName name, ParseSecretName(request.name()));
  const std::string& value = request.value();
  if (value.empty() || value.size() > kValueBytesMax || value.find('\0') != value.npos ||
      ReplaceInvalidUtf8(value) != value) {
    return FieldError("value", "must be 1 byte to 16 KiB of UTF-8 without NUL");
  }
  v1::StoredSecret stored;
  stored.mutable_secret()->set_name(request.name());
  stored.mutable_secret()->mutable_update_time()->set_seconds(absl::ToUnixSeconds(now));
  QD_ASSIGN_OR_RETURN(*stored.mutable_sealed(), Seal(key_, request.name(), value));
  QD_ASSIGN_OR_RETURN(const auto present, Read(name.tenant));
  if (present.size() >= kSecretsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tenants/", name.tenant, " has ", present.size(), " secrets; delete some"));
  }
  QD_RETURN_IF_ERROR(store_->Run([&](Txn& txn) {
    return txn.PutRecord(absl::StrCat(kCollection, "/", name.tenant),
                         {name.id, stored.SerializeAsString()});
  }),
                     "storing ", request.name());
  return stored.secret();
}

absl::Status SecretKeeper::Delete(const std::string& name) {
  QD_ASSIGN_OR_RETURN(const SecretName parsed, ParseSecretName(name));
  return store_->Run([&](Txn& txn) {
    return txn.DeleteRecord(absl::StrCat(kCollection, "/", parsed.tenant), parsed.id);
  });
}

absl::StatusOr<std::vector<v1::Secret>> SecretKeeper::List(absl::string_view tenant) const {
  QD_ASSIGN_OR_RETURN(const auto stored, Read(tenant));
  std::vector<v1::Secret> secrets;
  for (const v1::StoredSecret& secret : stored) secrets.push_back(secret.secret());
  return secrets;
}

absl::StatusOr<std::map<std::string, std::string>> SecretKeeper::Open(
    absl::string_view tenant, const std::vector<std::string>& ids) const {
  std::map<std::string, std::string> values;
  if (ids.empty()) return values;
  QD_ASSIGN_OR_RETURN(const auto stored, Read(tenant));
  for (const std::string& id : ids) {
    const std::string name = NameOf(tenant, id);
    const v1::StoredSecret* found = nullptr;
    for (const v1::StoredSecret& secret : stored) {
      if (secret.secret().name() == name) found = &secret;
    }
    if (found == nullptr) {
      return absl::NotFoundError(absl::StrCat("there is no secret ", id, " in tenants/", tenant,
                                              "; make it with `quantctl secrets put ", id, "`"));
    }
    QD_ASSIGN_OR_RETURN(values[id], Unseal(key_, name, found->sealed()));
  }
  return values;
}

}  // namespace quantd
