// The stream's block as methods' hooks see it.
#pragma once

#include <string>
#include <vector>

#include "workers/engine/methods/block_job.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/quantize/overlay.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/stream.h"

namespace quantd::engine {

// All references must outlive it.
class StreamBlockJob : public BlockJob {
 public:
  StreamBlockJob(const QuantizePlan& plan, int64_t layer, BlockStream& stream,
                 WeightOverlay& overlay, std::function<absl::Status()> check);

  // Forgets edits, notes and fallbacks: the hook starts again.
  void Reset();
  const std::vector<FallbackRecord>& fallbacks() const { return fallbacks_; }
  const nlohmann::json& notes() const { return notes_; }

  const Decoder& decoder() const override { return stream_.decoder(); }
  int64_t layer() const override { return layer_; }
  const std::vector<LinearInfo>& linears() const override { return linears_; }
  uint64_t seed() const override { return plan_.seed; }
  absl::StatusOr<Block> FloatBlock() override { return stream_.LoadBlock(layer_, overlay_); }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override;
  bool Has(const std::string& name) const override { return overlay_.Has(name); }
  absl::Status Edit(const std::string& name, const at::Tensor& value) override;
  int64_t sequences() const override { return stream_.sequences(); }
  int64_t batch_size() const override { return stream_.batch_size(); }
  absl::StatusOr<at::Tensor> Inputs(int64_t begin, int64_t count) override {
    return stream_.Inputs(Stage::kQuantized, begin, count);
  }
  absl::StatusOr<at::Tensor> Targets(int64_t begin, int64_t count) override {
    return stream_.Inputs(Stage::kOriginal, begin, count);
  }
  size_t devices() const override { return stream_.devices().size(); }
  absl::Status PassOver(const Block& block, const std::vector<LinearHook*>& hooks) override {
    return stream_.PassOver(block, overlay_, hooks);
  }
  void Fallback(absl::string_view kind, absl::string_view module,
                absl::string_view description) override;
  void Note(const std::string& key, const nlohmann::json& value) override { notes_[key] = value; }
  absl::Status CheckCancelled() override { return check_(); }

 private:
  const QuantizePlan& plan_;
  const int64_t layer_;
  BlockStream& stream_;
  WeightOverlay& overlay_;
  std::function<absl::Status()> check_;
  std::vector<LinearInfo> linears_;
  std::vector<FallbackRecord> fallbacks_;
  nlohmann::json notes_ = nlohmann::json::object();
};

}  // namespace quantd::engine
