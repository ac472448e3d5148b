// Finds the files, trusts no name in the index, and maps everything at once.
#include "workers/engine/checkpoint/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/checkpoint/torch_file.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr int64_t kConfigBytesMax = 16 << 20;   // Real ones have a few KiB.
constexpr int64_t kIndexBytesMax = 256 << 20;   // 100 bytes a tensor, 500,000 tensors, and room.
constexpr size_t kShardsMax = 10'000;           // Each is a mapping; the system allows 65,530.
constexpr size_t kDigestSliceBytes = 16 << 20;  // What hashing keeps resident.

// The ways in which a folder may hold its weights, in the order in which they are looked for.
constexpr ShardNames kLayouts[] = {kSafetensorsNames, kTorchNames};

// Weights in forms that can run code when read, or that are another tool's.
constexpr absl::string_view kForeignWeights[] = {".bin", ".pt",     ".pth", ".ckpt",
                                                 ".pkl", ".pickle", ".h5",  ".msgpack"};
constexpr char kGgufSuffix[] = ".gguf";

std::vector<std::string> ListFolder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status NoWeights(const std::string& folder) {
  std::vector<std::string> foreign;
  for (const std::string& name : ListFolder(folder)) {
    for (const absl::string_view suffix : kForeignWeights) {
      if (absl::EndsWithIgnoreCase(name, suffix)) foreign.push_back(name);
    }
  }
  if (foreign.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, " holds neither ", kSingleFileName, " nor ", kIndexFileName));
  }
  if (foreign.size() > 5) foreign.resize(5);
  return absl::FailedPreconditionError(absl::StrCat(
      folder, " holds its weights only as ", absl::StrJoin(foreign, ", "),
      "; pickles can run code when they are read and therefore never are; safetensors and "
      "the state dictionary pytorch_model.bin are read as data. "
      "Convert a model that you trust with transformers: "
      "AutoModelForCausalLM.from_pretrained(folder)"
      ".save_pretrained(new_folder), or use the Hub's safetensors conversion"));
}

// The GGUF file that `path` is, or whose folder it is; empty for other folders.
absl::StatusOr<std::string> GgufPath(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error) && absl::EndsWith(path, kGgufSuffix)) {
    return path;
  }
  for (const ShardNames& names : kLayouts) {
    const std::string single = absl::StrCat(path, "/", names.stem, names.suffix);
    if (FileExists(single) || FileExists(single + ".index.json")) return std::string();
  }
  std::vector<std::string> files;
  for (const std::string& name : ListFolder(path)) {
    if (absl::EndsWith(name, kGgufSuffix)) files.push_back(name);
  }
  if (files.empty()) return std::string();
  if (files.size() == 1) return absl::StrCat(path, "/", files[0]);
  return absl::InvalidArgumentError(absl::StrCat(path, " holds ", files.size(),
                                                 " GGUF files; name one of them, such as ", path,
                                                 "/", files[0]));
}

absl::Status CheckShardName(const std::string& index_path, const std::string& tensor,
                            const json& value, absl::string_view suffix) {
  const auto refuse = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(index_path, ": tensor ", Quoted(tensor),
                                            " is said to be in ", JsonText(value), ", ", why));
  };
  if (!value.is_string()) return refuse("which is not a file name");
  const std::string& name = value.get_ref<const std::string&>();
  if (absl::StrContains(name, '/')) {
    return refuse("which is a path; an index may only name files of its own folder");
  }
  if (absl::Status status = CheckRelativePath(name); !status.ok()) return refuse(status.message());
  if (!absl::EndsWith(name, suffix)) return refuse(absl::StrCat("which is no ", suffix, " file"));
  return absl::OkStatus();
}

// Tensor name to file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path,
                                                             absl::string_view suffix) {
  QD_ASSIGN_OR_RETURN(const json index, ReadJsonObject(path, kIndexBytesMax));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return absl::DataLossError(absl::StrCat(
        path, ": \"weight_map\" must be an object of tensor names and file names but is ",
        map == index.end() ? "missing" : JsonText(*map)));
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    QD_RETURN_IF_ERROR(CheckShardName(path, tensor, file, suffix));
    files.emplace(tensor, file.get<std::string>());
  }
  return files;
}

