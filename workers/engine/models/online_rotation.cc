// A Sylvester matrix of order a * b is the Kronecker product of those of a and b: two products with
// small dense matrices, near the square root of the order each, instead of one with a large one.
#include "workers/engine/models/online_rotation.h"

#include <bit>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

// [order, order] of 1 and -1, over the square root of the order.
at::Tensor Sylvester(int64_t order, const at::TensorOptions& options) {
  static absl::Mutex mutex;
  static auto& made = *new std::map<std::tuple<int64_t, std::string, int>, at::Tensor>();
  absl::MutexLock lock(&mutex);
  at::Tensor& matrix =
      made[{order, options.device().str(), static_cast<int>(options.dtype().toScalarType())}];
  if (!matrix.defined()) {
    std::vector<float> signs;
    for (int64_t row = 0; row < order; ++row) {
      for (int64_t column = 0; column < order; ++column) {
        signs.push_back(std::popcount(static_cast<uint64_t>(row & column)) % 2 == 0 ? 1 : -1);
      }
    }
    matrix =
        at::tensor(signs).view({order, order}).to(options) / std::sqrt(static_cast<double>(order));
  }
  return matrix;
}

}  // namespace

int64_t OnlineBlock(int64_t width) { return width & -width; }

at::Tensor RotateOnline(const at::Tensor& x, int64_t block) {
  if (block <= 1) return x;
  const at::ScalarType dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int log = std::countr_zero(static_cast<uint64_t>(block));
  const int64_t inner = int64_t{1} << (log + 1) / 2, outer = block / inner;
  const at::TensorOptions options = x.options().dtype(dtype);
  at::Tensor rotated = x.to(dtype).reshape({-1, outer, inner});
  rotated = at::matmul(rotated, Sylvester(inner, options));
  if (outer > 1) rotated = at::matmul(Sylvester(outer, options), rotated);
  return rotated.reshape(x.sizes()).to(x.scalar_type());
}

}  // namespace quantd::engine
