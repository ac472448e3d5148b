// Rows of 16-bit numbers on their way out, each held by the threads that made it: as they are, or
// as int8 with a scale (kernels/quantize_rows.h), so that who makes a row need not write it for
// another kernel to read it again.
#pragma once

#include "kernels/eight_cuda.cuh"
#include "kernels/int8_code.h"
#include "kernels/quantize_rows.h"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {

constexpr unsigned kWholeWarp = 0xffffffffu;

// The threads that share a row: a warp of several in a block, or a whole block.
template <int kThreads>
struct RowThreads {
  static constexpr int kOfBlock = kThreads == 32 ? 256 : kThreads;
  static constexpr int kRowsOfBlock = kOfBlock / kThreads;
  static __device__ int64_t Row() {
    return static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kThreads;
  }
  static unsigned Blocks(int64_t rows) {
    return static_cast<unsigned>((rows + kRowsOfBlock - 1) / kRowsOfBlock);
  }
};

// A row's eights, of which each thread has every kThreads'th: the first in its registers, those of
// wider rows are made anew, by make(place), at every look.
template <int kThreads>
struct HeldRow {
  static constexpr int kHeld = 4;
  static constexpr int64_t kColumns = 8 * kHeld * kThreads;  // Of rows that are held whole.

  template <typename Make>
  __device__ HeldRow(int64_t columns, const Make& make)
      : thread(threadIdx.x % kThreads), eights(columns / 8) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int64_t place = thread + i * kThreads;
      held[i] = place < eights ? make(place) : uint4{};
    }
  }
  // look(place, eight) at each of the thread's.
  template <typename Make, typename Look>
  __device__ void ForEach(const Make& make, const Look& look) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int64_t place = thread + i * kThreads;
      if (place < eights) look(place, held[i]);
    }
    for (int64_t place = thread + kHeld * kThreads; place < eights; place += kThreads) {
      look(place, make(place));
    }
  }

  int thread;
  int64_t eights;
  uint4 held[kHeld];
};

// As bits, absolute values compare like integers, and NaN and infinity above all numbers.
__device__ inline uint32_t LargestBitsOf(const uint4& eight) {
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
  uint32_t bits = 0;
#pragma unroll
  for (const uint32_t word : words) bits = max(bits, max(word & 0x7fff, word >> 16 & 0x7fff));
  return bits;
}

// The same in all threads of the row.
template <int kThreads>
__device__ inline uint32_t LargestOfRow(uint32_t bits) {
  bits = __reduce_max_sync(kWholeWarp, bits);
  if constexpr (kThreads > 32) {
    __shared__ uint32_t of_warp[kThreads / 32];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
    __syncthreads();
    bits = __reduce_max_sync(kWholeWarp, of_warp[threadIdx.x % (kThreads / 32)]);
  }
  return bits;
}

__device__ inline uint2 PackCodes(const float (&code)[8]) {
  uint32_t out[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const auto byte = static_cast<uint8_t>(static_cast<int8_t>(code[k]));
    out[k / 4] |= static_cast<uint32_t>(byte) << (k % 4 * 8);
  }
  return make_uint2(out[0], out[1]);
}

// The row as quantize_rows makes it of its numbers, `rows.input` apart.
template <typename Type, int kThreads, typename Make>
__device__ inline void WriteInt8Row(const QuantizeRows& rows, int64_t row,
                                    const HeldRow<kThreads>& held, const Make& make) {
  Int8Scaling scaling = {rows.scale, 0};
  const bool known = rows.scale > 0;
  if (!known) {
    uint32_t bits = 0;
    held.ForEach(make,
                 [&](int64_t, const uint4& eight) { bits = max(bits, LargestBitsOf(eight)); });
    scaling = Int8ScalingOf(Type::ToFloat(static_cast<uint16_t>(LargestOfRow<kThreads>(bits))));
  }
  if (held.thread == 0 && rows.rounded == nullptr) rows.scales[row] = scaling.scale;
  held.ForEach(make, [&](int64_t place, const uint4& eight) {
    const int64_t at = row * held.eights + place;
    float x[8];
    Widen<Type>(eight, x);
#pragma unroll
    for (float& value : x) {
      value = known ? StaticInt8Code(value, scaling.scale) : Int8Code(value, scaling.inverse);
    }
    if (rows.rounded != nullptr) {
#pragma unroll
      for (float& value : x) value *= scaling.scale;
      reinterpret_cast<uint4*>(rows.rounded)[at] = Narrow<Type>(x);
    } else {
      reinterpret_cast<uint2*>(rows.codes)[at] = PackCodes(x);
    }
  });
}

// The row in the form that `args` (of norm_rows.h or gate_rows.h) asks for.
template <typename Type, int kThreads, typename Args, typename Make>
__device__ inline void WriteRow(const Args& args, int64_t row, const HeldRow<kThreads>& held,
                                const Make& make) {
  if (args.codes != nullptr) {
    WriteInt8Row<Type>(Int8Of(args, nullptr), row, held, make);
    return;
  }
  auto* const output = reinterpret_cast<uint4*>(args.output) + row * held.eights;
  held.ForEach(make, [&](int64_t place, const uint4& eight) { output[place] = eight; });
}

}  // namespace quantd::kernels
