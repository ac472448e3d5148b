// The layout and the product of gemm_w4a16.h, element by element.
#include <cstring>

#include "kernels/gemm_w4a16.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

// Where an element of the weight lies.
struct Place {
  int64_t code_byte;
  int code_shift;
  int64_t scale;  // Bytes from the start; zeros lie zero_offset further.
  int64_t zero_offset;
};

Place PlaceOf(const W4Shape& shape, int64_t row, int64_t column) {
  const bool table = IsTable(shape.kind);
  const int64_t tile = column / kW4TileColumns * W4RowTiles(shape) + row / kW4TileRows;
  const int64_t start = tile * W4TileBytes(shape);
  const int r = static_cast<int>(row % kW4TileRows);
  const int c = static_cast<int>(column % kW4TileColumns);
  const int step = c / 16;
  const int lane = r % 8 * 4 + c % 8 / 2;
  const int pair = r / 8 + c % 16 / 8 * 2;
  const int odd = c % 2;
  const int nibble = table ? pair * 2 + odd : pair + odd * 4;
  const int64_t group =
      shape.group_columns < kW4TileColumns ? c / static_cast<int>(shape.group_columns) : 0;
  const int64_t param = group * kW4TileRows + r % 8 * 2 + r / 8;
  return {.code_byte = start + step / 4 * 512 + lane * 16 + step % 4 * 4 + nibble / 2,
          .code_shift = nibble % 2 * 4,
          .scale = start + kW4CodeBytes + param * (table ? 4 : 2),
          .zero_offset = W4TileGroups(shape) * kW4TileRows * 2};
}

template <typename T>
T Load(const void* packed, int64_t offset) {
  T value;
  std::memcpy(&value, static_cast<const uint8_t*>(packed) + offset, sizeof(value));
  return value;
}

template <typename T>
void Store(void* packed, int64_t offset, T value) {
  std::memcpy(static_cast<uint8_t*>(packed) + offset, &value, sizeof(value));
}

}  // namespace

float W4Weight(const W4Shape& shape, const void* packed, int64_t row, int64_t column) {
  const Place place = PlaceOf(shape, row, column);
  const int code = Load<uint8_t>(packed, place.code_byte) >> place.code_shift & 15;
  if (IsTable(shape.kind)) return Load<float>(packed, place.scale) * W4Table(shape.kind)[code];
  const float scale = HalfToFloat(Load<uint16_t>(packed, place.scale));
  const float zero = shape.kind == W4Kind::kSymmetric
                         ? 8
                         : HalfToFloat(Load<uint16_t>(packed, place.scale + place.zero_offset));
  return scale * (static_cast<float>(code) - zero);
}

void PackW4Reference(const PackW4& args) {
  const W4Shape& shape = args.shape;
  std::memset(args.packed, 0, W4Bytes(shape));
  const int64_t groups = (shape.columns + shape.group_columns - 1) / shape.group_columns;
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t column = 0; column < shape.columns; ++column) {
      const Place place = PlaceOf(shape, row, column);
      const auto byte = Load<uint8_t>(args.packed, place.code_byte);
      Store<uint8_t>(args.packed, place.code_byte,
                     byte | args.codes[row * shape.columns + column] << place.code_shift);
      const int64_t param = row * groups + column / shape.group_columns;
      if (IsTable(shape.kind)) {
        Store<float>(args.packed, place.scale, args.table_scales[param]);
        continue;
      }
      Store<uint16_t>(args.packed, place.scale, args.scales[param]);
      if (shape.kind == W4Kind::kZeroPoint) {
        Store<uint16_t>(args.packed, place.scale + place.zero_offset, args.zeros[param]);
      }
    }
  }
}

void UnpackW4Reference(const UnpackW4& args) {
  for (int64_t row = 0; row < args.shape.rows; ++row) {
    for (int64_t column = 0; column < args.shape.columns; ++column) {
      args.weight[row * args.shape.columns + column] =
          ToSixteen(W4Weight(args.shape, args.packed, row, column), args.bfloat16);
    }
  }
}

const char* GemmW4A16Reference(const GemmW4A16& args) {
  const int64_t rows = args.shape.rows;
  const int64_t columns = args.shape.columns;
  for (int64_t m = 0; m < args.m; ++m) {
    for (int64_t row = 0; row < rows; ++row) {
      double sum = args.bias == nullptr ? 0 : FromSixteen(args.bias[row], args.bfloat16);
      for (int64_t column = 0; column < columns; ++column) {
        sum += static_cast<double>(FromSixteen(args.input[m * columns + column], args.bfloat16)) *
               W4Weight(args.shape, args.packed, row, column);
      }
      if (args.residual != nullptr) {
        sum += FromSixteen(args.residual[m * rows + row], args.bfloat16);
      }
      args.output[m * rows + row] = ToSixteen(static_cast<float>(sum), args.bfloat16);
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels
