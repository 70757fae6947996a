// Matrix product on Hopper (sm_90a): persistent blocks, one producer thread that feeds a ring by TMA, consumer warpgroups that multiply by wgmma.
//   out[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, n, k])
// f16, bf16 (k16), tf32 (k8; the unit reads the upper 19 bits of each float) accumulate in FP32, s8 (k32) in int32. A is a matrix (tiled map) or the
// windows of a convolution (im2col map, NHWC); B rows are output columns. What lies outside a tensor arrives as zeros.
// Constants: M N (of a batch element or group), WARPGROUPS (consumers), ROWS (64 or 128 per warpgroup), BN (tile columns), KB (bytes of a shared row = swizzle
//   width, 64 or 128), BLOCKS_K (k-blocks of KB bytes), STAGES, PING_PONG (every warpgroup takes its own tiles, so one's epilogue runs beside another's
//   products; otherwise they share a tile of ROWS * WARPGROUPS rows), PRODUCER_GROUP (the producer is a whole warpgroup and hands its registers over; consumers get CONSUMER_REGISTERS),
//   RESIDENT_B (the B rows of a block's columns are fetched once: the grid is a multiple of TILES_N, RASTER is 1), HELD (neighbouring columns that a thread holds: the rows of B arrive in the order that makes it so), CHUNK (columns finished at a
//   time, a multiple of 4 HELD), AHEAD_MOST (early reads held at a time), V (divides HELD), N_BASE, TILES (all), and those of tiles.cu;
//   TILE_STORE (results leave through shared memory by TMA, a warp's 16 rows x CHUNK columns at a time), RESIDUAL (the epilogue's early read comes the
//   same way, in the same bytes, SLOTS - 1 chunks ahead), SLOTS (chunks of a warp in flight), OUT_BYTES (of a result).
// A wgmma leaves a thread the columns 8 j + 2 q + i of rows r and r + 8, where q is the lane's place among four. Row 8 h + 2 q + i of every 4 HELD rows of
//   B in shared memory is therefore row HELD q + 2 h + i of B: a thread's columns become neighbours, and results leave from the registers.
// Traps kept from the measured prototypes: a ring stage may be waited for only by one warpgroup at a time (main loops take turns in ping-pong); a
//   trap in the wait loop costs spills; wgmma under a condition the compiler cannot fold is serialised.
// Launch: min(TILES, resident blocks) blocks of THREADS threads.
namespace tile {
using T = unsigned short;
using Acc = float;
constexpr int M = 392, N = 64, WARPGROUPS = 2, ROWS = 128, BN = 64, KB = 128, BLOCKS_K = 9, STAGES = 6, HELD = 4, CHUNK = 64, AHEAD_MOST = 4, V = 4, N_BASE = 0, TILES = 4, TILES_M = 4, TILES_N = 1, BATCHES = 1, RASTER = 1, THREADS = 288, MIN_BLOCKS = 1, CONSUMER_REGISTERS = 232, SLOTS = 0, OUT_BYTES = 2;
constexpr bool PING_PONG = true, PRODUCER_GROUP = false, RESIDENT_B = false, TILE_STORE = false, RESIDUAL = false;
typedef unsigned u32;
typedef unsigned long long u64;
typedef unsigned short u16;
struct alignas(64) TensorMap {
  u64 opaque[16];
};
constexpr int BM = PING_PONG ? ROWS : ROWS * WARPGROUPS, STAGE_A = BM * KB, STAGE_B = BN * KB;
constexpr int SLOT_ROW = CHUNK * OUT_BYTES, SLOT_BYTES = 16 * SLOT_ROW, WARPS = WARPGROUPS * 4;
constexpr int AT_B = STAGES * STAGE_A, AT_SLOTS = AT_B + (RESIDENT_B ? BLOCKS_K : STAGES) * STAGE_B, AT_BARRIERS = AT_SLOTS + WARPS * SLOTS * SLOT_BYTES;

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u32 b, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(count)); }
__device__ __forceinline__ void barrier_expect(u32 b, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
// Waits until the phase of the given parity has ended; a fresh barrier passes for parity 1.
__device__ __forceinline__ void barrier_wait(u32 b, u32 parity) {
  u32 done;
  do
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(b), "r"(parity) : "memory");
  while (!done);
}
// Descriptor of a K-major operand in rows of KB bytes, swizzled by KB: address >> 4, groups of 8 rows KB * 8 bytes apart, swizzle mode. A step of 32 bytes along k adds 2.
__device__ __forceinline__ u64 descriptor(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | (1ull << 16) | ((u64)(KB / 2) << 32) | ((u64)(KB == 128 ? 1 : 2) << 62);
}
// d (64 x 64) = A B^T, plus d where accumulate is set.
__device__ __forceinline__ void multiply(float (&d)[32], u64 a, u64 b, int accumulate) {
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %34, 0;\n\twgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n\t}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(a), "l"(b), "r"(accumulate));
}
// Which tile a block computes. Constants: BATCHES, TILES_M, TILES_N, BM, BN, RASTER (rows of tiles walked together, so that a wave of blocks
// shares operands in L2), SPLIT.
struct Place {
  int batch, m, n, index;
};
__device__ __forceinline__ Place place_of(int block) {
  const int batch = BATCHES == 1 ? 0 : block / (TILES_M * TILES_N), t = BATCHES == 1 ? block : block % (TILES_M * TILES_N);
  const int group = t / (RASTER * TILES_N), within = t % (RASTER * TILES_N);
  const int rows = TILES_M % RASTER == 0 || group < TILES_M / RASTER ? RASTER : TILES_M % RASTER;
  return {batch, (group * RASTER + within % rows) * BM, within / rows * BN, block};
}
// Where the producer stands in a tile's k-blocks, and the loads of one.
struct Walk {
  int image, h, w, r, s, c, n, first;
  __device__ __forceinline__ Walk(const Place& place) : r(0), s(0), c(0) {
    const int rest = place.m % 196;
    image = place.m / 196, h = rest / 14 * 1 - 1, w = rest % 14 * 1 - 1;
    n = place.n + place.batch * 64, first = place.batch * 64;
  }
  __device__ __forceinline__ void load_a(u32 to, const TensorMap* a, u32 barrier, int) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to), "l"(a),
                 "r"(barrier), "r"(first + c * 64), "r"(w), "r"(h), "r"(image), "h"((u16)(s * 1)), "h"((u16)(r * 1)) : "memory");
    if (++c == 1) {
      c = 0;
      if (++s == 3) s = 0, r++;
    }
  }
  __device__ __forceinline__ void load_b(u32 to, const TensorMap* b, u32 barrier, int kb) const {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to), "l"(b), "r"(barrier), "r"(kb * 64), "r"(0), "r"(0), "r"(0), "r"((n) / 16) : "memory");
  }
};
}  // namespace tile

