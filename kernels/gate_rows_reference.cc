// The formula of gate_rows.h as it stands.
#include "kernels/gate_rows.h"
#include "kernels/quantize_rows.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

void GateRowsReference(const GateRows& args) {
  if (args.codes != nullptr) return ThenQuantize(args, GateRowsReference);
  const auto wide = [&](uint16_t x) { return FromSixteen(x, args.bfloat16); };
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t k = 0; k < args.columns; ++k) {
      const int64_t at = row * args.stride + k;
      const uint16_t active =
          ToSixteen(Activate(args.activation, wide(args.gate[at])), args.bfloat16);
      args.output[row * args.columns + k] =
          ToSixteen(wide(active) * wide(args.up[at]), args.bfloat16);
    }
  }
}

}  // namespace quantd::kernels
