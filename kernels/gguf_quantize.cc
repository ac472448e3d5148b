// The rows of both variants: which of plain formula, search or 16-bit rounding a type asks for.
#include "kernels/gguf_quantize.h"

#include "kernels/gguf_lanes.h"
#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/gguf_search.h"
#include "kernels/half.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

struct Variant {
  const LaneOps& lanes;
  void (*plain)(GgufType type, const float* weight, uint8_t* block);
};

// Searches cost some hundred operations a weight, formulas about one.
constexpr int64_t kSearchOperations = 400;

bool Searches(const GgufQuantize& args) {
  if (FindKLayout(args.type) != nullptr) return true;
  return args.importance != nullptr && FindGgufBlock(args.type)->weights == 32 &&
         args.type != GgufType::kQ8_0;
}

QD_MULTIVERSION void StoreBfloat16(const float* weight, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = FloatToBfloat16(weight[i]);
    __builtin_memcpy(out + 2 * i, &half, sizeof half);
  }
}

void StoreHalf(const float* weight, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) PutHalf(FloatToHalf(weight[i]), out + 2 * i);
}

void PlainRow(const GgufQuantize& args, const Variant& variant, int64_t row) {
  const float* weight = args.weight + row * args.weight_stride;
  uint8_t* out = args.blocks + row * args.row_bytes;
  if (args.type == GgufType::kF32) {
    std::memcpy(out, weight, static_cast<size_t>(args.columns) * sizeof(float));
  } else if (args.type == GgufType::kF16) {
    StoreHalf(weight, args.columns, out);
  } else if (args.type == GgufType::kBF16) {
    StoreBfloat16(weight, args.columns, out);
  } else {
    const int64_t bytes = FindGgufBlock(args.type)->bytes;
    for (int64_t block = 0; block < args.columns / 32; ++block) {
      variant.plain(args.type, weight + 32 * block, out + bytes * block);
    }
  }
}

void QuantizeRows(const GgufQuantize& args, const Variant& variant, int64_t begin, int64_t end) {
  if (FindKLayout(args.type) != nullptr) {
    SearchKRows(args, variant.lanes, begin, end);
  } else if (Searches(args)) {
    Search32Rows(args, variant.lanes, begin, end);
  } else {
    for (int64_t row = begin; row < end; ++row) PlainRow(args, variant, row);
  }
}

}  // namespace

void GgufQuantizeReference(const GgufQuantize& args) {
  QuantizeRows(args, {kLaneOpsReference, PlainBlockReference}, 0, args.rows);
}

void GgufQuantizeCpu(const GgufQuantize& args) {
  const int64_t operations =
      args.rows * args.columns * (Searches(args) ? kSearchOperations : int64_t{1});
  ParallelRows(args.rows, operations, [&](int64_t begin, int64_t end) {
    QuantizeRows(args, {kLaneOpsCpu, PlainBlockCpu}, begin, end);
  });
}

}  // namespace quantd::kernels
