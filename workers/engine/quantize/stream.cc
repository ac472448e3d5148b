// See stream.h.
#include "workers/engine/quantize/stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/calibration/statistics.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Enough rows to keep matrix products at full speed, few enough that intermediates stay small.
constexpr int64_t kTokensPerBatchCpu = 4096;
constexpr int64_t kTokensPerBatchGpu = 16384;
// What is kept inside a block saves time only: it may take one part in so many of what is left.
constexpr int64_t kKeptShare = 2;

}  // namespace

absl::StatusOr<std::unique_ptr<BlockStream>> BlockStream::Create(const QuantizePlan& plan,
                                                                 StreamOptions options) {
  std::unique_ptr<BlockStream> stream(new BlockStream(plan, std::move(options)));
  QD_RETURN_IF_ERROR(stream->CreateDecoder(plan.device));
  return stream;
}

absl::Status BlockStream::CreateDecoder(at::Device device) {
  decoder_.reset();
  absl::StatusOr<Decoder> decoder =
      Decoder::Create(plan_.config, *plan_.source, {.device = device, .dtype = plan_.dtype});
  if (!decoder.ok() && IsOutOfMemory(decoder.status()) && device.is_cuda()) {
    options_.fallback("cpu", "", "the embedding did not fit into the device's memory");
    EmptyDeviceCache(device);
    return CreateDecoder(at::kCPU);
  }
  QD_RETURN_IF_ERROR(decoder.status(), "loading embedding and head");
  decoder_ = *std::move(decoder);
  return absl::OkStatus();
}

absl::StatusOr<ActivationStore> BlockStream::CreateStore(const ActivationShape& shape) {
  if (decoder_->device().is_cuda()) {
    if (shape.Bytes() <= options_.device_activation_bytes_max) {
      absl::StatusOr<ActivationStore> store = ActivationStore::InMemory(shape, decoder_->device());
      if (store.ok()) options_.device_activation_bytes_max -= shape.Bytes();
      if (store.ok() || !IsOutOfMemory(store.status())) return store;
    }
    options_.fallback("host_offload", "",
                      absl::StrCat(FormatBytes(shape.Bytes()),
                                   " of calibration activations are kept in host memory"));
  }
  if (shape.Bytes() > options_.activation_bytes_max) {
    return ActivationStore::InFile(shape, options_.work_dir);
  }
  options_.activation_bytes_max -= shape.Bytes();
  return ActivationStore::InMemory(shape, at::kCPU);
}