__device__ __forceinline__ unsigned short narrow(float x) { unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
template <class E, int V> struct alignas(sizeof(E) * V) Row { E v[V]; };
using Early = Row<float, 4>;
__device__ __forceinline__ Early early_reads(int b, int m, int n, const float* __restrict__ bias, const float* __restrict__ residual, unsigned short* __restrict__ out) {
  return *(const Row<float, 4>*)(residual + (long long)m * 64 + n);
}
__device__ __forceinline__ void epilogue(const float (&acc)[4], const Early& early, int b, int m, int n, const float* __restrict__ bias, const float* __restrict__ residual, unsigned short* __restrict__ out) {
  Row<unsigned short, 4> o;
#pragma unroll
  for (int i = 0; i < 4; i++) o.v[i] = narrow(acc[i] + bias[n + i] + early.v[i]);
  *(Row<unsigned short, 4>*)(out + (long long)m * 64 + n) = o;
}
__device__ __forceinline__ void apply(const float (&acc)[4], const Early& early, int b, int m, int n, const float* __restrict__ bias, const float* __restrict__ residual, unsigned short* __restrict__ out) {
  epilogue(acc, early, b, m, n, bias, residual, out);
}

namespace tile {
// A slot holds the rows of a chunk as the copy engine swizzles them: 16-byte pieces exchanged by the row.
__device__ __forceinline__ int slot_place(int row, int column) {
  const int byte = column * OUT_BYTES, turned = SLOT_ROW == 128 ? row & 7 : SLOT_ROW == 64 ? (row >> 1) & 3 : (row >> 2) & 1;
  return row * SLOT_ROW + ((byte >> 4 ^ turned) << 4) + (byte & 15);
}
__device__ __forceinline__ void map_prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ __forceinline__ void tile_store(const TensorMap* map, u32 from, int n, int m) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(n), "r"(m), "r"(from) : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until all but the last LEFT stores have read their slots.
template <int LEFT> __device__ __forceinline__ void tile_stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }
__device__ __forceinline__ void tile_load(const TensorMap* map, u32 to, u32 barrier, int n, int m) {
  barrier_expect(barrier, SLOT_BYTES);
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
               ::"r"(to), "l"(map), "r"(n), "r"(m), "r"(barrier) : "memory");
}
// Tiles that lie inside the result wholly need no test, which would keep the reads of one vector behind the arithmetic of another.
constexpr bool WHOLE_ROWS = M % BM == 0, WHOLE_COLUMNS = N % BN == 0;
__device__ __forceinline__ bool exists(int m, int n) { return (WHOLE_ROWS || m < M) && (WHOLE_COLUMNS || n < N); }
// The places a lane finishes in a chunk: `turn` counts its vectors, first those of one row, then those of the row 8 below, then the next 4 HELD columns.
constexpr int PARTS = HELD / V, TURNS = CHUNK / (2 * V), AHEAD = TURNS <= AHEAD_MOST ? TURNS : AHEAD_MOST;
__device__ __forceinline__ int turn_row(int turn, int lane) { return turn / PARTS % 2 * 8 + (lane >> 2); }
__device__ __forceinline__ int turn_column(int turn, int lane) { return turn / (2 * PARTS) * (4 * HELD) + (lane & 3) * HELD + turn % PARTS * V; }
// The sums of a turn in chunk c. Every index is known once the loops are unrolled.
__device__ __forceinline__ void take(Acc (&v)[V], const Acc (&d)[BN / 2], int c, int turn) {
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int e = turn % PARTS * V + i;
    v[i] = d[c * (CHUNK / 2) + (turn / (2 * PARTS) * (HELD / 2) + e / 2) * 4 + turn / PARTS % 2 * 2 + e % 2];
  }
}
__device__ __forceinline__ void read_ahead(Early (&early)[AHEAD], int m0, int n0, const Place& place, int lane, int turn, const float* __restrict__ bias, const float* __restrict__ residual, unsigned short* __restrict__ out) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) {
    const int m = m0 + turn_row(turn + i, lane), n = n0 + turn_column(turn + i, lane);
    if (exists(m, n)) early[i] = early_reads(N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n, bias, residual, out);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
conv(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const float* __restrict__ bias, const float* __restrict__ residual, unsigned short* __restrict__ out) {
  extern __shared__ __align__(1024) char shared_bytes[];
  const u32 offset = (1024 - (shared_address(shared_bytes) & 1023)) & 1023, ring = shared_address(shared_bytes) + offset;
  const u32 full = ring + AT_BARRIERS, empty = full + STAGES * 8, turn = empty + STAGES * 8, arrived = turn + WARPGROUPS * 8,
            weights = arrived + WARPS * SLOTS * 8;
  // Said by one lane for all, the warp is known to be the same for all: addresses made of it stay uniform. Large tiles lack the registers for it.
  const int lane = threadIdx.x & 31, warp = ROWS * BN <= 64 * 128 ? __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0) : threadIdx.x >> 5;
  if (threadIdx.x == 0) {
    // Maps come from memory too: asked for now, they are at hand when first used.
    map_prefetch(&a);
    map_prefetch(&b);
    for (int i = 0; i < STAGES; i++) barrier_init(full + i * 8, 1), barrier_init(empty + i * 8, (PING_PONG ? 1 : WARPGROUPS) * 4);
    for (int i = 0; i < WARPGROUPS; i++) barrier_init(turn + i * 8, 4);
    if constexpr (RESIDENT_B) barrier_init(weights, 1);
    if constexpr (RESIDUAL)
      for (int i = 0; i < WARPS * SLOTS; i++) barrier_init(arrived + i * 8, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  // From here on what earlier launches wrote is read and written.

  if (warp >= WARPGROUPS * 4) {
    if constexpr (PRODUCER_GROUP) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == WARPGROUPS * 4 && lane == 0) {
      int stage = 0;
      u32 parity = 1;
      if constexpr (RESIDENT_B) {
        const Walk walk(place_of(blockIdx.x));
        barrier_expect(weights, BLOCKS_K * STAGE_B);
        for (int kb = 0; kb < BLOCKS_K; kb++) walk.load_b(ring + AT_B + kb * STAGE_B, &b, weights, kb);
      }
      for (int t = blockIdx.x; t < TILES; t += gridDim.x) {
        const Place place = place_of(t);
        Walk walk(place);
#pragma unroll 1
        for (int kb = 0; kb < BLOCKS_K; kb++) {
          barrier_wait(empty + stage * 8, parity);
          barrier_expect(full + stage * 8, STAGE_A + (RESIDENT_B ? 0 : STAGE_B));
          if constexpr (!RESIDENT_B) walk.load_b(ring + AT_B + stage * STAGE_B, &b, full + stage * 8, kb);
          walk.load_a(ring + stage * STAGE_A, &a, full + stage * 8, kb);
          if (++stage == STAGES) stage = 0, parity ^= 1;
        }
      }
    }
  } else {
    if constexpr (PRODUCER_GROUP) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
    const int group = warp >> 2;
    int stage = PING_PONG ? group * BLOCKS_K % STAGES : 0;
    u32 parity = PING_PONG ? group * BLOCKS_K / STAGES & 1 : 0, round = 0;
    const int step = PING_PONG ? WARPGROUPS * gridDim.x : gridDim.x, first = blockIdx.x + (PING_PONG ? group * gridDim.x : 0);
    const int own_row = (PING_PONG ? 0 : group * ROWS) + (warp & 3) * 16;
    if constexpr (RESIDENT_B) barrier_wait(weights, 0);
#pragma unroll 1
    for (int t = first; t < TILES; t += step, round++) {
      const Place place = place_of(t);
      const int m0 = place.m + own_row;
      Early early[AHEAD];
      if constexpr (!RESIDUAL) read_ahead(early, m0, place.n, place, lane, 0, bias, residual, out);
      Acc d[ROWS / 64][BN / 2];
      int previous = -1;
      // Warpgroup 0 starts; each main loop that ends lets the next begin.
      if constexpr (PING_PONG) barrier_wait(turn + group * 8, (round + (group == 0)) & 1);
#pragma unroll 1
      for (int kb = 0; kb < BLOCKS_K; kb++) {
        barrier_wait(full + stage * 8, parity);
        const u64 da = descriptor(ring + stage * STAGE_A + (PING_PONG ? 0 : group * ROWS * KB)), db = descriptor(ring + AT_B + (RESIDENT_B ? kb : stage) * STAGE_B);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < KB / 32; k++)
#pragma unroll
          for (int r = 0; r < ROWS / 64; r++) multiply(d[r], da + r * (64 * KB / 16) + k * 2, db + k * 2, k != 0 || kb != 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // The stage before this one has now been read.
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (previous >= 0 && lane == 0) barrier_arrive(empty + previous * 8);
        previous = stage;
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (lane == 0) {
        barrier_arrive(empty + previous * 8);
        if constexpr (PING_PONG) barrier_arrive(turn + (group + 1 == WARPGROUPS ? 0 : group + 1) * 8);
      }
      if constexpr (PING_PONG) {
        constexpr int SKIP = (WARPGROUPS - 1) * BLOCKS_K;
        stage += SKIP % STAGES;
        parity ^= SKIP / STAGES & 1;
        if (stage >= STAGES) stage -= STAGES, parity ^= 1;
      }
      // Epilogue: a warp's 16 rows x CHUNK columns at a time; early reads run one step ahead.
#pragma unroll
      for (int r = 0; r < ROWS / 64; r++)
#pragma unroll
        for (int c = 0; c < BN / CHUNK; c++) {
          // Straight from registers to global memory; early reads run one step ahead.
#pragma unroll
          for (int turn = 0; turn < TURNS; turn += AHEAD) {
            Early now[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) now[i] = early[i];
            const bool last = turn + AHEAD == TURNS;
            const int rows = last && c + 1 == BN / CHUNK ? r + 1 : r, columns = last ? (c + 1) % (BN / CHUNK) : c;
            if (rows < ROWS / 64) read_ahead(early, m0 + rows * 64, place.n + columns * CHUNK, place, lane, last ? 0 : turn + AHEAD, bias, residual, out);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
              const int row = turn_row(turn + i, lane), column = turn_column(turn + i, lane), m = m0 + r * 64 + row, n = place.n + c * CHUNK + column;
              if (exists(m, n)) {
                Acc v[V];
                take(v, d[r], c, turn + i);
                apply(v, now[i], N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n, bias, residual, out);
              }
            }
          }
        }
    }
    if constexpr (TILE_STORE)
      if (lane == 0) tile_stores_read<0>();
  }
}
}  // namespace tile
