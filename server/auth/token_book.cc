// The id finds the token, the secret's digest is compared in constant time; an unknown id costs the
// same comparison.
#include "server/auth/token_book.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr char kCollection[] = "tokens";
constexpr char kPrefix[] = "qdt_";
constexpr char kScheme[] = "Bearer ";
constexpr size_t kIdBytes = 6;
constexpr size_t kSecretBytes = 32;
constexpr size_t kTokenBytesMax = 200;
constexpr size_t kFileBytesMax = 64 << 10;
constexpr size_t kDisplayNameBytesMax = 200;
// A caller who makes tokens without end must not fill every scheduler's memory.
constexpr size_t kTokensMax = 10'000;
constexpr absl::Duration kLifetimeDefault = absl::Hours(24 * 90);
constexpr absl::Duration kLifetimeMax = absl::Hours(24 * 3653);
// Revoked and expired tokens are listed for so long.
constexpr absl::Duration kEndedKept = absl::Hours(24 * 31);

struct Parts {
  std::string id;
  std::string secret;
};

// Of "qdt_{id}_{secret}"; empty when it is not of that form.
Parts Take(absl::string_view token) {
  if (token.size() > kTokenBytesMax || !absl::ConsumePrefix(&token, kPrefix)) return {};
  const size_t end = token.find('_');
  if (end != 2 * kIdBytes) return {};
  return {std::string(token.substr(0, end)), std::string(token.substr(end + 1))};
}

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  out->set_seconds(absl::ToUnixSeconds(time));
}

std::string TokenName(absl::string_view id) { return absl::StrCat("tokens/", id); }

absl::Status Refuse(absl::string_view reason, absl::string_view words) {
  return WithReason(absl::UnauthenticatedError(words), reason);
}

absl::Status CheckInTime(const v1::Token& token, absl::Time now) {
  if (token.has_revoke_time()) {
    return Refuse(kReasonTokenRevoked, absl::StrCat(token.name(), " was revoked; ask for another"));
  }
  if (token.has_expire_time() && TimeOf(token.expire_time()) <= now) {
    return Refuse(kReasonTokenExpired,
                  absl::StrCat(token.name(), " expired at ",
                               absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", TimeOf(token.expire_time()),
                                                absl::UTCTimeZone()),
                               "; ask for another"));
  }
  return absl::OkStatus();
}

absl::Time EndOf(const v1::Token& token) {
  absl::Time end = absl::InfiniteFuture();
  if (token.has_expire_time()) end = TimeOf(token.expire_time());
  if (token.has_revoke_time()) end = std::min(end, TimeOf(token.revoke_time()));
  return end;
}

Identity IdentityOf(const v1::Token& token) {
  return {.name = token.name(),
          .role = token.role(),
          .tenant = token.tenant(),
          .worker = token.worker()};
}

absl::Status CheckRequest(const v1::Token& asked, const Identity& creator) {
  if (asked.role() < v1::READER || asked.role() > v1::WORKER) {
    return FieldError("token.role", "must be READER, USER, ADMIN or WORKER");
  }
  if (asked.display_name().size() > kDisplayNameBytesMax) {
    return FieldError("token.display_name", absl::StrCat("is longer than ", kDisplayNameBytesMax));
  }
  if (!asked.tenant().empty() && !IsResourceId(asked.tenant())) {
    return FieldError("token.tenant", "must be 1-63 of a-z, 0-9 and '-', not at the ends");
  }
  if (!asked.worker().empty() && (asked.role() != v1::WORKER || !IsWorkerId(asked.worker()))) {
    return FieldError("token.worker", "must be a worker's name, and the role WORKER");
  }
  if (asked.role() == v1::WORKER && !asked.tenant().empty()) {
    return FieldError("token.tenant", "must be empty for a worker, which serves every tenant");
  }
  if (!creator.MayUseTenant(asked.tenant())) {
    return absl::PermissionDeniedError(absl::StrCat(creator.name, " administers tenant \"",
                                                    creator.tenant,
                                                    "\" and can make tokens of that tenant only"));
  }
  return absl::OkStatus();
}

