// Folders, links into the blob cache, and two small JSON documents.
#include "workers/agent/job_folder.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kRecordBytesMax = int64_t{64} << 20;

template <typename Message>
absl::StatusOr<json> ToJson(const Message& message) {
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text);
  if (!status.ok()) return absl::InternalError(std::string(status.message()));
  return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

absl::Status PlaceFiles(const v1::Manifest& manifest, const std::string& folder, BlobCache& cache,
                        BlobTransfer& transfer, const TransferControl& control) {
  for (const v1::ManifestFile& file : manifest.files()) {
    QD_RETURN_IF_ERROR(CheckRelativePath(file.path()));
    QD_RETURN_IF_ERROR(
        cache.Place(file.blob(), absl::StrCat(folder, "/", file.path()), transfer, control),
        "file ", file.path());
  }
  return absl::OkStatus();
}

}  // namespace

JobFolder::JobFolder(const std::string& data, const std::string& job)
    : path_(absl::StrCat(data, "/jobs/", absl::StrReplaceAll(job, {{"/", "~"}, {"..", "_"}}))) {}

absl::Status JobFolder::Begin() {
  for (const std::string& folder : {inputs(), output(), stage()}) {
    QD_RETURN_IF_ERROR(RemoveTree(folder));
    QD_RETURN_IF_ERROR(MakeFolders(folder));
  }
  return MakeFolders(work());
}

CheckpointRecord JobFolder::ReadRecord() const {
  CheckpointRecord record;
  const absl::StatusOr<std::string> text = ReadFile(path_ + "/checkpoint.json", kRecordBytesMax);
  if (!text.ok()) return record;
  const json parsed = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return record;
  const auto strings = [&](const char* name, std::set<std::string>* into) {
    for (const json& value : parsed.value(name, json::array())) {
      if (value.is_string()) into->insert(value.get<std::string>());
    }
  };
  strings("paths", &record.paths);
  strings("manifests", &record.manifests);
  return record;
}

absl::Status JobFolder::WriteRecord(const CheckpointRecord& record) const {
  const json document = {{"paths", record.paths}, {"manifests", record.manifests}};
  return WriteFileAtomic(path_ + "/checkpoint.json", document.dump());
}

absl::Status JobFolder::RestoreCheckpoint(const v1::Manifest& stored, BlobCache& cache,
                                          BlobTransfer& transfer, const TransferControl& control) {
  const CheckpointRecord local = ReadRecord();
  const bool is_ours = stored.files().empty() || local.manifests.count(stored.sha256()) > 0;
  if (is_ours) return absl::OkStatus();
  QD_RETURN_IF_ERROR(RemoveTree(work()));
  QD_RETURN_IF_ERROR(MakeFolders(work()));
  QD_RETURN_IF_ERROR(PlaceFiles(stored, inputs() + "/checkpoint", cache, transfer, control),
                     "restoring the checkpoint");
  CheckpointRecord record;
  record.manifests.insert(stored.sha256());
  // Copies, because an engine may write on in its checkpoint's files, and the cache's blobs must
  // not change.
  for (const v1::ManifestFile& file : stored.files()) {
    const std::string target = absl::StrCat(work(), "/", file.path());
    QD_RETURN_IF_ERROR(MakeFolders(fs::path(target).parent_path().string()));
    std::error_code error;
    fs::copy_file(absl::StrCat(inputs(), "/checkpoint/", file.path()), target, error);
    if (error) return ErrnoStatus(error.value(), "restoring the checkpoint: copying ", file.path());
    fs::permissions(target, fs::perms::owner_write, fs::perm_options::add, error);
    record.paths.insert(file.path());
  }
  return WriteRecord(record);
}

absl::Status JobFolder::End(bool keep_checkpoint) {
  if (!keep_checkpoint || ReadRecord().paths.empty()) return RemoveTree(path_);
  for (const std::string& folder : {inputs(), output(), stage()}) {
    QD_RETURN_IF_ERROR(RemoveTree(folder));
  }
  return absl::OkStatus();
}

absl::Status PruneJobFolders(const std::string& data, const std::string& current, size_t keep) {
  std::vector<std::pair<fs::file_time_type, std::string>> found;
  std::error_code error;
  fs::directory_iterator entries(data + "/jobs", error), end;
  for (; !error && entries != end; entries.increment(error)) {
    const std::string path = entries->path().string();
    std::error_code ignored;
    if (path != current) found.emplace_back(fs::last_write_time(path, ignored), path);
  }
  std::sort(found.begin(), found.end());
  for (size_t i = 0; i + keep < found.size(); ++i) QD_RETURN_IF_ERROR(RemoveTree(found[i].second));
  return absl::OkStatus();
}

absl::StatusOr<json> PrepareInputs(const v1::LeaseJobResponse& lease, const JobFolder& folder,
                                   BlobCache& cache, BlobTransfer& transfer,
                                   const TransferControl& control) {
  json document = json::object();
  int number = 0;
  for (const v1::LeaseJobResponse::Input& input : lease.inputs()) {
    json entry = json::object();
    const v1::Manifest& manifest = input.manifest();
    const std::string target = absl::StrCat(folder.inputs(), "/", number++);
    const bool is_job = input.state() != v1::JOB_STATE_UNSPECIFIED;
    if (!is_job && manifest.files().empty()) {
      return absl::NotFoundError(absl::StrCat("the scheduler has nothing under the name \"",
                                              input.reference(), "\" any more"));
    }
    QD_RETURN_IF_ERROR(PlaceFiles(manifest, target, cache, transfer, control), "input ",
                       input.reference());
    if (manifest.files_size() == 1 && manifest.files(0).role() == "data") {
      entry["path"] = absl::StrCat(target, "/", manifest.files(0).path());
    } else if (manifest.files_size() > 0) {
      entry["path"] = target;
    }
    if (input.has_result()) {
      QD_ASSIGN_OR_RETURN(entry["result"], ToJson(input.result()));
    }
    if (input.has_spec()) {
      QD_ASSIGN_OR_RETURN(entry["spec"], ToJson(input.spec()));
    }
    if (input.has_failure()) {
      QD_ASSIGN_OR_RETURN(entry["failure"], ToJson(input.failure()));
    }
    if (input.state() != v1::JOB_STATE_UNSPECIFIED) {
      entry["state"] = v1::JobState_Name(input.state());
    }
    document[input.reference()] = std::move(entry);
  }
  return document;
}

int64_t MissingInputBytes(const v1::LeaseJobResponse& lease, BlobCache& cache) {
  std::set<std::string> seen;
  int64_t bytes = 0;
  const auto add = [&](const v1::Manifest& manifest) {
    for (const v1::ManifestFile& file : manifest.files()) {
      if (seen.insert(file.blob().sha256()).second && !cache.Contains(file.blob().sha256())) {
        bytes += file.blob().size_bytes();
      }
    }
  };
  for (const v1::LeaseJobResponse::Input& input : lease.inputs()) add(input.manifest());
  add(lease.checkpoint());
  return bytes;
}

}  // namespace quantd
