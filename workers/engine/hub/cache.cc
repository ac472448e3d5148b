// Files, links and locks of the cache.
#include "workers/engine/hub/cache.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/hub_data.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

constexpr absl::Duration kLockPoll = absl::Milliseconds(100);
constexpr int64_t kIndexLimitBytes = 64 << 20;

absl::StatusOr<std::string> GitBlobSha1(const std::string& path) {
  QD_ASSIGN_OR_RETURN(int64_t size, FileSize(path));
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                  EVP_MD_CTX_free);
  if (context == nullptr || EVP_DigestInit_ex(context.get(), EVP_sha1(), nullptr) != 1) {
    return absl::InternalError("OpenSSL has no SHA-1");
  }
  const std::string header = absl::StrCat("blob ", size);
  EVP_DigestUpdate(context.get(), header.c_str(), header.size() + 1);
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  while (file.read(buffer.data(), buffer.size()) || file.gcount() > 0) {
    EVP_DigestUpdate(context.get(), buffer.data(), file.gcount());
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned digest_size = 0;
  EVP_DigestFinal_ex(context.get(), digest, &digest_size);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), digest_size));
}

bool IsHex(absl::string_view text, size_t size) {
  return text.size() == size && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

std::string FolderName(const HubModel& model) {
  return absl::StrCat(model.dataset ? "datasets--" : "models--",
                      absl::StrReplaceAll(model.repository, {{"/", "--"}}));
}

}  // namespace

absl::StatusOr<HubModel> ParseHubModel(absl::string_view text) {
  if (!IsHubName(text)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model \"", text.substr(0, 300),
        "\": must be org/name or org/name@revision, of letters, digits, '.', '_', '-'"));
  }
  const std::vector<std::string> revision = absl::StrSplit(text, absl::MaxSplits('@', 1));
  HubModel model{.repository = revision[0]};
  if (revision.size() == 2) model.revision = revision[1];
  return model;
}

HubCache::HubCache(std::string folder, const HubModel& model)
    : folder_(std::move(folder)),
      repository_(absl::StrCat(folder_, "/", FolderName(model))),
      locks_(absl::StrCat(folder_, "/.locks/", FolderName(model))),
      model_(model) {}

std::string HubCache::SnapshotFolder(absl::string_view commit) const {
  return absl::StrCat(repository_, "/snapshots/", commit);
}

std::string HubCache::BlobPath(absl::string_view etag) const {
  return absl::StrCat(repository_, "/blobs/", etag);
}

std::string HubCache::IncompletePath(absl::string_view etag) const {
  return absl::StrCat(BlobPath(etag), ".incomplete");
}

std::optional<std::string> HubCache::ReadRef() const {
  constexpr int64_t kRefLimitBytes = 1024;
  auto text = ReadFile(absl::StrCat(repository_, "/refs/", model_.revision), kRefLimitBytes);
  if (text.ok()) {
    const std::string commit(absl::StripAsciiWhitespace(*text));
    if (IsHex(commit, 40)) return commit;
  }
  // A revision may be the commit itself.
  if (IsHex(model_.revision, 40) && FileExists(SnapshotFolder(model_.revision))) {
    return model_.revision;
  }
  return std::nullopt;
}

absl::Status HubCache::WriteRef(absl::string_view commit) const {
  if (model_.revision == commit) return absl::OkStatus();
  const std::string path = absl::StrCat(repository_, "/refs/", model_.revision);
  QD_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(path).parent_path().string()));
  return WriteFileAtomic(path, commit);
}

absl::Status HubCache::Link(absl::string_view commit, absl::string_view file,
                            absl::string_view etag) const {
  const std::string path = absl::StrCat(SnapshotFolder(commit), "/", file);
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".link");
  QD_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(path).parent_path().string()));
  unlink(temporary.c_str());
  std::string target = absl::StrCat("../../blobs/", etag);
  for (const char c : file) {
    if (c == '/') target = "../" + target;
  }
  if (symlink(target.c_str(), temporary.c_str()) != 0 ||
      rename(temporary.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, "linking ", path);
  }
  return absl::OkStatus();
}

absl::StatusOr<BlobLock> BlobLock::Acquire(const HubCache& cache, absl::string_view etag,
                                           const std::function<bool()>& cancelled) {
  QD_RETURN_IF_ERROR(MakeFolders(cache.locks_));
  const std::string path = absl::StrCat(cache.locks_, "/", etag, ".lock");
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return ErrnoStatus(errno, "opening ", path);
  BlobLock lock(descriptor);
  while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(errno, "locking ", path);
    if (cancelled && cancelled()) return absl::CancelledError("cancelled");
    absl::SleepFor(kLockPoll);
  }
  return lock;
}

BlobLock::~BlobLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status CheckBlob(const std::string& path, absl::string_view etag) {
  std::string digest;
  if (IsHex(etag, 64)) {
    QD_ASSIGN_OR_RETURN(digest, Sha256File(path));
  } else if (IsHex(etag, 40)) {
    QD_ASSIGN_OR_RETURN(digest, GitBlobSha1(path));
  } else {
    return absl::OkStatus();
  }
  if (digest == etag) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the bytes received have the hash ", digest, ", the Hub announced ", etag));
}

absl::Status CheckSnapshot(const std::string& folder) {
  if (!FileExists(folder + "/config.json")) {
    return absl::FailedPreconditionError(absl::StrCat("no config.json in ", folder));
  }
  const std::string index = folder + "/model.safetensors.index.json";
  if (FileExists(index)) {
    QD_ASSIGN_OR_RETURN(std::string text, ReadFile(index, kIndexLimitBytes));
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
      return absl::DataLossError(absl::StrCat(index, ": no object weight_map"));
    }
    for (const auto& [tensor, shard] : json["weight_map"].items()) {
      const std::string name = shard.is_string() ? shard.get<std::string>() : "";
      QD_RETURN_IF_ERROR(CheckRelativePath(name), index, ": shard of ", tensor.substr(0, 200));
      if (!FileExists(absl::StrCat(folder, "/", name))) {
        return absl::FailedPreconditionError(
            absl::StrCat("no ", name, " in ", folder, ", which its index names"));
      }
    }
    return absl::OkStatus();
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors" && FileExists(entry.path().string())) {
      return absl::OkStatus();
    }
  }
  return absl::FailedPreconditionError(absl::StrCat("no safetensors weights in ", folder));
}

}  // namespace quantd
