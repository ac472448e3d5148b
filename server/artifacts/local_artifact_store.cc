// POSIX files; every step of Finish is ordered so that a crash leaves either a partial or a whole
// blob.
#include "server/artifacts/local_artifact_store.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"
#include "server/artifacts/secret.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

// Whenever so much has come it is sent on its way to the disk: the sync at the end has little to
// do.
constexpr int64_t kLapBytes = 8 << 20;
// Rolling hashes kept for uploads under way; beyond it idle ones are dropped and their files hashed
// again.
constexpr size_t kUploadsMax = 4096;
constexpr int64_t kManifestBytesMax = int64_t{16} << 20;
constexpr absl::Duration kDiskLowRetry = absl::Seconds(30);

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

class LocalBlob : public BlobReader {
 public:
  LocalBlob(int fd, int64_t size_bytes) : fd_(fd), size_bytes_(size_bytes) {}
  int64_t size_bytes() const override { return size_bytes_; }
  absl::StatusOr<std::string> Read(int64_t offset_bytes, int64_t limit_bytes) const override {
    std::string data(
        static_cast<size_t>(std::clamp<int64_t>(size_bytes_ - offset_bytes, 0, limit_bytes)), '\0');
    size_t got = 0;
    while (got < data.size()) {
      const ssize_t count =
          pread(fd_.get(), &data[got], data.size() - got, offset_bytes + static_cast<off_t>(got));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return ErrnoStatus(errno, "reading a blob");
      if (count == 0) return absl::DataLossError("a blob became shorter while it was read");
      got += static_cast<size_t>(count);
    }
    return data;
  }

 private:
  const Fd fd_;
  const int64_t size_bytes_;
};

// The names in a folder from `first` on, in order.
absl::StatusOr<std::vector<std::string>> NamesBelow(const std::string& folder,
                                                    absl::string_view first) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (name >= first) names.push_back(std::move(name));
  }
  if (error) return ErrnoStatus(error.value(), "listing ", folder);
  std::sort(names.begin(), names.end());
  return names;
}

UploadState Complete(const v1::Blob& blob, std::string upload) {
  return {.upload = std::move(upload), .committed_bytes = blob.size_bytes(), .complete = true};
}

}  // namespace

LocalArtifactStore::LocalArtifactStore(LocalArtifactStoreOptions options, std::string secret)
    : options_(std::move(options)), secret_(std::move(secret)) {}

absl::StatusOr<std::unique_ptr<LocalArtifactStore>> LocalArtifactStore::Open(
    LocalArtifactStoreOptions options, absl::Time now) {
  for (const char* folder : {"blobs", "partials", "manifests"}) {
    QD_RETURN_IF_ERROR(MakeFolders(absl::StrCat(options.folder, "/", folder)),
                       "opening the artifact store");
  }
  std::string secret = options.secret;
  if (secret.empty()) {
    QD_ASSIGN_OR_RETURN(secret, ReadOrMakeSecret(options.folder + "/secret"));
  }
  auto store = std::unique_ptr<LocalArtifactStore>(
      new LocalArtifactStore(std::move(options), std::move(secret)));
  QD_RETURN_IF_ERROR(store->Sweep(now));
  std::error_code error;
  int64_t total_bytes = 0;
  for (fs::recursive_directory_iterator entry(store->options_.folder + "/blobs", error), end;
       !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored))
      total_bytes += static_cast<int64_t>(entry->file_size(ignored));
  }
  absl::MutexLock lock(&store->mutex_);
  store->usage_.blob_bytes = total_bytes;
  return store;
}

std::string LocalArtifactStore::BlobPath(absl::string_view sha256) const {
  return absl::StrCat(options_.folder, "/blobs/", sha256.substr(0, 2), "/", sha256);
}

std::string LocalArtifactStore::PartialPath(const v1::Blob& blob) const {
  return absl::StrCat(options_.folder, "/partials/", blob.sha256(), "-", blob.size_bytes(),
                      ".partial");
}

std::string LocalArtifactStore::UploadName(const v1::Blob& blob) const {
  const std::string what = absl::StrCat(blob.sha256(), "/", blob.size_bytes());
  return absl::StrCat("uploads/", Mac(secret_, what), "/", what);
}

