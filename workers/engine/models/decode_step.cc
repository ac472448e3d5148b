// The builder goes through the blocks once and writes down every launch with its pointers.
#include "workers/engine/models/decode_step.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/models/layer.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

using kernels::StepKind;
using kernels::StepWeight;

// Blocks that work on one step's attention: a few for each of a large GPU's processors.
constexpr int64_t kAttentionBlocks = 256;

absl::Status Refuse(absl::string_view why) {
  return absl::UnimplementedError(absl::StrCat("no decode step as one graph: ", why));
}

// What of the row and the config the kernels do not know.
absl::Status CheckArchitecture(const ModelConfig& config, const Architecture& row) {
  if (row.norm != NormKind::kRms) return Refuse("the norms are not plain root mean squares");
  if (row.parallel || !row.attention_post_norm.empty() || !row.mlp_post_norm.empty()) {
    return Refuse("blocks are not norm, attention, norm, MLP");
  }
  if (row.scaled_embedding || !row.position_embedding.empty()) {
    return Refuse("the embedding is scaled or has learned positions");
  }
  if (row.gate.empty() && row.gate_up.empty()) return Refuse("the MLP has no gate");
  if (config.experts > 0) return Refuse("a mixture of experts");
  if (config.attention_softcap > 0 || config.final_softcap > 0) return Refuse("soft caps");
  if (config.cache.bits < 16 || config.cache.rotation > 1) {
    return Refuse("keys and values are rotated or kept in fewer bits");
  }
  if (config.local_rope.has_value() || DependsOnLength(config.rope)) {
    return Refuse("positions turn by layer or by the sequence's length");
  }
  return absl::OkStatus();
}

// The rows [first, first + count) of a linear.
absl::StatusOr<StepWeight> WeightOf(absl::string_view name, const Linear& linear, int64_t first,
                                    int64_t count) {
  StepWeight weight;
  if (linear.input.rotation > 1) return Refuse(absl::StrCat("the input of ", name, " is rotated"));
  if (linear.packed != nullptr) {
    const std::optional<StepWeight> packed = linear.packed->ForStep();
    if (!packed.has_value()) return Refuse(absl::StrCat(name, " is packed in an order of its own"));
    weight = *packed;
  } else {
    if (linear.input.kind != InputKind::kFloat) {
      return Refuse(absl::StrCat("the input of ", name, " is rounded, its weight is not"));
    }
    if (!linear.weight.is_contiguous()) return Refuse(absl::StrCat(name, " is not contiguous"));
    weight.data = linear.weight.const_data_ptr();
  }
  weight.first_row = first;
  weight.rows = count;
  if (weight.scales != nullptr) weight.scales += first;
  if (linear.bias.defined()) weight.bias = SixteenBits(linear.bias) + first;
  return weight;
}

}  // namespace

class DecodeStep::Builder {
 public:
  Builder(const Decoder& decoder, absl::Span<const Block> blocks, DecodeStep& step)
      : decoder_(decoder),
        config_(decoder.config()),
        row_(decoder.architecture()),
        blocks_(blocks),
        step_(step),
        cuda_(KernelsOn(decoder.device())) {}

  absl::Status Build() {
    const int64_t batch = step_.options_.batch;
    const int64_t heads = config_.heads + 2 * config_.kv_heads;
    hidden_ = Buffer({batch, config_.hidden_size});
    heads_ = Buffer({batch, heads * config_.head_dim});
    mixed_ = Buffer({batch, config_.heads * config_.head_dim});
    inner_ = Buffer({batch, config_.intermediate_size});
    step_.logits_ = Buffer({batch, config_.vocab_size}, at::kFloat);
    step_.ids_ = Buffer({batch}, at::kLong);
    step_.starts_ = Buffer({batch}, at::kLong);
    step_.position_ = Buffer({int64_t{sizeof(kernels::StepPosition)}}, at::kByte);
    step_.caches_ = Buffer({int64_t{sizeof(kernels::StepCache)} * config_.layers}, at::kByte);
    Embed();
    for (const Block& block : blocks_) QD_RETURN_IF_ERROR(AddBlock(block));
    kernels::StepProduct head = Product(hidden_, config_.hidden_size);
    head.norm = SixteenBits(decoder_.final_norm().weight);
    QD_ASSIGN_OR_RETURN(head.weights[0],
                        WeightOf("the head", decoder_.head(), 0, config_.vocab_size));
    head.wide = step_.logits_.mutable_data_ptr<float>();
    return Add(head);
  }

