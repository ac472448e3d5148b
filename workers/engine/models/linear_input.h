// What linears read. Layers that share an input (q, k and v; gate and up) are given the same one,
// and what is made of it, rounded or as int8, is made once for all of them. A norm or a gate in
// front is left undone until the first of them says in which form it is wanted, so that a GPU's
// kernels can make int8 in the same pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

#include "workers/engine/models/input_quantization.h"

namespace quantd::engine {

// A copy refers to the same numbers. Not thread-safe. Its functions throw what libtorch throws.
class LinearInput {
 public:
  LinearInput(const at::Tensor& values);  // NOLINT(google-explicit-constructor): it is one.
  // Of the shape and type of `like`: what `values` makes. `int8` makes the same as int8, or nothing
  // where no kernel does that at once.
  LinearInput(const at::Tensor& like, std::function<at::Tensor()> values,
              std::function<Int8Input(const InputQuantization&)> int8);

  int64_t size(int64_t dimension) const { return state_->like.size(dimension); }
  at::ScalarType scalar_type() const { return state_->like.scalar_type(); }
  const at::Tensor& values() const;  // [..., K]; always the very same tensor.
  const at::Tensor& Rounded(const InputQuantization& quantization) const;
  // On a GPU that has kernels; kInt8PerToken or kInt8PerTensor.
  const Int8Input& Int8(const InputQuantization& quantization) const;

 private:
  struct State {
    at::Tensor like;
    std::function<at::Tensor()> make_values;
    std::function<Int8Input(const InputQuantization&)> make_int8;
    at::Tensor values, rounded;
    Int8Input int8;
    InputQuantization of_rounded, of_int8;
  };
  std::shared_ptr<State> state_;
};

}  // namespace quantd::engine
