// Few rows of input (up to 16), where reading the weights is all the time there is. Weights are the
// left operand of mma.sync and the inputs the right one, so that 8 rows of input cost one
// instruction per 16 x 16 weights and sums are float32.
//
// Each block owns a run of row tiles and all of the columns, which its teams of warps take in turn:
// there is nothing to add up across blocks. A team copies its tiles and its piece of the inputs
// into a ring of its own, several steps ahead, and needs no other team until its rows are complete.
#include "kernels/gemm_w4a16_cuda.cuh"
#include "kernels/ring_cuda.cuh"

namespace quantd::kernels {
namespace {

constexpr int kWarps = 16;
constexpr int kPassTiles = 4;  // Row tiles that one read of the inputs serves.
constexpr int kStagesMax = 8;
constexpr int kInputRowBytes = kW4TileColumns * 2 + 16;  // Padded: rows start in different banks.
constexpr int kZeroRowBytes = kW4TileColumns * 2;
constexpr int kSumTeams = 4;
constexpr int kSumsBytes = kSumTeams * kPassTiles * 4 * 32 * 4;
constexpr int kBarrierBytes = kWarps * kStagesMax * 8;

// Warps of a team, which share its ring and split the row tiles: with 16 rows of input, rings with
// room for them would not fit 16 times.
template <int kInputTiles>
constexpr int kTeam = kInputTiles;

struct Plan {
  int stages;
  int pass_tiles;  // 1 ... kPassTiles
  int tile_bytes;
  int stage_bytes;
  int row_tiles;         // That hold rows,
  int row_tiles_stored;  // and with padding.
  int column_tiles;
};

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

// What a team copies next; one warp of the team does it.
template <int kTeams>
struct Feeder {
  const GemmW4A16& args;
  const Plan& plan;
  const Rows& rows;
  int team;
  uint32_t ring;      // Address of the team's ring,
  uint32_t barriers;  // and of its barriers, one a stage.
  int pass = 0;
  int column_tile = 0;
  const char* weights = nullptr;
  const uint16_t* input = nullptr;  // This lane's 16 bytes of the first row it copies.

  __device__ void BeginPass() {
    const int lane = threadIdx.x % 32;
    column_tile = team;
    if (pass >= rows.passes) return;
    weights =
        static_cast<const char*>(args.packed) +
        (static_cast<int64_t>(team) * plan.row_tiles_stored + rows.First(pass)) * plan.tile_bytes;
    input = args.input + lane / 16 * args.shape.columns + team * kW4TileColumns + lane % 16 * 8;
  }

  __device__ bool Done() const { return pass >= rows.passes || team >= plan.column_tiles; }

  __device__ void FetchWeights(int stage) const {
    if (Done()) return;
    const int lane = threadIdx.x % 32;
    const int bytes = (rows.First(pass + 1) - rows.First(pass)) * plan.tile_bytes;
    const uint32_t to = ring + stage * plan.stage_bytes;
    if constexpr (QD_BULK_COPIES) {
      if (lane == 0) {
        BarrierExpect(barriers + stage * 8, bytes);
        BulkCopy(to, weights, bytes, barriers + stage * 8);
      }
    } else {
      for (int piece = lane * 16; piece < bytes; piece += 32 * 16) {
        CopyAsync16(to + piece, weights + piece);
      }
    }
  }

  __device__ void FetchInput(int stage) const {
    if (!Done()) {
      const int lane = threadIdx.x % 32;
      const uint32_t to = ring + stage * plan.stage_bytes + plan.pass_tiles * plan.tile_bytes +
                          lane / 16 * kInputRowBytes + lane % 16 * 16;
      const int m = static_cast<int>(args.m);
      const bool inside = column_tile * kW4TileColumns + lane % 16 * 8 < args.shape.columns;
      const uint16_t* from = input;
      // Beyond the last column there must be zeros: what lay there before may be no number.
      for (int row = lane / 16; row < m; row += 2, from += 2 * args.shape.columns) {
        CopyAsync16OrZero(to + (row - lane / 16) * kInputRowBytes, inside ? from : args.input,
                          inside);
      }
      if constexpr (QD_BULK_COPIES) BarrierArriveAfterCopies(barriers + stage * 8);
    }
    if constexpr (!QD_BULK_COPIES) CopyAsyncCommit();
  }

  __device__ void Advance() {
    if (Done()) return;
    weights += static_cast<int64_t>(kTeams) * plan.row_tiles_stored * plan.tile_bytes;
    input += kTeams * kW4TileColumns;
    column_tile += kTeams;
    if (column_tile >= plan.column_tiles) {
      ++pass;
      BeginPass();
    }
  }

