// Step products with packed 4-bit weights.
#include "kernels/step_product_cuda.cuh"

namespace quantd::kernels {

const char* StepProductW4(const StepProduct& args) {
  const W4Shape& shape = args.weights[0].shape;
  const int per_thread =
      static_cast<int>(W4TileBytes(shape) - kW4CodeBytes) / 8;  // Parameters of two of 16 rows.
  const int slot_bytes = 2 * step::kPiece + step::kThreads * per_thread;
  switch (shape.kind) {
    case W4Kind::kSymmetric:
      return step::Run<step::Tiles<W4Kind::kSymmetric>>(args, slot_bytes);
    case W4Kind::kZeroPoint:
      return step::Run<step::Tiles<W4Kind::kZeroPoint>>(args, slot_bytes);
    case W4Kind::kNf4:
    case W4Kind::kFp4:
      break;
  }
  return step::Run<step::Tiles<W4Kind::kNf4>>(args, slot_bytes);
}

}  // namespace quantd::kernels
