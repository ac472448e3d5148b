// The formula of rope_heads.h as it stands.
#include "kernels/rope_heads.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

void TurnHead(const RopeHeads& args, const uint16_t* x, const uint16_t* cos, const uint16_t* sin,
              uint16_t* y) {
  const auto rounded = [&](float value) {
    return FromSixteen(ToSixteen(value, args.bfloat16), args.bfloat16);
  };
  const auto product = [&](uint16_t a, uint16_t b) {
    return rounded(FromSixteen(a, args.bfloat16) * FromSixteen(b, args.bfloat16));
  };
  const int64_t half = args.turned / 2;
  for (int64_t i = 0; i < args.dim; ++i) {
    if (i >= args.turned) {
      y[i] = x[i];
      continue;
    }
    const float other = i < half ? -product(x[i + half], sin[i]) : product(x[i - half], sin[i]);
    y[i] = ToSixteen(product(x[i], cos[i]) + other, args.bfloat16);
  }
}

}  // namespace

void RopeHeadsReference(const RopeHeads& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    for (int64_t head = 0; head < args.heads; ++head) {
      for (int64_t t = 0; t < args.tokens; ++t) {
        const int64_t table = b * args.table_batch_stride + t * args.turned;
        TurnHead(args,
                 args.input + b * args.from.batch + head * args.from.head + t * args.from.token,
                 args.cos + table, args.sin + table,
                 args.output + b * args.to.batch + head * args.to.head + t * args.to.token);
      }
    }
  }
}

}  // namespace quantd::kernels
