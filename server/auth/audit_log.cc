// One write() a line: O_APPEND keeps lines of several threads and processes whole.
#include "server/auth/audit_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace quantd {
namespace {

constexpr size_t kValueBytesMax = 500;

void Add(absl::string_view name, absl::string_view value, std::string* line) {
  if (value.empty()) return;
  absl::StrAppend(line, line->empty() ? "{\"" : ",\"", name, "\":\"",
                  EscapeJson(ReplaceInvalidUtf8(value.substr(0, kValueBytesMax))), "\"");
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path) {
  std::unique_ptr<AuditLog> log(new AuditLog(std::move(path)));
  absl::MutexLock lock(&log->mutex_);
  QD_RETURN_IF_ERROR(log->OpenFile());
  return log;
}

AuditLog::~AuditLog() {
  if (fd_ >= 0) close(fd_);
}

absl::Status AuditLog::OpenFile() {
  if (path_.empty()) return absl::OkStatus();
  const int fd = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(errno, "opening the audit log ", path_);
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  return absl::OkStatus();
}

bool AuditLog::Moved() const {
  struct stat open_file, named_file;
  if (fstat(fd_, &open_file) != 0 || stat(path_.c_str(), &named_file) != 0) return true;
  return open_file.st_ino != named_file.st_ino || open_file.st_dev != named_file.st_dev;
}

void AuditLog::Write(const AuditEntry& entry) {
  if (path_.empty()) return;
  std::string line;
  Add("time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.time, absl::UTCTimeZone()), &line);
  Add("caller", entry.caller, &line);
  Add("role", entry.role, &line);
  Add("tenant", entry.tenant, &line);
  Add("peer", entry.peer, &line);
  Add("method", entry.method, &line);
  Add("resource", entry.resource, &line);
  Add("code", entry.code, &line);
  Add("message", entry.message, &line);
  absl::StrAppend(&line, "}\n");
  absl::MutexLock lock(&mutex_);
  absl::Status status = Moved() ? OpenFile() : absl::OkStatus();
  if (status.ok() && write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    status = ErrnoStatus(errno, "writing the audit log ", path_);
  }
  if (!status.ok() && !failing_) LogError("audit lines are lost", {{"error", status.ToString()}});
  failing_ = !status.ok();
}

}  // namespace quantd
