// The generator as its authors published it (Matsumoto and Nishimura 1998, revised 2002).
#include "workers/engine/evaluation/python_random.h"

#include <cmath>
#include <set>

namespace quantd::engine {
namespace {

constexpr size_t kSize = 624;
constexpr size_t kShift = 397;

}  // namespace

PythonRandom::PythonRandom(uint32_t seed) : state_(kSize), index_(kSize) {
  state_[0] = 19650218U;
  for (size_t i = 1; i < kSize; ++i) {
    state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
  }
  // init_by_array with a key of one word.
  size_t i = 1;
  for (size_t k = 0; k < kSize; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525U)) + seed;
    if (++i == kSize) {
      state_[0] = state_[kSize - 1];
      i = 1;
    }
  }
  for (size_t k = 0; k + 1 < kSize; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941U)) -
                static_cast<uint32_t>(i);
    if (++i == kSize) {
      state_[0] = state_[kSize - 1];
      i = 1;
    }
  }
  state_[0] = 0x80000000U;
}

uint32_t PythonRandom::Next32() {
  if (index_ == kSize) {
    for (size_t k = 0; k < kSize; ++k) {
      const uint32_t bits = (state_[k] & 0x80000000U) | (state_[(k + 1) % kSize] & 0x7fffffffU);
      state_[k] = state_[(k + kShift) % kSize] ^ (bits >> 1) ^ ((bits & 1) != 0 ? 0x9908b0dfU : 0);
    }
    index_ = 0;
  }
  uint32_t y = state_[index_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680U;
  y ^= (y << 15) & 0xefc60000U;
  return y ^ (y >> 18);
}

uint32_t PythonRandom::Below(uint32_t n) {
  int bits = 0;
  while (bits < 32 && (n >> bits) != 0) ++bits;
  uint32_t drawn = Next32() >> (32 - bits);
  while (drawn >= n) drawn = Next32() >> (32 - bits);
  return drawn;
}

std::vector<size_t> PythonRandom::Sample(size_t n, size_t k) {
  std::vector<size_t> chosen;
  double set_size = 21;
  if (k > 5) set_size += std::pow(4, std::ceil(std::log(3.0 * k) / std::log(4.0)));
  if (static_cast<double>(n) <= set_size) {
    std::vector<size_t> pool(n);
    for (size_t i = 0; i < n; ++i) pool[i] = i;
    for (size_t i = 0; i < k; ++i) {
      const size_t at = Below(static_cast<uint32_t>(n - i));
      chosen.push_back(pool[at]);
      pool[at] = pool[n - i - 1];
    }
    return chosen;
  }
  std::set<size_t> taken;
  while (chosen.size() < k) {
    const size_t at = Below(static_cast<uint32_t>(n));
    if (taken.insert(at).second) chosen.push_back(at);
  }
  return chosen;
}

}  // namespace quantd::engine
