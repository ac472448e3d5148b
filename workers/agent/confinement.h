// What an engine may reach while it reads strangers' checkpoints: its job's folders, the files that
// the spec names, the libraries it is made of, the accelerator; the network only when the job has
// something to fetch; no other process, and none of the kernel's rarer doors. Made of what the
// kernel has: Landlock for files and signals, seccomp for system calls and sockets, resource
// limits, and a user of its own where the worker is root. What is missing is said at start, or
// refuses it (--confine strict).
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

struct EngineUser {
  uid_t uid = 0;
  gid_t gid = 0;
};

struct ConfinementPlan {
  bool network = false;
  // Files and folders; what does not exist is left out. Programs can be started from `programs`
  // alone.
  std::vector<std::string> programs;
  std::vector<std::string> readable;
  std::vector<std::string> writable;
  // Set with `as_user`: only root can.
  bool as_user = false;
  EngineUser user;
};

// How a worker confines all of its engines.
struct EngineLimits {
  bool confined = false;
  bool as_user = false;
  EngineUser user;
  std::vector<std::string> programs;  // From EngineReadables, and what the owner adds.
  // Folders in which paths of specs have to lie; empty: specs may name any path.
  std::vector<std::string> spec_roots;
  // The Hub's cache, written by jobs that fetch from it; and the file of its token, which they
  // read.
  std::string hub_cache;
  std::string hub_token;
};

// What this kernel, and what surrounds it, lets a process give up.
struct ConfinementSupport {
  int landlock = 0;  // Version of its interface; 0: none.
  bool seccomp = false;
  std::string Describe() const;
  bool complete() const { return landlock > 0 && seccomp; }
};
ConfinementSupport ProbeConfinement();

// A plan made ready in the parent, so that the child has nothing left to do but simple calls.
class Confinement {
 public:
  static absl::StatusOr<std::shared_ptr<const Confinement>> Prepare(const ConfinementPlan& plan);
  ~Confinement();
  Confinement(const Confinement&) = delete;
  Confinement& operator=(const Confinement&) = delete;

  // In the child, in this order; async-signal-safe. False: errno says why. TakeUser clears the
  // parent's death signal; EnterFiles needs the descriptors still open; EnterCalls comes last.
  bool TakeUser() const;
  bool LimitResources() const;
  bool EnterFiles() const;
  bool EnterCalls() const;

 private:
  Confinement() = default;
  absl::Status MakeRuleset(const ConfinementPlan& plan, int abi);
  void MakeFilter(bool network);

  bool as_user_ = false;
  EngineUser user_;
  int ruleset_fd_ = -1;
  std::vector<sock_filter> filter_;
};

// The system's folders and devices that any engine needs, the engine's own folder and those of its
// libraries (asked from the dynamic linker), and the Hub's cache of this user's.
std::vector<std::string> EngineReadables(const std::string& engine);

// Whether a job has something to fetch: a model or data that is neither a path nor something that
// the worker brings.
bool NeedsNetwork(const v1::JobSpec& spec);
// Absolute paths in the spec that lie in `roots` (no roots: all), and where links directly below
// them lead (a Hub cache's snapshots).
std::vector<std::string> SpecPaths(const v1::JobSpec& spec, const std::vector<std::string>& roots);

// Lets another user work in a job's folders: `readable` may be read, `writable` become its own.
// Files with several links (those of the blob cache) are left alone.
absl::Status GiveToUser(const EngineUser& user, const std::string& job_folder,
                        const std::vector<std::string>& writable);

}  // namespace quantd
