// The model writes on until every sequence of the batch has stopped; what it writes behind a stop
// is cut off.
#include "workers/engine/evaluation/generator.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"

namespace quantd::engine {
namespace {

// Ends a generation from inside: all sequences have what they need.
constexpr char kAllStopped[] = "all sequences have stopped";

class Batch {
 public:
  Batch(JobContext& context, const LoadedModel& model, size_t size,
        absl::Span<const std::string> until)
      : context_(context),
        model_(model),
        stops_(model.model->config().eos_token_ids),
        outputs_(size),
        stopped_(size, false) {
    size_t longest = 0;
    for (const std::string& stop : until) {
      until_.push_back(stop);
      longest = std::max(longest, stop.size());
    }
    // Every token has at least one byte; the last one may hold the stop's end and more.
    tail_ = longest + 4;
  }

  absl::Status Take(absl::Span<const int64_t> tokens) {
    QD_RETURN_IF_ERROR(context_.cancel.Check());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (stopped_[i] || tokens[i] < 0) continue;
      if (std::find(stops_.begin(), stops_.end(), tokens[i]) != stops_.end()) {
        stopped_[i] = true;
        continue;
      }
      outputs_[i].push_back(tokens[i]);
      stopped_[i] = EndsInStop(outputs_[i]);
    }
    const bool all = std::find(stopped_.begin(), stopped_.end(), false) == stopped_.end();
    return all ? absl::AbortedError(kAllStopped) : absl::OkStatus();
  }

  std::string Text(size_t i) const { return CutAtStops(model_.Decode(outputs_[i]), until_); }

 private:
  bool EndsInStop(const std::vector<int64_t>& ids) const {
    const std::string tail =
        model_.Decode(absl::MakeConstSpan(ids).subspan(ids.size() - std::min(ids.size(), tail_)));
    return std::any_of(until_.begin(), until_.end(),
                       [&](const std::string& stop) { return absl::StrContains(tail, stop); });
  }

  JobContext& context_;
  const LoadedModel& model_;
  const std::vector<int64_t>& stops_;
  std::vector<std::string> until_;
  size_t tail_ = 0;
  std::vector<std::vector<int64_t>> outputs_;
  std::vector<bool> stopped_;
};

absl::Status RunBatch(JobContext& context, const LoadedModel& model,
                      absl::Span<const GenerationRequest> requests, absl::Span<const size_t> order,
                      std::vector<std::string>* texts) {
  const GenerationRequest& first = requests[order[0]];
  Batch batch(context, model, order.size(), first.until);
  std::vector<std::vector<int64_t>> prompts;
  for (const size_t index : order) prompts.push_back(requests[index].ids);
  const absl::Status status =
      model.model
          ->Generate(
              prompts,
              {.new_tokens_max = first.tokens_max,
               .stop_ids = model.model->config().eos_token_ids,
               .on_step = [&](absl::Span<const int64_t> tokens) { return batch.Take(tokens); }})
          .status();
  if (!status.ok() && status.message() != kAllStopped) return status;
  for (size_t i = 0; i < order.size(); ++i) (*texts)[order[i]] = batch.Text(i);
  return absl::OkStatus();
}

}  // namespace

std::string CutAtStops(std::string text, absl::Span<const std::string> stops) {
  for (const std::string& stop : stops) {
    if (stop.empty()) continue;
    if (const size_t at = text.find(stop); at != std::string::npos) text.resize(at);
  }
  return text;
}

absl::StatusOr<std::vector<std::string>> GenerateTexts(
    JobContext& context, Scorer& scorer, absl::Span<const GenerationRequest> requests,
    const std::function<void(int64_t)>& on_batch) {
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return requests[a].ids.size() > requests[b].ids.size();
  });
  std::vector<std::string> texts(requests.size());
  for (size_t done = 0; done < order.size();) {
    QD_RETURN_IF_ERROR(context.cancel.Check());
    const GenerationRequest& first = requests[order[done]];
    const int64_t wanted =
        scorer.BatchFor(static_cast<int64_t>(first.ids.size()) + first.tokens_max);
    const auto batch = absl::MakeSpan(order).subspan(done, static_cast<size_t>(wanted));
    const absl::Status status = RunBatch(context, scorer.model(), requests, batch, &texts);
    if (IsOutOfMemory(status) && scorer.HalveBatch(static_cast<int64_t>(batch.size()), status)) {
      continue;
    }
    QD_RETURN_IF_ERROR(status, "answering ", batch.size(), " prompts");
    done += batch.size();
    if (on_batch) on_batch(static_cast<int64_t>(done));
  }
  return texts;
}

}  // namespace quantd::engine
