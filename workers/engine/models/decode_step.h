// One new token for each sequence of a batch without libtorch's operators: all memory of the step
// is there beforehand, the whole of it is a row of our own kernels (kernels/step_product.h,
// step_attention.h, embed_rows.h), and after its first run it is one CUDA graph that serves every
// length, because where the cache ends is read from the GPU's memory. What the operators compute
// with a launch each, in the same order and with the same roundings.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "workers/engine/models/block.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/models/kv_cache.h"

namespace quantd::engine {

// For more sequences libtorch's products are as fast.
constexpr int64_t kDecodeStepBatchMax = 128;

struct DecodeStepOptions {
  int64_t batch = 1;
  // Otherwise every run launches the kernels one by one, as the first one does.
  bool capture = true;
};

// Not thread-safe. The blocks and the decoder's tensors must stay as they are.
class DecodeStep {
 public:
  // Unimplemented, saying what stands against it: another device or type, a part of the
  // architecture's row that the kernels do not know, a layer in a form that they do not multiply
  // with.
  static absl::StatusOr<std::unique_ptr<DecodeStep>> Create(const Decoder& decoder,
                                                            absl::Span<const Block> blocks,
                                                            const DecodeStepOptions& options);
  ~DecodeStep();
  DecodeStep(const DecodeStep&) = delete;
  DecodeStep& operator=(const DecodeStep&) = delete;

  // Whether `cache` is one of this batch that holds earlier positions and has room for another.
  bool Takes(const KvCache& cache) const;
  // ids int64 [batch, 1] on any device -> logits float32 [batch, V], which the next run overwrites;
  // the cache is one position longer. An id that is not in the vocabulary counts as a row of zeros.
  // `decoder` is the one it was made of, and Takes(*cache).
  absl::StatusOr<at::Tensor> Run(const Decoder& decoder, const at::Tensor& ids, KvCache* cache);

  // Empty, or why it is no graph.
  const std::string& capture_problem() const { return capture_problem_; }

 private:
  using Launch = std::function<const char*(void* stream)>;
  class Builder;

  DecodeStep() = default;
  // Tells the GPU which caches these are and where they end, if that is not what it knows.
  absl::Status Place(const Decoder& decoder, const KvCache& cache);
  absl::Status LaunchAll(void* stream);
  void Capture();

  DecodeStepOptions options_;
  int64_t layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kBFloat16;
  std::vector<at::Tensor> memory_;  // All that the launches point to beside the weights.
  std::vector<Launch> launches_;
  at::Tensor ids_, starts_, position_, caches_, logits_;
  // What the GPU knows: pointers of every layer's cache, and their room and length.
  std::vector<void*> placed_;
  std::vector<int64_t> placed_starts_;
  int64_t room_ = 0, length_ = -1;
  at::Tensor cos_, sin_;
  void* graph_ = nullptr;
  bool has_run_ = false;
  std::string capture_problem_;
};

}  // namespace quantd::engine
