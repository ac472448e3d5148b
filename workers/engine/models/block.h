// One decoder block's weights, owned (never a view of a file): the caller may replace or change
// them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/engine/models/input_quantization.h"
#include "workers/engine/models/packed_weight.h"

namespace quantd::engine {

// A layer with a weight and perhaps a bias: linears [out, in], norms [width].
struct Linear {
  at::Tensor weight;  // The decoder's device and dtype; undefined where `packed` is there.
  at::Tensor bias;    // [out], or undefined.
  InputQuantization input;
  std::shared_ptr<const PackedWeight> packed = nullptr;
};

class Block {
 public:
  int64_t layer() const { return layer_; }
  // By the name within the block: "self_attn.q_proj", "input_layernorm". It must have been loaded:
  // one of Linears(), or a norm or router of the row.
  Linear& linear(absl::string_view module);
  const Linear& linear(absl::string_view module) const;
  bool Has(absl::string_view module) const { return modules_.contains(module); }
  // Replaces a weight, cast and moved to the one it replaces. Its shape must be the same.
  absl::Status SetWeight(absl::string_view module, const at::Tensor& weight);
  // The same for any tensor by its name within the block: "input_layernorm.bias". NotFound when
  // the block has none such.
  absl::Status SetTensor(absl::string_view name, const at::Tensor& value);
  int64_t size_bytes() const;
  // Adds one for each packed weight to its kernel's count.
  void CountPacked(std::map<std::string, int64_t>& counts) const;

 private:
  friend class Decoder;
  int64_t layer_ = 0;
  absl::node_hash_map<std::string, Linear> modules_;
};

}  // namespace quantd::engine
