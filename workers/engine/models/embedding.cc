// See embedding.h.
#include "workers/engine/models/embedding.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "workers/engine/tensor/dtype.h"

namespace quantd::engine {
at::Tensor Positions(int64_t count, const KvCache* cache) {
  const int64_t first = cache == nullptr ? 0 : cache->length(0);
  const at::Tensor positions = at::arange(first, first + count, at::kLong);
  if (cache == nullptr || cache->starts().empty()) return positions;
  const at::Tensor starts = at::tensor(cache->starts(), at::kLong).unsqueeze(1);
  return (positions.unsqueeze(0) - starts).clamp_min(0);
}

absl::StatusOr<at::Tensor> Embedding::Embed(const at::Tensor& ids, const at::Tensor& at,
                                            bool scaled, at::ScalarType dtype) const {
  if (ids.dim() != 2 || ids.numel() == 0 || ids.scalar_type() != at::kLong) {
    return absl::InvalidArgumentError(
        absl::StrCat("token ids must be int64 [B, T] and not empty, but are ",
                     c10::toString(ids.scalar_type()), " ", ShapeText(ids.sizes().vec())));
  }
  // Checked here, because on a GPU a bad index ends the process's use of the device.
  const int64_t low = ids.min().item<int64_t>(), high = ids.max().item<int64_t>();
  if (low < 0 || high >= tokens.size(0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token id ", low < 0 ? low : high, " is outside the vocabulary of ", tokens.size(0)));
  }
  at::Tensor hidden = at::embedding(tokens, ids.to(tokens.device())).to(dtype);
  if (scaled) {
    // The root is rounded to the working dtype first, as Gemma was trained.
    const double root = std::sqrt(static_cast<double>(tokens.size(1)));
    hidden = hidden * at::full({}, root, hidden.options());
  }
  if (!positions.defined()) return hidden;
  const int64_t last = at.max().item<int64_t>();
  if (last >= positions.size(0)) {
    return absl::InvalidArgumentError(absl::StrCat("position ", last, " is behind the last of the ",
                                                   positions.size(0), " that this model learned"));
  }
  return hidden + at::embedding(positions, at.to(positions.device())).to(dtype);
}

int64_t Embedding::size_bytes() const {
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  return bytes(tokens) + bytes(positions);
}

}  // namespace quantd::engine
