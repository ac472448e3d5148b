// The bucket behind a local folder.
#include "server/artifacts/s3_artifact_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr size_t kSizesMax = 200'000;
constexpr size_t kManifestsMax = 1'000;
constexpr size_t kUploadsMax = 256;  // Each holds a file open.
constexpr int64_t kManifestBytesMax = int64_t{16} << 20;
constexpr int64_t kListPage = 1000;  // The protocol's most.
// Downloads ask for small pieces; the bucket is asked for large ones.
constexpr int64_t kReadAheadBytes = int64_t{8} << 20;
constexpr absl::Duration kProbePause = absl::Seconds(10);
// What another scheduler may still be at is left alone for longer than what is ours.
constexpr absl::Duration kForeignUploadTime = absl::Hours(7 * 24);
constexpr absl::Duration kLinkTime = absl::Minutes(15);
constexpr char kProbeKey[] = "probe";

std::string BlobKey(absl::string_view sha256) {
  return absl::StrCat("blobs/", sha256.substr(0, 2), "/", sha256);
}

std::string ManifestKey(absl::string_view tenant, absl::string_view sha256) {
  return absl::StrCat("manifests/", tenant, "/", sha256);
}

class S3Blob final : public BlobReader {
 public:
  S3Blob(std::shared_ptr<S3Client> client, std::string key, int64_t size_bytes)
      : client_(std::move(client)), key_(std::move(key)), size_bytes_(size_bytes) {}
  int64_t size_bytes() const override { return size_bytes_; }
  absl::StatusOr<std::string> Read(int64_t offset_bytes, int64_t limit_bytes) const override {
    const int64_t wanted = std::clamp<int64_t>(size_bytes_ - offset_bytes, 0, limit_bytes);
    absl::MutexLock lock(&mutex_);
    const int64_t end = start_ + static_cast<int64_t>(ahead_.size());
    if (offset_bytes < start_ || offset_bytes + wanted > end) {
      const int64_t ask = std::min(std::max(wanted, kReadAheadBytes), size_bytes_ - offset_bytes);
      QD_ASSIGN_OR_RETURN(
          ahead_, client_->Get({.key = key_, .offset_bytes = offset_bytes, .limit_bytes = ask}));
      start_ = offset_bytes;
      if (static_cast<int64_t>(ahead_.size()) != ask) {
        return absl::DataLossError(absl::StrCat(key_, " is shorter than it was"));
      }
    }
    return ahead_.substr(static_cast<size_t>(offset_bytes - start_), static_cast<size_t>(wanted));
  }
  std::string Link() const override { return client_->Link(key_, kLinkTime); }

 private:
  const std::shared_ptr<S3Client> client_;
  const std::string key_;
  const int64_t size_bytes_;
  mutable absl::Mutex mutex_;
  mutable int64_t start_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable std::string ahead_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

S3ArtifactStore::S3ArtifactStore(S3Config config, LocalArtifactStoreOptions options,
                                 std::unique_ptr<LocalArtifactStore> local)
    : options_(std::move(options)),
      client_(std::make_shared<S3Client>(std::move(config))),
      local_(std::move(local)) {}

absl::StatusOr<std::unique_ptr<S3ArtifactStore>> S3ArtifactStore::Open(
    S3Config config, LocalArtifactStoreOptions local, absl::Time now) {
  QD_RETURN_IF_ERROR(MakeFolders(local.folder + "/journals"));
  QD_ASSIGN_OR_RETURN(auto folder, LocalArtifactStore::Open(local, now));
  std::unique_ptr<S3ArtifactStore> store(
      new S3ArtifactStore(std::move(config), std::move(local), std::move(folder)));
  const std::string words = absl::FormatTime(now);
  QD_RETURN_IF_ERROR(store->client_->Put(kProbeKey, S3TextBody(words)),
                     "opening the artifact store");
  QD_RETURN_IF_ERROR(store->client_->Get({.key = kProbeKey, .limit_bytes = 100}).status(),
                     "opening the artifact store");
  QD_RETURN_IF_ERROR(store->Sweep(now));
  store->keeper_ = std::thread([raw = store.get()] { raw->Keep(); });
  return store;
}

S3ArtifactStore::~S3ArtifactStore() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (keeper_.joinable()) keeper_.join();
}