// The ends of sequences that generation_config.json adds; a model's own config often names only one
// of several.
absl::Status AddGenerationConfig(const std::string& folder, ModelConfig* config) {
  const std::string path = absl::StrCat(folder, "/generation_config.json");
  if (!FileExists(path)) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const json generation, ReadJsonObject(path, kConfigBytesMax));
  const auto eos = generation.find("eos_token_id");
  if (eos == generation.end()) return absl::OkStatus();
  return ParseTokenIds(*eos, path, "eos_token_id", &config->eos_token_ids);
}

}  // namespace

absl::StatusOr<json> ReadModelConfigJson(const std::string& folder) {
  QD_ASSIGN_OR_RETURN(const std::string gguf, GgufPath(folder));
  if (!gguf.empty()) {
    QD_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(gguf));
    return ConfigOfGguf(*file);
  }
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0) return ErrnoStatus(errno, "opening model folder ", folder);
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder,
        " is a file; a model is a folder with config.json and safetensors files, or a .gguf file"));
  }
  const std::string path = absl::StrCat(folder, "/config.json");
  if (!FileExists(path)) {
    return absl::NotFoundError(
        absl::StrCat(folder, " holds no config.json; is it a model's folder?"));
  }
  return ReadJsonObject(path, kConfigBytesMax);
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& folder) {
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->folder_ = folder;
  QD_ASSIGN_OR_RETURN(const std::string gguf, GgufPath(folder));
  if (!gguf.empty()) {
    QD_RETURN_IF_ERROR(checkpoint->AddGguf(gguf));
    return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
  }
  QD_ASSIGN_OR_RETURN(checkpoint->raw_config_, ReadModelConfigJson(folder));
  QD_ASSIGN_OR_RETURN(checkpoint->config_, ParseModelConfig(checkpoint->raw_config_,
                                                            absl::StrCat(folder, "/config.json")));
  // It names code that is neither run nor taken over into copies.
  checkpoint->raw_config_.erase("auto_map");
  QD_RETURN_IF_ERROR(AddGenerationConfig(folder, &checkpoint->config_));
  for (const ShardNames& names : kLayouts) {
    const std::string single = absl::StrCat(folder, "/", names.stem, names.suffix);
    const std::string index = single + ".index.json";
    if (FileExists(single)) {  // Before an index, as transformers does.
      QD_RETURN_IF_ERROR(checkpoint->AddSingle(single));
    } else if (FileExists(index)) {
      QD_RETURN_IF_ERROR(checkpoint->AddIndexed(index, names.suffix));
    } else {
      continue;
    }
    checkpoint->AddPrefix(checkpoint->config_.base_prefix);
    return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
  }
  return NoWeights(folder);
}

