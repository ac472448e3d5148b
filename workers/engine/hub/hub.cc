// Asks the Hub what the repository holds, picks the files, and fetches what the cache lacks.
#include "workers/engine/hub/hub.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "workers/engine/hub/client.h"
#include "workers/engine/hub/download.h"

namespace quantd {
namespace {

constexpr char kDefaultEndpoint[] = "https://huggingface.co";
constexpr int64_t kTokenLimitBytes = 4096;
// Room that the downloads leave on the disk for everything else.
constexpr int64_t kDiskReserveBytes = 64 << 20;

// What a model may have beside its weights.
constexpr absl::string_view kSmallFiles[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
};

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool IsOn(absl::string_view value) {
  const std::string lower = absl::AsciiStrToLower(value);
  return lower == "1" || lower == "on" || lower == "yes" || lower == "true";
}

bool IsPickle(absl::string_view name) {
  constexpr absl::string_view kEndings[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
  return std::any_of(std::begin(kEndings), std::end(kEndings),
                     [name](absl::string_view ending) { return absl::EndsWith(name, ending); });
}

bool InCache(const HubCache& cache, const std::string& commit, const std::string& file) {
  return FileExists(absl::StrCat(cache.SnapshotFolder(commit), "/", file));
}

// What the cache holds of the revision, when it is whole.
absl::StatusOr<HubSnapshot> FindInCache(const HubCache& cache) {
  const std::optional<std::string> commit = cache.ReadRef();
  if (!commit) return absl::NotFoundError("the cache does not have it");
  HubSnapshot snapshot{.folder = cache.SnapshotFolder(*commit), .commit = *commit};
  QD_RETURN_IF_ERROR(CheckSnapshot(snapshot.folder), "the cache does not have all of it");
  return snapshot;
}

// Fetches the files that are not in the snapshot, several at a time.
class Fetcher {
 public:
  Fetcher(const HubClient& client, const HubCache& cache, const std::string& commit,
          const HubOptions& options)
      : client_(client), cache_(cache), commit_(commit), options_(options) {}

  absl::Status Fetch(const std::vector<std::string>& files) {
    QD_RETURN_IF_ERROR(ForEach(files.size(), [&](size_t i) -> absl::Status {
      QD_ASSIGN_OR_RETURN(HubFile file, client_.Describe(commit_, files[i]));
      absl::MutexLock lock(&mutex_);
      files_.push_back(std::move(file));
      return absl::OkStatus();
    }));
    QD_RETURN_IF_ERROR(CheckDisk());
    // The large ones first, so that none is left alone at the end.
    std::sort(files_.begin(), files_.end(), [](const HubFile& a, const HubFile& b) {
      return a.size_bytes != b.size_bytes ? a.size_bytes > b.size_bytes : a.name < b.name;
    });
    return ForEach(files_.size(), [&](size_t i) -> absl::Status {
      const HubFile& file = files_[i];
      QD_RETURN_IF_ERROR(Download(
                             client_, cache_, file, [&](int64_t done) { Report(file.name, done); },
                             options_.cancelled),
                         "downloading ", file.name);
      return cache_.Link(commit_, file.name, file.etag);
    });
  }

 private:
  // Runs `work` for every index below `count`; the first error stops the others.
  absl::Status ForEach(size_t count, const std::function<absl::Status(size_t)>& work) {
    std::vector<std::thread> threads;
    size_t next = 0;
    absl::Status status;
    for (size_t t = 0; t < std::min<size_t>(count, options_.parallel); ++t) {
      threads.emplace_back([&] {
        for (;;) {
          size_t mine;
          {
            absl::MutexLock lock(&mutex_);
            if (next == count || !status.ok()) return;
            mine = next++;
          }
          const absl::Status result = work(mine);
          absl::MutexLock lock(&mutex_);
          if (status.ok()) status = result;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return status;
  }

  absl::Status CheckDisk() {
    QD_RETURN_IF_ERROR(MakeFolders(cache_.folder()));
    int64_t needed = 0;
    for (const HubFile& file : files_) {
      total_bytes_ += file.size_bytes;
      if (FileExists(cache_.BlobPath(file.etag))) continue;
      needed += file.size_bytes - FileSize(cache_.IncompletePath(file.etag)).value_or(0);
    }
    QD_ASSIGN_OR_RETURN(int64_t free, FreeDiskBytes(cache_.folder()));
    if (needed > 0 && needed + kDiskReserveBytes > free) {
      return absl::ResourceExhaustedError(absl::StrCat(
          FormatBytes(needed), " to download, ", FormatBytes(free), " free in ", cache_.folder(),
          ": free some, or set HF_HUB_CACHE to a folder on a larger disk"));
    }
    return absl::OkStatus();
  }

  void Report(const std::string& file, int64_t done) {
    if (!options_.progress) return;
    absl::MutexLock lock(&mutex_);
    done_[file] = done;
    HubProgress progress{.file = file, .done_bytes = 0, .total_bytes = total_bytes_};
    for (const auto& [name, bytes] : done_) progress.done_bytes += bytes;
    options_.progress(progress);
  }

  const HubClient& client_;
  const HubCache& cache_;
  const std::string commit_;
  const HubOptions& options_;
  absl::Mutex mutex_;
  std::vector<HubFile> files_;
  absl::flat_hash_map<std::string, int64_t> done_;
  int64_t total_bytes_ = 0;
};

}  // namespace

HubOptions HubOptions::FromEnvironment() {
  HubOptions options;
  options.endpoint = Environment("HF_ENDPOINT");
  if (options.endpoint.empty()) options.endpoint = kDefaultEndpoint;
  while (absl::EndsWith(options.endpoint, "/")) options.endpoint.pop_back();
  std::string home = Environment("HF_HOME");
  if (home.empty()) {
    std::string cache = Environment("XDG_CACHE_HOME");
    if (cache.empty()) cache = Environment("HOME") + "/.cache";
    home = cache + "/huggingface";
  }
  options.cache_folder = Environment("HF_HUB_CACHE");
  if (options.cache_folder.empty()) options.cache_folder = home + "/hub";
  options.token = Environment("HF_TOKEN");
  if (options.token.empty()) {
    std::string path = Environment("HF_TOKEN_PATH");
    if (path.empty()) path = home + "/token";
    options.token = ReadFile(path, kTokenLimitBytes).value_or("");
  }
  options.token = std::string(absl::StripAsciiWhitespace(options.token));
  options.offline = IsOn(Environment("HF_HUB_OFFLINE"));
  return options;
}

absl::StatusOr<std::vector<std::string>> SelectFiles(const std::vector<std::string>& names,
                                                     const std::string& repository) {
  const auto has = [&](absl::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  // Some repositories hold the same weights several times: those of the index are the model's.
  const bool sharded = has("model.safetensors.index.json");
  const bool single = !sharded && has("model.safetensors");
  std::vector<std::string> files;
  std::string pickle;
  bool weights = false;
  for (const std::string& name : names) {
    QD_RETURN_IF_ERROR(CheckRelativePath(name), repository, " lists a file");
    if (absl::StrContains(name, '/')) continue;
    if (IsPickle(name)) pickle = name;
    const bool small =
        std::find(std::begin(kSmallFiles), std::end(kSmallFiles), name) != std::end(kSmallFiles);
    const bool weight = absl::EndsWith(name, ".safetensors") &&
                        (!sharded || absl::StartsWith(name, "model-")) &&
                        (!single || name == "model.safetensors");
    weights |= weight;
    if (small || weight) files.push_back(name);
  }
  if (!weights) {
    return absl::FailedPreconditionError(absl::StrCat(
        repository, " has no safetensors weights",
        pickle.empty() ? ""
                       : absl::StrCat(", only pickles (", pickle,
                                      "), which can run code when they are loaded and are never "
                                      "fetched: convert it to safetensors, or take a repository "
                                      "that has them")));
  }
  if (!has("config.json")) {
    return absl::FailedPreconditionError(
        absl::StrCat(repository, " has no config.json: it is not a transformers model"));
  }
  return files;
}

absl::StatusOr<HubSnapshot> FetchModel(const HubModel& model, const HubOptions& options) {
  const HubCache cache(options.cache_folder, model);
  const std::string name = absl::StrCat(model.repository, "@", model.revision);
  if (options.offline) {
    QD_ASSIGN_OR_RETURN(HubSnapshot snapshot, FindInCache(cache), "model ", name,
                        " with HF_HUB_OFFLINE set");
    return snapshot;
  }
  const HubClient client(model, options);
  absl::StatusOr<HubRevision> revision = client.List();
  if (absl::IsUnavailable(revision.status())) {
    if (absl::StatusOr<HubSnapshot> cached = FindInCache(cache); cached.ok()) {
      LogWarning("the Hub does not answer: taking the model from the cache",
                 {{"model", name}, {"commit", cached->commit}});
      return cached;
    }
  }
  QD_RETURN_IF_ERROR(revision.status(), "model ", name);
  QD_ASSIGN_OR_RETURN(std::vector<std::string> files,
                      SelectFiles(revision->files, model.repository), "model ", name);
  files.erase(std::remove_if(
                  files.begin(), files.end(),
                  [&](const std::string& file) { return InCache(cache, revision->commit, file); }),
              files.end());
  Fetcher fetcher(client, cache, revision->commit, options);
  QD_RETURN_IF_ERROR(fetcher.Fetch(files), "model ", name);
  QD_RETURN_IF_ERROR(cache.WriteRef(revision->commit));
  HubSnapshot snapshot{.folder = cache.SnapshotFolder(revision->commit),
                       .commit = revision->commit};
  QD_RETURN_IF_ERROR(CheckSnapshot(snapshot.folder), "model ", name);
  return snapshot;
}

}  // namespace quantd
