// Few rows of input (up to 16), where reading the weights is all the time there is. Weights are the
// left operand of mma.sync and the inputs the right one, so that 8 rows of input cost one
// instruction per 16 x 16 weights and sums are float32.
//
// Each block owns a run of row tiles and all of the columns, which its warps take in turn: there is
// nothing to add up across blocks. A warp copies its tiles and its piece of the inputs into a ring
// of its own, several steps ahead, and needs no other warp until its rows are complete.
#include "kernels/gemm_w4a16_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kWarps = 8;
constexpr int kPassTiles = 4;  // Row tiles that one read of the inputs serves.
constexpr int kStagesMax = 8;
constexpr int kInputRowBytes = kW4TileColumns * 2 + 16;  // Padded: rows start in different banks.
constexpr int kZeroRowBytes = kW4TileColumns * 2;
constexpr int kSumsBytes = kWarps * kPassTiles * 4 * 32 * 4;

struct Plan {
  int stages;
  int pass_tiles;   // 1 ... kPassTiles
  int tile_bytes;
  int stage_bytes;  // Of one warp.
  int row_tiles;
  int column_tiles;
  int tile_groups;
};

// A warp's next piece of work: some row tiles at one column tile.
struct Cursor {
  int pass;
  int column_tile;
};

__device__ inline void Advance(Cursor& cursor, int warp, const Plan& plan) {
  cursor.column_tile += kWarps;
  if (cursor.column_tile >= plan.column_tiles) {
    cursor.column_tile = warp;
    ++cursor.pass;
  }
}

// Row tiles of this block, split into passes as equal as they can be.
struct Rows {
  int begin;
  int count;
  int passes;
  __device__ int First(int pass) const { return begin + count * pass / passes; }
};

__device__ inline Rows RowsOfBlock(const Plan& plan) {
  const auto blocks = static_cast<int64_t>(gridDim.x);
  const int begin = static_cast<int>(plan.row_tiles * static_cast<int64_t>(blockIdx.x) / blocks);
  const int end = static_cast<int>(plan.row_tiles * static_cast<int64_t>(blockIdx.x + 1) / blocks);
  const int count = end - begin;
  return {begin, count, (count + plan.pass_tiles - 1) / plan.pass_tiles};
}

__device__ inline void FetchTiles(const GemmW4A16& args, const Plan& plan, const Rows& rows,
                                  const Cursor& cursor, uint32_t stage) {
  const int lane = threadIdx.x % 32;
  const int end = rows.First(cursor.pass + 1);
  for (int tile = rows.First(cursor.pass); tile < end; ++tile, stage += plan.tile_bytes) {
    const int64_t index =
        (static_cast<int64_t>(tile / 4) * plan.column_tiles + cursor.column_tile) * 4 + tile % 4;
    const char* from = static_cast<const char*>(args.packed) + index * plan.tile_bytes;
    for (int piece = lane * 16; piece < plan.tile_bytes; piece += 32 * 16) {
      CopyAsync16(stage + piece, from + piece);
    }
  }
}

__device__ inline void FetchInput(const GemmW4A16& args, int column_tile, uint32_t stage) {
  const int lane = threadIdx.x % 32;
  const int64_t column = column_tile * kW4TileColumns + lane % 16 * 8;
  const int bytes = column < args.shape.columns ? 16 : 0;  // 0: zeros are written.
  const uint16_t* from = bytes == 0 ? args.input : args.input + column;
  for (int row = lane / 16; row < args.m; row += 2) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     stage + row * kInputRowBytes + lane % 16 * 16),
                 "l"(bytes == 0 ? from : from + row * args.shape.columns), "r"(bytes));
  }
}

template <W4Kind kKind>
constexpr bool kTable = kKind == W4Kind::kNf4;

// One tile: 16 rows x 128 columns times the inputs in `b`.
template <W4Kind kKind, typename Type, int kInputTiles>
__device__ inline void MultiplyTile(const char* tile, int tile_groups, const uint32_t* table,
                                    const uint32_t (&b)[kInputTiles][8][2],
                                    float (&sums)[kInputTiles][4]) {
  const int lane = threadIdx.x % 32;
  uint32_t words[8];
  *reinterpret_cast<uint4*>(words) = *reinterpret_cast<const uint4*>(tile + lane * 16);
  *reinterpret_cast<uint4*>(words + 4) = *reinterpret_cast<const uint4*>(tile + 512 + lane * 16);
  const char* params = tile + kW4CodeBytes;
  float part[kInputTiles][4];
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    const int group = quarter * tile_groups / 4;
    const bool begins = quarter * tile_groups % 4 == 0;
    const bool ends = (quarter + 1) * tile_groups % 4 == 0;
    if (begins) {
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) part[i][0] = part[i][1] = part[i][2] = part[i][3] = 0;
    }
    typename Type::Pair zero[2];
    if constexpr (kKind == W4Kind::kZeroPoint) {
      const half2 zeros = *reinterpret_cast<const half2*>(
          params + (tile_groups + group) * kW4TileRows * 2 + lane / 4 * 4);
      zero[0] = Type::Both(__low2float(zeros));
      zero[1] = Type::Both(__high2float(zeros));
    }
