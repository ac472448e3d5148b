// Access tokens. A token is "qdt_{id}_{secret}": the id is public and names it in lists and logs,
// the secret is 256 random bits of which only the SHA-256 is kept. Tokens live in the job store, so
// that all schedulers of one store share them, and are held in memory for the calls; files may hold
// further ones (the first administrator's, a deployment's workers'). What another scheduler or a
// file changes is known here after the next Refresh. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/auth/identity.h"
#include "server/store/job_store.h"

namespace quantd {

// ErrorInfo.reason of a call refused for its token (UNAUTHENTICATED).
inline constexpr char kReasonTokenMissing[] = "TOKEN_MISSING";
inline constexpr char kReasonTokenUnknown[] = "TOKEN_UNKNOWN";
inline constexpr char kReasonTokenExpired[] = "TOKEN_EXPIRED";
inline constexpr char kReasonTokenRevoked[] = "TOKEN_REVOKED";

// A fresh token: its id and the whole of it.
struct NewToken {
  std::string id;
  std::string text;
};
absl::StatusOr<NewToken> MakeToken();
// Writes a fresh one to a file for its owner alone, unless the file is there.
absl::Status MakeTokenFile(const std::string& path);

struct TokenFiles {
  // Each holds tokens, one a line; empty: there is none. Two lines let a token be replaced without
  // a moment in which neither is valid.
  std::string admin;
  std::string worker;
};

class TokenBook {
 public:
  // `store` is not owned.
  explicit TokenBook(JobStore* store, TokenFiles files = {});

  // Reads store and files again, and drops what ended long ago. After an error what was known
  // before stays valid.
  absl::Status Refresh(absl::Time now);

  // `authorization`: the header's value, "Bearer qdt_...". Unauthenticated with one of the reasons
  // above.
  absl::StatusOr<Identity> Identify(absl::string_view authorization, absl::Time now) const;
  // Whether the token behind an identity is still good: for streams, which outlive their start.
  absl::Status Recheck(const Identity& identity, absl::Time now) const;

  // A token that only this process knows, and only as long as it lives.
  absl::StatusOr<std::string> AddPassing(const Identity& identity);

  // The writes wait for the store; not to be called on its writer's thread. A tenant's
  // administrator makes and sees tokens of that tenant alone.
  absl::StatusOr<v1::CreateTokenResponse> Create(const v1::CreateTokenRequest& request,
                                                 const Identity& creator, absl::Time now);
  absl::StatusOr<v1::Token> Revoke(const std::string& name, const Identity& caller, absl::Time now);
  std::vector<v1::Token> List(const Identity& caller) const;

  int64_t size() const;

 private:
  using Tokens = absl::flat_hash_map<std::string, v1::StoredToken>;  // By id.

  // Stores, then holds.
  absl::Status Put(const v1::StoredToken& stored) ABSL_LOCKS_EXCLUDED(changes_);
  absl::StatusOr<v1::StoredToken> Find(const std::string& id) const;

  JobStore* const store_;
  const TokenFiles files_;
  // One change at a time, so that a refresh never brings back what a revocation has just ended.
  absl::Mutex changes_;
  mutable absl::Mutex mutex_;
  Tokens stored_ ABSL_GUARDED_BY(mutex_);
  Tokens from_files_ ABSL_GUARDED_BY(mutex_);
  Tokens passing_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
