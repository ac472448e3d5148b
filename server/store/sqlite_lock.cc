// flock rather than SQLite's own locks: those would let a second scheduler in between two
// transactions.
#include "server/store/sqlite_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace quantd {
namespace {

struct NetworkFileSystem {
  uint32_t magic;  // statfs's f_type
  const char* name;
};
constexpr NetworkFileSystem kNetworkFileSystems[] = {
    {0x00006969, "NFS"}, {0x0000517b, "SMB"},  {0xff534d42, "CIFS"},   {0xfe534d42, "SMB2"},
    {0x5346414f, "AFS"}, {0x00c36400, "Ceph"}, {0x0bd00bd0, "Lustre"}, {0x01161970, "GFS2"},
};

absl::Status CheckLocal(const std::string& path) {
  const std::string folder =
      path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1);
  struct statfs info;
  if (statfs(folder.c_str(), &info) != 0) {
    return ErrnoStatus(errno, "looking at the database's folder ", folder);
  }
  for (const NetworkFileSystem& entry : kNetworkFileSystems) {
    if (static_cast<uint32_t>(info.f_type) == entry.magic) {
      return absl::FailedPreconditionError(
          absl::StrCat("the database folder ", folder, " is on a network file system (", entry.name,
                       "), which cannot keep the queue's promises; give a path on a local disk"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

DatabaseLock::~DatabaseLock() {
  if (file_ >= 0) close(file_);
}

absl::StatusOr<DatabaseLock> DatabaseLock::Take(const std::string& path) {
  if (absl::Status status = CheckLocal(path); !status.ok()) return status;
  const std::string lock_path = path + ".lock";
  DatabaseLock lock;
  lock.file_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock.file_ < 0) return ErrnoStatus(errno, "opening the lock file ", lock_path);
  if (flock(lock.file_, LOCK_EX | LOCK_NB) != 0) {
    char owner[32] = {};
    const ssize_t size = pread(lock.file_, owner, sizeof(owner) - 1, 0);
    return absl::FailedPreconditionError(absl::StrCat(
        "another scheduler (process ", size > 0 ? absl::StripSuffix(owner, "\n") : "unknown",
        ") has the database ", path, " open; stop it, or give this one a path of its own"));
  }
  const std::string owner = absl::StrCat(getpid(), "\n");
  if (ftruncate(lock.file_, 0) != 0 ||
      pwrite(lock.file_, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    // Only for the message above: a full disk must not keep a scheduler from starting.
    errno = 0;
  }
  return lock;
}

}  // namespace quantd