#pragma unroll
    for (int step = quarter * 2; step < quarter * 2 + 2; ++step) {
      uint32_t a[4];
      if constexpr (kTable<kKind>) {
        DecodeWord(words[step], table + lane, a);
      } else {
        DecodeWord<kKind>(words[step], zero, a, Type());
      }
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) Type::Multiply(part[i], a, b[i][step][0], b[i][step][1]);
    }
    if (ends) {
      float scale[2];
      if constexpr (kTable<kKind>) {
        *reinterpret_cast<float2*>(scale) = *reinterpret_cast<const float2*>(
            params + group * kW4TileRows * 4 + lane / 4 * 8);
      } else {
        const half2 scales = *reinterpret_cast<const half2*>(
            params + group * kW4TileRows * 2 + lane / 4 * 4);
        scale[0] = __low2float(scales);
        scale[1] = __high2float(scales);
      }
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = __fmaf_rn(scale[j / 2], part[i][j], sums[i][j]);
      }
    }
  }
}

// The right operands of one column tile for all steps, out of the inputs' rows in shared memory.
template <int kInputTiles>
__device__ inline void LoadInputs(uint32_t input, uint32_t zero_row, int m,
                                  uint32_t (&b)[kInputTiles][8][2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
    const int row = i * 8 + lane % 8;
    const uint32_t address = (row < m ? input + row * kInputRowBytes : zero_row) + lane / 8 * 16;
#pragma unroll
    for (int step = 0; step < 8; step += 2) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(b[i][step][0]), "=r"(b[i][step][1]), "=r"(b[i][step + 1][0]),
                     "=r"(b[i][step + 1][1])
                   : "r"(address + step * 32));
    }
  }
}

// Adds the warps' sums of one pass in their order, and writes the outputs.
template <typename Type, int kInputTiles>
__device__ inline void FinishPass(const GemmW4A16& args, const Rows& rows, int pass,
                                  float (&sums)[kPassTiles][kInputTiles][4], float* shared) {
  const int first = rows.First(pass);
  const int count = rows.First(pass + 1) - first;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
    for (int tile = 0; tile < kPassTiles; ++tile) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        shared[((warp * kPassTiles + tile) * 4 + j) * 32 + threadIdx.x % 32] = sums[tile][i][j];
        sums[tile][i][j] = 0;
      }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < count * 128; item += kWarps * 32) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += shared[other * kPassTiles * 128 + item];
      const int lane = item % 32;
      const int j = item / 32 % 4;
      const int64_t row = (first + item / 128) * kW4TileRows + lane / 4 + j / 2 * 8;
      const int64_t m = i * 8 + lane % 4 * 2 + j % 2;
      if (row < args.shape.rows && m < args.m) {
        const int64_t place = m * args.shape.rows + row;
        if (args.bias != nullptr) sum += Type::ToFloat(args.bias[row]);
        if (args.residual != nullptr) sum += Type::ToFloat(args.residual[place]);
        args.output[place] = Type::FromFloat(sum);
      }
    }
    __syncthreads();
  }
}

// Until at most stages - 2 copies are on their way; their number is known only at run time.
__device__ inline void WaitForStage(int stages) {
  switch (stages) {
    case 2: return CopyAsyncWait<0>();
    case 3: return CopyAsyncWait<1>();
    case 4: return CopyAsyncWait<2>();
    case 5: return CopyAsyncWait<3>();
    case 6: return CopyAsyncWait<4>();
    case 7: return CopyAsyncWait<5>();
    default: return CopyAsyncWait<6>();
  }
}

