// The inner loop of GPTQ (Frantar et al., 2022, algorithm 1): a block of columns is quantized one
// after another and each column's error is pushed onto the columns right of it within the block.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// weight[rows, columns] f32, overwritten. inverse[columns, columns] f32: the diagonal block of U,
// upper triangular with U^T U = H^-1; its diagonal is positive. For column i in order, with scale
// and zero of group_of_column[i]:
//   code = clamp(round(w_i / scale) + zero, 0, 2^bits - 1);  e = (w_i - scale * (code - zero)) /
//   U[i, i]; w_j -= e * U[i, j] for j > i.
// Writes codes[rows, columns], errors[rows, columns] (e) and adds e^2 / 2 over the columns to
// losses[rows]. find_columns > 0: at every column where group_of_column starts a new value, scale
// and zero are found first (find_params.h) over the next find_columns columns as they stand then,
// and stored; 0: they are given. The columns of a group form one run when find_columns > 0. scales
// and zeros [rows, groups]. No aliasing. Allocates per thread columns * 64 bytes. Variants agree
// bit for bit: rows are independent and the order within one is fixed.
struct GptqBlock {
  int64_t rows = 0;
  int64_t columns = 0;
  int bits = 4;
  bool symmetric = true;
  int64_t find_columns = 0;
  int search_steps = 0;  // As in find_params.h, and so are the weights, one a column here.
  const float* column_weights = nullptr;
  float* weight = nullptr;
  int64_t weight_stride = 0;
  const float* inverse = nullptr;
  int64_t inverse_stride = 0;
  const int32_t* group_of_column = nullptr;
  uint16_t* scales = nullptr;
  uint8_t* zeros = nullptr;
  int64_t params_stride = 0;
  uint8_t* codes = nullptr;
  int64_t codes_stride = 0;
  float* errors = nullptr;
  int64_t errors_stride = 0;
  double* losses = nullptr;
  void* stream = nullptr;  // cuda only.
};

void GptqBlockReference(const GptqBlock& args);
void GptqBlockCpu(const GptqBlock& args);

}  // namespace quantd::kernels