  __device__ void Fetch(int stage) {
    FetchWeights(stage);
    FetchInput(stage);
    Advance();
  }

  // The stage's bytes are there; with cp.async only as far as this warp copied them.
  __device__ void Wait(int stage, uint32_t parity) const {
    if constexpr (QD_BULK_COPIES) {
      BarrierWait(barriers + stage * 8, parity);
    } else {
      CopyAsyncWait(plan.stages - 2);
    }
  }
};

// All warps of the team are here, and see what each has seen.
template <int kTeamWarps>
__device__ inline void SyncTeam() {
  if constexpr (kTeamWarps == 1) {
    __syncwarp();
  } else {
    const int team = threadIdx.x / (kTeamWarps * 32);
    asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "n"(kTeamWarps * 32) : "memory");
  }
}

template <W4Kind kKind>
constexpr bool kTable = kKind == W4Kind::kNf4;

// kTiles row tiles (16 x 128 each) times the inputs, of which `input` is this lane's address for
// ldmatrix. Their instructions are independent, which hides
// what each has to wait for.
template <W4Kind kKind, typename Type, int kInputTiles, int kGroups, int kTiles>
__device__ inline void MultiplyTiles(const char* tiles, int tile_bytes, const uint32_t* table,
                                     const uint32_t (&input)[kInputTiles],
                                     float (*sums)[kInputTiles][4]) {
  const int lane = threadIdx.x % 32;
  float part[kTiles][kInputTiles][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t words[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      *reinterpret_cast<uint4*>(words[tile]) =
          *reinterpret_cast<const uint4*>(tiles + tile * tile_bytes + half * 512 + lane * 16);
    }
    uint32_t b[kInputTiles][4][2];
#pragma unroll
    for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
      for (int step = 0; step < 4; step += 2) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(b[i][step][0]), "=r"(b[i][step][1]), "=r"(b[i][step + 1][0]),
                       "=r"(b[i][step + 1][1])
                     : "r"(input[i] + (half * 4 + step) * 32));
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      constexpr int kSteps = 8 / kGroups;  // Of one group.
      const int place = half * 4 + step;
      const int group = place / kSteps;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const char* params = tiles + tile * tile_bytes + kW4CodeBytes;
        if (place % kSteps == 0) {
#pragma unroll
          for (int i = 0; i < kInputTiles; ++i) {
            part[tile][i][0] = part[tile][i][1] = part[tile][i][2] = part[tile][i][3] = 0;
          }
        }
        uint32_t a[4];
        if constexpr (kTable<kKind>) {
          DecodeWord(words[tile][step], table, a);
        } else {
          typename Type::Pair zero[2];
          if constexpr (kKind == W4Kind::kZeroPoint) {
            const half2 zeros = *reinterpret_cast<const half2*>(
                params + (kGroups + group) * kW4TileRows * 2 + lane / 4 * 4);
            zero[0] = Type::Both(__low2float(zeros));
            zero[1] = Type::Both(__high2float(zeros));
          }
          DecodeWord<kKind>(words[tile][step], zero, a, Type());
        }
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
          Type::Multiply(part[tile][i], a, b[i][step][0], b[i][step][1]);
        }
        if (place % kSteps != kSteps - 1) continue;
        float scale[2];
        if constexpr (kTable<kKind>) {
          *reinterpret_cast<float2*>(scale) =
              *reinterpret_cast<const float2*>(params + group * kW4TileRows * 4 + lane / 4 * 8);
        } else {
          const half2 scales =
              *reinterpret_cast<const half2*>(params + group * kW4TileRows * 2 + lane / 4 * 4);
          scale[0] = __low2float(scales);
          scale[1] = __high2float(scales);
        }
#pragma unroll
        for (int i = 0; i < kInputTiles; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[tile][i][j] = __fmaf_rn(scale[j / 2], part[tile][i][j], sums[tile][i][j]);
          }
        }
      }
    }
  }
}

