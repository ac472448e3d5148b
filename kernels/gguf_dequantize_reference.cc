// One weight after the other, by the formulas of gguf_types.h.
#include <cstring>

#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/gguf_quantize.h"
#include "kernels/half.h"

namespace quantd::kernels {
namespace {

void Block1(GgufType type, const uint8_t* block, float* weight) {
  if (type == GgufType::kF32) {
    std::memcpy(weight, block, sizeof(float));
  } else {
    const uint16_t half = GetHalf(block);
    *weight = type == GgufType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
  }
}

void Block32(GgufType type, const uint8_t* block, float* weight) {
  const Codes32 codes = UnpackBlock32(type, block);
  const float d = HalfToFloat(codes.d);
  const float m = HalfToFloat(codes.m);
  for (int i = 0; i < 32; ++i) {
    const int code = codes.code[i];
    switch (type) {
      case GgufType::kQ8_0:
        weight[i] = d * static_cast<float>(code - 128);
        break;
      case GgufType::kQ4_0:
        weight[i] = d * static_cast<float>(code - 8);
        break;
      case GgufType::kQ5_0:
        weight[i] = d * static_cast<float>(code - 16);
        break;
      default:
        weight[i] = d * static_cast<float>(code) + m;
    }
  }
}

void BlockK(const KLayout& layout, const uint8_t* block, float* weight) {
  const CodesK codes = UnpackBlockK(layout, block);
  for (int i = 0; i < kKWeights; ++i) {
    const int sub = i / layout.sub_size;
    const float scale = HalfToFloat(codes.d) * static_cast<float>(codes.scale[sub]);
    const float minimum = HalfToFloat(codes.dmin) * static_cast<float>(codes.minimum[sub]);
    const float steps = static_cast<float>(codes.code[i] - layout.bias());
    weight[i] = layout.affine ? scale * steps - minimum : scale * steps;
  }
}

}  // namespace

void GgufDequantizeReference(const GgufDequantize& args) {
  const GgufBlock& block = *FindGgufBlock(args.type);
  const KLayout* layout = FindKLayout(args.type);
  for (int64_t row = 0; row < args.rows; ++row) {
    const uint8_t* in = args.blocks + row * args.row_bytes;
    float* out = args.weight + row * args.weight_stride;
    for (int64_t i = 0; i < args.columns / block.weights; ++i) {
      if (layout != nullptr) {
        BlockK(*layout, in + i * block.bytes, out + i * block.weights);
      } else if (block.weights == 32) {
        Block32(args.type, in + i * block.bytes, out + i * block.weights);
      } else {
        Block1(args.type, in + i * block.bytes, out + i * block.weights);
      }
    }
  }
}

}  // namespace quantd::kernels