absl::StatusOr<std::optional<int64_t>> S3ArtifactStore::BlobSize(const std::string& sha256) {
  int64_t forgets = 0;
  {
    absl::MutexLock lock(&mutex_);
    forgets = forgets_;
  }
  QD_ASSIGN_OR_RETURN(const std::optional<int64_t> size, client_->Size(BlobKey(sha256)));
  if (size.has_value()) {
    Remember(sha256, *size, forgets);
  } else {
    absl::MutexLock lock(&mutex_);
    sizes_.erase(sha256);  // Somebody has removed it.
  }
  return size;
}

void S3ArtifactStore::Remember(const std::string& sha256, int64_t size_bytes, int64_t forgets) {
  absl::MutexLock lock(&mutex_);
  if (forgets != forgets_) return;  // It may have been removed since.
  if (sizes_.size() >= kSizesMax) sizes_.clear();
  sizes_[sha256] = size_bytes;
}

void S3ArtifactStore::Forget() {
  absl::MutexLock lock(&mutex_);
  ++forgets_;
  sizes_.clear();
  manifests_.clear();
}

std::optional<int64_t> S3ArtifactStore::KnownSize(const std::string& sha256) {
  absl::MutexLock lock(&mutex_);
  const auto known = sizes_.find(sha256);
  return known == sizes_.end() ? std::nullopt : std::optional<int64_t>(known->second);
}

absl::StatusOr<bool> S3ArtifactStore::Has(const v1::Blob& blob) {
  QD_RETURN_IF_ERROR(CheckBlob(blob));
  std::optional<int64_t> size = KnownSize(blob.sha256());
  if (!size.has_value()) {
    QD_ASSIGN_OR_RETURN(size, BlobSize(blob.sha256()));
  }
  if (!size.has_value()) return false;
  if (*size == blob.size_bytes()) return true;
  return FieldError(
      "blob.size_bytes",
      absl::StrCat(blob.size_bytes(), ": the blob of this digest has ", *size, " bytes"));
}

std::string S3ArtifactStore::JournalOf(const v1::Blob& blob) const {
  return absl::StrCat(options_.folder, "/journals/", blob.sha256(), "-", blob.size_bytes());
}

std::shared_ptr<S3Upload> S3ArtifactStore::Find(const v1::Blob& blob) {
  absl::MutexLock lock(&mutex_);
  if (uploads_.size() >= kUploadsMax) {
    absl::erase_if(uploads_, [](const auto& entry) { return entry.second.use_count() == 1; });
  }
  auto& upload = uploads_[JournalOf(blob)];
  if (upload == nullptr) {
    upload = std::make_shared<S3Upload>(client_, BlobKey(blob.sha256()), blob.size_bytes(),
                                        JournalOf(blob));
  }
  return upload;
}

absl::StatusOr<UploadState> S3ArtifactStore::StartUpload(const v1::Blob& blob) {
  QD_ASSIGN_OR_RETURN(const bool there, Has(blob));
  QD_ASSIGN_OR_RETURN(UploadState state, local_->StartUpload(blob));
  if (there) {
    state.committed_bytes = blob.size_bytes();
    state.complete = true;
  } else if (state.complete) {
    const std::shared_ptr<S3Upload> upload = Find(blob);
    absl::MutexLock lock(&upload->mutex);
    QD_RETURN_IF_ERROR(SendUp(blob, upload.get()));  // What a crash left here.
  }
  return state;
}