// Adds the teams' sums of one pass in a fixed order, and writes the outputs. A warp's sums are
// those of the row tiles from first_tile on.
template <typename Type, int kInputTiles, int kOwnTiles>
__device__ inline void FinishPass(const GemmW4A16& args, const Rows& rows, int pass, int first_tile,
                                  float (&sums)[kOwnTiles][kInputTiles][4], float* shared) {
  constexpr int kTeams = kWarps / kTeam<kInputTiles>;
  const int first = rows.First(pass);
  const int count = rows.First(pass + 1) - first;
  const int team = threadIdx.x / 32 / kTeam<kInputTiles>;
  const auto place = [&](int tile, int j) -> float& {
    return shared[((team % kSumTeams * kPassTiles + first_tile + tile) * 4 + j) * 32 +
                  threadIdx.x % 32];
  };
#pragma unroll
  for (int i = 0; i < kInputTiles; ++i) {
    // The upper teams hand theirs to the lower ones, which keeps the memory for this small.
#pragma unroll
    for (int round = kTeams / kSumTeams - 1; round >= 0; --round) {
      if (team / kSumTeams == round) {
#pragma unroll
        for (int tile = 0; tile < kOwnTiles; ++tile) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (round + 1 < kTeams / kSumTeams) sums[tile][i][j] += place(tile, j);
            place(tile, j) = sums[tile][i][j];
            sums[tile][i][j] = 0;
          }
        }
      }
      __syncthreads();
    }
    for (int item = threadIdx.x; item < count * 128; item += kWarps * 32) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kSumTeams; ++other) {
        sum += shared[other * kPassTiles * 128 + item];
      }
      const int lane = item % 32;
      const int j = item / 32 % 4;
      const int64_t row = (first + item / 128) * kW4TileRows + lane / 4 + j / 2 * 8;
      const int64_t m = i * 8 + lane % 4 * 2 + j % 2;
      if (row < args.shape.rows && m < args.m) {
        const int64_t index = m * args.shape.rows + row;
        if (args.bias != nullptr) sum += Type::ToFloat(args.bias[row]);
        if (args.residual != nullptr) sum += Type::ToFloat(args.residual[index]);
        args.output[index] = Type::FromFloat(sum);
      }
    }
    __syncthreads();
  }
}

