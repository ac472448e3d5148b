// See stream.h.
#include "workers/engine/quantize/stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Enough rows to keep matrix products at full speed, few enough that intermediates stay small.
constexpr int64_t kTokensPerBatchCpu = 4096;
constexpr int64_t kTokensPerBatchGpu = 16384;

}  // namespace

BlockStream::BlockStream(const QuantizePlan& plan, StreamOptions options)
    : plan_(plan), options_(std::move(options)), devices_(plan.devices), threads_(devices_) {
  StreamOptions lane = options_;
  lane.activation_bytes_max /= static_cast<int64_t>(devices_.size());
  for (size_t i = 0; i < devices_.size(); ++i) {
    lanes_.push_back(std::make_unique<StreamLane>(plan, lane));
  }
}

absl::StatusOr<std::unique_ptr<BlockStream>> BlockStream::Create(const QuantizePlan& plan,
                                                                 StreamOptions options) {
  std::unique_ptr<BlockStream> stream(new BlockStream(plan, std::move(options)));
  QD_RETURN_IF_ERROR(stream->CreateDecoders());
  stream->ChooseCollective();
  return stream;
}

absl::Status BlockStream::CreateDecoders() {
  for (size_t i = 0; i < lanes_.size(); ++i) {
    const absl::Status status = lanes_[i]->CreateDecoder(devices_[i], /*with_head=*/i == 0);
    if (IsOutOfMemory(status) && devices_[i].is_cuda()) {
      options_.fallback("cpu", "", "the embedding did not fit into the device's memory");
      return CreateDecodersOnCpu();
    }
    QD_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::Status BlockStream::CreateDecodersOnCpu() {
  for (const auto& lane : lanes_) lane->UseDecoder(std::nullopt);
  EmptyDeviceCache(devices_[0]);
  QD_RETURN_IF_ERROR(lanes_[0]->CreateDecoder(at::kCPU, /*with_head=*/true));
  for (size_t i = 1; i < lanes_.size(); ++i) lanes_[i]->UseDecoder(lanes_[0]->decoder());
  devices_.assign(devices_.size(), at::kCPU);
  threads_.Move(devices_);
  collective_ = CopyingCollective();
  return absl::OkStatus();
}

void BlockStream::ChooseCollective() {
  collective_ = CopyingCollective();
  if (devices_.size() == 1 || devices_[0].is_cpu()) return;
  absl::StatusOr<std::unique_ptr<Collective>> nccl = NcclCollective(devices_);
  if (nccl.ok()) {
    collective_ = *std::move(nccl);
  } else {
    options_.fallback("collective", "",
                      absl::StrCat("GPUs add up through copies: ", nccl.status().message()));
  }
}

absl::Status BlockStream::Start(const at::Tensor& calibration, const at::Tensor& probe) {
  QD_ASSIGN_OR_RETURN(probe_, decoder().Embed(probe), "embedding the probe");
  if (!calibration.defined()) return absl::OkStatus();
  const int64_t sequences = calibration.size(0);
  const auto lanes = static_cast<int64_t>(lanes_.size());
  const int64_t tokens = devices_[0].is_cuda() ? kTokensPerBatchGpu : kTokensPerBatchCpu;
  batch_size_ = options_.batch_size > 0 ? options_.batch_size
                                        : std::max<int64_t>(1, tokens / calibration.size(1));
  batch_size_ = std::min(batch_size_, (sequences + lanes - 1) / lanes);
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t begin = sequences * i / lanes;
    const int64_t end = sequences * (i + 1) / lanes;
    QD_RETURN_IF_ERROR(lanes_[i]->Start(calibration.narrow(0, begin, end - begin), batch_size_));
  }
  return absl::OkStatus();
}

int64_t BlockStream::sequences() const {
  int64_t sequences = 0;
  for (const auto& lane : lanes_) sequences += lane->sequences();
  return sequences;
}

absl::StatusOr<at::Tensor> BlockStream::Inputs(Stage stage, int64_t begin, int64_t count) const {
  std::vector<at::Tensor> parts;
  int64_t first = 0;  // Of the lane's sequences.
  for (const auto& lane : lanes_) {
    const int64_t from = std::max(begin, first);
    const int64_t to = std::min(begin + count, first + lane->sequences());
    if (from < to) {
      QD_ASSIGN_OR_RETURN(parts.emplace_back(), lane->Inputs(stage, from - first, to - from));
    }
    first += lane->sequences();
  }
  return TorchCall("bringing calibration activations together", [&] {
    for (at::Tensor& part : parts) part = part.to(devices_[0]);
    return parts.size() == 1 ? parts[0] : at::cat(parts);
  });
}

absl::StatusOr<Block> BlockStream::LoadBlock(int64_t layer, const WeightSource& source) {
  block_source_ = &source;
  Block block;
  QD_RETURN_IF_ERROR(WithRelief(nullptr,
                                [&]() -> absl::Status {
                                  QD_ASSIGN_OR_RETURN(block, lanes_[0]->LoadBlock(layer, source));
                                  return absl::OkStatus();
                                }),
                     "loading block ", layer);
  return block;
}

absl::StatusOr<Replicas> BlockStream::LoadReplicas(int64_t layer, const WeightSource& source) {
  block_source_ = &source;
  Replicas blocks(lanes_.size());
  const auto load = [&](size_t i) -> absl::Status {
    QD_ASSIGN_OR_RETURN(blocks[i], lanes_[i]->LoadBlock(layer, source));
    return absl::OkStatus();
  };
  QD_RETURN_IF_ERROR(WithRelief(nullptr, [&] { return threads_.Run(load); }), "loading block ",
                     layer);
  return blocks;
}

absl::Status BlockStream::PassOver(const Block& block, const WeightSource& source,
                                   const std::vector<LinearHook*>& hooks) {
  return threads_.Run([&](size_t i) -> absl::Status {
    if (i == 0) return lanes_[0]->PassOver(block, batch_size_, hooks[0]);
    QD_ASSIGN_OR_RETURN(const Block copy, lanes_[i]->LoadBlock(block.layer(), source));
    return lanes_[i]->PassOver(copy, batch_size_, hooks[i]);
  });
}

absl::StatusOr<std::vector<std::map<int, InputStatistics>>> BlockStream::Collect(
    Replicas& block, const std::set<int>& groups, bool sequential) {
  std::vector<StatisticsCollector> collectors(
      lanes_.size(), StatisticsCollector(Linears(plan_.config, *plan_.row, block[0].layer()),
                                         groups, plan_.needs));
  const auto collect = [&](size_t i) {
    return lanes_[i]->Collect(block[i], groups, sequential, batch_size_, collectors[i]);
  };
  QD_RETURN_IF_ERROR(WithRelief(&block, [&] { return threads_.Run(collect); }));
  QD_RETURN_IF_ERROR(
      StatisticsCollector::Combine(absl::MakeSpan(collectors), devices_, *collective_));
  std::vector<std::map<int, InputStatistics>> statistics(lanes_.size());
  const auto finish = [&](size_t i) -> absl::Status {
    QD_ASSIGN_OR_RETURN(statistics[i], collectors[i].Finish());
    return absl::OkStatus();
  };
  QD_RETURN_IF_ERROR(threads_.Run(finish));
  return statistics;
}

absl::StatusOr<InputStatistics> BlockStream::CollectHead() {
  const LinearShape& shape = plan_.head.shape;
  std::vector<StatisticsCollector> collectors(
      lanes_.size(), StatisticsCollector({shape}, {shape.group}, plan_.needs));
  const auto collect = [&](size_t i) { return lanes_[i]->CollectHead(batch_size_, collectors[i]); };
  QD_RETURN_IF_ERROR(WithRelief(nullptr, [&] { return threads_.Run(collect); }));
  QD_RETURN_IF_ERROR(
      StatisticsCollector::Combine(absl::MakeSpan(collectors), devices_, *collective_));
  QD_ASSIGN_OR_RETURN(auto statistics, collectors[0].Finish());
  return statistics.at(shape.group);
}

absl::Status BlockStream::AdvanceLanes(Stage stage, Replicas& block) {
  std::vector<int64_t> done(lanes_.size(), 0);
  const auto advance = [&](size_t i) {
    return lanes_[i]->Advance(stage, block[i], batch_size_, done[i]);
  };
  return WithRelief(&block, [&] { return threads_.Run(advance); });
}

absl::Status BlockStream::AdvanceOriginal(int64_t layer) {
  if (!plan_.needs.original || !lanes_[0]->started()) return absl::OkStatus();
  Replicas blocks;
  if (plan_.needs.drift) {
    const auto load = [&](size_t i) { return lanes_[i]->LoadOriginal(layer); };
    QD_RETURN_IF_ERROR(WithRelief(nullptr, [&] { return threads_.Run(load); }));
    for (const auto& lane : lanes_) blocks.push_back(lane->TakeOriginal());
  } else {
    QD_ASSIGN_OR_RETURN(blocks, LoadReplicas(layer, *plan_.source));
  }
  return AdvanceLanes(Stage::kOriginal, blocks);
}

absl::Status BlockStream::Advance(Replicas& block) {
  QD_RETURN_IF_ERROR(AdvanceLanes(Stage::kQuantized, block));
  return WithRelief(&block, [&]() -> absl::Status {
    QD_ASSIGN_OR_RETURN(probe_, decoder().Forward(block[0], probe_));
    return absl::OkStatus();
  });
}

absl::Status BlockStream::Synchronize() const {
  for (const at::Device device : devices_) QD_RETURN_IF_ERROR(engine::Synchronize(device));
  return absl::OkStatus();
}

absl::Status BlockStream::WithRelief(Replicas* block,
                                     const std::function<absl::Status()>& attempt) {
  for (;;) {
    const absl::Status status = attempt();
    if (status.ok() || !IsOutOfMemory(status)) return status;
    EmptyDeviceCache(devices_[0]);
    QD_RETURN_IF_ERROR(Relieve(block, status));
  }
}

absl::Status BlockStream::Relieve(Replicas* block, const absl::Status& reason) {
  const bool calibrates = lanes_[0]->started();
  for (const Stage stage : {Stage::kQuantized, Stage::kOriginal}) {
    bool held = false;
    for (const auto& lane : lanes_) held |= lane->GiveUpKept(stage);
    if (held) return absl::OkStatus();  // Costs time alone.
  }
  if (calibrates && batch_size_ > 1) {
    batch_size_ /= 2;
    options_.fallback(
        "calibration_batch", "",
        absl::StrCat("out of memory; ", batch_size_, " calibration sequences at a time"));
    return absl::OkStatus();
  }
  if (std::any_of(lanes_.begin(), lanes_.end(),
                  [](const auto& lane) { return lane->on_device(); })) {
    options_.fallback("host_offload", "",
                      "out of memory; calibration activations move to host memory");
    for (const auto& lane : lanes_) QD_RETURN_IF_ERROR(lane->MoveToHost());
    return absl::OkStatus();
  }
  if (devices_[0].is_cuda()) return MoveToCpu(block);
  return Annotate(reason, "nothing is left to make smaller");
}

absl::Status BlockStream::MoveToCpu(Replicas* block) {
  options_.fallback("cpu", "",
                    "out of device memory; the rest of the model is computed on the CPU");
  const at::Device device = devices_[0];
  QD_RETURN_IF_ERROR(CreateDecodersOnCpu());
  QD_RETURN_IF_ERROR(
      TorchCall("moving the probe to the CPU", [&] { probe_ = probe_.to(at::kCPU); }));
  if (block != nullptr) {
    const Block& held = block->front();
    QD_ASSIGN_OR_RETURN(Block moved, decoder().LoadBlock(held.layer(), *block_source_));
    for (const LinearShape& linear : Linears(plan_.config, *plan_.row, held.layer())) {
      QD_RETURN_IF_ERROR(moved.SetWeight(linear.module, held.linear(linear.module).weight));
      moved.linear(linear.module).input = held.linear(linear.module).input;
    }
    block->assign(lanes_.size(), moved);  // They share weights, which are replaced, never changed.
  }
  EmptyDeviceCache(device);
  return absl::OkStatus();
}

}  // namespace quantd::engine
