// A block takes a part of the keys of one cache head for all the queries that share it. A few lanes
// hold a key, so that a warp takes several at once; each such team of lanes keeps a softmax of its
// own in registers over every so-manieth key, and what the teams, the warps and at last the blocks
// have is joined in a fixed order. The block that is done last joins those of the others. The first
// keys, which are older than this step, are on their way before the kernel in front has ended.
#include <algorithm>

#include "kernels/eight_cuda.cuh"
#include "kernels/ring_cuda.cuh"
#include "kernels/step_attention.h"

namespace quantd::kernels {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr unsigned kWarp = 0xffffffffu;
constexpr int64_t kKeysMin = 128;  // Of a part: fewer are not worth a block.
constexpr float kLowest = -1e30f;  // Below every score; no infinity, whose differences are none.
constexpr float kLog2E = 1.4426950408889634f;

// One softmax in the making: scores are to base 2.
struct Running {
  float largest = kLowest;
  float sum = 0;
};

// Factors for two of them to be added up; `into` becomes their joint state but for the sum.
__device__ inline float2 Join(Running& into, float other_largest) {
  const float largest = fmaxf(into.largest, other_largest);
  const float2 factors = {exp2f(into.largest - largest), exp2f(other_largest - largest)};
  into.largest = largest;
  return factors;
}

// The cosines and sines of this lane's eight numbers of a head.
struct Angles {
  uint4 cos = {}, sin = {};
};
template <int kLanes>
__device__ inline Angles LoadAngles(const StepAttention& args, int64_t position) {
  const int at = static_cast<int>(threadIdx.x) % kLanes * 8;
  if (at >= args.turned || args.position->cos == nullptr) return {};
  const int64_t row = position * args.turned + at;
  return {__ldg(reinterpret_cast<const uint4*>(args.position->cos + row)),
          __ldg(reinterpret_cast<const uint4*>(args.position->sin + row))};
}

// The head's eight numbers of this lane, normed and turned, as float.
template <typename Type, int kLanes>
__device__ inline void LoadHead(const StepAttention& args, const uint16_t* head,
                                const uint16_t* norm, const Angles& angles, float (&x)[8]) {
  const int at = static_cast<int>(threadIdx.x) % kLanes * 8;
  const int dim = static_cast<int>(args.dim), half = static_cast<int>(args.turned) / 2;
  const bool inside = at < dim, turns = at < args.turned && args.position->cos != nullptr;
  const int other_at = at < half ? at + half : at - half;
  float other[8] = {};
  Widen<Type>(inside ? LoadFresh(head + at) : uint4{}, x);
  if (turns) Widen<Type>(LoadFresh(head + other_at), other);
  if (norm != nullptr) {
    float sum = 0;
#pragma unroll
    for (const float value : x) sum += value * value;
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(kWarp, sum, offset);
    }
    const float inverse = rsqrtf(sum / static_cast<float>(dim) + args.eps);
    const auto apply = [&](float(&values)[8], int place) {
      float weight[8];
      Widen<Type>(__ldg(reinterpret_cast<const uint4*>(norm + place)), weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        values[i] = Rounded<Type>(weight[i] * Rounded<Type>(values[i] * inverse));
      }
    };
    if (inside) apply(x, at);
    if (turns) apply(other, other_at);
  }
  if (!turns) return;
  float cos[8], sin[8];
  Widen<Type>(angles.cos, cos);
  Widen<Type>(angles.sin, sin);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float straight = Rounded<Type>(x[i] * cos[i]), crossed = Rounded<Type>(other[i] * sin[i]);
    x[i] = Rounded<Type>(at < half ? straight - crossed : straight + crossed);
  }
}

// Which keys of which heads a block has.
struct Part {
  int64_t b, kv, first, end, length, room, start;
  int split, active;  // Of so many that have keys.
};