 private:
  at::Tensor Buffer(std::vector<int64_t> sizes, std::optional<at::ScalarType> dtype = {}) {
    // Zeros, which the attention's counters must begin with.
    return step_.memory_.emplace_back(at::zeros(
        sizes,
        at::TensorOptions().device(decoder_.device()).dtype(dtype.value_or(decoder_.dtype()))));
  }
  bool bfloat16() const { return decoder_.dtype() == at::kBFloat16; }
  kernels::StepPosition* Position() const {
    return static_cast<kernels::StepPosition*>(step_.position_.mutable_data_ptr());
  }

  void Embed() {
    step_.launches_.push_back(
        [embed = cuda_.embed_rows,
         args = kernels::EmbedRows{.rows = step_.options_.batch,
                                   .columns = config_.hidden_size,
                                   .vocabulary = decoder_.tokens().size(0),
                                   .ids = step_.ids_.const_data_ptr<int64_t>(),
                                   .table = SixteenBits(decoder_.tokens()),
                                   .output = MutableSixteenBits(hidden_),
                                   .position = Position()}](void* stream) mutable -> const char* {
          args.stream = stream;
          embed(args);
          return nullptr;
        });
  }

  kernels::StepProduct Product(const at::Tensor& input, int64_t columns) const {
    kernels::StepProduct product;
    product.m = step_.options_.batch;
    product.columns = columns;
    product.bfloat16 = bfloat16();
    product.input = SixteenBits(input);
    product.eps = static_cast<float>(config_.norm_eps);
    return product;
  }

  absl::Status Add(const kernels::StepProduct& product) {
    if (const char* error = kernels::StepProductError(product)) return Refuse(error);
    step_.launches_.push_back(
        [args = product, run = cuda_.step_product](void* stream) mutable -> const char* {
          args.stream = stream;
          return run(args);
        });
    return absl::OkStatus();
  }

  // Adds to `product` the weights of `modules`, or of the parts of `fused` of these sizes.
  absl::Status AddWeights(const Block& block, absl::Span<const absl::string_view> modules,
                          absl::string_view fused, absl::Span<const int64_t> sizes,
                          kernels::StepProduct* product) const {
    product->count = static_cast<int>(sizes.size());
    int64_t first = 0;
    for (size_t i = 0; i < sizes.size(); first += sizes[i++]) {
      const absl::string_view name = fused.empty() ? modules[i] : fused;
      const Linear& linear = block.linear(name);
      QD_ASSIGN_OR_RETURN(product->weights[i],
                          WeightOf(name, linear, fused.empty() ? 0 : first, sizes[i]));
    }
    return absl::OkStatus();
  }

  absl::Status AddAttention(const Block& block) {
    const int64_t layer = block.layer();
    const auto norm = [&](absl::string_view name) {
      return Has(row_.qk_norm, config_) ? SixteenBits(block.linear(ModuleOf(name)).weight)
                                        : nullptr;
    };
    kernels::StepAttention attention;
    attention.batch = step_.options_.batch;
    attention.heads = config_.heads;
    attention.kv_heads = config_.kv_heads;
    attention.dim = config_.head_dim;
    attention.turned = config_.RotaryDim();
    attention.bfloat16 = bfloat16();
    attention.scale = static_cast<float>(AttentionScale(config_, layer));
    attention.window = config_.IsSliding(layer) ? config_.sliding_window : 0;
    attention.input = SixteenBits(heads_);
    attention.q_norm = norm(row_.q_norm);
    attention.k_norm = norm(row_.k_norm);
    attention.eps = static_cast<float>(config_.norm_eps);
    attention.position = Position();
    attention.cache =
        static_cast<const kernels::StepCache*>(step_.caches_.const_data_ptr()) + layer;
    attention.starts = step_.starts_.const_data_ptr<int64_t>();
    attention.output = MutableSixteenBits(mixed_);
    attention.splits = static_cast<int>(std::clamp<int64_t>(
        kAttentionBlocks / (attention.batch * attention.kv_heads), 1, kernels::kStepSplitsMax));
    if (const char* error = kernels::StepAttentionError(attention)) return Refuse(error);
    // Layers follow each other: one scratch serves all.
    if (!scratch_.defined()) {
      scratch_ = Buffer({kernels::StepScratchBytes(attention)}, at::kByte);
    }
    attention.scratch = scratch_.mutable_data_ptr();
    step_.launches_.push_back(
        [attention, run = cuda_.step_attention](void* stream) mutable -> const char* {
          attention.stream = stream;
          return run(attention);
        });
    return absl::OkStatus();
  }

