// The first thing of a decode step: the new tokens' rows of the embedding, and one more position.
#pragma once

#include <cstdint>

#include "kernels/step_attention.h"

namespace quantd::kernels {

// output[i] = table[ids[i]] for each of `rows`, [columns] of 16-bit numbers each; zeros for an id
// outside 0 ... vocabulary - 1. Then position->length, which is on the device, grows by one; null:
// nothing does. columns a multiple of 8; all 16-byte aligned.
struct EmbedRows {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t vocabulary = 0;
  const int64_t* ids = nullptr;
  const uint16_t* table = nullptr;
  uint16_t* output = nullptr;
  StepPosition* position = nullptr;
  void* stream = nullptr;  // cuda only.
};

void EmbedRowsReference(const EmbedRows& args);

}  // namespace quantd::kernels