absl::StatusOr<v1::Blob> LocalArtifactStore::ParseUploadName(absl::string_view name) const {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  v1::Blob blob;
  int64_t size_bytes = 0;
  if (parts.size() == 4 && absl::SimpleAtoi(parts[3], &size_bytes)) {
    blob.set_sha256(std::string(parts[2]));
    blob.set_size_bytes(size_bytes);
    if (CheckBlob(blob).ok() && ConstantTimeEqual(name, UploadName(blob))) return blob;
  }
  return FieldError("upload", "is no name that StartUpload gave");
}

absl::Status LocalArtifactStore::CheckRoom(int64_t more_bytes) {
  QD_ASSIGN_OR_RETURN(const int64_t free_bytes, FreeDiskBytes(options_.folder));
  {
    absl::MutexLock lock(&mutex_);
    usage_.disk_free_bytes = free_bytes;
  }
  if (free_bytes - options_.free_bytes_min >= more_bytes) return absl::OkStatus();
  return WithRetryAfter(
      WithReason(absl::UnavailableError(
                     absl::StrCat("the artifact store has ", FormatBytes(free_bytes),
                                  " free and keeps ", FormatBytes(options_.free_bytes_min),
                                  " in reserve; no room for ", FormatBytes(more_bytes), " more")),
                 kReasonDiskLow),
      kDiskLowRetry);
}

absl::Status LocalArtifactStore::Health() { return CheckRoom(0); }

ArtifactUsage LocalArtifactStore::Usage() {
  const auto free_bytes = FreeDiskBytes(options_.folder);
  absl::MutexLock lock(&mutex_);
  if (free_bytes.ok()) usage_.disk_free_bytes = *free_bytes;
  return usage_;
}

absl::StatusOr<bool> LocalArtifactStore::Has(const v1::Blob& blob) {
  QD_RETURN_IF_ERROR(CheckBlob(blob));
  const auto size_bytes = FileSize(BlobPath(blob.sha256()));
  if (absl::IsNotFound(size_bytes.status())) return false;
  if (!size_bytes.ok()) return size_bytes.status();
  if (*size_bytes != blob.size_bytes()) {
    return FieldError(
        "blob.size_bytes",
        absl::StrCat(blob.size_bytes(), ": the blob of this digest has ", *size_bytes, " bytes"));
  }
  return true;
}

absl::StatusOr<int64_t> LocalArtifactStore::CommittedBytes(const v1::Blob& blob) const {
  const auto size_bytes = FileSize(PartialPath(blob));
  if (absl::IsNotFound(size_bytes.status())) return 0;
  return size_bytes;
}

std::shared_ptr<LocalArtifactStore::Upload> LocalArtifactStore::Find(const v1::Blob& blob) {
  absl::MutexLock lock(&mutex_);
  if (uploads_.size() >= kUploadsMax) {
    absl::erase_if(uploads_, [](const auto& entry) { return entry.second.use_count() == 1; });
  }
  auto& upload = uploads_[PartialPath(blob)];
  if (upload == nullptr) upload = std::make_shared<Upload>();
  return upload;
}

absl::StatusOr<UploadState> LocalArtifactStore::StartUpload(const v1::Blob& blob) {
  QD_ASSIGN_OR_RETURN(const bool there, Has(blob));
  if (there) return Complete(blob, UploadName(blob));
  QD_ASSIGN_OR_RETURN(const int64_t committed_bytes, CommittedBytes(blob));
  QD_RETURN_IF_ERROR(CheckRoom(std::max<int64_t>(0, blob.size_bytes() - committed_bytes)));
  return UploadState{.upload = UploadName(blob), .committed_bytes = committed_bytes};
}

absl::Status LocalArtifactStore::Write(const v1::Blob& blob, int64_t offset_bytes,
                                       absl::string_view data) {
  const std::string path = PartialPath(blob);
  const Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (fd.get() < 0) return ErrnoStatus(errno, "opening ", path);
  const int64_t lap = offset_bytes / kLapBytes;
  while (!data.empty()) {
    const ssize_t wrote = pwrite(fd.get(), data.data(), data.size(), offset_bytes);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing ", path);
    data.remove_prefix(static_cast<size_t>(wrote));
    offset_bytes += wrote;
  }
  if (offset_bytes / kLapBytes > lap) {
    sync_file_range(fd.get(), lap * kLapBytes, kLapBytes, SYNC_FILE_RANGE_WRITE);
  }
  return absl::OkStatus();
}

