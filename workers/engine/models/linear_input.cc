// Each form is kept with the rounding that it is of, as layers that share an input may differ.
#include "workers/engine/models/linear_input.h"

#include <utility>

namespace quantd::engine {

LinearInput::LinearInput(const at::Tensor& values)
    : state_(std::make_shared<State>(State{.like = values, .values = values})) {}

LinearInput::LinearInput(const at::Tensor& like, std::function<at::Tensor()> values,
                         std::function<Int8Input(const InputQuantization&)> int8)
    : state_(std::make_shared<State>(
          State{.like = like, .make_values = std::move(values), .make_int8 = std::move(int8)})) {}

const at::Tensor& LinearInput::values() const {
  State& state = *state_;
  if (!state.values.defined()) {
    state.like = state.values = state.make_values();
    // With them goes what they hold.
    state.make_values = nullptr;
    state.make_int8 = nullptr;
  }
  return state.values;
}

const at::Tensor& LinearInput::Rounded(const InputQuantization& quantization) const {
  if (quantization.kind == InputKind::kFloat) return values();
  if (!state_->rounded.defined() || state_->of_rounded != quantization) {
    state_->rounded = RoundInput(values(), quantization);
    state_->of_rounded = quantization;
  }
  return state_->rounded;
}

const Int8Input& LinearInput::Int8(const InputQuantization& quantization) const {
  State& state = *state_;
  if (state.int8.codes.defined() && state.of_int8 == quantization) return state.int8;
  state.int8 = {};
  if (state.make_int8) state.int8 = state.make_int8(quantization);
  if (!state.int8.codes.defined()) state.int8 = QuantizeInput(values(), quantization);
  state.of_int8 = quantization;
  return state.int8;
}

}  // namespace quantd::engine
