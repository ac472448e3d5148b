// The attention of a decode step: one new token of each sequence over contiguous caches of keys and
// values, with what goes before it in a decoder: norms of queries and keys, rotary embedding, and
// the new token's place in the cache. Where the caches end is read from the device's memory, so
// that one captured launch serves every length.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// What all layers of a step share. Lies in the device's memory.
struct StepPosition {
  int64_t length = 0;             // Keys of each sequence, padding and this step's token included.
  int64_t room = 0;               // Positions that the caches hold.
  const uint16_t* cos = nullptr;  // [room, turned], as for rope_heads.h. Null: nothing turns.
  const uint16_t* sin = nullptr;
};
// One layer's caches, [batch, kv_heads, room, dim] each. Lies in the device's memory.
struct StepCache {
  uint16_t* keys = nullptr;
  uint16_t* values = nullptr;
};

// For each sequence b, with p = length - 1 and q, k, v the heads in row b of input:
//
//   q, k: normed as norm_rows.h (plus_one false) with q_norm and k_norm [dim] where they are given;
//         turned as rope_heads.h with the table's row p - starts[b]
//   keys[b, :, p] = k, values[b, :, p] = v
//   output[b, h] = T(sum over j of softmax(scale * q[h] * keys[b, h / group, j]) values[b, .., j]),
//                  j from max(starts[b], length - window) to p; group = heads / kv_heads
//
// The new keys and values are bit for bit those of the other variants but for the norm; scores and
// sums are float32, so that without norms, with s = scale * dim * 2^-23 * max over j of
// sum |q| |keys[j]| and e = 4 s + 2^-19 + length 2^-22
//
//   |output - exact| <= 2 e max |values| + u |output|
//
// dim and turned / 2 are multiples of 8, dim at most 256, heads / kv_heads at most 8; starts null:
// 0. Nothing is written where length is not in 1 ... room. `scratch` has StepScratchBytes, zeros
// before the first call, and is left so that the next call can use it; no two may at once.
// `splits`: parts of the keys that work side by side, 1 to 64. input is [batch, (heads + 2
// kv_heads) dim], 16-byte aligned like all else. The work before it on the stream may still write
// input, and read the caches; all else, but for what the launch before of this kernel appended,
// must have been written when that work began. Returns an error's text, or null.
struct StepAttention {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t dim = 0;
  int64_t turned = 0;
  bool bfloat16 = false;
  float scale = 1;
  int64_t window = 0;  // 0: none.
  const uint16_t* input = nullptr;
  const uint16_t* q_norm = nullptr;
  const uint16_t* k_norm = nullptr;
  float eps = 0;
  const StepPosition* position = nullptr;
  const StepCache* cache = nullptr;
  const int64_t* starts = nullptr;  // [batch]
  uint16_t* output = nullptr;       // [batch, heads * dim]
  void* scratch = nullptr;          // cuda only.
  int splits = 1;
  void* stream = nullptr;  // cuda only.
};

constexpr int64_t kStepGroupMax = 8;
constexpr int64_t kStepDimMax = 256;
constexpr int kStepSplitsMax = 64;

inline int64_t StepScratchBytes(const StepAttention& args) {
  // Of each part and head: values, their weight and the largest score; and a counter a cache head.
  return args.batch * (args.splits * args.heads * (args.dim + 2) + args.kv_heads) * 4;
}
// What is wrong with the sizes, or null.
inline const char* StepAttentionError(const StepAttention& args) {
  if (args.kv_heads < 1 || args.heads % args.kv_heads != 0 ||
      args.heads / args.kv_heads > kStepGroupMax) {
    return "step_attention: heads are not 1 to 8 times the heads of the cache";
  }
  if (args.dim % 8 != 0 || args.dim < 8 || args.dim > kStepDimMax || args.turned % 16 != 0 ||
      args.turned > args.dim) {
    return "step_attention: a head's size is not a multiple of 8 up to 256, or what turns of it "
           "not "
           "one of 16";
  }
  if (args.splits < 1 || args.splits > kStepSplitsMax) return "step_attention: 1 to 64 splits";
  return nullptr;
}

const char* StepAttentionReference(const StepAttention& args);

}  // namespace quantd::kernels
