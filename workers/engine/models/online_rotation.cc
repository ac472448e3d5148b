// 16-bit activations go through kernels/hadamard_rows.h wherever there are kernels for their place;
// everything else, weights among it, is multiplied with the factors of hadamard.h.
#include "workers/engine/models/online_rotation.h"

#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "workers/engine/models/hadamard.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

// The largest order that the kernels have room for on every GPU.
constexpr int64_t kKernelBlockMax = 32768;
// Blocks stand for themselves, so the kernels' rows are cut to what suits them: narrow blocks (a
// head of 64) are taken together, up to so many columns.
constexpr int64_t kKernelColumns = 4096;

// Made once for each order, type and place.
const Rotation& Sylvester(int64_t order, const at::TensorOptions& options) {
  static absl::Mutex mutex;
  static auto& made = *new std::map<std::tuple<int64_t, std::string, int>, Rotation>();
  absl::MutexLock lock(&mutex);
  const int dtype = static_cast<int>(options.dtype().toScalarType());
  const auto [place, added] = made.try_emplace({order, options.device().str(), dtype});
  if (added) place->second = Rotation::Make(order, 0, /*random_signs=*/false).To(options);
  return place->second;
}

// Gradients pass libtorch's operators only.
bool HasKernel(const at::Tensor& x, int64_t block) {
  return KernelsTake(x) && block <= kKernelBlockMax && x.numel() % 8 == 0 &&
         KernelsOn(x.device()).hadamard_rows != nullptr;
}

at::Tensor RotateByKernel(const at::Tensor& x, int64_t block) {
  const at::Tensor input = x.contiguous();
  at::Tensor output = at::empty_like(input);
  int64_t columns = std::max<int64_t>(block, 8);
  while (columns < kKernelColumns && input.numel() % (2 * columns) == 0) columns *= 2;
  const char* error = KernelsOn(x.device())
                          .hadamard_rows({.rows = input.numel() / columns,
                                          .columns = columns,
                                          .power = block,
                                          .bfloat16 = x.scalar_type() == at::kBFloat16,
                                          .input = SixteenBits(input),
                                          .output = MutableSixteenBits(output),
                                          .stream = StreamOn(x.device())});
  TORCH_CHECK(error == nullptr, error);
  return output;
}

}  // namespace

int64_t OnlineBlock(int64_t width) { return width & -width; }

at::Tensor RotateOnline(const at::Tensor& x, int64_t block) {
  if (block <= 1) return x;
  if (HasKernel(x, block)) return RotateByKernel(x, block);
  const at::ScalarType dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return Sylvester(block, x.options().dtype(dtype)).Apply(x.to(dtype)).to(x.scalar_type());
}

}  // namespace quantd::engine