// Shared memory: sums | zero row | barriers | table | rings.
template <W4Kind kKind, typename Type, int kInputTiles, int kGroups>
__global__ void __launch_bounds__(kWarps * 32, 1)
    SmallKernel(GemmW4A16 args, Plan plan, TableValues values) {
  constexpr int kTeamWarps = kTeam<kInputTiles>;
  constexpr int kTeams = kWarps / kTeamWarps;
  constexpr int kOwnTiles = kPassTiles / kTeamWarps;
  extern __shared__ __align__(128) char shared[];
  char* const zero_row = shared + kSumsBytes;
  char* const barriers = zero_row + kZeroRowBytes;
  auto* const table = reinterpret_cast<uint32_t*>(barriers + kBarrierBytes);
  const int lane = threadIdx.x % 32;
  const int team = threadIdx.x / 32 / kTeamWarps;
  const int member = threadIdx.x / 32 % kTeamWarps;
  const int first_tile = member * kOwnTiles;
  char* const ring = barriers + kBarrierBytes + (kTable<kKind> ? kTableBytes : 0) +
                     team * plan.stages * plan.stage_bytes;
  const Rows rows = RowsOfBlock(plan);
  Feeder<kTeams> feeder = {
      args, plan, rows, team, SharedAddress(ring), SharedAddress(barriers + team * kStagesMax * 8)};
  LetNextStart();
  if (member == 0) {
    // Arrivals: every lane after its copies, and the first for the weights.
    if (lane < plan.stages) BarrierInit(feeder.barriers + lane * 8, 33);
    BarrierInitDone();
    __syncwarp();
    // Weights first: they need not wait for what still writes the inputs.
    feeder.BeginPass();
    Feeder<kTeams> weights = feeder;
    if (!args.weight_is_settled) WaitForPrevious();
    for (int stage = 0; stage < plan.stages - 1; ++stage, weights.Advance()) {
      weights.FetchWeights(stage);
    }
    if (args.weight_is_settled) WaitForPrevious();
    for (int stage = 0; stage < plan.stages - 1; ++stage, feeder.Advance()) {
      feeder.FetchInput(stage);
    }
  }
  for (int i = threadIdx.x; i < kZeroRowBytes / 4; i += kWarps * 32) {
    reinterpret_cast<uint32_t*>(zero_row)[i] = 0;
  }
  if constexpr (kTable<kKind>) FillTable<Type>(table, values);
  WaitForPrevious();
  __syncthreads();

  const int m = static_cast<int>(args.m);
  const int input_offset = plan.pass_tiles * plan.tile_bytes;
  float sums[kOwnTiles][kInputTiles][4] = {};
  int stage = 0;
  uint32_t parity = 0;
  for (int pass = 0; pass < rows.passes; ++pass) {
    const int count = rows.First(pass + 1) - rows.First(pass) - first_tile;
    for (int column_tile = team; column_tile < plan.column_tiles; column_tile += kTeams) {
      if (QD_BULK_COPIES || member == 0) feeder.Wait(stage, parity);
      SyncTeam<kTeamWarps>();
      if (member == 0) feeder.Fetch(stage == 0 ? plan.stages - 1 : stage - 1);
      char* const tiles = ring + stage * plan.stage_bytes;
      uint32_t input[kInputTiles];
#pragma unroll
      for (int i = 0; i < kInputTiles; ++i) {
        const int row = i * 8 + lane % 8;
        input[i] = (row < m ? SharedAddress(tiles + input_offset + row * kInputRowBytes)
                            : SharedAddress(zero_row)) +
                   lane / 8 * 16;
      }
#pragma unroll
      for (int tile = 0; tile < kOwnTiles; tile += 2) {
        const char* pair = tiles + (first_tile + tile) * plan.tile_bytes;
        if (tile + 1 < count) {
          MultiplyTiles<kKind, Type, kInputTiles, kGroups, 2>(pair, plan.tile_bytes, table + lane,
                                                              input, &sums[tile]);
        } else if (tile < count) {
          MultiplyTiles<kKind, Type, kInputTiles, kGroups, 1>(pair, plan.tile_bytes, table + lane,
                                                              input, &sums[tile]);
        }
      }
      if (++stage == plan.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    FinishPass<Type, kInputTiles, kOwnTiles>(args, rows, pass, first_tile, sums,
                                             reinterpret_cast<float*>(shared));
  }
}

using Kernel = void (*)(GemmW4A16, Plan, TableValues);

template <W4Kind kKind, int kInputTiles>
Kernel Choose(bool bfloat16, int64_t groups) {
  switch (groups) {
    case 1:
      return bfloat16 ? SmallKernel<kKind, Bfloat, kInputTiles, 1>
                      : SmallKernel<kKind, Half, kInputTiles, 1>;
    case 2:
      return bfloat16 ? SmallKernel<kKind, Bfloat, kInputTiles, 2>
                      : SmallKernel<kKind, Half, kInputTiles, 2>;
    default:
      return bfloat16 ? SmallKernel<kKind, Bfloat, kInputTiles, 4>
                      : SmallKernel<kKind, Half, kInputTiles, 4>;
  }
}

template <W4Kind kKind>
Kernel Choose(const GemmW4A16& args) {
  const int64_t groups = W4TileGroups(args.shape);
  return args.m > 8 ? Choose<kKind, 2>(args.bfloat16, groups)
                    : Choose<kKind, 1>(args.bfloat16, groups);
}

}  // namespace

const char* GemmW4Small(const GemmW4A16& args) {
  const W4Shape& shape = args.shape;
  const Gpu& gpu = CurrentGpu();
  Plan plan = {.tile_bytes = static_cast<int>(W4TileBytes(shape)),
               .row_tiles = static_cast<int>((shape.rows + kW4TileRows - 1) / kW4TileRows),
               .row_tiles_stored = static_cast<int>(W4RowTiles(shape)),
               .column_tiles = static_cast<int>(W4ColumnTiles(shape))};
  const int teams = args.m > 8 ? kWarps / kTeam<2> : kWarps / kTeam<1>;
  const int blocks = plan.row_tiles < gpu.processors ? plan.row_tiles : gpu.processors;
  const int per_block = (plan.row_tiles + blocks - 1) / blocks;
  const int fixed =
      kSumsBytes + kZeroRowBytes + kBarrierBytes + (IsTable(shape.kind) ? kTableBytes : 0);
  // As many row tiles at a time as leave room for two stages.
  for (plan.pass_tiles = per_block < kPassTiles ? per_block : kPassTiles;; --plan.pass_tiles) {
    plan.stage_bytes =
        plan.pass_tiles * plan.tile_bytes + static_cast<int>(args.m) * kInputRowBytes;
    plan.stages = (gpu.shared_bytes_max - fixed) / (teams * plan.stage_bytes);
    if (plan.stages >= 2 || plan.pass_tiles == 1) break;
  }
  if (plan.stages < 2) return "too little shared memory for gemm_w4a16";
  if (plan.stages > kStagesMax) plan.stages = kStagesMax;
  Kernel kernel;
  TableValues values = {};
  if (shape.kind == W4Kind::kSymmetric) {
    kernel = Choose<W4Kind::kSymmetric>(args);
  } else if (shape.kind == W4Kind::kZeroPoint) {
    kernel = Choose<W4Kind::kZeroPoint>(args);
  } else {
    kernel = Choose<W4Kind::kNf4>(args);
    for (int code = 0; code < 16; ++code) values.value[code] = W4Table(shape.kind)[code];
  }
  const int shared_bytes = fixed + teams * plan.stages * plan.stage_bytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return LaunchEarly(kernel,
                     {static_cast<unsigned>(blocks), kWarps * 32, shared_bytes, Stream(args)}, args,
                     plan, values);
}

}  // namespace quantd::kernels
