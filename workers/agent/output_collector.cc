// One thread with a queue of files to store.
#include "workers/agent/output_collector.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "base/fault_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

// When file or inode changed last, which unlike the time of the last write no program can set.
int64_t ChangedNs(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return -1;
  return int64_t{info.st_ctim.tv_sec} * 1'000'000'000 + info.st_ctim.tv_nsec;
}

}  // namespace

OutputCollector::OutputCollector(Parts parts, const v1::Manifest& stored)
    : parts_(std::move(parts)), checkpoint_files_(ToFileMap(stored)) {
  record_ = parts_.folder->ReadRecord();
  // Files saved by an earlier attempt here that the store may not have got: due with the next
  // checkpoint.
  thread_ = std::thread([this] { Run(); });
}

OutputCollector::~OutputCollector() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

std::string OutputCollector::StagePath(const std::string& relative) const {
  return absl::StrCat(parts_.folder->stage(), "/", relative);
}

void OutputCollector::AddArtifact(const v1::ManifestFile& file) {
  const absl::Status safe = OwnFile::Open(parts_.folder->output(), file.path()).status();
  absl::MutexLock lock(&mutex_);
  announced_[file.path()] = file.role();
  if (!safe.ok()) return;  // Finish() says so.
  Task task;
  task.artifact = file;
  tasks_.push_back(std::move(task));
}

void OutputCollector::AddCheckpoint(v1::CheckpointSaved checkpoint) {
  absl::MutexLock lock(&mutex_);
  for (const std::string& path : checkpoint.paths()) {
    const absl::StatusOr<OwnFile> file = OwnFile::Open(parts_.folder->work(), path);
    const absl::Status status =
        file.ok() ? LinkOrCopy(file->path(), StagePath(path)) : file.status();
    if (!status.ok()) {
      parts_.keeper->AddLog(v1::LogLine::WORKER,
                            absl::StrCat("a checkpoint was not stored: ", status.ToString()));
      return;
    }
    record_.paths.insert(path);
  }
  if (const absl::Status status = parts_.folder->WriteRecord(record_); !status.ok()) {
    LogWarning("cannot record a checkpoint", {{"error", status.ToString()}});
  }
  if (!tasks_.empty() && tasks_.back().checkpoint.has_value()) {
    v1::CheckpointSaved& waiting = *tasks_.back().checkpoint;
    for (const std::string& path : waiting.paths()) checkpoint.add_paths(path);
    waiting = std::move(checkpoint);
    return;
  }
  Task task;
  task.checkpoint = std::move(checkpoint);
  tasks_.push_back(std::move(task));
}

void OutputCollector::Run() {
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      busy_ = false;
      const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stop_ || !tasks_.empty();
      };
      mutex_.Await(absl::Condition(&due));
      if (stop_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
      busy_ = true;
    }
    if (parts_.control.scope->cancelled()) continue;
    const absl::Status status = task.artifact.has_value()
                                    ? StoreArtifact(*task.artifact, /*announce=*/true)
                                    : StoreCheckpoint(std::move(*task.checkpoint));
    if (!status.ok() && !parts_.control.scope->cancelled()) {
      // An output is tried again by Finish(), a checkpoint with the next one.
      parts_.keeper->AddLog(v1::LogLine::WORKER,
                            absl::StrCat("not stored yet: ", status.ToString()));
    }
  }
}

absl::Status OutputCollector::StoreBlob(const std::string& folder, const std::string& relative,
                                        v1::Blob* blob) {
  QD_ASSIGN_OR_RETURN(const OwnFile file, OwnFile::Open(folder, relative));
  QD_ASSIGN_OR_RETURN(*blob, file.Hash());
  QD_ASSIGN_OR_RETURN(const std::vector<v1::Blob> missing,
                      parts_.transfer->FindMissing({*blob}, parts_.control));
  if (missing.empty()) return absl::OkStatus();
  return parts_.transfer->Upload(file.path(), *blob, parts_.control);
}

absl::Status OutputCollector::StoreArtifact(const v1::ManifestFile& file, bool announce) {
  const std::string folder = parts_.folder->output();
  Stored stored;
  stored.file = file;
  stored.changed_ns = ChangedNs(absl::StrCat(folder, "/", file.path()));
  QD_RETURN_IF_ERROR(StoreBlob(folder, file.path(), stored.file.mutable_blob()), "storing ",
                     file.path());
  if (announce) {
    v1::JobEvent event;
    *event.mutable_artifact()->mutable_file() = stored.file;
    parts_.keeper->Add(std::move(event));
  }
  absl::MutexLock lock(&mutex_);
  stored_[file.path()] = std::move(stored);
  return absl::OkStatus();
}

absl::Status OutputCollector::StoreCheckpoint(v1::CheckpointSaved checkpoint) {
  std::set<std::string> due(checkpoint.paths().begin(), checkpoint.paths().end());
  std::set<std::string> all;
  {
    absl::MutexLock lock(&mutex_);
    all = record_.paths;
  }
  for (const std::string& path : all) {
    if (checkpoint_files_.count(path) == 0) due.insert(path);
  }
  for (const std::string& path : due) {
    const std::string staged = StagePath(path);
    const std::string folder = FileExists(staged) ? parts_.folder->stage() : parts_.folder->work();
    v1::ManifestFile file;
    file.set_path(path);
    file.set_role("checkpoint");
    const absl::Status status = StoreBlob(folder, path, file.mutable_blob());
    if (absl::IsNotFound(status)) continue;  // The engine has tidied it away since.
    QD_RETURN_IF_ERROR(status, "storing checkpoint file ", path);
    checkpoint_files_[path] = std::move(file);
    // A link in the stage would keep the bytes on disk after the engine has removed the file.
    unlink(staged.c_str());
  }
  for (auto file = checkpoint_files_.begin(); file != checkpoint_files_.end();) {
    const bool there = FileExists(absl::StrCat(parts_.folder->work(), "/", file->first));
    file = there ? std::next(file) : checkpoint_files_.erase(file);
  }
  FaultPoint("worker/checkpoint/uploaded");
  *checkpoint.mutable_manifest() = ToManifest(checkpoint_files_);
  {
    absl::MutexLock lock(&mutex_);
    record_.manifests.insert(checkpoint.manifest().sha256());
    QD_RETURN_IF_ERROR(parts_.folder->WriteRecord(record_));
  }
  FaultPoint("worker/checkpoint/recorded");
  std::sort(checkpoint.mutable_paths()->begin(), checkpoint.mutable_paths()->end());
  v1::JobEvent event;
  *event.mutable_checkpoint() = std::move(checkpoint);
  parts_.keeper->Add(std::move(event));
  parts_.metrics->CheckpointStored();
  return absl::OkStatus();
}

void OutputCollector::Settle() {
  while (!parts_.control.scope->cancelled()) {
    absl::MutexLock lock(&mutex_);
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return tasks_.empty() && !busy_;
    };
    if (mutex_.AwaitWithTimeout(absl::Condition(&idle), absl::Milliseconds(100))) return;
  }
}

absl::StatusOr<v1::Manifest> OutputCollector::Finish() {
  Settle();
  const std::string root = parts_.folder->output();
  std::map<std::string, std::string> announced;
  {
    absl::MutexLock lock(&mutex_);
    announced = announced_;
  }
  for (const auto& [path, role] : announced) {
    if (const absl::Status own = OwnFile::Open(root, path).status(); !own.ok()) {
      return absl::InternalError(
          absl::StrCat("the engine announced output \"", path, "\": ", own.message()));
    }
  }
  FileMap files;
  std::error_code error;
  fs::recursive_directory_iterator entries(root, error), end;
  for (; !error && entries != end; entries.increment(error)) {
    const std::string path = entries->path().string();
    if (fs::is_directory(entries->symlink_status())) continue;
    v1::ManifestFile file;
    file.set_path(path.substr(root.size() + 1));
    if (const absl::Status own = OwnFile::Open(root, file.path()).status(); !own.ok()) {
      return absl::InternalError(
          absl::StrCat("the engine left \"", file.path(), "\" in its output: ", own.message()));
    }
    const auto role = announced.find(file.path());
    file.set_role(role != announced.end() ? role->second : "data");
    bool current = false;
    {
      absl::MutexLock lock(&mutex_);
      const auto stored = stored_.find(file.path());
      current = stored != stored_.end() && stored->second.changed_ns == ChangedNs(path) &&
                stored->second.file.blob().size_bytes() == FileSize(path).value_or(-1);
    }
    if (!current) QD_RETURN_IF_ERROR(StoreArtifact(file, /*announce=*/true));
    absl::MutexLock lock(&mutex_);
    files[file.path()] = stored_[file.path()].file;
  }
  if (error) return ErrnoStatus(error.value(), "listing the output in ", root);

  // Once more for all: what was uploaded hours ago may have been collected as nobody's since.
  std::vector<v1::Blob> blobs;
  for (const auto& [path, file] : files) blobs.push_back(file.blob());
  QD_ASSIGN_OR_RETURN(const std::vector<v1::Blob> missing,
                      parts_.transfer->FindMissing(blobs, parts_.control));
  std::set<std::string> digests;
  for (const v1::Blob& blob : missing) digests.insert(blob.sha256());
  for (const auto& [path, file] : files) {
    QD_ASSIGN_OR_RETURN(const OwnFile local, OwnFile::Open(root, path), "storing ", path);
    if (digests.count(file.blob().sha256()) > 0) {
      QD_RETURN_IF_ERROR(parts_.transfer->Upload(local.path(), file.blob(), parts_.control),
                         "storing ", path);
    }
    if (const absl::Status kept = parts_.cache->Adopt(local.path(), file.blob()); !kept.ok()) {
      LogWarning("cannot keep an output in the cache", {{"error", kept.ToString()}});
    }
  }
  return ToManifest(files);
}

}  // namespace quantd