absl::Status BlockStream::Start(const at::Tensor& calibration, const at::Tensor& probe) {
  QD_ASSIGN_OR_RETURN(probe_, decoder_->Embed(probe), "embedding the probe");
  if (!calibration.defined()) return absl::OkStatus();
  const int64_t length = calibration.size(1);
  const ActivationShape shape = {.sequences = calibration.size(0),
                                 .length = length,
                                 .width = plan_.config.hidden_size,
                                 .dtype = plan_.dtype};
  QD_ASSIGN_OR_RETURN(store_, CreateStore(shape));
  if (plan_.needs.original) {
    QD_ASSIGN_OR_RETURN(originals_, CreateStore(shape));
  }
  const bool on_gpu = decoder_->device().is_cuda();
  const int64_t room =
      (on_gpu ? options_.device_activation_bytes_max : options_.activation_bytes_max) / kKeptShare;
  kept_.emplace(shape, plan_.needs.drift ? room / 2 : room, decoder_->device());
  if (plan_.needs.drift) kept_originals_.emplace(shape, room / 2, decoder_->device());
  const int64_t tokens = on_gpu ? kTokensPerBatchGpu : kTokensPerBatchCpu;
  batch_size_ =
      options_.batch_size > 0 ? options_.batch_size : std::max<int64_t>(1, tokens / length);
  batch_size_ = std::min(batch_size_, calibration.size(0));
  for (int64_t begin = 0; begin < calibration.size(0); begin += batch_size_) {
    const int64_t count = std::min(batch_size_, calibration.size(0) - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden,
                        decoder_->Embed(calibration.narrow(0, begin, count)),
                        "embedding calibration text");
    QD_RETURN_IF_ERROR(store_->Write(begin, hidden));
    if (originals_.has_value()) QD_RETURN_IF_ERROR(originals_->Write(begin, hidden));
  }
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> BlockStream::Inputs(int64_t begin, int64_t count) const {
  if (!store_.has_value()) return absl::InternalError("the block's inputs are not kept");
  return store_->Read(begin, count, decoder_->device());
}

absl::StatusOr<at::Tensor> BlockStream::Originals(int64_t begin, int64_t count) const {
  if (!originals_.has_value()) return absl::InternalError("the original model does not run along");
  return originals_->Read(begin, count, decoder_->device());
}

absl::StatusOr<Block> BlockStream::LoadBlock(int64_t layer, const WeightSource& source) {
  block_source_ = &source;
  for (;;) {
    absl::StatusOr<Block> block = decoder_->LoadBlock(layer, source);
    if (block.ok() || !IsOutOfMemory(block.status())) return block;
    EmptyDeviceCache(decoder_->device());
    QD_RETURN_IF_ERROR(Relieve(nullptr, block.status()), "loading block ", layer);
  }
}

absl::StatusOr<std::map<int, InputStatistics>> BlockStream::Collect(Block& block,
                                                                    const std::set<int>& groups,
                                                                    bool sequential) {
  StatisticsCollector collector(Linears(plan_.config, *plan_.row, block.layer()), groups,
                                plan_.needs);
  QD_RETURN_IF_ERROR(WithRelief(&block, [&]() -> absl::Status {
    collector.Reset();  // A part that ran out of memory may have been counted already.
    for (int64_t begin = 0; begin < store_->sequences(); begin += batch_size_) {
      QD_RETURN_IF_ERROR(options_.check());
      const int64_t count = std::min(batch_size_, store_->sequences() - begin);
      QD_ASSIGN_OR_RETURN(const at::Tensor hidden, store_->Read(begin, count, decoder_->device()));
      std::map<int, at::Tensor> originals;
      if (plan_.needs.drift) {
        QD_ASSIGN_OR_RETURN(originals,
                            OriginalInputs(block.layer(), groups, begin, count, sequential));
      }
      collector.StartBatch(std::move(originals));
      kept_->StartBatch(begin, count);
      const ForwardOptions options = {.hook = &collector, .memory = sequential ? &*kept_ : nullptr};
      const absl::Status status = decoder_->Forward(block, hidden, options).status();
      if (!status.ok() && !collector.enough()) return status;
    }
    return absl::OkStatus();
  }));
  return collector.Finish();
}

absl::Status BlockStream::LoadOriginal(int64_t layer) {
  if (original_.has_value() && original_->layer() == layer) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(original_, decoder_->LoadBlock(layer, *plan_.source),
                      "loading the original block ", layer);
  return absl::OkStatus();
}

absl::StatusOr<std::map<int, at::Tensor>> BlockStream::OriginalInputs(int64_t layer,
                                                                      const std::set<int>& groups,
                                                                      int64_t begin, int64_t count,
                                                                      bool sequential) {
  QD_RETURN_IF_ERROR(LoadOriginal(layer));
  QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Originals(begin, count));
  InputCapture capture(Linears(plan_.config, *plan_.row, layer), groups);
  kept_originals_->StartBatch(begin, count);
  const ForwardOptions options = {.hook = &capture,
                                  .memory = sequential ? &*kept_originals_ : nullptr};
  const absl::Status status = decoder_->Forward(*original_, hidden, options).status();
  if (!status.ok() && !capture.enough()) return status;
  return capture.Take();
}

absl::StatusOr<InputStatistics> BlockStream::CollectHead() {
  const LinearShape& shape = plan_.head.shape;
  StatisticsCollector collector({shape}, {shape.group}, plan_.needs);
  QD_RETURN_IF_ERROR(WithRelief(nullptr, [&]() -> absl::Status {
    collector.Reset();
    for (int64_t begin = 0; begin < store_->sequences(); begin += batch_size_) {
      QD_RETURN_IF_ERROR(options_.check());
      const int64_t count = std::min(batch_size_, store_->sequences() - begin);
      QD_ASSIGN_OR_RETURN(const at::Tensor hidden, store_->Read(begin, count, decoder_->device()));
      QD_ASSIGN_OR_RETURN(const at::Tensor normed, decoder_->FinalNorm(hidden));
      const absl::Status status = collector.OnInput(shape.module, normed);
      if (!status.ok() && !collector.enough()) return status;
    }
    return absl::OkStatus();
  }));
  QD_ASSIGN_OR_RETURN(auto statistics, collector.Finish());
  return statistics.at(shape.group);
}