// Adds a file's tokens.
absl::Status ReadTokenFile(const std::string& path, v1::Role role,
                           absl::flat_hash_map<std::string, v1::StoredToken>* tokens) {
  if (path.empty()) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
  size_t found = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const Parts parts = Take(line);
    if (parts.secret.size() < kSecretBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " holds a line that is no token; `quantd --new-token` prints a good one"));
    }
    v1::StoredToken& stored = (*tokens)[parts.id];
    stored.mutable_token()->set_name(TokenName(parts.id));
    stored.mutable_token()->set_role(role);
    stored.set_secret_sha256(Sha256Hex(parts.secret));
    ++found;
  }
  if (found == 0) return absl::InvalidArgumentError(absl::StrCat(path, " holds no token"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NewToken> MakeToken() {
  std::string random(kIdBytes + kSecretBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(random.data()),
                 static_cast<int>(random.size())) != 1) {
    return absl::InternalError("no random numbers to be had");
  }
  NewToken token;
  token.id = absl::BytesToHexString(random.substr(0, kIdBytes));
  token.text =
      absl::StrCat(kPrefix, token.id, "_", absl::WebSafeBase64Escape(random.substr(kIdBytes)));
  return token;
}

absl::Status MakeTokenFile(const std::string& path) {
  if (FileExists(path)) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const NewToken token, MakeToken());
  QD_RETURN_IF_ERROR(WriteFileAtomic(path, token.text + "\n"));
  if (chmod(path.c_str(), 0600) != 0) return ErrnoStatus(errno, "protecting ", path);
  return absl::OkStatus();
}

TokenBook::TokenBook(JobStore* store, TokenFiles files) : store_(store), files_(std::move(files)) {}

absl::Status TokenBook::Refresh(absl::Time now) {
  absl::MutexLock changes(&changes_);
  Tokens from_files;
  absl::Status files = ReadTokenFile(files_.admin, v1::ADMIN, &from_files);
  files.Update(ReadTokenFile(files_.worker, v1::WORKER, &from_files));
  std::vector<KeptRecord> records;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(records, txn.Records(kCollection));
    return absl::OkStatus();
  }),
                     "reading the access tokens");
  Tokens stored;
  std::vector<std::string> over;
  for (const KeptRecord& record : records) {
    v1::StoredToken token;
    if (!token.ParseFromString(record.body)) {
      return absl::DataLossError(absl::StrCat("the record of token ", record.key, " is damaged"));
    }
    if (EndOf(token.token()) + kEndedKept > now) {
      stored.emplace(record.key, std::move(token));
    } else {
      over.push_back(record.key);
    }
  }
  if (!over.empty()) {
    QD_RETURN_IF_ERROR(store_->Run([&](Txn& txn) -> absl::Status {
      for (const std::string& id : over) QD_RETURN_IF_ERROR(txn.DeleteRecord(kCollection, id));
      return absl::OkStatus();
    }),
                       "dropping old access tokens");
  }
  absl::MutexLock lock(&mutex_);
  stored_ = std::move(stored);
  if (files.ok()) from_files_ = std::move(from_files);
  return files;
}

absl::StatusOr<v1::StoredToken> TokenBook::Find(const std::string& id) const {
  absl::ReaderMutexLock lock(&mutex_);
  for (const Tokens* tokens : {&passing_, &from_files_, &stored_}) {
    const auto found = tokens->find(id);
    if (found != tokens->end()) return found->second;
  }
  return absl::NotFoundError("no such token");
}

absl::StatusOr<Identity> TokenBook::Identify(absl::string_view authorization,
                                             absl::Time now) const {
  if (authorization.empty()) {
    return Refuse(kReasonTokenMissing,
                  "this scheduler wants an access token: set QUANTD_TOKEN, or put the token into "
                  "~/.config/quantd/token");
  }
  const bool bearer = absl::StartsWithIgnoreCase(authorization, kScheme);
  const Parts parts =
      bearer ? Take(absl::StripAsciiWhitespace(authorization.substr(sizeof(kScheme) - 1)))
             : Parts();
  const absl::StatusOr<v1::StoredToken> stored = Find(parts.id);
  const std::string digest = Sha256Hex(parts.secret);
  const std::string expected = stored.ok() ? stored->secret_sha256() : std::string(64, '0');
  const bool equal = expected.size() == digest.size() &&
                     CRYPTO_memcmp(expected.data(), digest.data(), digest.size()) == 0;
  if (!stored.ok() || !equal) {
    return Refuse(kReasonTokenUnknown, "the access token is not one of this scheduler's");
  }
  QD_RETURN_IF_ERROR(CheckInTime(stored->token(), now));
  return IdentityOf(stored->token());
}

absl::Status TokenBook::Recheck(const Identity& identity, absl::Time now) const {
  const auto stored = Find(std::string(absl::StripPrefix(identity.name, "tokens/")));
  if (!stored.ok()) {
    return Refuse(kReasonTokenRevoked, absl::StrCat(identity.name, " is not valid any more"));
  }
  return CheckInTime(stored->token(), now);
}

