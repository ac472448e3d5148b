// See stream_lane.h.
#include "workers/engine/quantize/stream_lane.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

// What is kept inside a block saves time only: it may take one part in so many of what is left.
constexpr int64_t kKeptShare = 2;

}  // namespace

absl::Status StreamLane::CreateDecoder(at::Device device, bool with_head) {
  UseDecoder(std::nullopt);
  QD_ASSIGN_OR_RETURN(
      decoder_,
      Decoder::Create(plan_.config, *plan_.source,
                      {.device = device, .dtype = plan_.dtype, .with_head = with_head}),
      "loading embedding and head");
  return absl::OkStatus();
}

void StreamLane::UseDecoder(std::optional<Decoder> decoder) {
  original_.reset();
  decoder_ = std::move(decoder);
}

absl::StatusOr<ActivationStore> StreamLane::CreateStore(const ActivationShape& shape) {
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

absl::Status StreamLane::Start(const at::Tensor& calibration, int64_t batch_size) {
  const ActivationShape shape = {.sequences = calibration.size(0),
                                 .length = calibration.size(1),
                                 .width = plan_.config.hidden_size,
                                 .dtype = plan_.dtype};
  Activations& quantized = of(Stage::kQuantized);
  Activations& original = of(Stage::kOriginal);
  QD_ASSIGN_OR_RETURN(quantized.store, CreateStore(shape));
  if (plan_.needs.original) {
    QD_ASSIGN_OR_RETURN(original.store, CreateStore(shape));
  }
  const at::Device device = decoder_->device();
  const int64_t room =
      (device.is_cuda() ? options_.device_activation_bytes_max : options_.activation_bytes_max) /
      kKeptShare;
  quantized.kept.emplace(shape, plan_.needs.drift ? room / 2 : room, device);
  if (plan_.needs.drift) original.kept.emplace(shape, room / 2, device);
  for (int64_t begin = 0; begin < shape.sequences; begin += batch_size) {
    const int64_t count = std::min(batch_size, shape.sequences - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden,
                        decoder_->Embed(calibration.narrow(0, begin, count)),
                        "embedding calibration text");
    QD_RETURN_IF_ERROR(quantized.store->Write(begin, hidden));
    if (original.store.has_value()) QD_RETURN_IF_ERROR(original.store->Write(begin, hidden));
  }
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> StreamLane::Inputs(Stage stage, int64_t begin, int64_t count) const {
  const std::optional<ActivationStore>& store = of(stage).store;
  if (!store.has_value()) return absl::InternalError("these activations are not kept");
  return store->Read(begin, count, decoder_->device());
}

absl::Status StreamLane::Collect(const Block& block, const std::set<int>& groups, bool sequential,
                                 int64_t batch_size, StatisticsCollector& collector) {
  Activations& activations = of(Stage::kQuantized);
  collector.Reset();  // A part that ran out of memory may have been counted already.
  for (int64_t begin = 0; begin < sequences(); begin += batch_size) {
    QD_RETURN_IF_ERROR(options_.check());
    const int64_t count = std::min(batch_size, sequences() - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Inputs(Stage::kQuantized, begin, count));
    std::map<int, at::Tensor> originals;
    if (plan_.needs.drift) {
      QD_ASSIGN_OR_RETURN(originals,
                          OriginalInputs(block.layer(), groups, begin, count, sequential));
    }
    collector.StartBatch(std::move(originals));
    activations.kept->StartBatch(begin, count);
    const ForwardOptions options = {.hook = &collector,
                                    .memory = sequential ? activations.memory() : nullptr};
    const absl::Status status = decoder_->Forward(block, hidden, options).status();
    if (!status.ok() && !collector.enough()) return status;
  }
  return absl::OkStatus();
}

absl::Status StreamLane::LoadOriginal(int64_t layer) {
  if (original_.has_value() && original_->layer() == layer) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(original_, LoadBlock(layer, *plan_.source), "loading the original block ",
                      layer);
  return absl::OkStatus();
}

Block StreamLane::TakeOriginal() {
  Block block = *std::move(original_);
  original_.reset();
  return block;
}

absl::StatusOr<std::map<int, at::Tensor>> StreamLane::OriginalInputs(int64_t layer,
                                                                     const std::set<int>& groups,
                                                                     int64_t begin, int64_t count,
                                                                     bool sequential) {
  QD_RETURN_IF_ERROR(LoadOriginal(layer));
  Activations& activations = of(Stage::kOriginal);
  QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Inputs(Stage::kOriginal, begin, count));
  InputCapture capture(Linears(plan_.config, *plan_.row, layer), groups);
  activations.kept->StartBatch(begin, count);
  const ForwardOptions options = {.hook = &capture,
                                  .memory = sequential ? activations.memory() : nullptr};
  const absl::Status status = decoder_->Forward(*original_, hidden, options).status();
  if (!status.ok() && !capture.enough()) return status;
  return capture.Take();
}

absl::Status StreamLane::CollectHead(int64_t batch_size, StatisticsCollector& collector) {
  const std::string& module = plan_.head.shape.module;
  collector.Reset();
  for (int64_t begin = 0; begin < sequences(); begin += batch_size) {
    QD_RETURN_IF_ERROR(options_.check());
    const int64_t count = std::min(batch_size, sequences() - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Inputs(Stage::kQuantized, begin, count));
    QD_ASSIGN_OR_RETURN(const at::Tensor normed, decoder_->FinalNorm(hidden));
    const absl::Status status = collector.OnInput(module, normed);
    if (!status.ok() && !collector.enough()) return status;
  }
  return absl::OkStatus();
}

absl::Status StreamLane::PassOver(const Block& block, int64_t batch_size, LinearHook* hook) {
  for (int64_t begin = 0; begin < sequences(); begin += batch_size) {
    QD_RETURN_IF_ERROR(options_.check());
    const int64_t count = std::min(batch_size, sequences() - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Inputs(Stage::kQuantized, begin, count));
    QD_RETURN_IF_ERROR(decoder_->Forward(block, hidden, {.hook = hook}).status());
  }
  return absl::OkStatus();
}

absl::Status StreamLane::Advance(Stage stage, const Block& block, int64_t batch_size,
                                 int64_t& begin) {
  Activations& activations = of(stage);
  if (activations.kept.has_value()) activations.kept->Freeze();
  while (begin < sequences()) {
    QD_RETURN_IF_ERROR(options_.check());
    const int64_t count = std::min(batch_size, sequences() - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Inputs(stage, begin, count));
    if (activations.kept.has_value()) activations.kept->StartBatch(begin, count);
    QD_ASSIGN_OR_RETURN(const at::Tensor output,
                        decoder_->Forward(block, hidden, {.memory = activations.memory()}));
    QD_RETURN_IF_ERROR(activations.store->Write(begin, output));
    begin += count;
  }
  if (activations.kept.has_value()) activations.kept->Clear();
  return absl::OkStatus();
}

bool StreamLane::GiveUpKept(Stage stage) {
  Activations& activations = of(stage);
  return activations.kept.has_value() && activations.kept->GiveUp();
}

absl::Status StreamLane::MoveToHost() {
  for (Activations& activations : activations_) {
    if (activations.store.has_value()) QD_RETURN_IF_ERROR(activations.store->MoveToHost());
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
