// Orthogonal rotations by Hadamard matrices of (nearly) any size, kept as Kronecker factors so that
// a rotation costs n times the sum of the factors and not n squared: what weights are rotated with
// (methods/), and what the rotation of activations (online_rotation.h) is measured against.
//
// Orders 2^k by Sylvester's construction; q + 1 and 2 (q + 1) for prime powers q of the right kind
// by Paley's; products of these by Kronecker. That covers every hidden size and head size of the
// models in use without a table of matrices. An order that has none (107 * 128) becomes
// block-diagonal.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace quantd::engine {

// float64 [n, n] of 1 and -1 with rows orthogonal, by one of Paley's constructions or n = 1, 2;
// undefined: neither gives this order.
at::Tensor PaleyHadamard(int64_t order);

// R = D (F_1 x F_2 x ... ) / sqrt(block), D a diagonal of signs: orthogonal, size x size.
class Rotation {
 public:
  // The largest Hadamard order that divides `size` such that blocks of it tile the diagonal; a
  // whole matrix wherever one is known. `seed` chooses the signs; `random_signs` false: none.
  static Rotation Make(int64_t size, uint64_t seed, bool random_signs);

  int64_t size() const { return size_; }
  // Columns that are mixed with each other; size() unless it is block-diagonal.
  int64_t block() const { return block_; }
  // x [..., size] of the type and place of the factors (float64 on the CPU, see To) -> x R, or
  // x R^T. Without signs the last dimension may be any multiple of block(): R repeats along it.
  // Throws what libtorch throws.
  at::Tensor Apply(const at::Tensor& x) const;
  at::Tensor ApplyTransposed(const at::Tensor& x) const;
  // The same rotation for an x of another type or place.
  Rotation To(const at::TensorOptions& options) const;

 private:
  at::Tensor Multiply(const at::Tensor& x, bool transposed) const;
  int64_t size_ = 1;
  int64_t block_ = 1;
  std::vector<at::Tensor> factors_;  // [f, f]; the product of all f is block_.
  at::Tensor signs_;                 // [size]; undefined: none.
};

}  // namespace quantd::engine
