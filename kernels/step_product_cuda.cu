// Step products with rows of plain numbers, and the choice among the kinds.
#include "kernels/step_product_cuda.cuh"

namespace quantd::kernels {

const char* StepProductCuda(const StepProduct& args) {
  if (const char* error = StepProductError(args)) return error;
  if (args.m == 0 || StepOutputColumns(args) == 0) return nullptr;
  switch (args.weights[0].kind) {
    case StepKind::kSixteen:
      return step::Run<step::Rows<false>>(args);
    case StepKind::kInt8:
      return step::Run<step::Rows<true>>(args);
    case StepKind::kW4:
      break;
  }
  return StepProductW4(args);
}

}  // namespace quantd::kernels
