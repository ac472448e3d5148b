// All blocks at once, and greedy generation over the cache.
#include "workers/engine/models/model.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

bool Contains(const std::vector<int64_t>& ids, int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Longrope turns keys otherwise once a sequence is longer than the model was trained for: when
// `count` more positions make one so, what the cache holds is no longer right.
bool OutgrowsCache(const RopeConfig& rope, const KvCache& cache, const std::vector<int64_t>& starts,
                   int64_t count) {
  if (rope.scaling != RopeScaling::kLongRope) return false;
  const int64_t held = cache.length(0), limit = rope.original_max_position_embeddings;
  return held > 0 && std::any_of(starts.begin(), starts.end(), [&](int64_t start) {
           return held - start <= limit && held + count - start > limit;
         });
}

}  // namespace

absl::StatusOr<Model> Model::Load(const ModelConfig& config, const WeightSource& source,
                                  const DecoderOptions& options) {
  QD_ASSIGN_OR_RETURN(Decoder decoder, Decoder::Create(config, source, options));
  Model model(std::move(decoder));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    QD_ASSIGN_OR_RETURN(Block block, model.decoder_.LoadBlock(layer, source));
    model.blocks_.push_back(std::move(block));
  }
  return model;
}

absl::StatusOr<at::Tensor> Model::Forward(const at::Tensor& ids, KvCache* cache,
                                          const Branches* branches) const {
  QD_ASSIGN_OR_RETURN(at::Tensor hidden, decoder_.Embed(ids, cache, branches));
  for (const Block& block : blocks_) {
    QD_ASSIGN_OR_RETURN(hidden,
                        decoder_.Forward(block, hidden, {.cache = cache, .branches = branches}));
  }
  return hidden;
}

absl::StatusOr<at::Tensor> Model::Logits(const at::Tensor& ids) const {
  QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Forward(ids));
  return decoder_.Logits(hidden);
}

DecodeStep* Model::StepFor(int64_t batch, const KvCache& cache) const {
  // Graphs of the batch sizes that come up in turn; their memory is what bounds them.
  constexpr size_t kStepsMax = 4;
  auto found = steps_.find(batch);
  if (found == steps_.end()) {
    if (steps_.size() >= kStepsMax) steps_.clear();
    found = steps_.emplace(batch, DecodeStep::Create(decoder_, blocks_, {.batch = batch})).first;
  }
  const auto& step = found->second;
  if (!step.ok()) {
    decode_path_ = {"operators", std::string(step.status().message())};
    return nullptr;
  }
  if (!(*step)->Takes(cache)) {
    decode_path_ = {"operators", "the cache has no room for another position, or is another's"};
    return nullptr;
  }
  const std::string& problem = (*step)->capture_problem();
  decode_path_ = {problem.empty() ? "cuda_graph" : "kernels", problem};
  return step->get();
}

absl::StatusOr<at::Tensor> Model::NextLogits(const at::Tensor& ids, KvCache* cache) const {
  if (ids.dim() == 2 && ids.size(1) == 1 && cache->length(0) > 0) {
    if (DecodeStep* step = StepFor(ids.size(0), *cache)) return step->Run(decoder_, ids, cache);
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor hidden, Forward(ids, cache));
  return decoder_.Logits(hidden.select(1, hidden.size(1) - 1));
}

absl::StatusOr<std::vector<std::vector<int64_t>>> Model::Generate(
    const std::vector<std::vector<int64_t>>& prompts, const GenerateOptions& options) const {
  std::vector<std::vector<int64_t>> output(prompts.size());
  if (prompts.empty() || options.new_tokens_max <= 0) return output;
  size_t longest = 0;
  for (const std::vector<int64_t>& prompt : prompts) {
    if (prompt.empty())
      return absl::InvalidArgumentError("a prompt without tokens has no continuation");
    longest = std::max(longest, prompt.size());
  }
  // Padding on the left, so that every sequence's next token comes at the same position.
  const int64_t batch = static_cast<int64_t>(prompts.size());
  const int64_t length = static_cast<int64_t>(longest);
  std::vector<int64_t> starts, padded;
  for (const std::vector<int64_t>& prompt : prompts) {
    starts.push_back(static_cast<int64_t>(longest - prompt.size()));
    padded.insert(padded.end(), longest - prompt.size(), 0);
    padded.insert(padded.end(), prompt.begin(), prompt.end());
  }
  KvCache cache(config().layers, starts);
  cache.Reserve(length + options.new_tokens_max);
  at::Tensor ids = at::tensor(padded, at::kLong).view({batch, length});
  at::Tensor history = ids;  // Everything so far.
  std::vector<bool> ended(prompts.size(), false);
  for (int64_t step = 0; step < options.new_tokens_max; ++step) {
    if (OutgrowsCache(config().rope, cache, starts, 1)) {
      cache = KvCache(config().layers, starts);
      cache.Reserve(length + options.new_tokens_max);
      ids = history;
    }
    QD_ASSIGN_OR_RETURN(const at::Tensor logits, NextLogits(ids, &cache));
    QD_ASSIGN_OR_RETURN(ids, TorchCall("choosing tokens", [&] {
                          const at::Tensor next = at::argmax(logits, -1, true).to(at::kCPU);
                          history = at::cat({history, next}, 1);
                          return next;
                        }));
    std::vector<int64_t> tokens(prompts.size(), -1);
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (ended[i]) continue;
      tokens[i] = ids.const_data_ptr<int64_t>()[i];
      output[i].push_back(tokens[i]);
      ended[i] = Contains(options.stop_ids, tokens[i]);
    }
    if (options.on_step) QD_RETURN_IF_ERROR(options.on_step(tokens));
    if (std::find(ended.begin(), ended.end(), false) == ended.end()) break;
  }
  return output;
}

std::map<std::string, int64_t> Model::PackedKernels() const {
  std::map<std::string, int64_t> counts;
  for (const Block& block : blocks_) block.CountPacked(counts);
  if (const auto& head = decoder_.head().packed) ++counts[std::string(head->kernel())];
  return counts;
}

int64_t Model::size_bytes() const {
  int64_t bytes = decoder_.size_bytes();
  for (const Block& block : blocks_) bytes += block.size_bytes();
  return bytes;
}

}  // namespace quantd::engine
