// A 64-bit buffer takes codes in and gives words out. The smallest piece that ends on a word border
// is walked for kLanes runs in turn, because packing along K writes the words of neighbouring runs
// beside each other.
#include <algorithm>
#include <numeric>

#include "kernels/multiversion.h"
#include "kernels/pack_bits.h"
#include "kernels/parallel.h"

namespace quantd::kernels {
namespace {

// Calls piece(run, first code, first word, codes in the piece) for all pieces of all runs.
template <typename Args, typename Piece>
void ForEachPiece(const Args& args, const Piece& piece) {
  const int64_t codes_per_piece = 32 / std::gcd(32, args.bits);
  const int64_t words_per_piece = codes_per_piece * args.bits / 32;
  const int64_t pieces = args.codes_per_run / codes_per_piece;
  ParallelRows(args.runs, args.runs * args.codes_per_run, [&](int64_t run_begin, int64_t run_end) {
    for (int64_t tile = run_begin; tile < run_end; tile += kLanes) {
      const int64_t tile_end = std::min<int64_t>(tile + kLanes, run_end);
      for (int64_t index = 0; index < pieces; ++index) {
        for (int64_t run = tile; run < tile_end; ++run) {
          piece(
              args.codes + run * args.run_stride + index * codes_per_piece * args.code_stride,
              args.words + run * args.words_run_stride + index * words_per_piece * args.word_stride,
              codes_per_piece);
        }
      }
    }
  });
}

}  // namespace

void PackBitsCpu(const PackBits& args) {
  ForEachPiece(args, [&](const uint8_t* codes, uint32_t* words, int64_t count) {
    uint64_t buffer = 0;
    int filled = 0;
    for (int64_t i = 0; i < count; ++i) {
      buffer |= static_cast<uint64_t>(codes[i * args.code_stride]) << filled;
      filled += args.bits;
      if (filled >= 32) {
        *words = static_cast<uint32_t>(buffer);
        words += args.word_stride;
        buffer >>= 32;
        filled -= 32;
      }
    }
  });
}

void UnpackBitsCpu(const UnpackBits& args) {
  const uint64_t mask = (uint64_t{1} << args.bits) - 1;
  ForEachPiece(args, [&](uint8_t* codes, const uint32_t* words, int64_t count) {
    uint64_t buffer = 0;
    int filled = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (filled < args.bits) {
        buffer |= static_cast<uint64_t>(*words) << filled;
        words += args.word_stride;
        filled += 32;
      }
      codes[i * args.code_stride] = static_cast<uint8_t>(buffer & mask);
      buffer >>= args.bits;
      filled -= args.bits;
    }
  });
}

}  // namespace quantd::kernels
