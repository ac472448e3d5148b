// Greedy cutting in the given order, as transformers does, so that a file holds neighbouring
// blocks.
#include "workers/engine/checkpoint/shards.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"

namespace quantd::engine {
namespace {

// What does not fit 63 bits is refused by the writer; for planning it is merely too large.
int64_t BytesOf(const TensorInfo& tensor) {
  return DataBytes(tensor.dtype, tensor.shape).value_or(INT64_MAX / 2);
}

}  // namespace

std::vector<Shard> PlanShards(std::vector<TensorInfo> tensors, int64_t shard_bytes,
                              const ShardNames& names) {
  if (shard_bytes <= 0) shard_bytes = kDefaultShardBytes;
  std::vector<Shard> shards(1);
  int64_t used = 0;
  for (TensorInfo& tensor : tensors) {
    const int64_t bytes = BytesOf(tensor);
    if (!shards.back().tensors.empty() && bytes > shard_bytes - used) {
      shards.emplace_back();
      used = 0;
    }
    used += bytes;
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name = shards.size() == 1 ? absl::StrCat(names.stem, names.suffix)
                                             : absl::StrFormat("%s-%05d-of-%05d%s", names.stem,
                                                               i + 1, shards.size(), names.suffix);
  }
  return shards;
}

absl::Status WriteShardIndex(const std::string& folder, absl::Span<const Shard> shards,
                             const ShardNames& names) {
  if (shards.size() < 2) return absl::OkStatus();
  int64_t total = 0;
  nlohmann::json map = nlohmann::json::object();
  for (const Shard& shard : shards) {
    for (const TensorInfo& tensor : shard.tensors) {
      total += BytesOf(tensor);
      map[tensor.name] = shard.file_name;
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  return WriteFileAtomic(
      absl::StrCat(folder, "/", names.stem, names.suffix, ".index.json"),
      index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace quantd::engine
