// What a row of logits says of one token: its log probability, and whether it is the row's best. In
// one pass over 16-bit logits, where libtorch's operators take five in float32.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Of each row x of logits [rows, columns], T the 16-bit type, and its target t, 0 <= t < columns:
//
//   log_probs[row] = x[t] - log(sum of exp(x))    in float32
//   greedy[row]    = 1 where x[t] > x[i] for all i < t and x[t] >= x[i] for all i > t, else 0
//
// Logits are aligned as T is; strides the width. A log probability is within (columns / 256 + 128 +
// 4 |log_prob|) 2^-24 of its exact value. A row with NaN or +infinity gives NaN and 0.
struct LogProbRows {
  int64_t rows = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  const uint16_t* logits = nullptr;
  const int64_t* targets = nullptr;
  float* log_probs = nullptr;
  uint8_t* greedy = nullptr;
  void* stream = nullptr;  // cuda only.
};

void LogProbRowsReference(const LogProbRows& args);

}  // namespace quantd::kernels
