// How Parquet writes numbers and texts one behind the other. Every decoder stops at the end of its
// bytes with an error and never gives more values than it was asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Runs of one value and bit-packed groups of eight, `width` (0 to 32) bits each: levels and
// dictionary indices. Appends `count` values.
absl::Status DecodeRuns(absl::string_view bytes, int width, int64_t count,
                        std::vector<uint32_t>* values);

// DELTA_BINARY_PACKED: appends `count` values; `used` are the bytes that they took.
absl::Status DecodeDeltas(absl::string_view bytes, int64_t count, std::vector<int64_t>* values,
                          size_t* used);
// DELTA_LENGTH_BYTE_ARRAY.
absl::Status DecodeDeltaLengths(absl::string_view bytes, int64_t count,
                                std::vector<std::string>* values, size_t* used);
// DELTA_BYTE_ARRAY: each text shares a prefix with the one before.
absl::Status DecodeDeltaTexts(absl::string_view bytes, int64_t count,
                              std::vector<std::string>* values);

// A page's bytes by the codec's number in parquet.thrift; `size` is what the page's header says
// that it holds. Unimplemented names the codec.
absl::StatusOr<std::string> Decompress(int codec, absl::string_view bytes, size_t size);

}  // namespace quantd::engine
