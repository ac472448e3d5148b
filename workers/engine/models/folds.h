// Where a scaling of a linear layer's input columns can hide, without changing what the model
// computes: its reciprocal goes into whatever makes those columns. AWQ and SmoothQuant move
// difficulty from activations to weights this way. Papers: arXiv 2306.00978, 2211.10438.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "workers/engine/checkpoint/config.h"
#include "workers/engine/models/architecture.h"

namespace quantd::engine {

// Column c of every layer in `linears` is made by row `row_of_column[c]` of `previous`. Dividing
// that row (weight and bias) by s and multiplying the columns that read it by s leaves the block's
// output as it was; columns with one row must share their s.
struct Fold {
  // Within the block. A norm ("input_layernorm": its weight and bias are vectors, and with
  // NormKind::kRmsPlusOne it is 1 + weight that is divided) or a linear.
  std::string previous;
  bool previous_is_norm = false;
  std::vector<std::string> linears;  // All read the same input.
  // Layers that read the same input but are not quantized (a mixture's router): their columns are
  // multiplied too.
  std::vector<std::string> others;
  // The part whose output shows what rounding costs, for Decoder::ForwardPart; empty: the block.
  std::string inspected;
  std::vector<int64_t> row_of_column;
};

// In the order of computation. Layers behind a nonlinearity without a gate (GPT-2's and Phi's
// second MLP layer) have none. Keys' and queries' own scales would have to survive RoPE and are
// left alone.
std::vector<Fold> Folds(const ModelConfig& config, const Architecture& row, int64_t layer);

}  // namespace quantd::engine
