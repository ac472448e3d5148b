// Differences between Unicode versions, as tables; unicode_tables.cc says where they come from.
#pragma once

#include <cstdint>
#include <vector>

namespace quantd::unicode_tables {

struct Range {
  uint32_t first;
  uint32_t last;
};

struct NewRange {
  uint32_t first;
  uint32_t last;
  const char* category;  // Two letters: "Lu".
  const char* script;    // Only the scripts that split patterns name; "" for the others.
};

struct NewCapitals {
  uint32_t first;
  uint32_t last;
  int32_t to_lower;  // Added to a capital.
};

// All sorted by code point.
const std::vector<NewRange>& NewSince14();
const std::vector<Range>& UnknownToNormalizer();
const std::vector<Range>& UnknownToPunctuation();
const std::vector<Range>& NewNumbers();
const std::vector<NewCapitals>& CapitalsSince14();

}  // namespace quantd::unicode_tables
