// Paley (1933): with chi the quadratic character of GF(q) and Q[a][b] = chi(a - b), q = 3 mod 4
// gives I + S of order q + 1 with S = [[0, 1], [-1, Q]], and q = 1 mod 4 gives order 2 (q + 1) by
// putting [[1, 1], [1, -1]] and [[1, -1], [-1, -1]] for the entries and the diagonal of
// [[0, 1], [1, Q]].
#include "workers/engine/models/hadamard.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/kron.h>
#include <ATen/ops/randint.h>

#include <bit>
#include <cmath>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

// A dense factor of up to 2^this is multiplied with at full speed; larger powers of two are split
// into factors that are as equal as they can be.
constexpr int kFactorBitsMax = 7;
// Paley's matrices are made for orders up to this; models need a few hundred.
constexpr int64_t kPaleyMax = 2048;

struct PrimePower {
  int64_t prime = 0;  // 0: the number is not a prime power.
  int exponent = 0;
};

PrimePower Factor(int64_t q) {
  if (q < 2) return {};
  int64_t prime = q;
  for (int64_t p = 2; p * p <= q; ++p) {
    if (q % p == 0) {
      prime = p;
      break;
    }
  }
  int exponent = 0;
  for (; q % prime == 0; q /= prime) ++exponent;
  return q == 1 ? PrimePower{prime, exponent} : PrimePower{};
}

// The field of p^k elements. An element is the number whose digits in base p are its polynomial's
// coefficients.
class Field {
 public:
  explicit Field(PrimePower q) : prime_(q.prime), degree_(q.exponent) {
    for (int i = 0; i < degree_; ++i) size_ *= prime_;
    // The first monic polynomial without a root and without a factor: one under which no product of
    // two non-zero elements vanishes.
    for (modulus_ = 0; degree_ > 1 && !IsField(); ++modulus_) {
    }
  }

  int64_t size() const { return size_; }

  int64_t Subtract(int64_t a, int64_t b) const {
    int64_t result = 0;
    int64_t place = 1;
    for (int i = 0; i < degree_; ++i, place *= prime_) {
      result += (a / place % prime_ - b / place % prime_ + prime_) % prime_ * place;
    }
    return result;
  }

  int64_t Multiply(int64_t a, int64_t b) const {
    std::vector<int64_t> product(static_cast<size_t>(2 * degree_), 0);
    for (int i = 0; i < degree_; ++i) {
      for (int j = 0; j < degree_; ++j) product[i + j] += Digit(a, i) * Digit(b, j);
    }
    // x^degree = -modulus.
    for (int i = 2 * degree_ - 2; i >= degree_; --i) {
      const int64_t lead = product[i] % prime_;
      for (int j = 0; j < degree_; ++j) {
        product[i - degree_ + j] += lead * (prime_ - Digit(modulus_, j));
      }
    }
    int64_t result = 0;
    for (int i = degree_ - 1; i >= 0; --i) result = result * prime_ + product[i] % prime_;
    return result;
  }

 private:
  int64_t Digit(int64_t a, int i) const {
    for (; i > 0; --i) a /= prime_;
    return a % prime_;
  }
  // Without zero divisors; it is enough to try one factor against all: x generates the rest.
  bool IsField() const {
    for (int64_t a = 1; a < size_; ++a) {
      bool one = false;
      for (int64_t b = 1; b < size_ && !one; ++b) one = Multiply(a, b) == 1;
      if (!one) return false;
    }
    return true;
  }

  int64_t prime_;
  int degree_;
  int64_t size_ = 1;
  int64_t modulus_ = 0;  // The polynomial without its leading x^degree.
};

// Q[a][b] = chi(a - b), float64 [q, q].
at::Tensor Jacobsthal(PrimePower q) {
  const Field field(q);
  std::vector<double> character(static_cast<size_t>(field.size()), -1);
  character[0] = 0;
  for (int64_t a = 1; a < field.size(); ++a) character[field.Multiply(a, a)] = 1;
  at::Tensor matrix = at::empty({field.size(), field.size()}, at::kDouble);
  double* out = matrix.mutable_data_ptr<double>();
  for (int64_t a = 0; a < field.size(); ++a) {
    for (int64_t b = 0; b < field.size(); ++b) *out++ = character[field.Subtract(a, b)];
  }
  return matrix;
}

// [[0, 1], [corner, Q]].
at::Tensor Bordered(const at::Tensor& q, double corner) {
  at::Tensor matrix = at::zeros({q.size(0) + 1, q.size(0) + 1}, at::kDouble);
  matrix[0].narrow(0, 1, q.size(0)).fill_(1);
  matrix.select(1, 0).narrow(0, 1, q.size(0)).fill_(corner);
  matrix.narrow(0, 1, q.size(0)).narrow(1, 1, q.size(0)).copy_(q);
  return matrix;
}

at::Tensor Sylvester(int64_t order) {
  at::Tensor matrix = at::ones({1, 1}, at::kDouble);
  const at::Tensor two = at::tensor({1.0, 1.0, 1.0, -1.0}, at::kDouble).view({2, 2});
  for (int64_t n = 1; n < order; n *= 2) matrix = at::kron(two, matrix);
  return matrix;
}

// Whether PaleyHadamard would give that order, without making it.
bool IsPaley(int64_t order) {
  if (order <= 2) return order >= 1;
  if (order % 4 != 0 || order > kPaleyMax) return false;
  const int64_t first = order - 1;
  const int64_t second = order / 2 - 1;
  return (first % 4 == 3 && Factor(first).prime != 0) ||
         (second % 4 == 1 && Factor(second).prime != 0);
}

// The largest divisor m 2^k of `size` for which there is a Hadamard matrix with m by Paley; gives
// m.
int64_t PaleyPart(int64_t size, int64_t* power) {
  int64_t largest_power = 1;
  while (size % (2 * largest_power) == 0) largest_power *= 2;
  const int64_t odd = size / largest_power;
  for (int64_t taken = 1; taken <= largest_power; taken *= 2) {
    if (!IsPaley(odd * taken)) continue;
    *power = largest_power / taken;
    return odd * taken;
  }
  *power = largest_power;
  return 1;
}

}  // namespace

at::Tensor PaleyHadamard(int64_t order) {
  if (!IsPaley(order)) return at::Tensor();
  if (order <= 2) return Sylvester(order);
  const int64_t first = order - 1;
  if (first % 4 == 3 && Factor(first).prime != 0) {
    return Bordered(Jacobsthal(Factor(first)), -1) + at::eye(order, at::kDouble);
  }
  const at::Tensor matrix = Bordered(Jacobsthal(Factor(order / 2 - 1)), 1);
  const at::Tensor entry = at::tensor({1.0, 1.0, 1.0, -1.0}, at::kDouble).view({2, 2});
  const at::Tensor diagonal = at::tensor({1.0, -1.0, -1.0, -1.0}, at::kDouble).view({2, 2});
  return at::kron(matrix, entry) + at::kron(at::eye(order / 2, at::kDouble), diagonal);
}

Rotation Rotation::Make(int64_t size, uint64_t seed, bool random_signs) {
  Rotation rotation;
  rotation.size_ = size;
  int64_t power = 1;
  const int64_t paley = PaleyPart(size, &power);
  rotation.block_ = paley * power;
  if (paley > 1) rotation.factors_.push_back(PaleyHadamard(paley));
  int bits = std::countr_zero(static_cast<uint64_t>(power));
  for (int left = (bits + kFactorBitsMax - 1) / kFactorBitsMax; left > 0; --left) {
    const int taken = (bits + left - 1) / left;
    rotation.factors_.push_back(Sylvester(int64_t{1} << taken));
    bits -= taken;
  }
  if (random_signs) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    rotation.signs_ = at::randint(0, 2, {size}, generator).to(at::kDouble) * 2 - 1;
  }
  return rotation;
}

at::Tensor Rotation::Multiply(const at::Tensor& x, bool transposed) const {
  at::Tensor y = x;
  // Along one factor after another: [rows and factors before, factor, factors after].
  int64_t after = block_;
  for (const at::Tensor& factor : factors_) {
    const int64_t n = factor.size(0);
    after /= n;
    y = at::matmul(transposed ? factor : factor.t(), y.reshape({-1, n, after}));
  }
  return y.reshape(x.sizes()) / std::sqrt(static_cast<double>(block_));
}

at::Tensor Rotation::Apply(const at::Tensor& x) const {
  return Multiply(signs_.defined() ? x * signs_ : x, /*transposed=*/false);
}

at::Tensor Rotation::ApplyTransposed(const at::Tensor& x) const {
  const at::Tensor y = Multiply(x, /*transposed=*/true);
  return signs_.defined() ? y * signs_ : y;
}

Rotation Rotation::To(const at::TensorOptions& options) const {
  Rotation moved = *this;
  for (at::Tensor& factor : moved.factors_) factor = factor.to(options);
  if (signs_.defined()) moved.signs_ = signs_.to(options);
  return moved;
}

}  // namespace quantd::engine
