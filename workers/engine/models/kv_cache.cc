// One buffer a layer with room to spare; what is returned are views of its filled part.
#include "workers/engine/models/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "workers/engine/models/head_codes.h"

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
                                                  const at::Tensor& values, int bits) {
  std::vector<at::Tensor> added = {keys, values};
  if (bits < 16) {
    const HeadCodes k = EncodeHeads(keys, bits), v = EncodeHeads(values, bits);
    added = {k.codes, k.scale, k.low, v.codes, v.scale, v.low};
  }
  Layer& held = layers_[static_cast<size_t>(layer)];
  const int64_t needed = held.length + keys.size(2);
  const int64_t capacity = held.buffers.empty() ? 0 : held.buffers[0].size(2);
  held.buffers.resize(added.size());
  std::vector<at::Tensor> all;
  for (size_t i = 0; i < added.size(); ++i) {
    at::Tensor& buffer = held.buffers[i];
    if (needed > capacity) {
      const int64_t room = std::max({needed, 2 * capacity, reserve_, kCapacityMin});
      buffer = Grown(buffer, added[i], held.length, room);
    }
    buffer.narrow(2, held.length, keys.size(2)).copy_(added[i]);
    all.push_back(buffer.narrow(2, 0, needed));
  }
  held.length = needed;
  if (bits >= 16) return {all[0], all[1]};
  const at::ScalarType dtype = keys.scalar_type();
  return {DecodeHeads({all[0], all[1], all[2]}, bits, dtype),
          DecodeHeads({all[3], all[4], all[5]}, bits, dtype)};
}

std::optional<KvCache::Buffers> KvCache::plain_buffers(int64_t layer) const {
  const std::vector<at::Tensor>& buffers = layers_[static_cast<size_t>(layer)].buffers;
  if (buffers.size() != 2) return std::nullopt;
  return Buffers{buffers[0], buffers[1]};
}

void KvCache::Advance(int64_t positions) {
  for (Layer& layer : layers_) layer.length += positions;
}

int64_t KvCache::size_bytes() const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) {
    for (const at::Tensor& buffer : layer.buffers) bytes += static_cast<int64_t>(buffer.nbytes());
  }
  return bytes;
}

}  // namespace quantd::engine
