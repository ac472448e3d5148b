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

// Where `count` tokens behind what the cache holds stand: int64 [count], or [B, count] where
// sequences are padded on the left; padding stands at position 0. `cache` may be null.
at::Tensor Positions(int64_t count, const KvCache* cache);

struct Embedding {
  at::Tensor tokens;     // [V, H]
  at::Tensor positions;  // [max_position_embeddings, H], or undefined.

  // ids int64 [B, T], standing at `at` (int64 [T] or [B, T]), -> [B, T, H] in `dtype` on the
  // table's device. InvalidArgument for an id outside the vocabulary or a position behind the last
  // learned one. Throws what libtorch throws.
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids, const at::Tensor& at, bool scaled,
                                   at::ScalarType dtype) const;
  int64_t size_bytes() const;
};

}  // namespace quantd::engine