__device__ inline Part PartOfBlock(const StepAttention& args) {
  Part part = {};
  part.length = __ldcg(reinterpret_cast<const long long*>(&args.position->length));
  part.room = args.position->room;
  if (part.length < 1 || part.length > part.room) return part;
  part.b = blockIdx.y;
  part.kv = blockIdx.x % args.kv_heads;
  part.split = static_cast<int>(blockIdx.x / args.kv_heads);
  part.start = args.starts == nullptr ? 0 : args.starts[part.b];
  const int64_t first = args.window > 0 && part.length - args.window > part.start
                            ? part.length - args.window
                            : part.start;
  const int64_t count = part.length - first;
  int64_t each = (count + args.splits - 1) / args.splits;
  if (each < kKeysMin) each = kKeysMin;
  part.active = static_cast<int>((count + each - 1) / each);
  part.first = first + part.split * each;
  part.end = part.first + each < part.length ? part.first + each : part.length;
  return part;
}

// The new token's key and value into the cache and into `appended`; by the first warp.
template <typename Type, int kLanes>
__device__ inline void Append(const StepAttention& args, const Part& part, const uint16_t* row,
                              const Angles& angles, uint4 (&appended)[2][kLanes]) {
  const int64_t head = (args.heads + part.kv) * args.dim, at = threadIdx.x * 8;
  const bool mine = threadIdx.x < kLanes && at < args.dim;
  const uint4 value = mine ? LoadFresh(row + head + args.kv_heads * args.dim + at) : uint4{};
  float key[8];
  LoadHead<Type, kLanes>(args, row + head, args.k_norm, angles, key);
  if (!mine) return;
  appended[0][threadIdx.x] = Narrow<Type>(key);
  appended[1][threadIdx.x] = value;
  const int64_t to = ((part.b * args.kv_heads + part.kv) * part.room + part.length - 1) * args.dim;
  *reinterpret_cast<uint4*>(args.cache->keys + to + at) = appended[0][threadIdx.x];
  *reinterpret_cast<uint4*>(args.cache->values + to + at) = value;
}

// What a lane holds of the next kCount keys of its team.
template <int kLanes, int kGroup>
class Chunk {
 public:
  static constexpr int kCount = kGroup > 4 ? 2 : 4;
  static constexpr int kTeams = 32 / kLanes;          // Of a warp.
  static constexpr int kStride = kWarps * kTeams;     // From a team's key to its next.
  static constexpr int64_t kKeys = kCount * kStride;  // Of a block.

  __device__ Chunk(const StepAttention& args, const Part& part)
      : dim_(args.dim), place_(part.first + static_cast<int>(threadIdx.x) / kLanes) {
    const int at = static_cast<int>(threadIdx.x) % kLanes * 8;
    inside_ = at < args.dim;
    const int64_t base = (part.b * args.kv_heads + part.kv) * part.room * args.dim + at;
    keys_ = args.cache->keys + base;
    values_ = args.cache->values + base;
  }
  // Those that lie in front of `end`; zeros for the others.
  __device__ void Load(int64_t end) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const bool there = inside_ && Place(c) < end;
      key[c] = there ? LoadFresh(keys_ + Place(c) * dim_) : uint4{};
      value[c] = there ? LoadFresh(values_ + Place(c) * dim_) : uint4{};
    }
  }
  // The key and value of one place, if it is among them.
  __device__ void Put(int64_t place, const uint4 (&given)[2][kLanes]) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      if (!inside_ || Place(c) != place) continue;
      key[c] = given[0][threadIdx.x % kLanes];
      value[c] = given[1][threadIdx.x % kLanes];
    }
  }
  __device__ int64_t Place(int c) const { return place_ + c * kStride; }
  __device__ void Next() { place_ += kKeys; }

  uint4 key[kCount], value[kCount];

 private:
  const uint16_t *keys_, *values_;
  const int64_t dim_;
  int64_t place_;
  bool inside_;
};