absl::StatusOr<UploadState> S3ArtifactStore::Append(const UploadChunk& chunk) {
  QD_ASSIGN_OR_RETURN(const v1::Blob blob, local_->ParseUploadName(chunk.upload));
  const std::shared_ptr<S3Upload> upload = Find(blob);
  absl::MutexLock lock(&upload->mutex);
  if (KnownSize(blob.sha256()) == blob.size_bytes()) {
    return UploadState{.upload = std::string(chunk.upload),
                       .committed_bytes = blob.size_bytes(),
                       .complete = true};
  }
  absl::StatusOr<UploadState> state = local_->Append(chunk);
  if (!state.ok()) {
    // A last chunk that was refused may have discarded the bytes.
    if (chunk.finish && !FileExists(local_->FileOf(blob))) {
      upload->Abort();
      absl::MutexLock store_lock(&mutex_);
      uploads_.erase(JournalOf(blob));
    }
    return state;
  }
  if (state->complete) {
    QD_RETURN_IF_ERROR(SendUp(blob, upload.get()));
  } else if (blob.size_bytes() > client_->config().part_bytes && state->committed_bytes > 0) {
    QD_RETURN_IF_ERROR(upload->Advance(local_->FileOf(blob), state->committed_bytes));
  }
  return state;
}

absl::Status S3ArtifactStore::SendUp(const v1::Blob& blob, S3Upload* upload) {
  QD_ASSIGN_OR_RETURN(const bool there, Has(blob));
  if (there) {  // Another scheduler was faster.
    upload->Abort();
  } else if (blob.size_bytes() <= client_->config().part_bytes) {
    QD_ASSIGN_OR_RETURN(const std::shared_ptr<BlobReader> reader, local_->Open(blob.sha256()));
    QD_ASSIGN_OR_RETURN(const std::string bytes, reader->Read(0, blob.size_bytes()));
    QD_RETURN_IF_ERROR(client_->Put(BlobKey(blob.sha256()), S3TextBody(bytes)));
  } else {
    QD_RETURN_IF_ERROR(upload->Finish(local_->FileOf(blob)));
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!there) bucket_bytes_ += blob.size_bytes();
    sizes_[blob.sha256()] = blob.size_bytes();
    uploads_.erase(JournalOf(blob));
  }
  return local_->RemoveBlob(blob.sha256());
}

absl::StatusOr<std::shared_ptr<BlobReader>> S3ArtifactStore::Open(absl::string_view sha256) {
  if (!IsSha256Hex(sha256)) {
    return FieldError("sha256", "has to be 64 lower-case hexadecimal digits");
  }
  // Not remembered: nobody has said that it is to stay.
  QD_ASSIGN_OR_RETURN(const std::optional<int64_t> size, client_->Size(BlobKey(sha256)));
  if (!size.has_value()) {
    return WithResource(absl::NotFoundError(absl::StrCat("there is no blob ", sha256)), "blob",
                        sha256);
  }
  return std::make_shared<S3Blob>(client_, BlobKey(sha256), *size);
}

absl::Status S3ArtifactStore::PutArtifact(const v1::Artifact& artifact) {
  QD_ASSIGN_OR_RETURN(const TenantResource name, ParseArtifactName(artifact.name()));
  const std::string key = ManifestKey(name.tenant, name.id);
  QD_ASSIGN_OR_RETURN(const std::optional<int64_t> there, client_->Size(key));
  if (there.has_value()) return absl::OkStatus();
  return client_->Put(key, S3TextBody(artifact.SerializeAsString()));
}

absl::StatusOr<v1::Artifact> S3ArtifactStore::GetArtifact(absl::string_view tenant,
                                                          absl::string_view sha256) {
  if (!IsResourceId(tenant) || !IsSha256Hex(sha256)) return absl::NotFoundError("no such artifact");
  const std::string name = ArtifactName({std::string(tenant), std::string(sha256)});
  {
    absl::MutexLock lock(&mutex_);
    const auto known = manifests_.find(name);
    if (known != manifests_.end()) return known->second;
    QD_RETURN_IF_ERROR(probe_);
  }
  const auto bytes = client_->Get(
      {.key = ManifestKey(tenant, sha256), .limit_bytes = kManifestBytesMax, .hurry = true});
  if (absl::IsNotFound(bytes.status())) {
    return WithResource(absl::NotFoundError(absl::StrCat("there is no artifact ", name)),
                        "artifact", name);
  }
  QD_RETURN_IF_ERROR(bytes.status());
  v1::Artifact artifact;
  if (!artifact.ParseFromString(*bytes)) {
    return absl::DataLossError(absl::StrCat(name, " is damaged"));
  }
  absl::MutexLock lock(&mutex_);
  if (manifests_.size() >= kManifestsMax) manifests_.clear();
  manifests_[name] = artifact;
  return artifact;
}

absl::StatusOr<std::vector<v1::Artifact>> S3ArtifactStore::ListArtifacts(
    absl::string_view tenant, absl::string_view after_sha256, int64_t limit) {
  if (!IsResourceId(tenant)) return absl::NotFoundError("no such tenant");
  const std::string folder = absl::StrCat("manifests/", tenant, "/");
  std::vector<v1::Artifact> artifacts;
  std::string after = after_sha256.empty() ? "" : absl::StrCat(folder, after_sha256);
  for (bool more = true; more && static_cast<int64_t>(artifacts.size()) < limit;) {
    const int64_t wanted = limit - static_cast<int64_t>(artifacts.size());
    QD_ASSIGN_OR_RETURN(const S3Page page,
                        client_->List(folder, after, std::min(kListPage, wanted)));
    for (const S3Object& object : page.objects) {
      after = object.key;
      const std::string digest = object.key.substr(folder.size());
      if (!IsSha256Hex(digest)) continue;
      QD_ASSIGN_OR_RETURN(artifacts.emplace_back(), GetArtifact(tenant, digest));
    }
    more = page.more;
  }
  return artifacts;
}

absl::StatusOr<std::vector<v1::Blob>> S3ArtifactStore::ListBlobs(absl::string_view after_sha256,
                                                                 int64_t limit) {
  std::vector<v1::Blob> blobs;
  std::string after = after_sha256.empty() ? "" : BlobKey(after_sha256);
  for (bool more = true; more && static_cast<int64_t>(blobs.size()) < limit;) {
    const int64_t wanted = limit - static_cast<int64_t>(blobs.size());
    QD_ASSIGN_OR_RETURN(const S3Page page,
                        client_->List("blobs/", after, std::min(kListPage, wanted)));
    for (const S3Object& object : page.objects) {
      after = object.key;
      const std::string digest = object.key.substr(object.key.rfind('/') + 1);
      if (!IsSha256Hex(digest)) continue;
      blobs.emplace_back().set_sha256(digest);
      blobs.back().set_size_bytes(object.size_bytes);
    }
    more = page.more;
  }
  return blobs;
}

absl::StatusOr<std::vector<std::string>> S3ArtifactStore::ListNames(absl::string_view after_name,
                                                                    int64_t limit) {
  std::vector<std::string> names;
  std::string after;
  if (!after_name.empty()) {
    QD_ASSIGN_OR_RETURN(const TenantResource name, ParseArtifactName(std::string(after_name)));
    after = ManifestKey(name.tenant, name.id);
  }
  for (bool more = true; more && static_cast<int64_t>(names.size()) < limit;) {
    const int64_t wanted = limit - static_cast<int64_t>(names.size());
    QD_ASSIGN_OR_RETURN(const S3Page page,
                        client_->List("manifests/", after, std::min(kListPage, wanted)));
    for (const S3Object& object : page.objects) {
      after = object.key;
      const std::vector<std::string> words = absl::StrSplit(object.key, '/');
      if (words.size() != 3 || !IsResourceId(words[1]) || !IsSha256Hex(words[2])) continue;
      names.push_back(ArtifactName({words[1], words[2]}));
    }
    more = page.more;
  }
  return names;
}

absl::Status S3ArtifactStore::RemoveBlob(absl::string_view sha256) {
  QD_ASSIGN_OR_RETURN(const std::optional<int64_t> size, client_->Size(BlobKey(sha256)));
  QD_RETURN_IF_ERROR(client_->Delete(BlobKey(sha256)));
  absl::MutexLock lock(&mutex_);
  sizes_.erase(sha256);
  bucket_bytes_ -= size.value_or(0);
  return absl::OkStatus();
}

absl::Status S3ArtifactStore::RemoveArtifact(absl::string_view tenant, absl::string_view sha256) {
  QD_RETURN_IF_ERROR(client_->Delete(ManifestKey(tenant, sha256)));
  absl::MutexLock lock(&mutex_);
  manifests_.erase(ArtifactName({std::string(tenant), std::string(sha256)}));
  return absl::OkStatus();
}