  absl::Status AddBlock(const Block& block) {
    const int64_t kv_width = config_.kv_heads * config_.head_dim;
    const int64_t inner = config_.intermediate_size;
    const auto norm = [&](absl::string_view name) {
      return SixteenBits(block.linear(ModuleOf(name)).weight);
    };
    kernels::StepProduct qkv = Product(hidden_, config_.hidden_size);
    qkv.norm = norm(row_.attention_norm);
    qkv.output = MutableSixteenBits(heads_);
    QD_RETURN_IF_ERROR(AddWeights(block, {row_.q, row_.k, row_.v}, row_.qkv,
                                  {config_.heads * config_.head_dim, kv_width, kv_width}, &qkv));
    QD_RETURN_IF_ERROR(Add(qkv));
    QD_RETURN_IF_ERROR(AddAttention(block));
    kernels::StepProduct output = Product(mixed_, config_.heads * config_.head_dim);
    output.residual = SixteenBits(hidden_);
    output.output = MutableSixteenBits(hidden_);
    QD_RETURN_IF_ERROR(AddWeights(block, {row_.output}, "", {config_.hidden_size}, &output));
    QD_RETURN_IF_ERROR(Add(output));
    kernels::StepProduct gated = Product(hidden_, config_.hidden_size);
    gated.norm = norm(row_.mlp_norm);
    QD_ASSIGN_OR_RETURN(const Activation activation, FindActivation(config_.hidden_act));
    gated.activation = activation.kind;
    gated.output = MutableSixteenBits(inner_);
    QD_RETURN_IF_ERROR(
        AddWeights(block, {row_.gate, row_.up}, row_.gate_up, {inner, inner}, &gated));
    QD_RETURN_IF_ERROR(Add(gated));
    kernels::StepProduct down = Product(inner_, inner);
    down.residual = SixteenBits(hidden_);
    down.output = MutableSixteenBits(hidden_);
    QD_RETURN_IF_ERROR(AddWeights(block, {row_.down}, "", {config_.hidden_size}, &down));
    return Add(down);
  }

  const Decoder& decoder_;
  const ModelConfig& config_;
  const Architecture& row_;
  const absl::Span<const Block> blocks_;
  DecodeStep& step_;
  const kernels::Backend& cuda_;
  at::Tensor hidden_, heads_, mixed_, inner_, scratch_;
};

absl::StatusOr<std::unique_ptr<DecodeStep>> DecodeStep::Create(const Decoder& decoder,
                                                               absl::Span<const Block> blocks,
                                                               const DecodeStepOptions& options) {
  if (!decoder.device().is_cuda() || !KernelDevice(decoder.device()).is_cuda()) {
    return Refuse("there are no kernels of ours on this device");
  }
  if (decoder.dtype() == at::kFloat) return Refuse("the model computes in float32");
  if (options.batch > kDecodeStepBatchMax) {
    return Refuse(absl::StrCat("more than ", kDecodeStepBatchMax, " sequences"));
  }
  QD_RETURN_IF_ERROR(CheckArchitecture(decoder.config(), decoder.architecture()));
  std::unique_ptr<DecodeStep> step(new DecodeStep);
  step->options_ = options;
  step->layers_ = decoder.config().layers;
  step->kv_heads_ = decoder.config().kv_heads;
  step->head_dim_ = decoder.config().head_dim;
  step->device_ = decoder.device();
  step->dtype_ = decoder.dtype();
  QD_RETURN_IF_ERROR(TorchCall("preparing a decode step",
                               [&] { return Builder(decoder, blocks, *step).Build(); }));
  return step;
}

DecodeStep::~DecodeStep() {
  if (graph_ != nullptr) kernels::LoadCudaModule(nullptr)->device.release_graph(graph_);
}

