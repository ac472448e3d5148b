// Batches, log-softmax over bounded pieces, and the retreat to smaller batches.
#include "workers/engine/evaluation/scorer.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Large enough to keep the matrix product efficient, small beside any model's weights. A GPU reads
// all of the head for every piece, and waits for the CPU between two.
constexpr int64_t kLogitsBytesMaxCpu = int64_t{64} << 20;
constexpr int64_t kLogitsBytesMaxCuda = int64_t{256} << 20;
// Tokens in a forward pass when the user leaves the choice to us: beyond these neither a CPU nor a
// GPU gets faster on the models that fit it.
constexpr int64_t kBatchTokensCpu = 4096;
constexpr int64_t kBatchTokensCuda = 32768;
// Inputs are padded to a multiple of this, rows of logits too, and only sequences of one padded
// length share a batch: the shape of every product then depends on the sequence alone, up to the
// number of such blocks, and a CPU's matrix library gives a row the same bits in any batch.
constexpr int64_t kBlock = 16;
// Sequences that would need more inputs together are computed alone: the mask has the square.
constexpr int64_t kForkInputsMax = 4096;

int64_t RoundUp(int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; }

// Whether logits made from `hidden` go to kernels/log_prob_rows.h.
bool HasKernel(const at::Tensor& hidden) {
  return KernelsTake(hidden) && KernelsOn(hidden.device()).log_prob_rows != nullptr;
}

// Of tokens, one a row of logits: their log probabilities, and whether each is its row's best.
struct TokenScores {
  at::Tensor targets;    // int64 [R]
  at::Tensor log_probs;  // float32 [R]
  at::Tensor greedy;     // bool [R]

  // Of the rows from `first` on. logits [n, V] of any float type.
  void Take(int64_t first, const at::Tensor& logits) const {
    const int64_t count = logits.size(0);
    const at::Tensor wanted = targets.narrow(0, first, count);
    const at::Tensor log_probs_of = log_probs.narrow(0, first, count);
    const at::Tensor greedy_of = greedy.narrow(0, first, count);
    if (HasKernel(logits) && logits.is_contiguous()) {
      KernelsOn(logits.device())
          .log_prob_rows({.rows = count,
                          .columns = logits.size(1),
                          .bfloat16 = logits.scalar_type() == at::kBFloat16,
                          .logits = SixteenBits(logits),
                          .targets = wanted.const_data_ptr<int64_t>(),
                          .log_probs = log_probs_of.mutable_data_ptr<float>(),
                          .greedy = static_cast<uint8_t*>(greedy_of.mutable_data_ptr()),
                          .stream = StreamOn(logits.device())});
      return;
    }
    const at::Tensor wide = logits.to(at::kFloat);
    log_probs_of.copy_(at::gather(at::log_softmax(wide, -1), 1, wanted.unsqueeze(1)).squeeze(1));
    greedy_of.copy_(wide.argmax(-1).eq(wanted));
  }
};

}  // namespace

int64_t LogitRowsMax(const LoadedModel& model) {
  const bool on_cpu = model.model->decoder().device().is_cpu();
  const int64_t rows =
      (on_cpu ? kLogitsBytesMaxCpu : kLogitsBytesMaxCuda) / (4 * model.model->config().vocab_size);
  return std::max(kBlock, rows / kBlock * kBlock);
}

Scorer::Scorer(JobContext& context, const LoadedModel& model, int batch_size)
    : context_(context),
      model_(model),
      batch_size_(batch_size),
      batch_limit_(std::numeric_limits<int64_t>::max()) {}

int64_t Scorer::BatchFor(int64_t length) const {
  const int64_t tokens =
      model_.model->decoder().device().is_cpu() ? kBatchTokensCpu : kBatchTokensCuda;
  const int64_t batch = batch_size_ > 0 ? batch_size_ : std::max<int64_t>(1, tokens / length);
  return std::min(batch, batch_limit_);
}

