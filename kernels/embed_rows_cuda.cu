// A block a row. Bound by what it takes to launch it.
#include "kernels/embed_rows.h"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) EmbedKernel(EmbedRows args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t id = args.ids[blockIdx.x];
  const bool known = id >= 0 && id < args.vocabulary;
  const auto* from = reinterpret_cast<const uint4*>(args.table + (known ? id : 0) * args.columns);
  auto* to = reinterpret_cast<uint4*>(args.output + blockIdx.x * args.columns);
  for (int64_t place = threadIdx.x; place < args.columns / 8; place += kThreads) {
    to[place] = known ? from[place] : uint4{};
  }
  if (args.position != nullptr && blockIdx.x == 0 && threadIdx.x == 0) ++args.position->length;
}

}  // namespace

void EmbedRowsCuda(const EmbedRows& args) {
  if (args.rows == 0) return;
  LaunchEarly(EmbedKernel, {static_cast<unsigned>(args.rows), kThreads, 0, Stream(args)}, args);
}

}  // namespace quantd::kernels
