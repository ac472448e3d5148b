// From token ids to hidden states: the table of tokens, and learned positions where an architecture
// has them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/kv_cache.h"

namespace quantd::engine {

struct Embedding {
  at::Tensor tokens;     // [V, H]
  at::Tensor positions;  // [max_position_embeddings, H], or undefined.

  // ids int64 [B, T], standing where the cache ends, -> [B, T, H] in `dtype` on the table's device.
  // InvalidArgument for an id outside the vocabulary or a position behind the last learned one.
  // Throws what libtorch throws.
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids, const KvCache* cache, bool scaled,
                                   at::ScalarType dtype) const;
  int64_t size_bytes() const;
};

}  // namespace quantd::engine
