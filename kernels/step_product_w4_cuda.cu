// Step products with packed 4-bit weights.
#include "kernels/step_product_cuda.cuh"

namespace quantd::kernels {
namespace {

template <W4Kind kKind>
const char* Run(const StepProduct& args) {
  return W4TileGroups(args.weights[0].shape) == 1 ? step::Run<step::Tiles<kKind, 1>>(args)
                                                  : step::Run<step::Tiles<kKind, 4>>(args);
}

}  // namespace

const char* StepProductW4(const StepProduct& args) {
  switch (args.weights[0].shape.kind) {
    case W4Kind::kSymmetric:
      return Run<W4Kind::kSymmetric>(args);
    case W4Kind::kZeroPoint:
      return Run<W4Kind::kZeroPoint>(args);
    case W4Kind::kNf4:
    case W4Kind::kFp4:
      break;
  }
  return Run<W4Kind::kNf4>(args);
}

}  // namespace quantd::kernels
