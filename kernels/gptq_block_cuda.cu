// A warp owns a row and holds it in registers, column j in lane j % 32. What remains of the
// algorithm's sequence is one broadcast and two divisions a column; rows of U are read ahead of it
// out of the first-level cache, where all warps of a block want the same ones.
#include "kernels/module_cuda.cuh"
#include "kernels/search_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kWarps = 4;

struct RowState {
  const GptqBlock& args;
  int64_t row;
  int lane;
  float* shared_row;  // [columns] of this warp, for the search of scales.
};

// Scale and zero from column i on; found and stored first where they are not given.
template <int kSlots>
__device__ GroupParams GroupParamsAt(const RowState& state, const float (&weight)[kSlots],
                                     int64_t i) {
  const GptqBlock& args = state.args;
  const int64_t param = state.row * args.params_stride + args.group_of_column[i];
  if (args.find_columns == 0) return {args.scales[param], args.zeros[param]};
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    state.shared_row[slot * 32 + state.lane] = weight[slot];
  }
  __syncwarp();
  const int64_t left = args.columns - i;
  const GroupParams params =
      FindWarpParams(state.shared_row + i, left < args.find_columns ? left : args.find_columns,
                     {args.bits, args.symmetric, args.search_steps,
                      args.column_weights == nullptr ? nullptr : args.column_weights + i});
  __syncwarp();
  if (state.lane == 0) {
    args.scales[param] = params.scale;
    args.zeros[param] = params.zero;
  }
  return params;
}

template <int kSlots>
__global__ void __launch_bounds__(kWarps * 32) GptqBlockKernel(GptqBlock args) {
  __shared__ float shared_rows[kWarps][kSlots * 32];
  const int warp = threadIdx.x / 32;
  const RowState state = {args, static_cast<int64_t>(blockIdx.x) * kWarps + warp,
                          static_cast<int>(threadIdx.x % 32), shared_rows[warp]};
  if (state.row >= args.rows) return;
  float* const row = args.weight + state.row * args.weight_stride;
  const int lane = state.lane;
  const auto inside = [&](int slot) { return slot * 32 + lane < args.columns; };

  float weight[kSlots];
  float next[kSlots];  // The coming row of U.
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    weight[slot] = inside(slot) ? row[slot * 32 + lane] : 0;
    next[slot] = inside(slot) ? args.inverse[slot * 32 + lane] : 0;
  }
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  float scale = 1, zero = 0;
  int32_t group = -1;
  double loss = lane == 0 ? args.losses[state.row] : 0;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    float own_error = 0;
    uint8_t own_code = 0;
    const int64_t left = args.columns - slot * 32;
    const int count = static_cast<int>(left < 32 ? left : 32);
    for (int source = 0; source < count; ++source) {
      const int64_t i = slot * 32 + source;
      if (args.group_of_column[i] != group) {
        group = args.group_of_column[i];
        const GroupParams params = GroupParamsAt(state, weight, i);
        scale = HalfToFloat(params.scale);
        zero = params.zero;
      }
      float inverse[kSlots];
#pragma unroll
      for (int other = slot; other < kSlots; ++other) {
        inverse[other] = next[other];
        if (i + 1 < args.columns && inside(other)) {
          next[other] = args.inverse[(i + 1) * args.inverse_stride + other * 32 + lane];
        }
      }
      const float current = __shfl_sync(kWholeWarp, weight[slot], source);
      const float diagonal = __shfl_sync(kWholeWarp, inverse[slot], source);
      float steps = current / scale;
      steps = steps < -zero ? -zero : steps;
      steps = steps > code_max - zero ? code_max - zero : steps;
      steps = RoundHalfEven(steps);
      const float error = (current - scale * steps) / diagonal;
      if (lane == source) {
        own_error = error;
        own_code = static_cast<uint8_t>(static_cast<int>(steps + zero));
      }
      loss += static_cast<double>(error) * static_cast<double>(error) / 2;
#pragma unroll
      for (int other = slot; other < kSlots; ++other) {
        if (other > slot || lane > source) weight[other] -= error * inverse[other];
      }
    }
    if (lane < count) {
      const int64_t column = slot * 32 + lane;
      row[column] = weight[slot];
      args.errors[state.row * args.errors_stride + column] = own_error;
      args.codes[state.row * args.codes_stride + column] = own_code;
    }
  }
  if (lane == 0) args.losses[state.row] = loss;
}

using Kernel = void (*)(GptqBlock);
// By the number of 32-column slots of a block, rounded up.
constexpr Kernel kKernels[] = {GptqBlockKernel<1>, GptqBlockKernel<2>, GptqBlockKernel<4>,
                               GptqBlockKernel<8>};

}  // namespace

void GptqBlockCuda(const GptqBlock& args) {
  if (args.rows == 0 || args.columns == 0) return;
  int index = 0;
  while ((32 << index) < args.columns) ++index;
  const auto blocks = static_cast<unsigned>((args.rows + kWarps - 1) / kWarps);
  kKernels[index]<<<blocks, kWarps * 32, 0, Stream(args)>>>(args);
}

}  // namespace quantd::kernels
