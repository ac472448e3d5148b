// Llama's rotary turns the two halves of a head against each other here and neighbouring rows
// there: the order of a projection's rows when it goes into a GGUF file, and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quantd::engine {

// `rows` rows of equal length in `bytes`; rows is a multiple of head_dim. Row (h, t, j) of
// [heads, 2, head_dim / 2] becomes row (h, j, t).
inline std::vector<uint8_t> PairRows(absl::Span<const uint8_t> bytes, int64_t rows,
                                     int64_t head_dim) {
  const int64_t size = static_cast<int64_t>(bytes.size()) / rows;
  const int64_t half = head_dim / 2;
  std::vector<uint8_t> paired(bytes.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t in_head = row % head_dim;
    const int64_t to = row - in_head + in_head % half * 2 + in_head / half;
    std::copy_n(bytes.data() + row * size, size, paired.data() + to * size);
  }
  return paired;
}

}  // namespace quantd::engine