absl::Status BlockStream::AdvanceStore(ActivationStore& store, Block& block, KeptPoints* kept) {
  int64_t begin = 0;  // Sequences before it are replaced already and must not be run again.
  return WithRelief(&block, [&]() -> absl::Status {
    while (begin < store.sequences()) {
      QD_RETURN_IF_ERROR(options_.check());
      const int64_t count = std::min(batch_size_, store.sequences() - begin);
      QD_ASSIGN_OR_RETURN(const at::Tensor hidden, store.Read(begin, count, decoder_->device()));
      if (kept != nullptr) kept->StartBatch(begin, count);
      QD_ASSIGN_OR_RETURN(const at::Tensor output,
                          decoder_->Forward(block, hidden, {.memory = kept}));
      QD_RETURN_IF_ERROR(store.Write(begin, output));
      begin += count;
    }
    return absl::OkStatus();
  });
}

absl::Status BlockStream::AdvanceOriginal(int64_t layer) {
  if (!originals_.has_value()) return absl::OkStatus();
  if (!plan_.needs.drift) {
    QD_ASSIGN_OR_RETURN(Block block, LoadBlock(layer, *plan_.source));
    return AdvanceStore(*originals_, block, nullptr);
  }
  QD_RETURN_IF_ERROR(WithRelief(nullptr, [&] { return LoadOriginal(layer); }));
  kept_originals_->Freeze();
  Block block = *std::move(original_);
  original_.reset();
  QD_RETURN_IF_ERROR(AdvanceStore(*originals_, block, &*kept_originals_));
  kept_originals_->Clear();
  return absl::OkStatus();
}

absl::Status BlockStream::Advance(Block& block) {
  if (store_.has_value()) {
    kept_->Freeze();
    QD_RETURN_IF_ERROR(AdvanceStore(*store_, block, &*kept_));
    kept_->Clear();
  }
  return WithRelief(&block, [&]() -> absl::Status {
    QD_ASSIGN_OR_RETURN(probe_, decoder_->Forward(block, probe_));
    return absl::OkStatus();
  });
}

absl::Status BlockStream::WithRelief(Block* block, const std::function<absl::Status()>& attempt) {
  for (;;) {
    const absl::Status status = attempt();
    if (status.ok() || !IsOutOfMemory(status)) return status;
    EmptyDeviceCache(decoder_->device());
    QD_RETURN_IF_ERROR(Relieve(block, status));
  }
}

absl::Status BlockStream::Relieve(Block* block, const absl::Status& reason) {
  for (std::optional<KeptPoints>* kept : {&kept_, &kept_originals_}) {
    if (kept->has_value() && (*kept)->GiveUp()) return absl::OkStatus();  // Costs time alone.
  }
  if (store_.has_value() && batch_size_ > 1) {
    batch_size_ /= 2;
    options_.fallback(
        "calibration_batch", "",
        absl::StrCat("out of memory; ", batch_size_, " calibration sequences at a time"));
    return absl::OkStatus();
  }
  if (store_.has_value() && store_->on_device()) {
    options_.fallback("host_offload", "",
                      "out of memory; calibration activations move to host memory");
    if (originals_.has_value()) QD_RETURN_IF_ERROR(originals_->MoveToHost());
    return store_->MoveToHost();
  }
  if (decoder_->device().is_cuda()) return MoveToCpu(block);
  return Annotate(reason, "nothing is left to make smaller");
}

absl::Status BlockStream::MoveToCpu(Block* block) {
  options_.fallback("cpu", "",
                    "out of device memory; the rest of the model is computed on the CPU");
  const at::Device device = decoder_->device();
  original_.reset();
  QD_RETURN_IF_ERROR(CreateDecoder(at::kCPU));
  QD_RETURN_IF_ERROR(
      TorchCall("moving the probe to the CPU", [&] { probe_ = probe_.to(at::kCPU); }));
  if (block != nullptr) {
    QD_ASSIGN_OR_RETURN(Block moved, decoder_->LoadBlock(block->layer(), *block_source_));
    for (const LinearShape& linear : Linears(plan_.config, *plan_.row, block->layer())) {
      QD_RETURN_IF_ERROR(moved.SetWeight(linear.module, block->linear(linear.module).weight));
      moved.linear(linear.module).input = block->linear(linear.module).input;
    }
    *block = std::move(moved);
  }
  EmptyDeviceCache(device);
  return absl::OkStatus();
}

}  // namespace quantd::engine
