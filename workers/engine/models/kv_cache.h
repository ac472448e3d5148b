// Keys and values of the positions already computed, one pair of tensors a layer, growing by
// doubling. Sequences of different lengths are padded on the left: `starts` says where each one
// begins, and nothing before that is ever attended to.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace quantd::engine {

// Not thread-safe. Methods throw what libtorch throws.
class KvCache {
 public:
  explicit KvCache(int64_t layers) : layers_(static_cast<size_t>(layers)) {}
  // `starts[b]` positions at the left of sequence b are padding.
  KvCache(int64_t layers, std::vector<int64_t> starts);

  // Positions held for `layer`, padding included.
  int64_t length(int64_t layer) const { return layers_[static_cast<size_t>(layer)].length; }
  // Appends keys and values [B, kv_heads, T, head_dim] and returns all of the layer's: [B,
  // kv_heads, length, head_dim]. Of 4 or 8 bits (head_codes.h) codes are kept and decoded here;
  // the same `bits` at every call for a layer.
  std::pair<at::Tensor, at::Tensor> Append(int64_t layer, const at::Tensor& keys,
                                           const at::Tensor& values, int bits = 16);
  // What `layer` is kept in [B, kv_heads, room, head_dim], its first `length` positions filled, for
  // kernels that append by themselves and then say so with Advance. None where codes are kept, or
  // nothing yet.
  struct Buffers {
    at::Tensor keys, values;
  };
  std::optional<Buffers> plain_buffers(int64_t layer) const;
  // Every layer's buffers hold so many positions more.
  void Advance(int64_t positions);
  // Empty when no sequence is padded.
  const std::vector<int64_t>& starts() const { return starts_; }
  // Allocates room for `positions` at the next Append, so that nothing needs to grow later.
  void Reserve(int64_t positions) { reserve_ = positions; }
  int64_t size_bytes() const;

 private:
  struct Layer {
    // Keys and values, or codes, scales and smallest values of both: [B, kv_heads, room, ...].
    std::vector<at::Tensor> buffers;
    int64_t length = 0;
  };
  std::vector<Layer> layers_;
  std::vector<int64_t> starts_;
  int64_t reserve_ = 0;
};

}  // namespace quantd::engine
