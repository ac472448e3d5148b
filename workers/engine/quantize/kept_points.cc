// See kept_points.h.
#include "workers/engine/quantize/kept_points.h"

#include <algorithm>

#include "base/status_macros.h"
#include "workers/engine/job/failure.h"

namespace quantd::engine {

int64_t KeptPoints::BytesNeeded(const ModelConfig& config, const ActivationShape& sequences) {
  // The middle, and before it the attention's values or behind it the inner ones.
  ActivationShape shape = sequences;
  shape.width =
      config.hidden_size + std::max(config.heads * config.head_dim, config.intermediate_size);
  return shape.Bytes();
}

void KeptPoints::StartBatch(int64_t begin, int64_t count) {
  begin_ = begin;
  count_ = count;
}

void KeptPoints::Clear() {
  held_.clear();
  frozen_ = false;
}

bool KeptPoints::GiveUp() {
  const bool held = !held_.empty();
  held_.clear();
  bytes_max_ = 0;
  return held;
}

int64_t KeptPoints::HeldBytes() const {
  int64_t bytes = 0;
  for (const auto& [point, held] : held_) bytes += held.bytes;
  return bytes;
}

absl::StatusOr<at::Tensor> KeptPoints::Recall(BlockPoint point) {
  const auto found = held_.find(point);
  if (found == held_.end() || found->second.sequences < begin_ + count_) return at::Tensor();
  return found->second.store.Read(begin_, count_, device_);
}

absl::Status KeptPoints::Keep(BlockPoint point, const at::Tensor& value) {
  if (frozen_) return absl::OkStatus();
  auto found = held_.find(point);
  if (found == held_.end()) {
    // A store that begins in the middle would be of no use.
    if (begin_ > 0) return absl::OkStatus();
    ActivationShape shape = shape_;
    shape.width = value.size(-1);
    if (HeldBytes() + shape.Bytes() > bytes_max_) return absl::OkStatus();
    absl::StatusOr<ActivationStore> store = ActivationStore::InMemory(shape, device_);
    if (!store.ok() && IsOutOfMemory(store.status())) return absl::OkStatus();
    QD_RETURN_IF_ERROR(store.status());
    found = held_.emplace(point, Held{*std::move(store), 0, shape.Bytes()}).first;
  }
  Held& held = found->second;
  if (held.sequences < begin_) return absl::OkStatus();
  QD_RETURN_IF_ERROR(held.store.Write(begin_, value));
  held.sequences = std::max(held.sequences, begin_ + count_);
  // Nothing in front of the middle is asked for once all of the middle is there.
  if (point == BlockPoint::kMiddle && held.sequences == shape_.sequences) {
    held_.erase(BlockPoint::kMixed);
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