// One warp's share of the keys, joined among its teams: every lane of a team ends with its eight
// numbers of the sum of values. The chunk holds the first keys, of the new token's only a place.
template <typename Type, int kLanes, int kGroup>
__device__ inline void Attend(const Part& part, Chunk<kLanes, kGroup>& chunk,
                              const uint4 (&appended)[2][kLanes], const float (&query)[kGroup][8],
                              Running (&running)[kGroup], float (&sums)[kGroup][8]) {
  constexpr int kChunk = Chunk<kLanes, kGroup>::kCount;
  for (int64_t first = part.first;;) {
    chunk.Put(part.length - 1, appended);
    float weight[kGroup][kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      float key[8];
      Widen<Type>(chunk.key[c], key);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) score = __fmaf_rn(query[g][i], key[i], score);
#pragma unroll
        for (int offset = kLanes / 2; offset > 0; offset /= 2) {
          score += __shfl_xor_sync(kWarp, score, offset);
        }
        weight[g][c] = score;
      }
    }
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      float largest = kLowest;
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        if (chunk.Place(c) < part.end) largest = fmaxf(largest, weight[g][c]);
      }
      const float factor = Join(running[g], largest).x;
      running[g].sum *= factor;
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        const bool is_key = chunk.Place(c) < part.end;
        weight[g][c] = is_key ? exp2f(weight[g][c] - running[g].largest) : 0;
        running[g].sum += weight[g][c];
      }
#pragma unroll
      for (float& sum : sums[g]) sum *= factor;
    }
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      float value[8];
      Widen<Type>(chunk.value[c], value);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[g][i] = __fmaf_rn(weight[g][c], value[i], sums[g][i]);
      }
    }
    first += Chunk<kLanes, kGroup>::kKeys;
    if (first >= part.end) break;
    chunk.Next();
    chunk.Load(part.end < part.length ? part.end : part.length - 1);
  }
#pragma unroll
  for (int offset = kLanes; offset < 32; offset *= 2) {
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      const float other = __shfl_xor_sync(kWarp, running[g].largest, offset);
      const float other_sum = __shfl_xor_sync(kWarp, running[g].sum, offset);
      const float2 factors = Join(running[g], other);
      running[g].sum = running[g].sum * factors.x + other_sum * factors.y;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float there = __shfl_xor_sync(kWarp, sums[g][i], offset);
        sums[g][i] = sums[g][i] * factors.x + there * factors.y;
      }
    }
  }
}

// Adds up `count` records of [dim values, sum, largest], `stride` floats apart, at number d.
template <typename Load>
__device__ inline float Joined(int count, int dim, int d, Running* running, const Load& load) {
  float value = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const float2 factors = Join(*running, load(i, dim + 1));
    running->sum = running->sum * factors.x + load(i, dim) * factors.y;
    value = value * factors.x + load(i, d) * factors.y;
  }
  return value;
}

