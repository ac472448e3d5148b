// Groups that are rows belong to sixteen lanes each, which are the interleaved parts of their sums;
// groups that are columns to a thread. All steps are put on the stream at once: whether the error
// still falls is decided on the device, and steps after the last one return at once. Bound by
// memory (a step reads the weights once).
#include "kernels/hqq_groups.h"
#include "kernels/hqq_step.h"
#include "kernels/module_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kWarp = 0xffffffffu;

struct State {
  double best;
  int done;
  int stopped;
};
static_assert(sizeof(State) == HqqScratchBytes(0));

// The arguments, and what is derived from them once.
struct Solver {
  HqqGroups args;
  State* state;
  float* errors;  // [groups]
  int64_t groups;
  int64_t count;  // Weights of a group.
  float code_max;
  float shrink_below;
};

__device__ inline float CodeOf(float weight, HqqParams params, float code_max) {
  float steps = weight * params.inverse + params.zero;
  steps = steps < 0 ? 0 : steps;
  steps = steps > code_max ? code_max : steps;
  return rintf(steps);
}

// Adds one weight to the sums of its part.
__device__ inline void AddWeight(const Solver& solver, float weight, HqqParams params, float& sum,
                                 float& error) {
  const float code = CodeOf(weight, params, solver.code_max);
  const float difference = weight - (code - params.zero) / params.inverse;
  const float size = fabsf(difference);
  const float outlier =
      size > solver.shrink_below ? HqqShrink(difference, solver.args.norm, solver.args.beta) : 0.0f;
  sum += code - (weight - outlier) * params.inverse;
  error += size;
}

// HqqFold over the sixteen lanes of a group; right in the first of them.
__device__ inline float FoldLanes(float part) {
  for (int width = kHqqLanes / 2; width > 0; width /= 2) {
    part += __shfl_down_sync(kWarp, part, width, kHqqLanes);
  }
  return part;
}

// Which group a lane of sixteen works on. Lanes beyond the last group repeat it and write nothing,
// as the sums need whole warps.
struct Place {
  int64_t group;
  int lane;
  bool writes;
};
__device__ inline Place PlaceOf(int64_t groups) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kHqqLanes;
  const int lane = threadIdx.x % kHqqLanes;
  return {index < groups ? index : groups - 1, lane, index < groups && lane == 0};
}

// Scales hold s until the end.
__device__ inline void StartGroup(const Solver& solver, int64_t group, float low, float high) {
  const HqqParams params = HqqParamsOfRange(low, high, solver.args.bits, solver.args.round_zero);
  solver.args.scales[group] = params.inverse;
  solver.args.zeros[group] = params.zero;
}

__global__ void __launch_bounds__(kThreads) RowRangesKernel(Solver solver) {
  const Place place = PlaceOf(solver.groups);
  const float* weight = solver.args.weight + place.group * solver.count;
  float low = weight[0], high = low;
  for (int64_t i = place.lane; i < solver.count; i += kHqqLanes) {
    low = fminf(low, weight[i]);
    high = fmaxf(high, weight[i]);
  }
  for (int width = kHqqLanes / 2; width > 0; width /= 2) {
    low = fminf(low, __shfl_xor_sync(kWarp, low, width, kHqqLanes));
    high = fmaxf(high, __shfl_xor_sync(kWarp, high, width, kHqqLanes));
  }
  if (place.writes) StartGroup(solver, place.group, low, high);
}

__global__ void __launch_bounds__(kThreads) ColumnRangesKernel(Solver solver) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= solver.groups) return;
  const float* weight = solver.args.weight + group;
  float low = weight[0], high = low;
  for (int64_t i = 1; i < solver.count; ++i) {
    low = fminf(low, weight[i * solver.groups]);
    high = fmaxf(high, weight[i * solver.groups]);
  }
  StartGroup(solver, group, low, high);
}

__global__ void __launch_bounds__(kThreads) RowStepKernel(Solver solver) {
  if (solver.state->stopped != 0) return;
  const Place place = PlaceOf(solver.groups);
  const float* weight = solver.args.weight + place.group * solver.count;
  const HqqParams params = {solver.args.scales[place.group], solver.args.zeros[place.group]};
  float sum = 0, error = 0;
  for (int64_t i = place.lane; i < solver.count; i += kHqqLanes) {
    AddWeight(solver, weight[i], params, sum, error);
  }
  sum = FoldLanes(sum);
  error = FoldLanes(error);
  if (!place.writes) return;
  solver.args.zeros[place.group] = sum / static_cast<float>(solver.count);
  solver.errors[place.group] = error;
}

