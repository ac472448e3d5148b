// Python's random.Random for whole numbers: few-shot examples are the ones that
// lm-evaluation-harness draws, so the draws must be Python's. Mersenne Twister MT19937, seeded as
// CPython seeds it from an int (init_by_array, not std::mt19937's own seeding).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quantd::engine {

class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);

  // random.getrandbits(32).
  uint32_t Next32();
  // random.randrange(n); n >= 1.
  uint32_t Below(uint32_t n);
  // random.sample(range(n), k); k <= n.
  std::vector<size_t> Sample(size_t n, size_t k);

 private:
  std::vector<uint32_t> state_;
  size_t index_;
};

}  // namespace quantd::engine
