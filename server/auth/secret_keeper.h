// Secrets of a tenant (a Hub token, keys of an object store) that its jobs name and the engine gets
// as environment variables. A value is kept sealed with AES-256-GCM under the installation's key
// and bound to its name, so that neither a copy of the database nor a swapped row gives one away;
// it is opened only for the worker that has leased a job which names it. Thread-safe.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/access.pb.h"
#include "server/store/job_store.h"

namespace quantd {

// Nonce, ciphertext and tag. `key`: 32 bytes; `name` is authenticated, not hidden.
absl::StatusOr<std::string> Seal(absl::string_view key, absl::string_view name,
                                 absl::string_view value);
// DataLoss: another key, another name, or damage.
absl::StatusOr<std::string> Unseal(absl::string_view key, absl::string_view name,
                                   absl::string_view sealed);

// Whether an engine may be given a variable of this name: the known ones of the Hub and the clouds,
// and QUANTD_SECRET_*; none that changes how a program is loaded or run. InvalidArgument says so.
absl::Status CheckSecretId(absl::string_view id);

class SecretKeeper {
 public:
  // `store` is not owned. `key`: of any length, the sealing key is derived from it.
  SecretKeeper(JobStore* store, absl::string_view key);

  // These wait for the store.
  absl::StatusOr<v1::Secret> Put(const v1::PutSecretRequest& request, absl::Time now);
  absl::Status Delete(const std::string& name);
  absl::StatusOr<std::vector<v1::Secret>> List(absl::string_view tenant) const;
  // The values by id. NotFound names the first that is missing.
  absl::StatusOr<std::map<std::string, std::string>> Open(
      absl::string_view tenant, const std::vector<std::string>& ids) const;

 private:
  absl::StatusOr<std::vector<v1::StoredSecret>> Read(absl::string_view tenant) const;

  JobStore* const store_;
  const std::string key_;
};

}  // namespace quantd
