// find_params.h's rule for kLanes rows side by side, shared by the operations that hold a
// transposed tile.
#pragma once

#include <cstdint>

#include "kernels/find_params.h"
#include "kernels/multiversion.h"

namespace quantd::kernels {

struct LaneSearch {
  int bits = 4;
  bool symmetric = true;
  int search_steps = 0;
  const float* column_weights = nullptr;  // [columns] or null.
};

// tile[columns][kLanes]; params[kLanes] is written.
void FindLaneParams(const float* tile, int64_t columns, const LaneSearch& search,
                    GroupParams* params);

}  // namespace quantd::kernels
