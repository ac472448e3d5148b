// A thread takes eight numbers. Bound by memory: 4 bytes read and 2 written a number.
#include "kernels/eight_cuda.cuh"
#include "kernels/gate_rows.h"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;

template <typename Type, Activation kActivation>
__global__ void __launch_bounds__(kThreads) GateKernel(GateRows args) {
  const int64_t eight = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t eights_of_row = args.columns / 8;
  if (eight >= args.rows * eights_of_row) return;
  const int64_t from = eight / eights_of_row * args.stride + eight % eights_of_row * 8;
  float gate[8], up[8];
  Widen<Type>(*reinterpret_cast<const uint4*>(args.gate + from), gate);
  Widen<Type>(*reinterpret_cast<const uint4*>(args.up + from), up);
#pragma unroll
  for (int i = 0; i < 8; ++i) gate[i] = Rounded<Type>(Activate(kActivation, gate[i])) * up[i];
  reinterpret_cast<uint4*>(args.output)[eight] = Narrow<Type>(gate);
}

template <typename Type>
auto KernelOf(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return GateKernel<Type, Activation::kRelu>;
    case Activation::kSilu:
      return GateKernel<Type, Activation::kSilu>;
    case Activation::kGelu:
      return GateKernel<Type, Activation::kGelu>;
    case Activation::kGeluTanh:
      return GateKernel<Type, Activation::kGeluTanh>;
    case Activation::kNone:
      break;
  }
  return GateKernel<Type, Activation::kNone>;
}

}  // namespace

void GateRowsCuda(const GateRows& args) {
  const int64_t eights = args.rows * (args.columns / 8);
  if (eights == 0) return;
  const auto blocks = static_cast<unsigned>((eights + kThreads - 1) / kThreads);
  const auto kernel =
      args.bfloat16 ? KernelOf<Bfloat>(args.activation) : KernelOf<Half>(args.activation);
  kernel<<<blocks, kThreads, 0, Stream(args)>>>(args);
}

}  // namespace quantd::kernels
