// In which order GPTQ visits a layer's columns, and which group each belongs to.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

#include "workers/engine/methods/common.h"

namespace quantd::engine {

struct ColumnOrder {
  at::Tensor permutation;      // int64 [K]: the i-th column visited; undefined: as they lie.
  at::Tensor group_of_column;  // int32 [K], in the order of visiting.
  bool static_groups =
      false;  // Scales are found before the first column, not where a group begins.
};

// `diagonal` float32 [K] is H's. Options: desc_act, static_groups, act_group_aware. Columns of one
// group are visited in one run unless static_groups.
ColumnOrder OrderColumns(const at::Tensor& diagonal, const IntegerScheme& scheme,
                         const nlohmann::json& options);

}  // namespace quantd::engine
