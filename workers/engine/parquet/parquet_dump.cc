// parquet_dump FILE: the rows as JSON lines, for tests/conformance/parquet_oracle.py.
#include <cstdio>

#include "base/file.h"
#include "workers/engine/parquet/parquet.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const absl::StatusOr<std::string> bytes = quantd::ReadFile(argv[1]);
  const absl::StatusOr<std::string> lines =
      bytes.ok() ? quantd::engine::ParquetToJsonLines(*bytes) : bytes.status();
  if (!lines.ok()) {
    std::fprintf(stderr, "%s\n", lines.status().ToString().c_str());
    return 1;
  }
  std::fwrite(lines->data(), 1, lines->size(), stdout);
  return 0;
}