absl::Status Checkpoint::AddSingle(const std::string& path) {
  QD_RETURN_IF_ERROR(AddFile(path));
  const TensorFile& file = *files_.back();
  for (const std::string& name : file.names()) AddTensor(name, file);
  return absl::OkStatus();
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  if (absl::EndsWith(path, kTorchNames.suffix)) {
    QD_ASSIGN_OR_RETURN(auto file, TorchFile::Open(path));
    files_.push_back(std::move(file));
  } else {
    QD_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
    files_.push_back(std::move(file));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::AddGguf(const std::string& path) {
  QD_ASSIGN_OR_RETURN(auto file, GgufTensors::Open(path));
  gguf_ = &file->gguf();
  for (const std::string& name : file->names()) AddTensor(name, *file);
  files_.push_back(std::move(file));
  QD_ASSIGN_OR_RETURN(raw_config_, ConfigOfGguf(*gguf_));
  QD_ASSIGN_OR_RETURN(config_, ParseModelConfig(raw_config_, path));
  return absl::OkStatus();
}

void Checkpoint::AddTensor(const std::string& name, const TensorFile& file) {
  const TensorView* view = file.Find(name);
  total_bytes_ += static_cast<int64_t>(view->bytes.size());
  tensors_.emplace(name, Place{.file = &file, .view = view});
}

absl::Status Checkpoint::AddIndexed(const std::string& index_path, absl::string_view suffix) {
  using FileOfTensor = std::map<std::string, std::string>;
  QD_ASSIGN_OR_RETURN(const FileOfTensor file_of, ReadIndex(index_path, suffix));
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  if (names.size() > kShardsMax) {
    return absl::DataLossError(absl::StrCat(index_path, ": names ", names.size(),
                                            " files; at most ", kShardsMax, " are allowed"));
  }
  std::map<std::string, const TensorFile*> opened;
  for (const std::string& name : names) {
    QD_RETURN_IF_ERROR(AddFile(absl::StrCat(folder_, "/", name)), "opening what ", index_path,
                       " names");
    opened[name] = files_.back().get();
  }
  for (const auto& [tensor, name] : file_of) {
    const TensorFile& file = *opened[name];
    if (file.Find(tensor) == nullptr) {
      return absl::DataLossError(absl::StrCat(index_path, ": tensor ", Quoted(tensor),
                                              " is said to be in ", name, ", which lacks it"));
    }
    AddTensor(tensor, file);
  }
  return absl::OkStatus();
}

void Checkpoint::AddPrefix(const std::string& prefix) {
  const auto first = tensors_.lower_bound(prefix);
  if (prefix.empty() || (first != tensors_.end() && absl::StartsWith(first->first, prefix))) return;
  absl::btree_map<std::string, Place> renamed;
  for (const auto& [name, place] : tensors_) {
    renamed.emplace(name == "lm_head.weight" ? name : absl::StrCat(prefix, name), place);
  }
  tensors_ = std::move(renamed);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, place] : tensors_) names.push_back(name);
  return names;
}

absl::StatusOr<TensorView> Checkpoint::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return *found->second.view;
  return absl::NotFoundError(absl::StrCat(
      "tensor ", Quoted(name), " is not in ", folder_, " (",
      files_.size() == 1 ? file_names().front() : absl::StrCat(files_.size(), " files by an index"),
      ", ", tensors_.size(), " tensors)"));
}

std::string Checkpoint::FileOf(absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return "";
  return std::filesystem::path(found->second.file->path()).filename().string();
}

void Checkpoint::ReleasePages(absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) found->second.file->ReleasePages(found->second.view->bytes);
}

std::vector<std::string> Checkpoint::file_names() const {
  std::vector<std::string> names;
  for (const auto& file : files_) {
    names.push_back(std::filesystem::path(file->path()).filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> Checkpoint::CompanionFiles() const {
  constexpr absl::string_view kSuffixes[] = {".json", ".jinja", ".model", ".txt"};
  constexpr absl::string_view kLegal[] = {"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"};
  constexpr absl::string_view kNever[] = {"config.json", "quantize_config.json",
                                          "quant_config.json", "quantization_metadata.json",
                                          "adapter_config.json"};
  std::vector<std::string> companions;
  for (const std::string& name : ListFolder(folder_)) {
    bool take = false;
    for (const absl::string_view suffix : kSuffixes) take |= absl::EndsWith(name, suffix);
    for (const absl::string_view word : kLegal) take |= absl::StartsWith(name, word);
    for (const absl::string_view never : kNever) take &= name != never;
    take = take && !absl::EndsWith(name, ".index.json") && !absl::StartsWith(name, ".");
    std::error_code error;
    if (take && std::filesystem::is_regular_file(folder_ + "/" + name, error)) {
      companions.push_back(name);
    }
  }
  return companions;
}

std::string Checkpoint::Digest() const {
  Sha256 sha;
  for (const auto& [name, place] : tensors_) {
    const TensorView& view = *place.view;
    // Lengths first, so that no two lists of tensors have the same stream.
    const std::string shape = ShapeText(view.shape);
    sha.Update(absl::StrCat(name.size(), ":", name, " ", DTypeName(view.dtype), " ", shape, " ",
                            view.bytes.size(), "\n"));
    for (size_t at = 0; at < view.bytes.size(); at += kDigestSliceBytes) {
      const absl::Span<const uint8_t> slice = view.bytes.subspan(at, kDigestSliceBytes);
      sha.Update(slice.data(), slice.size());
      place.file->ReleasePages(slice);
    }
  }
  return sha.HexDigest();
}

}  // namespace quantd::engine