absl::StatusOr<std::string> TokenBook::AddPassing(const Identity& identity) {
  QD_ASSIGN_OR_RETURN(NewToken made, MakeToken());
  v1::StoredToken stored;
  stored.mutable_token()->set_name(TokenName(made.id));
  stored.mutable_token()->set_role(identity.role);
  stored.mutable_token()->set_tenant(identity.tenant);
  stored.mutable_token()->set_worker(identity.worker);
  stored.set_secret_sha256(Sha256Hex(Take(made.text).secret));
  absl::MutexLock lock(&mutex_);
  passing_[made.id] = std::move(stored);
  return std::move(made.text);
}

absl::Status TokenBook::Put(const v1::StoredToken& stored) {
  absl::MutexLock changes(&changes_);
  const std::string id(absl::StripPrefix(stored.token().name(), "tokens/"));
  QD_RETURN_IF_ERROR(store_->Run([&](Txn& txn) {
    return txn.PutRecord(kCollection, {id, stored.SerializeAsString()});
  }),
                     "storing ", stored.token().name());
  absl::MutexLock lock(&mutex_);
  stored_[id] = stored;
  return absl::OkStatus();
}

absl::StatusOr<v1::CreateTokenResponse> TokenBook::Create(const v1::CreateTokenRequest& request,
                                                          const Identity& creator, absl::Time now) {
  QD_RETURN_IF_ERROR(CheckRequest(request.token(), creator));
  const absl::Duration lifetime =
      request.has_lifetime() ? absl::Seconds(request.lifetime().seconds()) : kLifetimeDefault;
  if (lifetime <= absl::ZeroDuration() || lifetime > kLifetimeMax) {
    return FieldError("lifetime", "must be between 1 second and 10 years");
  }
  if (size() >= static_cast<int64_t>(kTokensMax)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kTokensMax, " tokens already; revoke what is not needed"));
  }
  QD_ASSIGN_OR_RETURN(NewToken made, MakeToken());
  v1::StoredToken stored;
  v1::Token& token = *stored.mutable_token();
  token = request.token();
  token.set_name(TokenName(made.id));
  token.clear_revoke_time();
  token.set_creator(creator.name);
  SetTime(now, token.mutable_create_time());
  SetTime(now + lifetime, token.mutable_expire_time());
  stored.set_secret_sha256(Sha256Hex(Take(made.text).secret));
  QD_RETURN_IF_ERROR(Put(stored));
  v1::CreateTokenResponse response;
  *response.mutable_token() = token;
  response.set_secret(std::move(made.text));
  return response;
}

absl::StatusOr<v1::Token> TokenBook::Revoke(const std::string& name, const Identity& caller,
                                            absl::Time now) {
  const std::string id(absl::StripPrefix(name, "tokens/"));
  v1::StoredToken stored;
  {
    absl::ReaderMutexLock lock(&mutex_);
    const auto found = stored_.find(id);
    if (found != stored_.end()) stored = found->second;
    if (from_files_.contains(id) && caller.tenant.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          name, " comes from a file of the scheduler's; take it out there to revoke it"));
    }
  }
  if (stored.token().name().empty() || !caller.MayUseTenant(stored.token().tenant())) {
    return absl::NotFoundError(absl::StrCat("there is no token \"", name.substr(0, 100), "\""));
  }
  if (!stored.token().has_revoke_time()) {
    SetTime(now, stored.mutable_token()->mutable_revoke_time());
    QD_RETURN_IF_ERROR(Put(stored));
  }
  return stored.token();
}

std::vector<v1::Token> TokenBook::List(const Identity& caller) const {
  std::vector<v1::Token> tokens;
  {
    absl::ReaderMutexLock lock(&mutex_);
    for (const Tokens* book : {&from_files_, &stored_}) {
      for (const auto& [id, stored] : *book) {
        if (caller.MayUseTenant(stored.token().tenant())) tokens.push_back(stored.token());
      }
    }
  }
  std::sort(tokens.begin(), tokens.end(), [](const v1::Token& a, const v1::Token& b) {
    return std::make_pair(-a.create_time().seconds(), a.name()) <
           std::make_pair(-b.create_time().seconds(), b.name());
  });
  return tokens;
}

int64_t TokenBook::size() const {
  absl::ReaderMutexLock lock(&mutex_);
  return static_cast<int64_t>(stored_.size());
}

}  // namespace quantd