// Shared memory: sums | zero row | table | rings.
template <W4Kind kKind, typename Type, int kInputTiles>
__global__ void __launch_bounds__(kWarps * 32, 1)
    SmallKernel(GemmW4A16 args, Plan plan, TableValues values) {
  extern __shared__ __align__(128) char shared[];
  char* const zero_row = shared + kSumsBytes;
  auto* const table = reinterpret_cast<uint32_t*>(zero_row + kZeroRowBytes);
  const int warp = threadIdx.x / 32;
  char* const ring = zero_row + kZeroRowBytes + (kTable<kKind> ? kTableBytes : 0) +
                     warp * plan.stages * plan.stage_bytes;
  const uint32_t ring_address = SharedAddress(ring);
  const int input_offset = plan.pass_tiles * plan.tile_bytes;
  const Rows rows = RowsOfBlock(plan);

  Cursor ahead = {warp < plan.column_tiles ? 0 : rows.passes, warp};
  const auto fetch = [&](int stage) {
    if (ahead.pass < rows.passes) {
      const uint32_t address = ring_address + stage * plan.stage_bytes;
      FetchTiles(args, plan, rows, ahead, address);
      FetchInput(args, ahead.column_tile, address + input_offset);
      Advance(ahead, warp, plan);
    }
    CopyAsyncCommit();
  };
  for (int stage = 0; stage < plan.stages - 1; ++stage) fetch(stage);
  for (int i = threadIdx.x; i < kZeroRowBytes / 4; i += kWarps * 32) {
    reinterpret_cast<uint32_t*>(zero_row)[i] = 0;
  }
  if constexpr (kTable<kKind>) FillTable<Type>(table, values);
  __syncthreads();

  float sums[kPassTiles][kInputTiles][4] = {};
  int stage = 0;
  for (int pass = 0; pass < rows.passes; ++pass) {
    const int count = rows.First(pass + 1) - rows.First(pass);
    for (int column_tile = warp; column_tile < plan.column_tiles; column_tile += kWarps) {
      WaitForStage(plan.stages);
      __syncwarp();
      fetch(stage == 0 ? plan.stages - 1 : stage - 1);
      const char* tiles = ring + stage * plan.stage_bytes;
      uint32_t b[kInputTiles][8][2];
      LoadInputs<kInputTiles>(SharedAddress(tiles + input_offset), SharedAddress(zero_row),
                              static_cast<int>(args.m), b);
#pragma unroll
      for (int tile = 0; tile < kPassTiles; ++tile) {
        if (tile < count) {
          MultiplyTile<kKind, Type, kInputTiles>(tiles + tile * plan.tile_bytes, plan.tile_groups,
                                                 table, b, sums[tile]);
        }
      }
      stage = stage + 1 == plan.stages ? 0 : stage + 1;
    }
    FinishPass<Type, kInputTiles>(args, rows, pass, sums, reinterpret_cast<float*>(shared));
  }
}

using Kernel = void (*)(GemmW4A16, Plan, TableValues);

template <W4Kind kKind>
Kernel Choose(bool bfloat16, bool two) {
  if (bfloat16) return two ? SmallKernel<kKind, Bfloat, 2> : SmallKernel<kKind, Bfloat, 1>;
  return two ? SmallKernel<kKind, Half, 2> : SmallKernel<kKind, Half, 1>;
}

}  // namespace

const char* GemmW4Small(const GemmW4A16& args) {
  const W4Shape& shape = args.shape;
  const Gpu& gpu = CurrentGpu();
  Plan plan = {.tile_bytes = static_cast<int>(W4TileBytes(shape)),
               .row_tiles = static_cast<int>((shape.rows + kW4TileRows - 1) / kW4TileRows),
               .column_tiles = static_cast<int>(W4ColumnTiles(shape)),
               .tile_groups = static_cast<int>(W4TileGroups(shape))};
  const int blocks = plan.row_tiles < gpu.processors ? plan.row_tiles : gpu.processors;
  const int per_block = (plan.row_tiles + blocks - 1) / blocks;
  const int fixed = kSumsBytes + kZeroRowBytes + (IsTable(shape.kind) ? kTableBytes : 0);
  // As many row tiles at a time as leave room for three stages.
  for (plan.pass_tiles = per_block < kPassTiles ? per_block : kPassTiles;; --plan.pass_tiles) {
    plan.stage_bytes =
        plan.pass_tiles * plan.tile_bytes + static_cast<int>(args.m) * kInputRowBytes;
    plan.stages = (gpu.shared_bytes_max - fixed) / (kWarps * plan.stage_bytes);
    if (plan.stages >= 3 || plan.pass_tiles == 1) break;
  }
  if (plan.stages < 2) return "too little shared memory for gemm_w4a16";
  if (plan.stages > kStagesMax) plan.stages = kStagesMax;
  const bool two = args.m > 8;
  Kernel kernel;
  TableValues values = {};
  if (shape.kind == W4Kind::kSymmetric) {
    kernel = Choose<W4Kind::kSymmetric>(args.bfloat16, two);
  } else if (shape.kind == W4Kind::kZeroPoint) {
    kernel = Choose<W4Kind::kZeroPoint>(args.bfloat16, two);
  } else {
    kernel = Choose<W4Kind::kNf4>(args.bfloat16, two);
    for (int code = 0; code < 16; ++code) values.value[code] = W4Table(shape.kind)[code];
  }
  const int shared_bytes = fixed + kWarps * plan.stages * plan.stage_bytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  kernel<<<blocks, kWarps * 32, shared_bytes, Stream(args)>>>(args, plan, values);
  return nullptr;
}

}  // namespace quantd::kernels
