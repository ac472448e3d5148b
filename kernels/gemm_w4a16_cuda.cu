// Packing and unpacking of 4-bit weights, and the choice among the products.
#include "kernels/gemm_w4a16_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kThreads = 256;

// One thread a word; the first threads of a tile also write its scales.
__global__ void __launch_bounds__(kThreads) PackKernel(PackW4 args, int64_t tiles) {
  const W4Shape& shape = args.shape;
  const bool table = IsTable(shape.kind);
  const int64_t row_tiles = W4RowTiles(shape);
  const int64_t groups = (shape.columns + shape.group_columns - 1) / shape.group_columns;
  const int tile_groups = static_cast<int>(W4TileGroups(shape));
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    char* const to = static_cast<char*>(args.packed) + tile * W4TileBytes(shape);
    const int64_t first_row = tile % row_tiles * kW4TileRows;
    const int64_t first_column = tile / row_tiles * kW4TileColumns;
    const int step = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t word = 0;
    for (int nibble = 0; nibble < 8; ++nibble) {
      const int pair = table ? nibble / 2 : nibble % 4;
      const int odd = table ? nibble % 2 : nibble / 4;
      const int64_t row = first_row + lane / 4 + pair % 2 * 8;
      const int64_t column = first_column + step * 16 + lane % 4 * 2 + pair / 2 * 8 + odd;
      if (row < shape.rows && column < shape.columns) {
        word |= (args.codes[row * shape.columns + column] & 15u) << (4 * nibble);
      }
    }
    reinterpret_cast<uint32_t*>(to)[step / 4 * 128 + lane * 4 + step % 4] = word;
    if (threadIdx.x >= tile_groups * kW4TileRows) continue;
    const int place = threadIdx.x % kW4TileRows;
    const int64_t row = first_row + place / 2 + place % 2 * 8;
    const int64_t column = first_column + threadIdx.x / kW4TileRows * shape.group_columns;
    const bool inside = row < shape.rows && column < shape.columns;
    const int64_t param = row * groups + column / shape.group_columns;
    char* const params = to + kW4CodeBytes;
    if (table) {
      reinterpret_cast<float*>(params)[threadIdx.x] = inside ? args.table_scales[param] : 0;
      continue;
    }
    reinterpret_cast<uint16_t*>(params)[threadIdx.x] = inside ? args.scales[param] : 0;
    if (shape.kind == W4Kind::kZeroPoint) {
      reinterpret_cast<uint16_t*>(params)[tile_groups * kW4TileRows + threadIdx.x] =
          inside ? args.zeros[param] : 0;
    }
  }
}

// One thread a word, whose eight weights go to two rows.
template <typename Type>
__global__ void __launch_bounds__(kThreads)
    UnpackKernel(UnpackW4 args, int64_t tiles, TableValues values) {
  const W4Shape& shape = args.shape;
  const bool table = IsTable(shape.kind);
  const int64_t row_tiles = W4RowTiles(shape);
  const int tile_groups = static_cast<int>(W4TileGroups(shape));
  __shared__ float of_code[16];
  if (threadIdx.x < 16) of_code[threadIdx.x] = values.value[threadIdx.x];
  __syncthreads();
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const char* from = static_cast<const char*>(args.packed) + tile * W4TileBytes(shape);
    const char* params = from + kW4CodeBytes;
    const int64_t first_row = tile % row_tiles * kW4TileRows;
    const int64_t first_column = tile / row_tiles * kW4TileColumns;
    const int step = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t word =
        reinterpret_cast<const uint32_t*>(from)[step / 4 * 128 + lane * 4 + step % 4];
    const int group = step * tile_groups / 8;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const int64_t row = first_row + lane / 4 + pair % 2 * 8;
      const int64_t column = first_column + step * 16 + lane % 4 * 2 + pair / 2 * 8;
      if (row >= shape.rows || column >= shape.columns) continue;
      const int param = group * kW4TileRows + lane / 4 * 2 + pair % 2;
      const uint32_t codes[2] = {word >> (table ? 8 * pair : 4 * pair) & 15,
                                 word >> (table ? 8 * pair + 4 : 4 * pair + 16) & 15};
      float value[2];
      for (int i = 0; i < 2; ++i) {
        if (table) {
          value[i] = reinterpret_cast<const float*>(params)[param] * of_code[codes[i]];
          continue;
        }
        const auto* halves = reinterpret_cast<const __half*>(params);
        const float zero = shape.kind == W4Kind::kSymmetric
                               ? 8.0f
                               : __half2float(halves[tile_groups * kW4TileRows + param]);
        value[i] = __half2float(halves[param]) * (static_cast<float>(codes[i]) - zero);
      }
      // Columns are a multiple of 8, so a pair is inside as a whole and aligned.
      *reinterpret_cast<uint32_t*>(args.weight + row * shape.columns + column) =
          Type::Bits(Type::Make(value[0], value[1]));
    }
  }
}