template <typename Type, int kLanes, int kGroup>
__global__ void __launch_bounds__(kThreads) AttentionKernel(StepAttention args) {
  extern __shared__ float shared[];  // [kWarps][group][dim + 2]
  __shared__ bool is_last;
  __shared__ uint4 appended[2][kLanes];  // The new token's key and value.
  const Part part = PartOfBlock(args);
  if (part.active == 0) WaitForPrevious();  // What comes behind waits for this kernel alone.
  if (part.split >= part.active) return;
  Chunk<kLanes, kGroup> chunk(args, part);
  chunk.Load(part.end < part.length ? part.end : part.length - 1);
  const Angles angles = LoadAngles<kLanes>(args, part.length - 1 - part.start);
  WaitForPrevious();
  LetNextStart();
  const int group = static_cast<int>(args.heads / args.kv_heads), dim = static_cast<int>(args.dim);
  const int record = dim + 2;
  const uint16_t* const row = args.input + part.b * (args.heads + 2 * args.kv_heads) * args.dim;
  float query[kGroup][8], sums[kGroup][8] = {};
  Running running[kGroup];
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    const int64_t head = part.kv * group + (g < group ? g : 0);
    LoadHead<Type, kLanes>(args, row + head * args.dim, args.q_norm, angles, query[g]);
#pragma unroll
    for (float& x : query[g]) x *= args.scale * kLog2E;
  }
  if (part.end == part.length) {
    if (threadIdx.x < 32) Append<Type, kLanes>(args, part, row, angles, appended);
    __syncthreads();
  }
  Attend<Type, kLanes, kGroup>(part, chunk, appended, query, running, sums);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    float* const mine = shared + (threadIdx.x / 32 * group + g) * record;
    if (g >= group || lane * 8 >= dim) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) mine[lane * 8 + i] = sums[g][i];
    if (lane == 0) {
      mine[dim] = running[g].sum;
      mine[dim + 1] = running[g].largest;
    }
  }
  __syncthreads();

  // Of this cache head: records of parts, and how many are done.
  const int64_t cache_head = part.b * args.kv_heads + part.kv;
  auto* const parts = static_cast<float*>(args.scratch) + cache_head * args.splits * group * record;
  auto* const done = static_cast<unsigned*>(args.scratch) +
                     args.batch * args.kv_heads * args.splits * group * record + cache_head;
  uint16_t* const output = args.output + (part.b * args.heads + part.kv * group) * args.dim;
  for (int item = threadIdx.x; item < group * dim; item += kThreads) {
    const int g = item / dim, d = item % dim;
    Running joint;
    const float value = Joined(kWarps, dim, d, &joint, [&](int warp, int place) {
      return shared[(warp * group + g) * record + place];
    });
    if (part.active == 1) {
      output[item] = Type::FromFloat(value / joint.sum);
      continue;
    }
    float* const mine = parts + (part.split * group + g) * record;
    mine[d] = value;
    if (d == 0) {
      mine[dim] = joint.sum;
      mine[dim + 1] = joint.largest;
    }
  }
  if (part.active == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(done, 1u) + 1 == static_cast<unsigned>(part.active);
    if (is_last) *done = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int item = threadIdx.x; item < group * dim; item += kThreads) {
    const int g = item / dim, d = item % dim;
    Running joint;
    const float value = Joined(part.active, dim, d, &joint, [&](int split, int place) {
      return __ldcg(parts + (split * group + g) * record + place);
    });
    output[item] = Type::FromFloat(value / joint.sum);
  }
}

using Kernel = void (*)(StepAttention);

template <typename Type, int kLanes>
Kernel OfGroup(int64_t group) {
  return group == 1   ? AttentionKernel<Type, kLanes, 1>
         : group <= 4 ? AttentionKernel<Type, kLanes, 4>
                      : AttentionKernel<Type, kLanes, 8>;
}

template <typename Type>
Kernel Choose(const StepAttention& args) {
  const int64_t group = args.heads / args.kv_heads;
  return args.dim <= 64    ? OfGroup<Type, 8>(group)
         : args.dim <= 128 ? OfGroup<Type, 16>(group)
                           : OfGroup<Type, 32>(group);
}

}  // namespace

const char* StepAttentionCuda(const StepAttention& args) {
  if (const char* error = StepAttentionError(args)) return error;
  if (args.batch == 0) return nullptr;
  const Kernel kernel = args.bfloat16 ? Choose<Bfloat>(args) : Choose<Half>(args);
  const int64_t group = args.heads / args.kv_heads;
  const int bytes = static_cast<int>(kWarps * group * (args.dim + 2) * 4);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const dim3 blocks(static_cast<unsigned>(args.kv_heads * args.splits),
                    static_cast<unsigned>(args.batch));
  return LaunchEarly(kernel, {blocks, kThreads, bytes, Stream(args)}, args);
}

}  // namespace quantd::kernels