bool Scorer::HalveBatch(int64_t batch, const absl::Status& error) {
  if (batch <= 1) return false;
  batch_limit_ = batch / 2;
  EmptyDeviceCache(model_.model->decoder().device());
  context_.events.Fallback(
      "evaluation_batch", "",
      absl::StrCat("out of memory with ", batch, " sequences at a time, going on with ",
                   batch_limit_, ": ", error.message()));
  return true;
}

int64_t Scorer::PaddedInputs(const Fork& fork) const {
  const int64_t inputs = std::accumulate(fork.branches.begin(), fork.branches.end(), fork.trunk);
  const int64_t positions = model_.PositionsMax();
  const int64_t padded = RoundUp(inputs);
  // A fork's padding stands at position 0.
  const bool fits = positions == 0 || padded <= positions || !fork.branches.empty();
  return fits ? padded : std::max(inputs, positions);
}

Scorer::Row Scorer::RowOf(absl::Span<const Sequence> sequences, size_t first, size_t count) const {
  // The last token of a sequence is never an input: nothing after it is asked for.
  const auto inputs = [&](size_t i) { return static_cast<int64_t>(sequences[i].ids.size()) - 1; };
  Row row = {.first = first, .count = count, .fork = {}, .inputs = 0};
  row.fork.trunk = count == 1 ? inputs(first) : sequences[first + 1].shared;
  for (size_t i = first; count > 1 && i < first + count; ++i) {
    row.fork.branches.push_back(inputs(i) - row.fork.trunk);
  }
  row.inputs = PaddedInputs(row.fork);
  return row;
}

std::vector<Scorer::Row> Scorer::Rows(absl::Span<const Sequence> sequences) const {
  const bool can_branch = CanBranch(model_.model->config());
  std::vector<Row> rows;
  for (size_t first = 0, count = 1; first < sequences.size(); first += count) {
    count = 1;
    const auto joins = [&](size_t i) {
      const int64_t shared = sequences[i].shared;
      return can_branch && shared > 0 && shared == sequences[first + 1].shared;
    };
    while (first + count < sequences.size() && joins(first + count)) ++count;
    Row together = RowOf(sequences, first, count);
    if (count == 1 || together.inputs <= kForkInputsMax) {
      rows.push_back(std::move(together));
      continue;
    }
    for (size_t i = first; i < first + count; ++i) rows.push_back(RowOf(sequences, i, 1));
  }
  return rows;
}

absl::StatusOr<std::vector<Score>> Scorer::Run(absl::Span<const Sequence> sequences,
                                               const std::function<void(int64_t)>& on_batch) {
  std::vector<Row> rows = Rows(sequences);
  const auto kind = [](const Row& row) { return std::pair(row.inputs, row.count > 1); };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Row& a, const Row& b) { return kind(a) > kind(b); });
  std::vector<Score> scores(sequences.size());
  int64_t done = 0;
  for (size_t first = 0; first < rows.size();) {
    QD_RETURN_IF_ERROR(context_.cancel.Check());
    const auto wanted = static_cast<size_t>(BatchFor(rows[first].inputs));
    size_t last = first + 1;
    while (last < rows.size() && last - first < wanted && kind(rows[last]) == kind(rows[first])) {
      ++last;
    }
    const auto batch = absl::MakeConstSpan(rows).subspan(first, last - first);
    const absl::Status status = RunBatch(sequences, batch, &scores);
    if (IsOutOfMemory(status) && HalveBatch(static_cast<int64_t>(batch.size()), status)) continue;
    QD_RETURN_IF_ERROR(status, "scoring ", batch.size(), " sequences");
    for (const Row& row : batch) done += static_cast<int64_t>(row.count);
    first = last;
    if (on_batch) on_batch(done);
  }
  return scores;
}