bool DecodeStep::Takes(const KvCache& cache) const {
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const std::optional<KvCache::Buffers> held = cache.plain_buffers(layer);
    const int64_t length = cache.length(layer);
    if (!held.has_value() || length < 1 || length != cache.length(0)) return false;
    const std::vector<int64_t> sizes = {options_.batch, kv_heads_, held->keys.size(2), head_dim_};
    if (length >= held->keys.size(2) || held->keys.sizes() != sizes ||
        held->keys.device() != device_ || held->keys.scalar_type() != dtype_) {
      return false;
    }
  }
  return true;
}

absl::Status DecodeStep::Place(const Decoder& decoder, const KvCache& cache) {
  std::vector<void*> pointers;
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const std::optional<KvCache::Buffers> held = cache.plain_buffers(layer);
    pointers.push_back(held->keys.mutable_data_ptr());
    pointers.push_back(held->values.mutable_data_ptr());
  }
  const int64_t room = cache.plain_buffers(0)->keys.size(2), length = cache.length(0);
  const auto copy = kernels::LoadCudaModule(nullptr)->device.copy_on;
  void* const stream = StreamOn(device_);
  if (pointers != placed_) {
    static_assert(sizeof(kernels::StepCache) == 2 * sizeof(void*));
    copy(caches_.mutable_data_ptr(), pointers.data(), pointers.size() * sizeof(void*), stream);
  }
  std::vector<int64_t> starts = cache.starts();
  starts.resize(static_cast<size_t>(options_.batch));
  if (starts != placed_starts_) {
    copy(starts_.mutable_data_ptr(), starts.data(), starts.size() * sizeof(int64_t), stream);
  }
  if (room != room_) {
    QD_ASSIGN_OR_RETURN(const RopeTable::Rows rows, decoder.RopeRows(room));
    cos_ = rows.cos;
    sin_ = rows.sin;
  }
  if (room != room_ || length != length_) {
    const kernels::StepPosition position = {
        .length = length, .room = room, .cos = SixteenBits(cos_), .sin = SixteenBits(sin_)};
    copy(position_.mutable_data_ptr(), &position, sizeof(position), stream);
  }
  placed_ = std::move(pointers);
  placed_starts_ = std::move(starts);
  room_ = room;
  length_ = length;
  return absl::OkStatus();
}

absl::Status DecodeStep::LaunchAll(void* stream) {
  for (const Launch& launch : launches_) {
    if (const char* error = launch(stream)) return absl::InternalError(error);
  }
  const std::string error = kernels::LoadCudaModule(nullptr)->device.take_error(stream);
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

void DecodeStep::Capture() {
  struct Context {
    const std::vector<Launch>& launches;
    const char* error = nullptr;
  } context = {launches_};
  graph_ = kernels::LoadCudaModule(nullptr)->device.capture_graph(
      [](void* raw, void* stream) {
        auto& context = *static_cast<Context*>(raw);
        for (const Launch& launch : context.launches) {
          if (context.error == nullptr) context.error = launch(stream);
        }
      },
      &context, &capture_problem_);
  if (context.error == nullptr) return;
  capture_problem_ = context.error;
  if (graph_ != nullptr) kernels::LoadCudaModule(nullptr)->device.release_graph(graph_);
  graph_ = nullptr;
}

absl::StatusOr<at::Tensor> DecodeStep::Run(const Decoder& decoder, const at::Tensor& ids,
                                           KvCache* cache) {
  return TorchCall("a decode step", [&]() -> absl::StatusOr<at::Tensor> {
    const at::Tensor wanted = ids.contiguous();
    const kernels::DeviceOps& device = kernels::LoadCudaModule(nullptr)->device;
    void* const stream = StreamOn(device_);
    QD_RETURN_IF_ERROR(Place(decoder, *cache));
    device.copy_on(ids_.mutable_data_ptr(), wanted.const_data_ptr<int64_t>(),
                   static_cast<size_t>(options_.batch) * sizeof(int64_t), stream);
    if (graph_ != nullptr) {
      if (!device.launch_graph(graph_, stream)) {
        return absl::InternalError(device.take_error(stream));
      }
    } else {
      QD_RETURN_IF_ERROR(LaunchAll(stream));
      // The first run has loaded the kernels, which a capture could not.
      if (options_.capture && !has_run_) Capture();
      has_run_ = true;
    }
    cache->Advance(1);
    ++length_;
    return logits_;
  });
}

}  // namespace quantd::engine