__global__ void __launch_bounds__(kThreads) ColumnStepKernel(Solver solver) {
  if (solver.state->stopped != 0) return;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= solver.groups) return;
  const HqqParams params = {solver.args.scales[group], solver.args.zeros[group]};
  float sums[kHqqLanes] = {}, errors[kHqqLanes] = {};
  for (int64_t begin = 0; begin < solver.count; begin += kHqqLanes) {
#pragma unroll
    for (int part = 0; part < kHqqLanes; ++part) {
      if (begin + part >= solver.count) break;
      const float weight = solver.args.weight[(begin + part) * solver.groups + group];
      AddWeight(solver, weight, params, sums[part], errors[part]);
    }
  }
#pragma unroll
  for (int width = kHqqLanes / 2; width > 0; width /= 2) {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      sums[i] += sums[i + width];
      errors[i] += errors[i + width];
    }
  }
  solver.args.zeros[group] = sums[0] / static_cast<float>(solver.count);
  solver.errors[group] = errors[0];
}

// HqqSumOfErrors, and whether it was the last step.
__global__ void __launch_bounds__(kHqqErrorParts) DecideKernel(Solver solver) {
  State& state = *solver.state;
  if (state.stopped != 0) return;
  __shared__ double parts[kHqqErrorParts];
  double part = 0;
  for (int64_t group = threadIdx.x; group < solver.groups; group += kHqqErrorParts) {
    part += solver.errors[group];
  }
  parts[threadIdx.x] = part;
  __syncthreads();
  for (int width = kHqqErrorParts / 2; width > 0; width /= 2) {
    if (threadIdx.x < width) parts[threadIdx.x] += parts[threadIdx.x + width];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  state.stopped = state.done > 0 && !(parts[0] < state.best) ? 1 : 0;
  state.best = parts[0];
  ++state.done;
}

__global__ void __launch_bounds__(kThreads) CodesKernel(Solver solver) {
  const int64_t numbers = solver.args.rows * solver.args.columns;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < numbers;
       i += threads) {
    const int64_t group = solver.args.axis == 1 ? i / solver.args.columns : i % solver.args.columns;
    const HqqParams params = {solver.args.scales[group], solver.args.zeros[group]};
    solver.args.codes[i] = static_cast<uint8_t>(
        static_cast<int>(CodeOf(solver.args.weight[i], params, solver.code_max)));
  }
}

__global__ void __launch_bounds__(kThreads) ScalesKernel(Solver solver) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group < solver.groups) solver.args.scales[group] = 1 / solver.args.scales[group];
}

unsigned BlocksOf(int64_t items, int64_t items_per_block) {
  return static_cast<unsigned>((items + items_per_block - 1) / items_per_block);
}

}  // namespace

int HqqGroupsCuda(const HqqGroups& args) {
  const bool by_row = args.axis == 1;
  const int64_t groups = by_row ? args.rows : args.columns;
  const int64_t count = by_row ? args.columns : args.rows;
  if (groups * count == 0) return 0;
  auto* const state = static_cast<State*>(args.scratch);
  const Solver solver = {.args = args,
                         .state = state,
                         .errors = reinterpret_cast<float*>(state + 1),
                         .groups = groups,
                         .count = count,
                         .code_max = static_cast<float>((1 << args.bits) - 1),
                         .shrink_below = HqqShrinkBelow(args.norm, args.beta)};
  const cudaStream_t stream = Stream(args);
  cudaMemsetAsync(state, 0, sizeof(State), stream);
  const unsigned blocks = BlocksOf(groups, by_row ? kThreads / kHqqLanes : kThreads);
  (by_row ? RowRangesKernel : ColumnRangesKernel)<<<blocks, kThreads, 0, stream>>>(solver);
  for (int i = 0; i < args.iterations; ++i) {
    (by_row ? RowStepKernel : ColumnStepKernel)<<<blocks, kThreads, 0, stream>>>(solver);
    DecideKernel<<<1, kHqqErrorParts, 0, stream>>>(solver);
  }
  constexpr int64_t kCodesPerThread = 4;
  CodesKernel<<<BlocksOf(groups * count, kThreads * kCodesPerThread), kThreads, 0, stream>>>(
      solver);
  ScalesKernel<<<BlocksOf(groups, kThreads), kThreads, 0, stream>>>(solver);
  State ended = {};
  cudaMemcpyAsync(&ended, state, sizeof(State), cudaMemcpyDeviceToHost, stream);
  cudaStreamSynchronize(stream);
  return ended.done;
}

}  // namespace quantd::kernels
