// Columns with large inputs go first, while there are still many columns to take their error. Three
// ways: over all columns with groups made afterwards (desc_act), over all columns with groups as
// they lie (static_groups), and within groups and among them (act_group_aware).
#include "workers/engine/methods/column_order.h"

#include <ATen/ops/argsort.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/gather.h>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

at::Tensor Falling(const at::Tensor& values, int64_t dim) {
  return at::argsort(values, /*stable=*/true, dim, /*descending=*/true);
}

}  // namespace

ColumnOrder OrderColumns(const at::Tensor& diagonal, const IntegerScheme& scheme,
                         const nlohmann::json& options) {
  const int64_t columns = diagonal.size(0);
  const int64_t group = scheme.group_columns;
  const bool desc_act = options.at("desc_act").get<bool>();
  ColumnOrder order;
  order.group_of_column = at::floor_divide(at::arange(columns, at::kInt), group).to(at::kInt);
  order.static_groups = desc_act && options.at("static_groups").get<bool>();
  if (desc_act) {
    order.permutation = Falling(diagonal, 0);
  } else if (options.at("act_group_aware").get<bool>()) {
    const at::Tensor by_group = diagonal.reshape({columns / group, group});
    const at::Tensor within = Falling(by_group, 1);
    const at::Tensor groups = Falling(by_group.amax(1), 0);
    const at::Tensor starts = at::arange(0, columns, group, at::kLong).unsqueeze(1);
    order.permutation = (within + starts).index_select(0, groups).flatten();
  }
  if (order.permutation.defined() && (order.static_groups || !desc_act)) {
    order.group_of_column = order.group_of_column.index_select(0, order.permutation);
  }
  return order;
}

}  // namespace quantd::engine
