// Parquet from small files that pyarrow wrote (parquet_oracle.py compares with it at length), and
// damaged copies of them.
#include "workers/engine/parquet/parquet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/escaping.h"
#include "workers/engine/parquet/encodings.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Nulls, empty lists and a list in a structure; snappy, dictionary pages.
constexpr char kNested[] =
    "UEFSMRUEFR4VIkwVBhUAEgAADzgBAAAAYQEAAABiAQAAAGMVABUUFRgsFQYVEBUGFQYcAAAACiQCAAAABgECAyQAFQQV"
    "IBUkTBUEFQASAAAQPAEAAAAAAAAA+f////////8VABUSFRYsFQYVEBUGFQYcAAAACSACAAAAAwUBAwIVBBUUFRhMFQQV"
    "ABIAAAokAQAAAHgBAAAAeRUAFSIVJiwVCBUQFQYVBhwAAAARQAIAAAADAgQAAAADpAAAAQMCFQQVFhUaTBUEFQASAAAL"
    "KAEAAAB4AgAAAMOpFQAVIBUkLBUKFRAVBhUGHAAAABA8AgAAAAMYAwAAAAO0AwEDAhUEGaw1ABgGc2NoZW1hFQgAFQwl"
    "AhgCaWQlAEwcAAAAFQQlAhgBbgA1AhgHY2hvaWNlcxUCADUCGAR0ZXh0FQIVBkw8AAAANQQYBGxpc3QVAgAVDCUCGAdl"
    "bGVtZW50JQBMHAAAADUCGAR0YWdzFQIVBkw8AAAANQQYBGxpc3QVAgAVDCUCGAdlbGVtZW50JQBMHAAAABYGGRwZTCYA"
    "HBUMGTUABhAZGAJpZBUCFgYWdBZ8JkYmCCksFQQVABUCABUAFRAVAgA8FgYZBhkmAAYAAAAmABwVBBk1AAYQGRgBbhUC"
    "FgYWdBZ8JsQBJoQBKSwVBBUAFQIAFQAVEBUCADwpBhkmAgQAAAAmABwVDBk1AAYQGUgHY2hvaWNlcwR0ZXh0BGxpc3QH"
    "ZWxlbWVudBUCFggWeBaAASa0AiaAAiksFQQVABUCABUAFRAVAgA8FgQZJgYCGVYCAAIABAAAACYAHBUMGTUABhAZOAR0"
    "YWdzBGxpc3QHZWxlbWVudBUCFgoWeBaAASa2AyaAAyksFQQVABUCABUAFRAVAgA8FgYZJgYEGUYCAgIEAAAAFtgDFgYm"
    "CBb4AwAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4xGUwcAAAcAAAcAAAcAAAA6AEAAFBBUjE=";
constexpr char kNestedRows[] = R"(
[{"id": "a", "n": 1, "choices": {"text": ["x", "y"]}, "tags": null},
 {"id": "b", "n": null, "choices": {"text": []}, "tags": []},
 {"id": "c", "n": -7, "choices": null, "tags": ["x", null, "é"]}])";

TEST(Parquet, NestedRows) {
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(kNested, &bytes));
  EXPECT_TRUE(IsParquet(bytes));
  const auto rows = ReadParquetRows(bytes);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(json(*rows), json::parse(kNestedRows));
  EXPECT_EQ(*ParquetToText(bytes, "id"), "a\nb\nc\n");
  const auto none = ParquetToText(bytes, "text");
  EXPECT_TRUE(absl::IsInvalidArgument(none.status()));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("choices, id, n, tags"));
}

TEST(Parquet, DamageIsAnError) {
  std::string whole;
  ASSERT_TRUE(absl::Base64Unescape(kNested, &whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ReadParquetRows(whole.substr(0, size)).ok()) << size;
  }
  const unsigned seed = 5;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    refused += ReadParquetRows(bytes).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

TEST(Encodings, RunsAndPackedGroups) {
  std::vector<uint32_t> values;
  // Five threes as a run; then the eight values 0 to 7 in three bits each.
  ASSERT_TRUE(DecodeRuns("\x0a\x03\x03\x88\xc6\xfa", 3, 13, &values).ok());
  EXPECT_THAT(values, ElementsAre(3, 3, 3, 3, 3, 0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_FALSE(DecodeRuns("\x0a", 3, 5, &values).ok());
  EXPECT_FALSE(DecodeRuns("", 3, 1, &values).ok());
  EXPECT_FALSE(DecodeRuns("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 3, 1, &values).ok());
  EXPECT_FALSE(DecodeRuns("\x0a\x03", 33, 5, &values).ok());
}

TEST(Encodings, DecompressSaysWhatItCannot) {
  EXPECT_EQ(*Decompress(0, "abc", 3), "abc");
  EXPECT_TRUE(absl::IsDataLoss(Decompress(0, "abc", 4).status()));
  for (const int codec : {1, 2, 6}) {
    EXPECT_TRUE(absl::IsDataLoss(Decompress(codec, "abc", 3).status())) << codec;
  }
  EXPECT_THAT(std::string(Decompress(4, "abc", 3).status().message()), HasSubstr("brotli"));
}

}  // namespace
}  // namespace quantd::engine
