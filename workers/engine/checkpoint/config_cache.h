// What a quantized checkpoint's configuration says about keys and values: compressed-tensors'
// kv_cache_scheme, and the transforms of its transform_config at "q_attn" and "k_cache".
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/config.h"

namespace quantd::engine {

// `quantization` is the value of "quantization_config". Schemes that round less than they say when
// they are left out (8-bit floats, static scales) are left out. Unimplemented for a transform of
// keys and queries that is not known: without it the numbers would be silently wrong.
absl::StatusOr<CacheTransform> ParseCacheTransform(const nlohmann::json& quantization,
                                                   int64_t head_dim, absl::string_view origin);

// The same, to be written; null and no groups where nothing is done.
nlohmann::json CacheScheme(const CacheTransform& cache, int64_t head_dim);
// An entry of transform_config.config_groups; null where queries and keys stay as they are.
nlohmann::json CacheRotation(const CacheTransform& cache);

}  // namespace quantd::engine
