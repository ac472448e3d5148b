// See config_cache.h.
#include "workers/engine/checkpoint/config_cache.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr char kAttention[] = "re:.*attn$";

json Field(const json& object, const char* name) {
  return object.is_object() ? object.value(name, json()) : json();
}

// Order of the matrix that one group turns queries or keys by.
absl::StatusOr<int64_t> ReadRotation(const json& group, int64_t head_dim,
                                     absl::string_view origin) {
  const json order = Field(group, "head_dim");
  const int64_t size = order.is_number_integer() ? order.get<int64_t>() : head_dim;
  const bool power = size > 1 && (size & (size - 1)) == 0 && head_dim % size == 0;
  if (Field(group, "type") == "hadamard" && Field(group, "randomize") != true && power) return size;
  return absl::UnimplementedError(
      absl::StrCat(origin, ": quantization_config.transform_config turns queries and keys by ",
                   JsonText(group), "; Hadamard matrices of a power of two that divides head_dim ",
                   head_dim, ", not randomized, can be read"));
}

}  // namespace

absl::StatusOr<CacheTransform> ParseCacheTransform(const json& quantization, int64_t head_dim,
                                                   absl::string_view origin) {
  CacheTransform cache;
  const json bits = Field(Field(quantization, "kv_cache_scheme"), "num_bits");
  for (const int known : {4, 8}) {
    CacheTransform read = {.rotation = 0, .bits = known};
    if (bits == known && Field(quantization, "kv_cache_scheme") == CacheScheme(read, head_dim)) {
      cache.bits = known;
    }
  }
  int64_t queries = 0, keys = 0;
  const json groups = Field(Field(quantization, "transform_config"), "config_groups");
  for (const json& group : groups) {
    for (const json& apply : Field(group, "apply")) {
      const json location = Field(apply, "location");
      if (location != "q_attn" && location != "k_cache") continue;
      const absl::StatusOr<int64_t> order = ReadRotation(group, head_dim, origin);
      if (!order.ok()) return order.status();
      (location == "q_attn" ? queries : keys) = *order;
    }
  }
  if (queries != keys) {
    return absl::InvalidArgumentError(absl::StrCat(
        origin, ": quantization_config.transform_config turns queries by blocks of ", queries,
        " and keys by blocks of ", keys, "; attention needs the same for both"));
  }
  cache.rotation = queries;
  return cache;
}

json CacheScheme(const CacheTransform& cache, int64_t head_dim) {
  if (cache.bits >= 16) return nullptr;
  return {{"num_bits", cache.bits}, {"type", "int"},          {"symmetric", false},
          {"strategy", "group"},    {"group_size", head_dim}, {"dynamic", true}};
}

json CacheRotation(const CacheTransform& cache) {
  if (cache.rotation == 0) return nullptr;
  const auto apply = [](const char* location) {
    return json{{"targets", {kAttention}},
                {"location", location},
                {"inverse", false},
                {"ignore", json::array()}};
  };
  return {{"type", "hadamard"},         {"apply", {apply("q_attn"), apply("k_cache")}},
          {"randomize", false},         {"requires_grad", false},
          {"head_dim", cache.rotation}, {"precision", "torch.float32"}};
}

}  // namespace quantd::engine
