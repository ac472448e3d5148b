// A block takes a row, which lies in shared memory as float32 between the passes: butterflies among
// eight neighbours on the way in, up to five distances a pass after that, the matrix, and the
// results on the way out. Bound by memory and by shared memory, which each pass reads and writes.
#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/hadamard_rows.h"
#include "kernels/int8_code.h"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kThreadsMin = 128;
constexpr int kThreadsMax = 512;
constexpr int kMatrixThreads = 512;
constexpr int kPassDistancesMax = 5;
// Of the matrix: outputs b and columns j that a thread works on at a time,
constexpr int kSide = 4;
// and how often it does; it holds all results until the whole row has been read.
constexpr int kItemsMax = kHadamardMatrixColumnsMax / (kSide * kSide) / kMatrixThreads;

// Where an element of the row lies: a little is left free now and then, so that what lies 8 or 256
// apart is in other banks.
__device__ constexpr unsigned Place(unsigned element) { return element + element / 128 * 4; }
int PlacesOf(int64_t columns) { return static_cast<int>(columns + (columns + 127) / 128 * 4); }

__device__ inline void Butterfly(float& low, float& high) {
  const float sum = low + high;
  high = low - high;
  low = sum;
}

// At the distances below `end` among x.
template <int kCount>
__device__ inline void Butterflies(float (&x)[kCount], int end) {
#pragma unroll
  for (int distance = 1; distance < kCount; distance *= 2) {
    if (distance >= end) break;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if ((i & distance) == 0) Butterfly(x[i], x[i | distance]);
    }
  }
}

