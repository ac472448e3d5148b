// Which tensor goes into which file of a checkpoint, and the index that says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

constexpr int64_t kDefaultShardBytes = 5'000'000'000;  // What transformers cuts at.
constexpr char kSingleFileName[] = "model.safetensors";
constexpr char kIndexFileName[] = "model.safetensors.index.json";

// How the files of a kind of checkpoint are named.
struct ShardNames {
  const char* stem;    // "model"
  const char* suffix;  // ".safetensors"
};
constexpr ShardNames kSafetensorsNames = {"model", ".safetensors"};
constexpr ShardNames kTorchNames = {"pytorch_model", ".bin"};

struct Shard {
  std::string
      file_name;  // "model.safetensors" when there is one, else "model-00001-of-00003.safetensors".
  std::vector<TensorInfo> tensors;
};

// Cuts `tensors`, in their order, so that no file's tensors exceed `shard_bytes` unless one tensor
// alone does. 0: kDefaultShardBytes. At least one shard, also for no tensors.
std::vector<Shard> PlanShards(std::vector<TensorInfo> tensors, int64_t shard_bytes,
                              const ShardNames& names = kSafetensorsNames);

// Writes the index ("model.safetensors.index.json") of a plan of several shards into `folder`; does
// nothing for one.
absl::Status WriteShardIndex(const std::string& folder, absl::Span<const Shard> shards,
                             const ShardNames& names = kSafetensorsNames);

}  // namespace quantd::engine
