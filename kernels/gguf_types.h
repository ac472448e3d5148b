// The tensor types of GGUF files: what a block holds and where in it every code lies. Everything
// that packs, unpacks, sizes or names a type reads these two tables.
#pragma once

#include <cstdint>
#include <string_view>

namespace quantd::kernels {

// The values are those on disk.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2K = 10,
  kQ3K = 11,
  kQ4K = 12,
  kQ5K = 13,
  kQ6K = 14,
  kBF16 = 30,
};

// A row is a run of blocks of `weights` neighbouring weights in `bytes` bytes.
struct GgufBlock {
  GgufType type;
  std::string_view name;
  int64_t weights;
  int64_t bytes;
};

constexpr GgufBlock kGgufBlocks[] = {
    {GgufType::kF32, "f32", 1, 4},      {GgufType::kF16, "f16", 1, 2},
    {GgufType::kBF16, "bf16", 1, 2},    {GgufType::kQ8_0, "q8_0", 32, 34},
    {GgufType::kQ5_1, "q5_1", 32, 24},  {GgufType::kQ5_0, "q5_0", 32, 22},
    {GgufType::kQ4_1, "q4_1", 32, 20},  {GgufType::kQ4_0, "q4_0", 32, 18},
    {GgufType::kQ6K, "q6_k", 256, 210}, {GgufType::kQ5K, "q5_k", 256, 176},
    {GgufType::kQ4K, "q4_k", 256, 144}, {GgufType::kQ3K, "q3_k", 256, 110},
    {GgufType::kQ2K, "q2_k", 256, 84},
};

// Null for a type or name that is not in the table.
constexpr const GgufBlock* FindGgufBlock(GgufType type) {
  for (const GgufBlock& block : kGgufBlocks) {
    if (block.type == type) return &block;
  }
  return nullptr;
}
constexpr const GgufBlock* FindGgufBlock(std::string_view name) {
  for (const GgufBlock& block : kGgufBlocks) {
    if (block.name == name) return &block;
  }
  return nullptr;
}

// The types with 256 weights a block: sub-blocks of 16 or 32 with scales of few bits under one or
// two binary16 numbers. Codes lie in runs of 32; a run's lowest bits are at one place of `low_at`'s
// plane, the others of `high_at`'s.
//
//   q2_k  scales[16] codes[64]  d dmin                  weight = d s q - dmin m
//   q3_k  high[32]   codes[64]  scales[12]  d           weight = d s q, both signed
//   q4_k  d dmin     scales[12] codes[128]              weight = d s q - dmin m
//   q5_k  d dmin     scales[12] high[32]    codes[128]  weight = d s q - dmin m
//   q6_k  codes[128] high[64]   scales[16]  d           weight = d s q, both signed
struct KLayout {
  GgufType type;
  bool affine;                                    // A minimum beside the scale.
  int sub_size;                                   // Weights a sub-block: 16 or 32.
  int low_bits;                                   // 2 or 4
  int high_bits;                                  // 0, 1 or 2
  int scale_low;                                  // Range of a sub-block's scale.
  int scale_high;                                 // Also of its minimum.
  int d_at, dmin_at, scales_at, low_at, high_at;  // Byte offsets.
  constexpr int bits() const { return low_bits + high_bits; }
  constexpr int sub_blocks() const { return 256 / sub_size; }
  // Codes are stored above zero; signed ones are this much too high.
  constexpr int bias() const { return affine ? 0 : 1 << (bits() - 1); }
};

constexpr KLayout kKLayouts[] = {
    {GgufType::kQ2K, true, 16, 2, 0, 0, 15, 80, 82, 0, 16, -1},
    {GgufType::kQ3K, false, 16, 2, 1, -32, 31, 108, -1, 96, 32, 0},
    {GgufType::kQ4K, true, 32, 4, 0, 0, 63, 0, 2, 4, 16, -1},
    {GgufType::kQ5K, true, 32, 4, 1, 0, 63, 0, 2, 4, 48, 16},
    {GgufType::kQ6K, false, 16, 4, 2, -128, 127, 208, -1, 192, 0, 128},
};
constexpr int kKWeights = 256;
constexpr int kRun = 32;

constexpr const KLayout* FindKLayout(GgufType type) {
  for (const KLayout& layout : kKLayouts) {
    if (layout.type == type) return &layout;
  }
  return nullptr;
}

// Where run r (codes 32 r ... 32 r + 31) has its bits: 32 bytes from `at` on, shifted up by
// `shift`.
struct RunPlace {
  int at;
  int shift;
};
constexpr RunPlace LowPlace(const KLayout& layout, int run) {
  const bool halves = layout.low_bits == 2 || layout.high_bits == 2;  // Planes of 128 codes.
  if (!halves) return {layout.low_at + 32 * (run / 2), 4 * (run % 2)};
  if (layout.low_bits == 2) return {layout.low_at + 32 * (run / 4), 2 * (run % 4)};
  return {layout.low_at + 64 * (run / 4) + 32 * (run % 2), 4 * (run % 4 / 2)};
}
constexpr RunPlace HighPlace(const KLayout& layout, int run) {
  if (layout.high_bits == 2) return {layout.high_at + 32 * (run / 4), 2 * (run % 4)};
  return {layout.high_at, run};
}

}  // namespace quantd::kernels