// Eight neighbours a thread, several times at once, as one read waits as long as several.
template <typename Type>
__device__ inline void LoadRow(const HadamardRows& args, float* row) {
  constexpr int kAtOnce = 4;
  const auto* input = reinterpret_cast<const uint4*>(args.input + blockIdx.x * args.columns);
  const int eights = static_cast<int>(args.columns / 8);
  const int threads = static_cast<int>(blockDim.x);
  for (int begin = threadIdx.x; begin < eights; begin += kAtOnce * threads) {
    uint4 eight[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int place = begin + k * threads;
      eight[k] = place < eights ? input[place] : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int place = begin + k * threads;
      if (place >= eights) break;
      const uint32_t words[4] = {eight[k].x, eight[k].y, eight[k].z, eight[k].w};
      float x[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = Type::ToFloat(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
      }
      Butterflies(x, static_cast<int>(args.power));
      auto* const to = reinterpret_cast<float4*>(row + Place(place * 8));
      to[0] = make_float4(x[0], x[1], x[2], x[3]);
      to[1] = make_float4(x[4], x[5], x[6], x[7]);
    }
  }
  __syncthreads();
}

// Butterflies at kDistances distances from `distance` up, which is kKnown where that is not 0, and
// a multiple of 128 where it is not 8, so that what lies between a thread's numbers is the same for
// all threads.
template <int kDistances, unsigned kKnown>
__device__ inline void Pass(float* row, unsigned columns, unsigned distance) {
  constexpr unsigned kCount = 1u << kDistances;
  if (kKnown != 0) distance = kKnown;
  const unsigned step = Place(distance);
  for (unsigned item = threadIdx.x; item < columns / kCount; item += blockDim.x) {
    float* const first = row + Place(item / distance * distance * kCount + item % distance);
    float x[kCount];
#pragma unroll
    for (unsigned i = 0; i < kCount; ++i) {
      x[i] = kKnown != 0 ? first[Place(i * kKnown)] : first[i * step];
    }
    Butterflies(x, kCount);
#pragma unroll
    for (unsigned i = 0; i < kCount; ++i) {
      (kKnown != 0 ? first[Place(i * kKnown)] : first[i * step]) = x[i];
    }
  }
  __syncthreads();
}

template <unsigned kKnown>
__device__ inline void PassOf(int distances, float* row, unsigned columns, unsigned distance) {
  switch (distances) {
    case 1:
      return Pass<1, kKnown>(row, columns, distance);
    case 2:
      return Pass<2, kKnown>(row, columns, distance);
    case 3:
      return Pass<3, kKnown>(row, columns, distance);
    case 4:
      return Pass<4, kKnown>(row, columns, distance);
    default:
      // Of the third pass there are never so many.
      if constexpr (kKnown != 0) Pass<5, kKnown>(row, columns, distance);
  }
}

// As few passes as can be. The first, where there is another, takes all distances below 128.
__device__ inline void RemainingButterflies(const HadamardRows& args, float* row) {
  const auto columns = static_cast<unsigned>(args.columns);
  int left = 31 - __clz(static_cast<int>(args.power)) - 3;
  if (left <= 0) return;
  const int passes = (left + kPassDistancesMax - 1) / kPassDistancesMax;
  const int first = passes == 1 ? left : max(4, (left + passes - 1) / passes);
  PassOf<8>(first, row, columns, 8);
  left -= first;
  if (left == 0) return;
  const int second = left > kPassDistancesMax ? 4 : left;
  if (first == 4) {
    PassOf<128>(second, row, columns, 128);
  } else {
    PassOf<256>(second, row, columns, 256);
  }
  if (left > second) PassOf<0>(left - second, row, columns, 8u << (first + second));
}

// An item: kSide outputs b of kSide neighbouring j of one piece, and where they lie.
struct Item {
  unsigned input;   // Element x[0, j]
  unsigned output;  // and y[b, j].
  unsigned b;
};
__device__ inline Item ItemOf(const HadamardRows& args, unsigned item) {
  const auto order = static_cast<unsigned>(args.order), power = static_cast<unsigned>(args.power);
  const unsigned columns = power / kSide, groups = order / kSide;
  const unsigned j = item % columns * kSide, b = item / columns % groups * kSide;
  const unsigned piece = item / columns / groups * order * power;
  return {piece + j, piece + b * power + j, b};
}

template <int kItems>
__device__ inline void MultiplyByMatrix(const HadamardRows& args, float* row) {
  const auto order = static_cast<unsigned>(args.order), power = static_cast<unsigned>(args.power);
  const auto items = static_cast<unsigned>(args.columns) / (kSide * kSide);
  float y[kItems][kSide][kSide];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const unsigned index = threadIdx.x + k * kMatrixThreads;
    if (index >= items) break;
    const Item item = ItemOf(args, index);
#pragma unroll
    for (int i = 0; i < kSide * kSide; ++i) y[k][i / kSide][i % kSide] = 0;
#pragma unroll 4
    for (unsigned a = 0; a < order; ++a) {
      const float4 sign = __ldg(reinterpret_cast<const float4*>(args.matrix + a * order + item.b));
      const float4 x = *reinterpret_cast<const float4*>(row + Place(item.input + a * power));
      const float signs[kSide] = {sign.x, sign.y, sign.z, sign.w};
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        // Exact but for the one rounding of a sum.
        y[k][i][0] = __fmaf_rn(x.x, signs[i], y[k][i][0]);
        y[k][i][1] = __fmaf_rn(x.y, signs[i], y[k][i][1]);
        y[k][i][2] = __fmaf_rn(x.z, signs[i], y[k][i][2]);
        y[k][i][3] = __fmaf_rn(x.w, signs[i], y[k][i][3]);
      }
    }
  }
  // All of the row has been read.
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const unsigned index = threadIdx.x + k * kMatrixThreads;
    if (index >= items) break;
    const Item item = ItemOf(args, index);
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      *reinterpret_cast<float4*>(row + Place(item.output + i * power)) =
          make_float4(y[k][i][0], y[k][i][1], y[k][i][2], y[k][i][3]);
    }
  }
  __syncthreads();
}

// As bits, absolute values compare like integers, and NaN and infinity above all numbers.
__device__ inline float LargestOfBlock(uint32_t bits) {
  __shared__ uint32_t of_warp[32];
  bits = __reduce_max_sync(kWarp, bits);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return __uint_as_float(__reduce_max_sync(kWarp, lane < blockDim.x / 32 ? of_warp[lane] : 0));
}

__device__ inline void LoadEight(const float* row, int place, float factor, float (&y)[8]) {
  const auto* from = reinterpret_cast<const float4*>(row + Place(place * 8));
  const float4 low = from[0], high = from[1];
  const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) y[i] = x[i] * factor;
}

template <typename Type>
__device__ inline void StoreRow(const HadamardRows& args, float factor, const float* row) {
  const int eights = static_cast<int>(args.columns / 8);
  float y[8];
  if (args.output != nullptr) {
    auto* output = reinterpret_cast<uint4*>(args.output + blockIdx.x * args.columns);
    for (int place = threadIdx.x; place < eights; place += blockDim.x) {
      LoadEight(row, place, factor, y);
      output[place] =
          make_uint4(Type::Bits(Type::Make(y[0], y[1])), Type::Bits(Type::Make(y[2], y[3])),
                     Type::Bits(Type::Make(y[4], y[5])), Type::Bits(Type::Make(y[6], y[7])));
    }
  }
  if (args.codes == nullptr) return;
  uint32_t bits = 0;
  for (int place = threadIdx.x; place < eights; place += blockDim.x) {
    LoadEight(row, place, factor, y);
#pragma unroll
    for (const float value : y) bits = max(bits, __float_as_uint(value) & 0x7fffffff);
  }
  const Int8Scaling scaling = Int8ScalingOf(LargestOfBlock(bits));
  if (threadIdx.x == 0) args.scales[blockIdx.x] = scaling.scale;
  auto* codes = reinterpret_cast<uint2*>(args.codes + blockIdx.x * args.columns);
  for (int place = threadIdx.x; place < eights; place += blockDim.x) {
    LoadEight(row, place, factor, y);
    uint32_t out[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto code = static_cast<int8_t>(Int8Code(y[i], scaling.inverse));
      out[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(code)) << (i % 4 * 8);
    }
    codes[place] = make_uint2(out[0], out[1]);
  }
}

// kItems: of the matrix, 0 for none.
template <typename Type, int kItems>
__global__ void __launch_bounds__(kItems > 0 ? kMatrixThreads : kThreadsMax, kItems == 4 ? 1 : 2)
    HadamardKernel(HadamardRows args, float factor) {
  extern __shared__ __align__(16) float hadamard_row[];
  LetNextStart();
  WaitForPrevious();
  LoadRow<Type>(args, hadamard_row);
  RemainingButterflies(args, hadamard_row);
  if constexpr (kItems > 0) MultiplyByMatrix<kItems>(args, hadamard_row);
  StoreRow<Type>(args, factor, hadamard_row);
}

// By items: 0, 1, 2 and up to 4.
template <typename Type>
constexpr void (*kKernels[])(HadamardRows, float) = {
    HadamardKernel<Type, 0>, HadamardKernel<Type, 1>, HadamardKernel<Type, 2>,
    HadamardKernel<Type, kItemsMax>};
static_assert(kItemsMax == 4);

}  // namespace

const char* HadamardRowsCuda(const HadamardRows& args) {
  if (const char* error = HadamardError(args)) return error;
  if (args.rows == 0 || args.columns == 0) return nullptr;
  const bool matrix = args.order > 1;
  const int shared_bytes = PlacesOf(args.columns) * 4;
  if (args.columns > (matrix ? kHadamardMatrixColumnsMax : kHadamardColumnsMax) ||
      shared_bytes > CurrentGpu().shared_bytes_max - 1024) {
    return "hadamard_rows: a row does not fit into a block's registers or shared memory";
  }
  // Enough for one round of the widest pass.
  int threads = kThreadsMin;
  while (threads < kThreadsMax && threads << kPassDistancesMax < args.columns) threads *= 2;
  if (matrix) threads = kMatrixThreads;
  constexpr int64_t kColumnsOfItem = int64_t{kMatrixThreads} * kSide * kSide;
  const int64_t items = matrix ? (args.columns + kColumnsOfItem - 1) / kColumnsOfItem : 0;
  const int64_t which = items > 3 ? 3 : items;
  const auto kernel = args.bfloat16 ? kKernels<Bfloat>[which] : kKernels<Half>[which];
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return LaunchEarly(kernel,
                     {static_cast<unsigned>(args.rows), threads, shared_bytes, Stream(args)}, args,
                     HadamardFactor(args));
}

}  // namespace quantd::kernels
