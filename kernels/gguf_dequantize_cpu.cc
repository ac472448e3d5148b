// Whole blocks unpacked, then runs of weights with one scale and one offset in loops that
// vectorize.
#include <cstring>

#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/gguf_quantize.h"
#include "kernels/half.h"
#include "kernels/multiversion.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

// A minimum is added or subtracted as an offset, which gives the same bits; without one nothing is,
// so that zeros keep their sign.
QD_MULTIVERSION void Run(const uint8_t* codes, int count, int bias, float scale, float* weight) {
  for (int i = 0; i < count; ++i) weight[i] = scale * static_cast<float>(codes[i] - bias);
}
QD_MULTIVERSION void RunWithOffset(const uint8_t* codes, int count, float scale, float offset,
                                   float* weight) {
  for (int i = 0; i < count; ++i) {
    weight[i] = scale * static_cast<float>(static_cast<int>(codes[i])) + offset;
  }
}

void Block32(GgufType type, const uint8_t* block, float* weight) {
  const Codes32 codes = UnpackBlock32(type, block);
  const float d = HalfToFloat(codes.d);
  if (type == GgufType::kQ4_1 || type == GgufType::kQ5_1) {
    RunWithOffset(codes.code, 32, d, HalfToFloat(codes.m), weight);
  } else {
    const int bias = type == GgufType::kQ8_0 ? 128 : type == GgufType::kQ4_0 ? 8 : 16;
    Run(codes.code, 32, bias, d, weight);
  }
}

void BlockK(const KLayout& layout, const uint8_t* block, float* weight) {
  const CodesK codes = UnpackBlockK(layout, block);
  const float d = HalfToFloat(codes.d);
  const float dmin = HalfToFloat(codes.dmin);
  for (int sub = 0; sub < layout.sub_blocks(); ++sub) {
    const int at = sub * layout.sub_size;
    const float scale = d * static_cast<float>(codes.scale[sub]);
    if (layout.affine) {
      RunWithOffset(codes.code + at, layout.sub_size, scale,
                    -(dmin * static_cast<float>(codes.minimum[sub])), weight + at);
    } else {
      Run(codes.code + at, layout.sub_size, layout.bias(), scale, weight + at);
    }
  }
}

void Row16(GgufType type, const uint8_t* in, int64_t columns, float* out) {
  for (int64_t i = 0; i < columns; ++i) {
    const uint16_t half = GetHalf(in + 2 * i);
    out[i] = type == GgufType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
  }
}

}  // namespace

void GgufDequantizeCpu(const GgufDequantize& args) {
  const GgufBlock& block = *FindGgufBlock(args.type);
  const KLayout* layout = FindKLayout(args.type);
  ParallelRows(args.rows, args.rows * args.columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* in = args.blocks + row * args.row_bytes;
      float* out = args.weight + row * args.weight_stride;
      if (args.type == GgufType::kF32) {
        std::memcpy(out, in, static_cast<size_t>(args.columns) * sizeof(float));
      } else if (block.weights == 1) {
        Row16(args.type, in, args.columns, out);
      } else {
        for (int64_t i = 0; i < args.columns / block.weights; ++i) {
          if (layout != nullptr) {
            BlockK(*layout, in + i * block.bytes, out + i * block.weights);
          } else {
            Block32(args.type, in + i * block.bytes, out + i * block.weights);
          }
        }
      }
    }
  });
}

}  // namespace quantd::kernels
