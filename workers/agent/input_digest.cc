// The spec is walked as JSON, whose objects are ordered by name: every string that stands for
// something outside the spec gives way to the digest of that.
#include "workers/agent/input_digest.h"

#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kVersion[] = "quantd input digest 1";
// A folder with more is none of a model's.
constexpr size_t kFilesMax = 10'000;
constexpr size_t kCommitDigits = 40;

absl::StatusOr<json> ToJson(const google::protobuf::Message& message) {
  std::string text;
  const auto written = google::protobuf::util::MessageToJsonString(message, &text);
  if (!written.ok()) return absl::InternalError(std::string(written.message()));
  return json::parse(text, nullptr, false);
}

// "org/name@<commit>", "hf://datasets/org/name@<commit>/path": what it stands for never changes.
bool IsPinned(absl::string_view name) {
  const size_t at = name.find('@');
  if (at == absl::string_view::npos) return false;
  absl::string_view commit = name.substr(at + 1);
  commit = commit.substr(0, commit.find('/'));
  return commit.size() == kCommitDigits &&
         std::all_of(commit.begin(), commit.end(), [](unsigned char c) { return isxdigit(c); });
}

// Whether a user's own task may name its data within its definition, which is not looked into.
bool HidesData(const v1::EvaluateSpec& evaluate) {
  return std::any_of(evaluate.tasks().begin(), evaluate.tasks().end(), [](const auto& task) {
    return task.data().empty() && task.options().fields().contains("definition");
  });
}

// What lies behind the strings of one spec.
class Resolver {
 public:
  Resolver(const v1::LeaseJobResponse& lease,
           std::function<absl::StatusOr<std::string>(const std::string&)> of_path)
      : of_path_(std::move(of_path)) {
    for (const v1::LeaseJobResponse::Input& input : lease.inputs()) {
      inputs_[input.reference()] = &input;
    }
  }

  // Replaces in place. False: something cannot be told.
  absl::StatusOr<bool> Walk(json& value, absl::string_view field) {
    if (value.is_string()) return Replace(value, field);
    if (!value.is_structured()) return true;
    for (auto& [name, inner] : value.items()) {
      QD_ASSIGN_OR_RETURN(const bool told, Walk(inner, value.is_object() ? name : field));
      if (!told) return false;
    }
    return true;
  }

 private:
  absl::StatusOr<bool> Replace(json& value, absl::string_view field) {
    const std::string text = value.get<std::string>();
    if (const auto input = inputs_.find(text); input != inputs_.end()) {
      // A job that left no files has nothing to be known by.
      if (input->second->manifest().sha256().empty()) return false;
      value = absl::StrCat("manifest ", input->second->manifest().sha256());
      return true;
    }
    std::error_code error;
    if (absl::StartsWith(text, "/") && fs::exists(text, error)) {
      QD_ASSIGN_OR_RETURN(const std::string digest, of_path_(text));
      value = absl::StrCat("content ", digest);
      return !digest.empty();
    }
    const bool reference = field == "model" || field == "source" || field == "data";
    if (absl::StartsWith(text, "hf://") || (reference && !text.empty())) return IsPinned(text);
    return true;
  }

  const std::function<absl::StatusOr<std::string>(const std::string&)> of_path_;
  std::map<std::string, const v1::LeaseJobResponse::Input*> inputs_;
};

}  // namespace

absl::StatusOr<std::string> InputDigest::OfFile(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "looking at ", path);
  const Stamp stamp = {info.st_size, info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec,
                       info.st_ino, info.st_dev};
  {
    absl::MutexLock lock(&mutex_);
    const auto known = known_.find(path);
    if (known != known_.end() && known->second.first == stamp) return known->second.second;
  }
  QD_ASSIGN_OR_RETURN(const std::string digest, Sha256File(path));
  absl::MutexLock lock(&mutex_);
  known_[path] = {stamp, digest};
  return digest;
}

absl::StatusOr<std::string> InputDigest::OfPath(const std::string& path,
                                                const std::function<bool()>& wanted) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return OfFile(path);
  std::set<std::string> files;
  for (auto entry = fs::recursive_directory_iterator(path, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry->is_regular_file(error)) files.insert(entry->path().string());
    if (files.size() > kFilesMax) return std::string();
  }
  if (error) return absl::UnavailableError(absl::StrCat("reading ", path, ": ", error.message()));
  std::string list;
  for (const std::string& file : files) {
    if (!wanted()) return absl::CancelledError(absl::StrCat("reading ", path));
    QD_ASSIGN_OR_RETURN(const std::string digest, OfFile(file));
    absl::StrAppend(&list, file.substr(path.size()), "\n", digest, "\n");
  }
  return Sha256Hex(list);
}

absl::StatusOr<std::string> InputDigest::Of(const v1::LeaseJobResponse& lease,
                                            const std::function<bool()>& wanted) {
  const v1::JobSpec& spec = lease.spec();
  if (spec.fresh() || !(spec.has_quantize() || spec.has_evaluate() || spec.has_verify()) ||
      HidesData(spec.evaluate())) {
    return std::string();
  }
  v1::JobSpec what;
  *what.mutable_runtime() = spec.runtime();
  if (spec.has_quantize()) *what.mutable_quantize() = spec.quantize();
  if (spec.has_evaluate()) *what.mutable_evaluate() = spec.evaluate();
  if (spec.has_verify()) *what.mutable_verify() = spec.verify();
  QD_ASSIGN_OR_RETURN(json body, ToJson(what));
  Resolver resolver(lease, [&](const std::string& path) { return OfPath(path, wanted); });
  QD_ASSIGN_OR_RETURN(const bool told, resolver.Walk(body, ""));
  if (!told) return std::string();
  v1::Catalog machine;
  *machine.mutable_libraries() = catalog_.libraries();
  *machine.mutable_devices() = catalog_.devices();
  for (v1::Device& device : *machine.mutable_devices()) device.clear_memory_bytes();
  QD_ASSIGN_OR_RETURN(const json where, ToJson(machine));
  QD_ASSIGN_OR_RETURN(const std::string engine, OfFile(engine_));
  return Sha256Hex(absl::StrCat(kVersion, "\n", engine, "\n", where.dump(), "\n", body.dump()));
}

}  // namespace quantd
