// Built once from their definitions; what lies between two entries belongs to the nearer one.
#include "kernels/codebooks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace quantd::kernels {
namespace {

template <size_t kEntries>
struct Tables {
  std::array<float, kEntries> values{};
  std::array<float, kEntries - 1> bounds{};
  std::array<uint8_t, kEntries> codes{};

  Codebook View() const {
    return {.entries = static_cast<int>(kEntries),
            .values = values.data(),
            .bounds = bounds.data(),
            .codes = codes.data()};
  }
};

// Codes in the order of their values; equal values keep the order of their codes.
template <size_t kEntries>
void Rank(Tables<kEntries>& tables) {
  std::iota(tables.codes.begin(), tables.codes.end(), uint8_t{0});
  std::stable_sort(tables.codes.begin(), tables.codes.end(), [&](uint8_t left, uint8_t right) {
    return tables.values[left] < tables.values[right];
  });
}

// Bounds are the middles of neighbours, rounded to float32.
template <size_t kEntries>
Tables<kEntries> WithMiddles(const std::array<float, kEntries>& values) {
  Tables<kEntries> tables = {.values = values, .bounds = {}, .codes = {}};
  Rank(tables);
  for (size_t i = 0; i + 1 < kEntries; ++i) {
    tables.bounds[i] = (values[tables.codes[i]] + values[tables.codes[i + 1]]) / 2;
  }
  return tables;
}

// Decades from 1e-6 to 1, the i-th one cut into 2^i equal parts of [0.1, 1] that are represented by
// their middles; both signs, zero, and one without its negative.
Tables<256> MakeDynamic() {
  std::array<float, 256> values{};
  int count = 0;
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = 1 << decade;
    const float factor = static_cast<float>(std::pow(10.0, decade - 6));
    const auto border = [&](int i) { return static_cast<float>(0.1 + 0.9 * i / parts); };
    for (int part = 0; part < parts; ++part) {
      const float middle = factor * ((border(part) + border(part + 1)) / 2);
      values[count++] = middle;
      values[count++] = -middle;
    }
  }
  values[count++] = 0;
  values[count++] = 1;
  std::sort(values.begin(), values.end());
  return WithMiddles(values);
}

}  // namespace

const Codebook& Nf4Codebook() {
  // Quantiles of the normal distribution, each half scaled to one.
  static const Tables<16> tables = WithMiddles<16>(
      {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
       -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
       0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
       0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f});
  static const Codebook view = tables.View();
  return view;
}

const Codebook& Fp4Codebook() {
  // One sign bit, two of exponent, one of mantissa, by their bits; the largest, 12, becomes one.
  static const Tables<16> tables = [] {
    constexpr float kMagnitudes[] = {0, 0.0625f, 8, 12, 4, 6, 2, 3};
    std::array<float, 16> values{};
    for (int code = 0; code < 8; ++code) {
      values[code] = kMagnitudes[code] / 12;
      values[code + 8] = code == 0 ? 0 : -values[code];
    }
    return WithMiddles(values);
  }();
  static const Codebook view = tables.View();
  return view;
}

const Codebook& DynamicCodebook() {
  static const Tables<256> tables = MakeDynamic();
  static const Codebook view = tables.View();
  return view;
}

}  // namespace quantd::kernels
