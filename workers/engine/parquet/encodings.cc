// Little-endian throughout, bits from the lowest on.
#include "workers/engine/parquet/encodings.h"

#include <snappy.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

constexpr int kUncompressed = 0, kSnappy = 1, kGzip = 2, kZstd = 6;
constexpr const char* kCodecNames[] = {"none",   "snappy", "gzip", "lzo",
                                       "brotli", "lz4",    "zstd", "lz4_raw"};
constexpr int kMiniBlocksMax = 1 << 16;
// Reads zlib's and gzip's framing, whichever there is.
constexpr int kZlibAnyFraming = 32 + MAX_WBITS;

absl::Status Early() { return absl::DataLossError("a page's values end early"); }

absl::StatusOr<uint64_t> TakeVarint(absl::string_view* bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    if (bytes->empty()) return Early();
    const auto byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << std::min(shift, 63);
    if (byte < 0x80) return value;
  }
  return absl::DataLossError("a number in a page has no end");
}

int64_t ZigZag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

// The `index`th value of `width` bits; the bytes are there.
uint64_t Bits(absl::string_view bytes, int64_t index, int width) {
  uint64_t value = 0;
  const int64_t first = index * width;
  for (int done = 0; done < width;) {
    const int64_t bit = first + done;
    const auto byte = static_cast<uint8_t>(bytes[static_cast<size_t>(bit / 8)]);
    const int offset = static_cast<int>(bit % 8);
    const int take = std::min(8 - offset, width - done);
    const uint64_t part = (byte >> offset) & ((1u << take) - 1);
    value |= part << done;
    done += take;
  }
  return value;
}

absl::StatusOr<std::string> Inflate(absl::string_view bytes, size_t size) {
  std::string out(size, '\0');
  z_stream stream{};
  if (inflateInit2(&stream, kZlibAnyFraming) != Z_OK) {
    return absl::ResourceExhaustedError("no memory to decompress a page");
  }
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int code = inflate(&stream, Z_FINISH);
  const size_t got = stream.total_out;
  inflateEnd(&stream);
  if (code != Z_STREAM_END || got != size) return absl::DataLossError("a gzip page is damaged");
  return out;
}

}  // namespace

absl::Status DecodeRuns(absl::string_view bytes, int width, int64_t count,
                        std::vector<uint32_t>* values) {
  if (width < 0 || width > 32) return absl::DataLossError("a page's bit width is out of range");
  while (count > 0) {
    QD_ASSIGN_OR_RETURN(const uint64_t head, TakeVarint(&bytes));
    const auto run = static_cast<int64_t>(std::min<uint64_t>(head >> 1, uint64_t{1} << 40));
    if ((head & 1) == 0) {
      const auto value_bytes = static_cast<size_t>((width + 7) / 8);
      if (bytes.size() < value_bytes || run == 0) return Early();
      uint32_t value = 0;
      for (size_t i = 0; i < value_bytes; ++i) {
        value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
      }
      bytes.remove_prefix(value_bytes);
      const int64_t take = std::min(run, count);
      values->insert(values->end(), static_cast<size_t>(take), value);
      count -= take;
      continue;
    }
    // The last group may be cut where its values end.
    const int64_t take = std::min(run * 8, count);
    const auto needed = static_cast<size_t>((take * width + 7) / 8);
    if (bytes.size() < needed || run == 0) return Early();
    for (int64_t i = 0; i < take; ++i) {
      values->push_back(static_cast<uint32_t>(Bits(bytes, i, width)));
    }
    bytes.remove_prefix(std::min(bytes.size(), static_cast<size_t>(run * width)));
    count -= take;
  }
  return absl::OkStatus();
}