absl::Status S3ArtifactStore::Sweep(absl::Time now) {
  {
    absl::MutexLock lock(&mutex_);
    sweep_ = now;
  }
  // What nobody came back for after a crash between the folder and the bucket.
  QD_RETURN_IF_ERROR(local_->RemoveBlobsBefore(now - options_.upload_time));
  return local_->Sweep(now);
}

absl::Status S3ArtifactStore::SweepBucket(absl::Time now) {
  absl::Status status = AbortOwnStale(now);
  status.Update(AbortForeignStale(now));
  status.Update(AddUp());
  return status;
}

absl::Status S3ArtifactStore::AbortOwnStale(absl::Time now) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(options_.folder + "/journals", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string path = entry->path().string();
    struct stat info {};
    if (stat(path.c_str(), &info) != 0 ||
        now - absl::TimeFromTimespec(info.st_mtim) < options_.upload_time) {
      continue;
    }
    if (const auto upload = ReadS3Journal(path); upload.ok()) {
      LogInfo("stale upload to the bucket given up", {{"key", upload->key}});
      QD_RETURN_IF_ERROR(AbortS3Upload(client_.get(), *upload));
    }
    unlink(path.c_str());
    absl::MutexLock lock(&mutex_);
    uploads_.erase(path);
  }
  if (error) return ErrnoStatus(error.value(), "reading the journals below ", options_.folder);
  return absl::OkStatus();
}

absl::Status S3ArtifactStore::AbortForeignStale(absl::Time now) {
  QD_ASSIGN_OR_RETURN(const std::vector<S3OpenUpload> uploads, client_->OpenUploads());
  for (const S3OpenUpload& upload : uploads) {
    if (now - upload.start < kForeignUploadTime) continue;
    LogInfo("stale upload to the bucket given up", {{"key", upload.key}});
    QD_RETURN_IF_ERROR(client_->AbortParts(upload.key, upload.id));
  }
  return absl::OkStatus();
}

absl::Status S3ArtifactStore::AddUp() {
  int64_t total_bytes = 0;
  std::string after;
  for (bool more = true; more;) {
    int64_t forgets = 0;
    {
      absl::MutexLock lock(&mutex_);
      forgets = forgets_;
    }
    QD_ASSIGN_OR_RETURN(const auto blobs, ListBlobs(after, kListPage));
    for (const v1::Blob& blob : blobs) {
      total_bytes += blob.size_bytes();
      Remember(blob.sha256(), blob.size_bytes(), forgets);
    }
    more = !blobs.empty();
    if (more) after = blobs.back().sha256();
  }
  absl::MutexLock lock(&mutex_);
  bucket_bytes_ = total_bytes;
  return absl::OkStatus();
}

absl::Status S3ArtifactStore::Probe() {
  return client_->Get({.key = kProbeKey, .limit_bytes = 100, .hurry = true}).status();
}

void S3ArtifactStore::Keep() {
  absl::MutexLock lock(&mutex_);
  for (int failures = 0; !mutex_.AwaitWithTimeout(absl::Condition(&stop_), kProbePause);) {
    mutex_.Unlock();
    const absl::Status probe = Probe();
    mutex_.Lock();
    failures = probe.ok() ? 0 : failures + 1;
    if (failures != 1) probe_ = probe;  // One may be chance.
    if (!probe.ok() || !sweep_.has_value()) continue;
    const absl::Time sweep = *std::exchange(sweep_, std::nullopt);
    mutex_.Unlock();
    if (const absl::Status swept = SweepBucket(sweep); !swept.ok()) {
      LogWarning("stale uploads stay in the bucket", {{"error", swept.ToString()}});
    }
    mutex_.Lock();
  }
}

absl::Status S3ArtifactStore::Health() {
  QD_RETURN_IF_ERROR(local_->Health());
  absl::MutexLock lock(&mutex_);
  return probe_;
}

ArtifactUsage S3ArtifactStore::Usage() {
  ArtifactUsage usage = local_->Usage();
  absl::MutexLock lock(&mutex_);
  usage.blob_bytes = bucket_bytes_;
  return usage;
}

}  // namespace quantd