absl::Status Scorer::RunBatch(absl::Span<const Sequence> sequences, absl::Span<const Row> batch,
                              std::vector<Score>* scores) {
  const int64_t inputs = batch[0].inputs;
  const auto size = static_cast<int64_t>(batch.size());
  std::vector<int64_t> ids(static_cast<size_t>(size * inputs), 0), rows, targets;
  std::vector<size_t> owners;
  std::vector<Fork> forks;
  for (int64_t b = 0; b < size; ++b) {
    const Row& row = batch[static_cast<size_t>(b)];
    const int64_t trunk = row.fork.trunk;
    int64_t end = b * inputs + trunk;  // Of what is filled.
    const std::vector<int64_t>& beginning = sequences[row.first].ids;
    std::copy_n(beginning.begin(), trunk, ids.begin() + b * inputs);
    for (size_t owner = row.first; owner < row.first + row.count; ++owner) {
      const Sequence& sequence = sequences[owner];
      const auto length = static_cast<int64_t>(sequence.ids.size());
      for (int64_t i = length - sequence.scored; i < length; ++i) {
        // What predicts token i stands in the trunk or in the sequence's own branch.
        rows.push_back(i - 1 < trunk ? b * inputs + i - 1 : end + i - 1 - trunk);
        targets.push_back(sequence.ids[static_cast<size_t>(i)]);
        owners.push_back(owner);
      }
      std::copy(sequence.ids.begin() + trunk, sequence.ids.end() - 1, ids.begin() + end);
      end += length - 1 - trunk;
      (*scores)[owner] = {0, true};
    }
    if (row.count > 1) forks.push_back(row.fork);
  }
  const auto wanted_rows = static_cast<int64_t>(rows.size());
  rows.resize(static_cast<size_t>(RoundUp(wanted_rows)), 0);
  const Decoder& decoder = model_.model->decoder();
  const at::Device device = decoder.device();
  QD_ASSIGN_OR_RETURN(
      const at::Tensor hidden, TorchCall("computing a batch", [&]() -> absl::StatusOr<at::Tensor> {
        const at::Tensor input = at::from_blob(ids.data(), {size, inputs}, at::kLong).to(device);
        std::optional<Branches> branches;
        if (!forks.empty()) branches.emplace(forks, inputs, device);
        QD_ASSIGN_OR_RETURN(
            const at::Tensor all,
            model_.model->Forward(input, nullptr, branches.has_value() ? &*branches : nullptr));
        const at::Tensor index =
            at::from_blob(rows.data(), {static_cast<int64_t>(rows.size())}, at::kLong).to(device);
        return at::index_select(all.reshape({size * inputs, -1}), 0, index);
      }));
  TokenScores tokens;
  QD_RETURN_IF_ERROR(TorchCall("scoring tokens", [&] {
    tokens.targets = at::from_blob(targets.data(), {wanted_rows}, at::kLong).to(device);
    tokens.log_probs = at::empty({wanted_rows}, at::TensorOptions(device).dtype(at::kFloat));
    tokens.greedy = at::empty({wanted_rows}, at::TensorOptions(device).dtype(at::kBool));
  }));
  const auto consume = [&](int64_t first, const at::Tensor& logits) {
    return TorchCall("scoring tokens", [&] {
      // What is behind the last wanted row is padding.
      const int64_t count = std::min(logits.size(0), wanted_rows - first);
      if (count > 0) tokens.Take(first, logits.slice(0, 0, count));
    });
  };
  // The kernel needs no copies in float32, which are four times as large together.
  const int64_t rows_max = LogitRowsMax(model_) * (HasKernel(hidden) ? 4 : 1);
  QD_RETURN_IF_ERROR(decoder.LogitsChunked(hidden, rows_max, consume));
  return TorchCall("scoring tokens", [&] {
    const at::Tensor log_probs = tokens.log_probs.to(at::kCPU), greedy = tokens.greedy.to(at::kCPU);
    for (int64_t i = 0; i < wanted_rows; ++i) {
      Score& score = (*scores)[owners[static_cast<size_t>(i)]];
      score.log_prob += static_cast<double>(log_probs.const_data_ptr<float>()[i]);
      score.greedy = score.greedy && greedy.const_data_ptr<bool>()[i];
    }
  });
}

}  // namespace quantd::engine