unsigned BlocksOf(int64_t tiles) {
  constexpr int64_t kBlocksMax = 1 << 20;
  return static_cast<unsigned>(tiles < kBlocksMax ? tiles : kBlocksMax);
}

// Where there is no faster way: the inputs a few rows at a time.
const char* GemmInPieces(GemmW4A16 args) {
  // A table and the rings of many rows do not both fit where a block gets less than 128 KiB.
  constexpr int kSharedBytesForTables = 128 << 10;
  const bool crowded =
      IsTable(args.shape.kind) && CurrentGpu().shared_bytes_max < kSharedBytesForTables;
  const int64_t piece = crowded ? 1 : kW4SmallRows;
  for (int64_t left = args.m; left > 0; left -= piece) {
    args.m = left < piece ? left : piece;
    if (const char* error = GemmW4Small(args)) return error;
    args.input += args.m * args.shape.columns;
    args.output += args.m * args.shape.rows;
    if (args.residual != nullptr) args.residual += args.m * args.shape.rows;
  }
  return nullptr;
}

}  // namespace

void PackW4Cuda(const PackW4& args) {
  const int64_t tiles = W4RowTiles(args.shape) * W4ColumnTiles(args.shape);
  if (tiles > 0) PackKernel<<<BlocksOf(tiles), kThreads, 0, Stream(args)>>>(args, tiles);
}

void UnpackW4Cuda(const UnpackW4& args) {
  const int64_t tiles = W4RowTiles(args.shape) * W4ColumnTiles(args.shape);
  if (tiles == 0) return;
  TableValues values = {};
  if (IsTable(args.shape.kind)) {
    for (int code = 0; code < 16; ++code) values.value[code] = W4Table(args.shape.kind)[code];
  }
  const auto kernel = args.bfloat16 ? UnpackKernel<Bfloat> : UnpackKernel<Half>;
  kernel<<<BlocksOf(tiles), kThreads, 0, Stream(args)>>>(args, tiles, values);
}

const char* GemmW4A16Cuda(const GemmW4A16& args) {
  if (args.m == 0 || args.shape.rows == 0) return nullptr;
  if (args.shape.columns % 8 != 0) return "gemm_w4a16: the columns are not a multiple of 8";
  const Gpu& gpu = CurrentGpu();
  // Measured: up to 16 rows of input, wgmma wins where it needs no splits to occupy the GPU, where
  // there are few outputs for many columns, and at 4096 columns, which leave the small kernel's
  // teams four steps each; tables want its warps.
  const bool large = args.shape.rows >= 128 * gpu.processors;
  const bool narrow = args.shape.columns > 2 * args.shape.rows;
  const bool middle =
      !IsTable(args.shape.kind) && args.shape.columns >= 4096 && args.shape.columns < 8192;
  const bool many = args.m > kW4SmallRows || (args.m > 8 && (large || narrow || middle));
  return many && gpu.capability == 90 ? GemmW4Wgmma(args) : GemmInPieces(args);
}

}  // namespace quantd::kernels