absl::StatusOr<UploadState> LocalArtifactStore::Append(const UploadChunk& chunk) {
  QD_ASSIGN_OR_RETURN(const v1::Blob blob, ParseUploadName(chunk.upload));
  const std::shared_ptr<Upload> upload = Find(blob);
  absl::MutexLock lock(&upload->mutex);
  QD_ASSIGN_OR_RETURN(const bool there, Has(blob));
  if (there) return Complete(blob, std::string(chunk.upload));
  QD_ASSIGN_OR_RETURN(int64_t committed_bytes, CommittedBytes(blob));
  if (chunk.offset_bytes < 0) return FieldError("offset", "is negative");
  if (chunk.offset_bytes > committed_bytes) {
    return WithReason(absl::OutOfRangeError(absl::StrCat(
                          "upload of ", blob.sha256(), ": a chunk at ", chunk.offset_bytes,
                          " while ", committed_bytes, " bytes are there; go on from there")),
                      kReasonUploadGap, {{"committed_bytes", absl::StrCat(committed_bytes)}});
  }
  if (static_cast<int64_t>(chunk.data.size()) > blob.size_bytes() - chunk.offset_bytes) {
    return FieldError("data", absl::StrCat("goes beyond the blob's ", blob.size_bytes(), " bytes"));
  }
  absl::string_view news = chunk.data;
  news.remove_prefix(
      std::min<size_t>(news.size(), static_cast<size_t>(committed_bytes - chunk.offset_bytes)));
  if (!news.empty()) {
    QD_RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(news.size())));
    if (committed_bytes == 0) {
      upload->hash = std::make_unique<Sha256>();
      upload->hashed_bytes = 0;
    }
    QD_RETURN_IF_ERROR(Write(blob, committed_bytes, news));
    FaultPoint("upload/written");
    if (upload->hash != nullptr && upload->hashed_bytes == committed_bytes) {
      upload->hash->Update(news);
      upload->hashed_bytes += static_cast<int64_t>(news.size());
    } else {
      upload->hash = nullptr;
    }
    committed_bytes += static_cast<int64_t>(news.size());
    absl::MutexLock usage_lock(&mutex_);
    usage_.uploaded_bytes += static_cast<int64_t>(news.size());
  }
  if (!chunk.finish)
    return UploadState{.upload = std::string(chunk.upload), .committed_bytes = committed_bytes};
  if (committed_bytes != blob.size_bytes()) {
    return FieldError("finish", absl::StrCat("comes after ", committed_bytes, " of ",
                                             blob.size_bytes(), " bytes"));
  }
  QD_RETURN_IF_ERROR(Finish(blob, upload.get()));
  return Complete(blob, std::string(chunk.upload));
}

void LocalArtifactStore::Discard(const v1::Blob& blob, Upload* upload) {
  unlink(PartialPath(blob).c_str());
  upload->hash = nullptr;
  upload->hashed_bytes = 0;
}

absl::Status LocalArtifactStore::Finish(const v1::Blob& blob, Upload* upload) {
  const std::string partial = PartialPath(blob);
  if (blob.size_bytes() == 0) QD_RETURN_IF_ERROR(Write(blob, 0, ""));
  std::string digest;
  if (upload->hash != nullptr && upload->hashed_bytes == blob.size_bytes()) {
    digest = upload->hash->HexDigest();
  } else {
    QD_ASSIGN_OR_RETURN(digest, Sha256File(partial));
  }
  upload->hash = nullptr;  // HexDigest ended its use.
  upload->hashed_bytes = 0;
  if (digest != blob.sha256()) {
    Discard(blob, upload);
    absl::MutexLock lock(&mutex_);
    ++usage_.verify_failures;
    return FieldError("data", absl::StrCat("does not fit: the uploaded bytes have SHA-256 ", digest,
                                           ", announced was ", blob.sha256(),
                                           "; the upload is discarded, start again"));
  }
  const std::string path = BlobPath(blob.sha256());
  const std::string folder = fs::path(path).parent_path().string();
  {
    const Fd fd(open(partial.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd.get() < 0) return ErrnoStatus(errno, "opening ", partial);
    if (fsync(fd.get()) != 0) return ErrnoStatus(errno, "syncing ", partial);
  }
  FaultPoint("upload/synced");
  if (!FileExists(folder)) {
    QD_RETURN_IF_ERROR(MakeFolders(folder));
    QD_RETURN_IF_ERROR(SyncFolder(options_.folder + "/blobs"));
  }
  if (rename(partial.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, "renaming ", partial);
  FaultPoint("upload/renamed");
  QD_RETURN_IF_ERROR(SyncFolder(folder));
  FaultPoint("upload/published");
  absl::MutexLock lock(&mutex_);
  usage_.blob_bytes += blob.size_bytes();
  uploads_.erase(partial);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<BlobReader>> LocalArtifactStore::Open(absl::string_view sha256) {
  if (!IsSha256Hex(sha256))
    return FieldError("sha256", "has to be 64 lower-case hexadecimal digits");
  const int fd = open(BlobPath(sha256).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0 && errno == ENOENT) {
    return WithResource(absl::NotFoundError(absl::StrCat("there is no blob ", sha256)), "blob",
                        sha256);
  }
  if (fd < 0) return ErrnoStatus(errno, "opening blob ", sha256);
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    close(fd);
    return ErrnoStatus(errno, "reading blob ", sha256);
  }
  return std::make_shared<LocalBlob>(fd, info.st_size);
}

std::string LocalArtifactStore::FileOf(const v1::Blob& blob) const {
  const std::string partial = PartialPath(blob);
  return FileExists(partial) ? partial : BlobPath(blob.sha256());
}

absl::Status LocalArtifactStore::RemoveBlob(absl::string_view sha256) {
  if (!IsSha256Hex(sha256)) return absl::OkStatus();
  const std::string path = BlobPath(sha256);
  const int64_t size_bytes = FileSize(path).value_or(0);
  if (unlink(path.c_str()) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, "removing blob ", sha256);
  }
  absl::MutexLock lock(&mutex_);
  usage_.blob_bytes -= size_bytes;
  return absl::OkStatus();
}

absl::Status LocalArtifactStore::RemoveBlobsBefore(absl::Time time) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(options_.folder + "/blobs", error), end;
       !error && entry != end; entry.increment(error)) {
    struct stat info {};
    if (stat(entry->path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (absl::TimeFromTimespec(info.st_mtim) < time) unlink(entry->path().c_str());
  }
  if (error) return ErrnoStatus(error.value(), "reading the blobs below ", options_.folder);
  return absl::OkStatus();
}

absl::Status LocalArtifactStore::PutArtifact(const v1::Artifact& artifact) {
  QD_ASSIGN_OR_RETURN(const TenantResource name, ParseArtifactName(artifact.name()));
  QD_RETURN_IF_ERROR(CheckRoom(0));
  const std::string folder = absl::StrCat(options_.folder, "/manifests/", name.tenant);
  if (FileExists(absl::StrCat(folder, "/", name.id))) return absl::OkStatus();
  QD_RETURN_IF_ERROR(MakeFolders(folder));
  return WriteFileAtomic(absl::StrCat(folder, "/", name.id), artifact.SerializeAsString());
}

absl::StatusOr<v1::Artifact> LocalArtifactStore::GetArtifact(absl::string_view tenant,
                                                             absl::string_view sha256) {
  if (!IsResourceId(tenant) || !IsSha256Hex(sha256)) return absl::NotFoundError("no such artifact");
  const std::string name = ArtifactName({std::string(tenant), std::string(sha256)});
  const auto bytes = ReadFile(absl::StrCat(options_.folder, "/manifests/", tenant, "/", sha256),
                              kManifestBytesMax);
  if (absl::IsNotFound(bytes.status())) {
    return WithResource(absl::NotFoundError(absl::StrCat("there is no artifact ", name)),
                        "artifact", name);
  }
  if (!bytes.ok()) return bytes.status();
  v1::Artifact artifact;
  if (!artifact.ParseFromString(*bytes))
    return absl::DataLossError(absl::StrCat(name, " is damaged"));
  return artifact;
}

absl::StatusOr<std::vector<v1::Artifact>> LocalArtifactStore::ListArtifacts(
    absl::string_view tenant, absl::string_view after_sha256, int64_t limit) {
  if (!IsResourceId(tenant)) return absl::NotFoundError("no such tenant");
  std::vector<std::string> digests;
  std::error_code error;
  for (fs::directory_iterator entry(absl::StrCat(options_.folder, "/manifests/", tenant), error),
       end;
       !error && entry != end; entry.increment(error)) {
    std::string digest = entry->path().filename().string();
    if (IsSha256Hex(digest) && digest > after_sha256) digests.push_back(std::move(digest));
  }
  std::sort(digests.begin(), digests.end());
  std::vector<v1::Artifact> artifacts;
  for (const std::string& digest : digests) {
    if (static_cast<int64_t>(artifacts.size()) >= limit) break;
    QD_ASSIGN_OR_RETURN(artifacts.emplace_back(), GetArtifact(tenant, digest));
  }
  return artifacts;
}

absl::Status LocalArtifactStore::RemoveArtifact(absl::string_view tenant,
                                                absl::string_view sha256) {
  if (!IsResourceId(tenant) || !IsSha256Hex(sha256)) return absl::OkStatus();
  const std::string path = absl::StrCat(options_.folder, "/manifests/", tenant, "/", sha256);
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(errno, "removing ", path);
}

absl::StatusOr<std::vector<v1::Blob>> LocalArtifactStore::ListBlobs(absl::string_view after_sha256,
                                                                    int64_t limit) {
  std::vector<v1::Blob> blobs;
  const std::string root = options_.folder + "/blobs";
  QD_ASSIGN_OR_RETURN(const auto folders, NamesBelow(root, after_sha256.substr(0, 2)));
  for (const std::string& folder : folders) {
    QD_ASSIGN_OR_RETURN(const auto names,
                        NamesBelow(absl::StrCat(root, "/", folder), after_sha256));
    for (const std::string& name : names) {
      if (static_cast<int64_t>(blobs.size()) >= limit) return blobs;
      if (!IsSha256Hex(name) || name == after_sha256) continue;
      const auto size_bytes = FileSize(BlobPath(name));
      if (!size_bytes.ok()) continue;  // Removed meanwhile.
      blobs.emplace_back().set_sha256(name);
      blobs.back().set_size_bytes(*size_bytes);
    }
  }
  return blobs;
}

absl::StatusOr<std::vector<std::string>> LocalArtifactStore::ListNames(absl::string_view after_name,
                                                                       int64_t limit) {
  std::vector<std::string> names;
  const std::string root = options_.folder + "/manifests";
  QD_ASSIGN_OR_RETURN(auto tenants, NamesBelow(root, ""));
  std::sort(tenants.begin(), tenants.end(),
            [](const std::string& a, const std::string& b) { return a + "/" < b + "/"; });
  for (const std::string& tenant : tenants) {
    QD_ASSIGN_OR_RETURN(const auto digests, NamesBelow(absl::StrCat(root, "/", tenant), ""));
    for (const std::string& digest : digests) {
      if (static_cast<int64_t>(names.size()) >= limit) return names;
      if (!IsResourceId(tenant) || !IsSha256Hex(digest)) continue;
      std::string name = ArtifactName({tenant, digest});
      if (name > after_name) names.push_back(std::move(name));
    }
  }
  return names;
}

absl::Status LocalArtifactStore::Sweep(absl::Time now) {
  std::error_code error;
  for (fs::directory_iterator entry(options_.folder + "/partials", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string path = entry->path().string();
    struct stat info {};
    if (!absl::EndsWith(path, ".partial") || stat(path.c_str(), &info) != 0) continue;
    if (now - absl::TimeFromTimespec(info.st_mtim) < options_.upload_time) continue;
    LogInfo("stale upload discarded",
            {{"file", entry->path().filename().string()}, {"bytes", info.st_size}});
    unlink(path.c_str());
  }
  if (error) return ErrnoStatus(error.value(), "reading the uploads below ", options_.folder);
  return absl::OkStatus();
}

}  // namespace quantd
