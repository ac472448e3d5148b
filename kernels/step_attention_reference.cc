// The formulas of step_attention.h, softmax and sums in float64.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/norm_rows.h"
#include "kernels/rope_heads.h"
#include "kernels/sixteen.h"
#include "kernels/step_attention.h"

namespace quantd::kernels {
namespace {

std::vector<uint16_t> Prepared(const StepAttention& args, const uint16_t* head,
                               const uint16_t* norm, int64_t position) {
  std::vector<uint16_t> normed(head, head + args.dim);
  if (norm != nullptr) {
    NormRowsReference({.rows = 1,
                       .columns = args.dim,
                       .bfloat16 = args.bfloat16,
                       .eps = args.eps,
                       .input = head,
                       .weight = norm,
                       .output = normed.data()});
  }
  if (args.position->cos == nullptr) return normed;
  std::vector<uint16_t> turned(args.dim);
  RopeHeadsReference({.batch = 1,
                      .heads = 1,
                      .tokens = 1,
                      .dim = args.dim,
                      .turned = args.turned,
                      .bfloat16 = args.bfloat16,
                      .input = normed.data(),
                      .cos = args.position->cos + position * args.turned,
                      .sin = args.position->sin + position * args.turned,
                      .output = turned.data()});
  return turned;
}

// Keys or values of one head of the cache, from its first position on.
struct CacheHead {
  const uint16_t* keys;
  const uint16_t* values;
};

void Attend(const StepAttention& args, const std::vector<uint16_t>& query, const CacheHead& cache,
            int64_t first, uint16_t* output) {
  const auto wide = [&](uint16_t x) -> double { return FromSixteen(x, args.bfloat16); };
  std::vector<double> weights;
  for (int64_t j = first; j < args.position->length; ++j) {
    double score = 0;
    for (int64_t d = 0; d < args.dim; ++d)
      score += wide(query[d]) * wide(cache.keys[j * args.dim + d]);
    weights.push_back(score * args.scale);
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (int64_t d = 0; d < args.dim; ++d) {
    double value = 0;
    for (int64_t j = first; j < args.position->length; ++j) {
      value += weights[j - first] / sum * wide(cache.values[j * args.dim + d]);
    }
    output[d] = ToSixteen(static_cast<float>(value), args.bfloat16);
  }
}

}  // namespace

const char* StepAttentionReference(const StepAttention& args) {
  if (const char* error = StepAttentionError(args)) return error;
  const StepPosition& position = *args.position;
  if (position.length < 1 || position.length > position.room) return nullptr;
  const int64_t last = position.length - 1, group = args.heads / args.kv_heads;
  for (int64_t b = 0; b < args.batch; ++b) {
    const uint16_t* row = args.input + b * (args.heads + 2 * args.kv_heads) * args.dim;
    const int64_t start = args.starts == nullptr ? 0 : args.starts[b];
    const int64_t first = args.window > 0 ? std::max(start, position.length - args.window) : start;
    for (int64_t kv = 0; kv < args.kv_heads; ++kv) {
      const int64_t at = (b * args.kv_heads + kv) * position.room * args.dim;
      uint16_t* const keys = args.cache->keys + at;
      uint16_t* const values = args.cache->values + at;
      const auto key =
          Prepared(args, row + (args.heads + kv) * args.dim, args.k_norm, last - start);
      std::copy(key.begin(), key.end(), keys + last * args.dim);
      const uint16_t* value = row + (args.heads + args.kv_heads + kv) * args.dim;
      std::copy(value, value + args.dim, values + last * args.dim);
      for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
        Attend(args, Prepared(args, row + head * args.dim, args.q_norm, last - start),
               {keys, values}, first, args.output + (b * args.heads + head) * args.dim);
      }
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels
