// One buffer a layer with room to spare; what is returned are views of its filled part.
#include "workers/engine/models/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace quantd::engine {
namespace {

constexpr int64_t kCapacityMin = 64;

// `old` [B, heads, length, D] in a larger buffer.
at::Tensor Grown(const at::Tensor& old, const at::Tensor& like, int64_t length, int64_t capacity) {
  at::Tensor grown =
      at::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options());
  if (length > 0) grown.narrow(2, 0, length).copy_(old.narrow(2, 0, length));
  return grown;
}

}  // namespace

KvCache::KvCache(int64_t layers, std::vector<int64_t> starts) : KvCache(layers) {
  const bool padded = std::any_of(starts.begin(), starts.end(), [](int64_t s) { return s != 0; });
  if (padded) starts_ = std::move(starts);
}

std::pair<at::Tensor, at::Tensor> KvCache::Append(int64_t layer, const at::Tensor& keys,
                                                  const at::Tensor& values) {
  Layer& held = layers_[static_cast<size_t>(layer)];
  const int64_t needed = held.length + keys.size(2);
  const int64_t capacity = held.keys.defined() ? held.keys.size(2) : 0;
  if (needed > capacity) {
    const int64_t room = std::max({needed, 2 * capacity, reserve_, kCapacityMin});
    held.keys = Grown(held.keys, keys, held.length, room);
    held.values = Grown(held.values, values, held.length, room);
  }
  held.keys.narrow(2, held.length, keys.size(2)).copy_(keys);
  held.values.narrow(2, held.length, values.size(2)).copy_(values);
  held.length = needed;
  return {held.keys.narrow(2, 0, needed), held.values.narrow(2, 0, needed)};
}

int64_t KvCache::size_bytes() const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) {
    if (layer.keys.defined()) bytes += static_cast<int64_t>(2 * layer.keys.nbytes());
  }
  return bytes;
}

}  // namespace quantd::engine
