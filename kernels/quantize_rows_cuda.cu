// A row's threads hold it: its largest element is found first, then its codes. Bound by memory: 2
// bytes read and 1 (codes) or 2 (rounded) written an element.
#include "kernels/row_output_cuda.cuh"

namespace quantd::kernels {
namespace {

template <typename Type, int kThreads>
__global__ void __launch_bounds__(kThreads) QuantizeRowsKernel(QuantizeRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x;
  const uint16_t* const input = args.input + row * args.columns;
  const auto load = [&](int64_t place) { return LoadFresh(input + place * 8); };
  WriteInt8Row<Type>(args, row, HeldRow<kThreads>(args.columns, load), load);
}

template <int kThreads>
void Run(const QuantizeRows& args) {
  LaunchEarly(
      args.bfloat16 ? QuantizeRowsKernel<Bfloat, kThreads> : QuantizeRowsKernel<Half, kThreads>,
      {static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)}, args);
}

}  // namespace

void QuantizeRowsCuda(const QuantizeRows& args) {
  if (args.rows == 0 || args.columns == 0) return;
  args.columns <= HeldRow<128>::kColumns ? Run<128>(args) : Run<512>(args);
}

}  // namespace quantd::kernels
