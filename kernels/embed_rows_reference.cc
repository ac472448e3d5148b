// See embed_rows.h.
#include <algorithm>

#include "kernels/embed_rows.h"

namespace quantd::kernels {

void EmbedRowsReference(const EmbedRows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    uint16_t* const to = args.output + row * args.columns;
    const int64_t id = args.ids[row];
    if (id < 0 || id >= args.vocabulary) {
      std::fill_n(to, args.columns, uint16_t{0});
    } else {
      std::copy_n(args.table + id * args.columns, args.columns, to);
    }
  }
  if (args.position != nullptr) ++args.position->length;
}

}  // namespace quantd::kernels
