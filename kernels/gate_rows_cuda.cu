// A row's threads take eight numbers at a time. Bound by memory: 4 bytes read and 2 written (1 as
// int8) a number.
#include "kernels/gate_rows.h"
#include "kernels/row_output_cuda.cuh"

namespace quantd::kernels {
namespace {

template <typename Type, Activation kActivation>
__device__ inline uint4 Gated(const uint4& gates, const uint4& ups) {
  float gate[8], up[8];
  Widen<Type>(gates, gate);
  Widen<Type>(ups, up);
#pragma unroll
  for (int i = 0; i < 8; ++i) gate[i] = Rounded<Type>(Activate(kActivation, gate[i])) * up[i];
  return Narrow<Type>(gate);
}

template <typename Type, Activation kActivation, int kThreads>
__global__ void __launch_bounds__(kThreads) GateKernel(GateRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x;
  const auto gate = [&](int64_t place) {
    return LoadFresh(args.gate + row * args.stride + place * 8);
  };
  const auto up = [&](int64_t place) { return LoadFresh(args.up + row * args.stride + place * 8); };
  // All loads are on their way before the first number is needed.
  HeldRow<kThreads> held(args.columns, gate);
  const HeldRow<kThreads> ups(args.columns, up);
#pragma unroll
  for (int i = 0; i < HeldRow<kThreads>::kHeld; ++i) {
    if (held.thread + i * kThreads < held.eights) {
      held.held[i] = Gated<Type, kActivation>(held.held[i], ups.held[i]);
    }
  }
  WriteRow<Type>(args, row, held,
                 [&](int64_t place) { return Gated<Type, kActivation>(gate(place), up(place)); });
}

template <typename Type, int kThreads>
auto KernelOf(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return GateKernel<Type, Activation::kRelu, kThreads>;
    case Activation::kSilu:
      return GateKernel<Type, Activation::kSilu, kThreads>;
    case Activation::kGelu:
      return GateKernel<Type, Activation::kGelu, kThreads>;
    case Activation::kGeluTanh:
      return GateKernel<Type, Activation::kGeluTanh, kThreads>;
    case Activation::kNone:
      break;
  }
  return GateKernel<Type, Activation::kNone, kThreads>;
}

template <int kThreads>
void Run(const GateRows& args) {
  LaunchEarly(args.bfloat16 ? KernelOf<Bfloat, kThreads>(args.activation)
                            : KernelOf<Half, kThreads>(args.activation),
              {static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)}, args);
}

}  // namespace

void GateRowsCuda(const GateRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  args.columns <= HeldRow<128>::kColumns ? Run<128>(args) : Run<512>(args);
}

}  // namespace quantd::kernels