absl::Status DecodeDeltas(absl::string_view bytes, int64_t count, std::vector<int64_t>* values,
                          size_t* used) {
  const size_t whole = bytes.size();
  QD_ASSIGN_OR_RETURN(const uint64_t block, TakeVarint(&bytes));
  QD_ASSIGN_OR_RETURN(const uint64_t minis, TakeVarint(&bytes));
  QD_ASSIGN_OR_RETURN(const uint64_t total, TakeVarint(&bytes));
  QD_ASSIGN_OR_RETURN(const uint64_t first, TakeVarint(&bytes));
  if (minis == 0 || minis > kMiniBlocksMax || block % minis != 0 || block / minis % 8 != 0 ||
      block > (uint64_t{1} << 32) || total < static_cast<uint64_t>(count)) {
    return absl::DataLossError("a page of differences has a damaged head");
  }
  const auto per_mini = static_cast<int64_t>(block / minis);
  // Differences wrap around by definition.
  auto value = static_cast<uint64_t>(ZigZag(first));
  auto left = static_cast<int64_t>(total);
  int64_t wanted = count;
  if (left > 0 && wanted > 0) {
    values->push_back(static_cast<int64_t>(value));
    --wanted;
  }
  for (--left; left > 0;) {
    QD_ASSIGN_OR_RETURN(const uint64_t least, TakeVarint(&bytes));
    if (bytes.size() < minis) return Early();
    const absl::string_view widths = bytes.substr(0, minis);
    bytes.remove_prefix(minis);
    for (size_t mini = 0; mini < minis && left > 0; ++mini) {
      const int width = static_cast<uint8_t>(widths[mini]);
      const auto mini_bytes = static_cast<size_t>(per_mini / 8 * width);
      if (width > 64 || bytes.size() < mini_bytes) return Early();
      for (int64_t i = 0; i < per_mini && left > 0; ++i, --left) {
        value += static_cast<uint64_t>(ZigZag(least)) + Bits(bytes, i, width);
        if (wanted-- > 0) values->push_back(static_cast<int64_t>(value));
      }
      bytes.remove_prefix(mini_bytes);
    }
  }
  *used = whole - bytes.size();
  return absl::OkStatus();
}

absl::Status DecodeDeltaLengths(absl::string_view bytes, int64_t count,
                                std::vector<std::string>* values, size_t* used) {
  std::vector<int64_t> lengths;
  QD_RETURN_IF_ERROR(DecodeDeltas(bytes, count, &lengths, used));
  for (const int64_t length : lengths) {
    if (length < 0 || static_cast<uint64_t>(length) > bytes.size() - *used) return Early();
    values->emplace_back(bytes.substr(*used, static_cast<size_t>(length)));
    *used += static_cast<size_t>(length);
  }
  return absl::OkStatus();
}

absl::Status DecodeDeltaTexts(absl::string_view bytes, int64_t count,
                              std::vector<std::string>* values) {
  std::vector<int64_t> prefixes;
  size_t used = 0, more = 0;
  QD_RETURN_IF_ERROR(DecodeDeltas(bytes, count, &prefixes, &used));
  std::vector<std::string> ends;
  QD_RETURN_IF_ERROR(DecodeDeltaLengths(bytes.substr(used), count, &ends, &more));
  std::string last;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (prefixes[i] < 0 || static_cast<uint64_t>(prefixes[i]) > last.size()) return Early();
    last = absl::StrCat(last.substr(0, static_cast<size_t>(prefixes[i])), ends[i]);
    values->push_back(last);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Decompress(int codec, absl::string_view bytes, size_t size) {
  switch (codec) {
    case kUncompressed:
      if (bytes.size() != size) return absl::DataLossError("a page has not the size that it says");
      return std::string(bytes);
    case kSnappy: {
      size_t says = 0;
      std::string out(size, '\0');
      if (!snappy::GetUncompressedLength(bytes.data(), bytes.size(), &says) || says != size ||
          !snappy::RawUncompress(bytes.data(), bytes.size(), out.data())) {
        return absl::DataLossError("a snappy page is damaged");
      }
      return out;
    }
    case kGzip:
      return Inflate(bytes, size);
    case kZstd: {
      std::string out(size, '\0');
      const size_t got = ZSTD_decompress(out.data(), out.size(), bytes.data(), bytes.size());
      if (ZSTD_isError(got) != 0 || got != size) {
        return absl::DataLossError("a zstd page is damaged");
      }
      return out;
    }
    default: {
      const bool known = codec > 0 && codec < static_cast<int>(std::size(kCodecNames));
      return absl::UnimplementedError(absl::StrCat("is compressed with ",
                                                   known ? kCodecNames[codec] : "an unknown codec",
                                                   "; none, snappy, gzip and zstd are read"));
    }
  }
}

}  // namespace quantd::engine
