// A file of a data set: calibration text, documents of tasks.
#include <algorithm>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "workers/engine/hub/client.h"
#include "workers/engine/hub/download.h"
#include "workers/engine/hub/hub.h"

namespace quantd {
namespace {

std::string Words(const HubDataName& name) {
  return absl::StrCat(name.begins, name.ends.empty() ? "" : "*", name.ends);
}

// The file in a snapshot that an earlier run, or another tool, has left.
absl::StatusOr<std::string> FindInCache(const HubDataName& name, const HubCache& cache) {
  if (const std::optional<std::string> commit = cache.ReadRef()) {
    const std::filesystem::path folder = cache.SnapshotFolder(*commit);
    const std::filesystem::path inside = (folder / name.begins).parent_path();
    std::vector<std::string> files;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(inside, error)) {
      if (name.Matches(entry.path().lexically_relative(folder).string()) &&
          FileExists(entry.path().string())) {
        files.push_back(entry.path().string());
      }
    }
    if (!files.empty()) return *std::min_element(files.begin(), files.end());
  }
  return absl::NotFoundError(absl::StrCat("the cache does not have ", Words(name)));
}

}  // namespace

absl::StatusOr<std::string> FetchData(const HubDataName& name, const HubOptions& options) {
  QD_ASSIGN_OR_RETURN(HubModel repository,
                      ParseHubModel(absl::StrCat(name.repository, "@", name.revision)), "data set");
  repository.dataset = true;
  const HubCache cache(options.cache_folder, repository);
  if (options.offline) {
    QD_ASSIGN_OR_RETURN(std::string path, FindInCache(name, cache), "data set ", name.repository,
                        " with HF_HUB_OFFLINE set");
    return path;
  }
  const HubClient client(repository, options);
  const absl::StatusOr<HubRevision> revision = client.List();
  if (absl::IsUnavailable(revision.status())) {
    if (absl::StatusOr<std::string> cached = FindInCache(name, cache); cached.ok()) {
      LogWarning("the Hub does not answer: taking the data from the cache", {{"path", *cached}});
      return cached;
    }
  }
  QD_RETURN_IF_ERROR(revision.status(), "data set ", name.repository);
  std::vector<std::string> files;
  for (const std::string& file : revision->files) {
    if (name.Matches(file) && CheckRelativePath(file).ok()) files.push_back(file);
  }
  if (files.empty()) {
    return absl::NotFoundError(absl::StrCat("data set ", name.repository, " holds no ", Words(name),
                                            "; give a file of your own instead"));
  }
  const std::string& file = *std::min_element(files.begin(), files.end());
  const std::string path = absl::StrCat(cache.SnapshotFolder(revision->commit), "/", file);
  if (!FileExists(path)) {
    QD_ASSIGN_OR_RETURN(const HubFile described, client.Describe(revision->commit, file),
                        "data set ", name.repository);
    QD_RETURN_IF_ERROR(MakeFolders(cache.folder()));
    const auto report = [&](int64_t done) {
      if (options.progress) options.progress({file, done, described.size_bytes});
    };
    QD_RETURN_IF_ERROR(Download(client, cache, described, report, options.cancelled),
                       "downloading ", name.repository, "/", file);
    QD_RETURN_IF_ERROR(cache.Link(revision->commit, file, described.etag));
  }
  QD_RETURN_IF_ERROR(cache.WriteRef(revision->commit));
  return path;
}

}  // namespace quantd
