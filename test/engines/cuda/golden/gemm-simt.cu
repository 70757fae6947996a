// Matrix product in true FP32 through FFMA, one tile per block: out[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, n, k]).
// A stage is BK lines of BM and of BN floats (k outermost), filled by cp.async whatever the strides. A warp is 4 x 8 threads; a thread
// owns TM x TN outputs as quads 16 rows and 32 columns apart, so every shared-memory read is 16 bytes wide and free of conflicts.
// Constants: M N K (of one batch element or group), BM BN BK, TM TN (4 or 8), WARPS_M WARPS_N, STAGES, THREADS, MIN_BLOCKS, STEPS, STEPS_PER_SPLIT,
//   ALoader, BLoader, and those of tiles.cu and finish.cu.
// Launch: grid (tiles * batches, 1, SPLIT), THREADS threads, dynamic shared memory as the emitter says.
namespace tile {
using T = float;
using Acc = float;
constexpr int M = 96, N = 64, K = 100, BM = 64, BN = 64, BK = 16, KB = 64, TM = 4, TN = 4, WARPS_M = 4, WARPS_N = 2, STAGES = 3, THREADS = 256, MIN_BLOCKS = 3, PRECISION = 3, ES = 4, BATCHES = 1, TILES_M = 2, TILES_N = 1, RASTER = 2, SPLIT = 1, STEPS = 7, STEPS_PER_SPLIT = 7, REDUCE = 0, PITCH = 72, V = 4, N_BASE = 0;
__device__ __forceinline__ long long a_offset(int batch) { return 0; }
__device__ __forceinline__ long long b_offset(int batch) { return 0; }
// Helpers of the tiled kernels: shared-memory addresses, asynchronous copies, matrix instructions. Inside namespace tile; no #include.
// Needs the constants: T (stored element), Acc (accumulator), ES (bytes of T), PRECISION (0 f16, 1 bf16, 2 tf32, 3 f32, 4 s8).
typedef unsigned u32;
typedef unsigned long long u64;
struct alignas(8) Pair {
  Acc v[2];
};
struct alignas(16) Quad {
  Acc v[4];
};

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies `bytes` (0 to BYTES) and fills the rest of BYTES with zeros. BYTES is 16, 8 or 4 and both addresses are aligned to it.
template <int BYTES> __device__ __forceinline__ void copy_async(u32 to, const void* from, int bytes) {
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

__device__ __forceinline__ void load_matrices(u32 (&d)[4], u32 p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(p) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(u32 (&d)[4], u32 p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(p) : "memory");
}

// Rounds to the nearest TF32, ties away from zero; the matrix unit by itself would truncate.
__device__ __forceinline__ u32 round_tf32(u32 bits) {
  u32 r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(bits)));
  return r;
}

// Finished tiles lie in shared memory with the 16-byte halves of columns 32 to 63 (of every 64) exchanged, so that eight lanes reading eight columns
// each meet every bank once.
__device__ __forceinline__ int staged_column(int c) { return c ^ (c >> 3 & 4); }
// Loaders bring an operand's tile into a ring stage. A Source finds global memory, a Layout places elements in shared memory, a Loader pairs them.
//   Source: begin(base, outer, inner) for this thread's first chunk; chunk(i, p): elements of pass i that exist (0 to VE) and where; advance(): next BK;
//   WHOLE: whether a chunk exists as a whole or not at all.
//   "Outer" and "inner": a tile is OUTER lines of INNER elements, cut into chunks of VE elements that are contiguous in global memory. Either the lines
//   are rows (of M or N) and chunks run along k, or the lines are k and chunks run along M or N.

// Rows of KB bytes, 16-byte chunks exchanged by XOR so that ldmatrix reads eight rows without bank conflicts.
struct KMajor {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 chunk(int row, int c) {
    return KB == 128 ? row * 128 + ((c ^ (row & 7)) << 4) : row * 64 + ((c ^ ((row >> 1) & 3)) << 4);
  }
  static __device__ __forceinline__ u32 at(int row, int k) { return chunk(row, k * ES >> 4) + (k * ES & 15); }
};
struct KMajorFromColumns {
  static constexpr bool PERIODIC = false;
  static __device__ __forceinline__ u32 at(int k, int row) { return KMajor::at(row, k); }
};
// k lines of EXTENT 2-byte elements, for the transposing ldmatrix.
template <int EXTENT> struct MnMajor {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 chunk(int k, int c) {
    if constexpr (EXTENT >= 64) return k * (EXTENT * 2) + ((c ^ (k & 7)) << 4);
    else if constexpr (EXTENT == 32) return k * 64 + ((c ^ ((k >> 1) & 3)) << 4);
    else return k * 32 + ((c ^ ((k >> 2) & 1)) << 4);
  }
  static __device__ __forceinline__ u32 at(int k, int mn) { return chunk(k, mn >> 3) + (mn & 7) * 2; }
};
// k lines of EXTENT floats, 4 floats of padding: what the FFMA kernel reads as 16-byte vectors.
template <int EXTENT> struct Columns {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 at(int k, int mn) { return (k * (EXTENT + 4) + mn) * 4; }
};
template <int EXTENT> struct ColumnsFromRows {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 at(int row, int k) { return Columns<EXTENT>::at(k, row); }
};

// A matrix with any strides, chunks along k. LIMIT rows exist. VE > 1 needs COLUMN_STRIDE 1 and aligned rows.
template <int VE_, int LIMIT, long long ROW_STRIDE, long long COLUMN_STRIDE> struct AlongK {
  static constexpr int VE = VE_;
  static constexpr bool WHOLE = K % VE == 0;
  template <int STEP, int PASSES> struct State {
    const T* p;
    int row, k;
    __device__ __forceinline__ void begin(const T* base, int row_, int k_) {
      row = row_, k = k_;
      p = base + row * ROW_STRIDE + k * COLUMN_STRIDE;
    }
    __device__ __forceinline__ int chunk(int i, const T*& at) const {
      at = p + i * (STEP * ROW_STRIDE);
      if (row + i * STEP >= LIMIT) return 0;
      if constexpr (K % BK == 0) return VE;
      else if constexpr (K % VE == 0) return k < K ? VE : 0;
      else return K - k >= VE ? VE : K - k < 0 ? 0 : K - k;
    }
    __device__ __forceinline__ void advance() { k += BK, p += BK * COLUMN_STRIDE; }
  };
};
// The same, chunks along M or N (which is contiguous when VE > 1), lines of k.
template <int VE_, int LIMIT, long long ROW_STRIDE, long long COLUMN_STRIDE> struct AlongRows {
  static constexpr int VE = VE_;
  static constexpr bool WHOLE = LIMIT % VE == 0;
  template <int STEP, int PASSES> struct State {
    const T* p;
    int exist, k;
    __device__ __forceinline__ void begin(const T* base, int k_, int row) {
      k = k_;
      exist = LIMIT - row >= VE ? VE : LIMIT - row < 0 ? 0 : LIMIT - row;
      p = base + row * ROW_STRIDE + k * COLUMN_STRIDE;
    }
    __device__ __forceinline__ int chunk(int i, const T*& at) const {
      at = p + i * (STEP * COLUMN_STRIDE);
      return K % BK == 0 || k + i * STEP < K ? exist : 0;
    }
    __device__ __forceinline__ void advance() { k += BK, p += BK * COLUMN_STRIDE; }
  };
};

__device__ __forceinline__ void put(u32 to, T x) {
  if constexpr (ES == 4) asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"((float)x) : "memory");
  else if constexpr (ES == 2) asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"((unsigned short)x) : "memory");
  else asm volatile("st.shared.u8 [%0], %1;" ::"r"(to), "r"((int)x) : "memory");
}

template <class Source, class Layout, int OUTER, int INNER, bool ROWS_ARE_OUTER> struct Loader {
  static constexpr int VE = Source::VE, BYTES = VE * ES, PER_LINE = INNER / VE, STEP = THREADS / PER_LINE, PASSES = (OUTER + STEP - 1) / STEP;
  static_assert(INNER % VE == 0 && THREADS % PER_LINE == 0, "a line's chunks divide the threads");
  typename Source::template State<STEP, PASSES> source;
  int outer, inner;
  T held[BYTES < 4 ? PASSES : 1];
  // `row` is the tile's first row (of M or N), `k` its first k.
  __device__ __forceinline__ void begin(const T* base, int row, int k) {
    outer = threadIdx.x / PER_LINE, inner = threadIdx.x % PER_LINE * VE;
    if constexpr (ROWS_ARE_OUTER) source.begin(base, row + outer, k + inner);
    else source.begin(base, k + outer, row + inner);
  }
  __device__ __forceinline__ u32 place(int i) const {
    // A periodic layout repeats after 8 lines: from there on, a pass is a constant distance.
    if constexpr (Layout::PERIODIC && STEP % 8 == 0) return Layout::at(outer, inner) + (Layout::at(i * STEP, 0) - Layout::at(0, 0));
    else return Layout::at(outer + i * STEP, inner);
  }
  __device__ __forceinline__ void issue(u32 stage) {
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
      if (OUTER % STEP != 0 && outer + i * STEP >= OUTER) continue;
      const T* p;
      const int count = source.chunk(i, p);
      if constexpr (BYTES >= 4) {
        if (Source::WHOLE || count == 0 || count == VE) {
          copy_async<BYTES>(stage + place(i), p, count * ES);
        } else {
          // The last elements of a tensor: what lies behind it is not touched.
#pragma unroll
          for (int e = 0; e < VE; e++) put(stage + place(i) + e * ES, e < count ? p[e] : T(0));
        }
      } else held[i] = count > 0 ? *p : T(0);
    }
    source.advance();
  }
  // Chunks too small for cp.async waited in registers.
  __device__ __forceinline__ void land(u32 stage) {
    if constexpr (BYTES < 4) {
#pragma unroll
      for (int i = 0; i < PASSES; i++) {
        if (OUTER % STEP != 0 && outer + i * STEP >= OUTER) continue;
        put(stage + place(i), held[i]);
      }
    }
  }
};
using ALoader = Loader<AlongRows<4, 96, 1, 96>, Columns<BM>, BK, BM, false>;
using BLoader = Loader<AlongK<1, 64, 100, 1>, ColumnsFromRows<BN>, BN, BK, true>;
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
}  // namespace tile

__device__ __forceinline__ float narrow(float x) { return x; }
template <class E, int V> struct alignas(sizeof(E) * V) Row { E v[V]; };
struct Early {};
__device__ __forceinline__ Early early_reads(int b, int m, int n, const float* __restrict__ bias, float* __restrict__ out) {
  return {};
}
__device__ __forceinline__ void epilogue(const float (&acc)[4], int b, int m, int n, const float* __restrict__ bias, float* __restrict__ out) {
  Row<float, 4> o;
#pragma unroll
  for (int i = 0; i < 4; i++) o.v[i] = narrow(acc[i] + bias[n + i]);
  *(Row<float, 4>*)(out + (long long)m * 64 + n) = o;
}
__device__ __forceinline__ void apply(const float (&acc)[4], const Early& early, int b, int m, int n, const float* __restrict__ bias, float* __restrict__ out) {
  epilogue(acc, b, m, n, bias, out);
}

namespace tile {
// The end of a tile: partial sums of a split K are added in a fixed order (bitwise reproducible), then the epilogue takes V columns at a time.
// `staged` is the block's BM x BN tile in shared memory, rows of PITCH accumulators, written but not yet synchronised.
// Constants: SPLIT, REDUCE (0 none, 1 workspace: the last block of a tile adds all, 2 cluster of SPLIT blocks: each adds a share of the rows through
// distributed shared memory), V, N_BASE (columns per batch step when groups are batches, else 0).
// Workspace: tiles * SPLIT * BM * BN accumulators, and one counter a tile that is zero before the first launch and left zero.
template <int COUNT> __device__ __forceinline__ void read_columns(Acc (&v)[COUNT], const Acc* row, int column) {
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      const Quad q = *(const Quad*)(row + staged_column(column + i));
      v[i] = q.v[0], v[i + 1] = q.v[1], v[i + 2] = q.v[2], v[i + 3] = q.v[3];
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) v[i] = row[staged_column(column + i)];
  }
}

constexpr int TURNS = (REDUCE == 2 ? BM * BN / SPLIT : BM * BN) / (THREADS * V), AHEAD = TURNS < 1 ? 1 : TURNS > 4 ? 4 : TURNS;
// What the epilogue reads for this thread's vectors turn, turn + 1, ...
__device__ __forceinline__ void read_ahead(Early (&early)[AHEAD], const Place& place, int turn, const float* __restrict__ bias, float* __restrict__ out) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) {
    const int e = (REDUCE == 2 ? blockIdx.z * (BM / SPLIT) * BN : 0) + ((turn + i) * THREADS + threadIdx.x) * V, m = place.m + e / BN, n = place.n + e % BN;
    if (m < M && n < N && e < BM * BN) early[i] = early_reads(N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n, bias, out);
  }
}

__device__ __forceinline__ void finish(Acc* staged, const Place place, Early (&early)[AHEAD], const float* __restrict__ bias, float* __restrict__ out) {
  const int t = threadIdx.x;
  int first = 0, last = BM;
  if constexpr (REDUCE == 2) {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    first = blockIdx.z * (BM / SPLIT);
    last = first + BM / SPLIT;
  } else {
    __syncthreads();
  }
#pragma unroll(TURNS <= 4 ? 1 : TURNS <= 16 ? TURNS / AHEAD : 2)
  for (int turn = 0; turn == 0 || turn < TURNS; turn += AHEAD) {
    Early now[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) now[i] = early[i];
    if (turn + AHEAD < TURNS) read_ahead(early, place, turn + AHEAD, bias, out);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int e = first * BN + ((turn + i) * THREADS + t) * V;
      if (e >= last * BN) continue;
    const int row = e / BN, column = e % BN, m = place.m + row, n = place.n + column;
    if (m >= M || n >= N) continue;
    Acc v[V];
    if constexpr (REDUCE == 2) {
#pragma unroll
      for (int i = 0; i < V; i++) v[i] = 0;
      const u32 here = shared_address(staged + row * PITCH);
#pragma unroll
      for (int s = 0; s < SPLIT; s++) {
        u32 there, bits[V];
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(s));
        if constexpr (V % 4 == 0) {
#pragma unroll
          for (int i = 0; i < V; i += 4)
            asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(bits[i]), "=r"(bits[i + 1]), "=r"(bits[i + 2]), "=r"(bits[i + 3]) : "r"(there + staged_column(column + i) * 4) : "memory");
        } else {
#pragma unroll
          for (int i = 0; i < V; i++) asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(bits[i]) : "r"(there + staged_column(column + i) * 4) : "memory");
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
          if constexpr (PRECISION == 4) v[i] += (int)bits[i];
          else v[i] += __uint_as_float(bits[i]);
        }
      }
    } else {
      read_columns<V>(v, staged + row * PITCH, column);
    }
    apply(v, now[i], N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n, bias, out);
    }
  }
  // Other blocks of the cluster may still be reading this block's shared memory.
  if constexpr (REDUCE == 2) asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
gemm(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ bias, float* __restrict__ out) {
  extern __shared__ __align__(1024) char shared_bytes[];
  constexpr int STAGE_A = BK * (BM + 4) * 4, STAGE_B = BK * (BN + 4) * 4;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Place place = place_of(blockIdx.x);
  const int row = warp % WARPS_M * (BM / WARPS_M) + (lane >> 3) * 4, column = warp / WARPS_M * (BN / WARPS_N) + (lane & 7) * 4;
  const u32 ring_a = shared_address(shared_bytes), ring_b = ring_a + STAGES * STAGE_A;
  const int first = SPLIT == 1 ? 0 : (int)blockIdx.z * STEPS_PER_SPLIT;
  const int steps = SPLIT == 1 ? STEPS : STEPS - first < STEPS_PER_SPLIT ? STEPS - first : STEPS_PER_SPLIT;

  // What the epilogue reads is asked for before the products where that costs few registers, else before its shared-memory pass.
  Early early[AHEAD];
  if constexpr (TURNS <= 2) read_ahead(early, place, 0, bias, out);
  ALoader load_a;
  BLoader load_b;
  load_a.begin(a + a_offset(place.batch), place.m, first * BK);
  load_b.begin(b + b_offset(place.batch), place.n, first * BK);

  float acc[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) acc[i][j] = 0.f;

#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load_a.issue(ring_a + s * STAGE_A), load_b.issue(ring_b + s * STAGE_B);
    copy_commit();
  }
  int read = 0, write = STAGES - 1;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load_a.issue(ring_a + write * STAGE_A), load_b.issue(ring_b + write * STAGE_B);
    copy_commit();
    const float* from_a = (const float*)(shared_bytes + read * STAGE_A) + row;
    const float* from_b = (const float*)(shared_bytes + STAGES * STAGE_A + read * STAGE_B) + column;
#pragma unroll
    for (int k = 0; k < BK; k++) {
      alignas(16) float fa[TM], fb[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) *(Quad*)(fa + i) = *(const Quad*)(from_a + k * (BM + 4) + i * 4);
#pragma unroll
      for (int j = 0; j < TN; j += 4) *(Quad*)(fb + j) = *(const Quad*)(from_b + k * (BN + 4) + j * 8);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) acc[i][j] = fmaf(fa[i], fb[j], acc[i][j]);
    }
    if (++read == STAGES) read = 0;
    if (++write == STAGES) write = 0;
  }
  copy_wait<0>();
  __syncthreads();

  float* staged = (float*)shared_bytes;
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j += 4)
      *(Quad*)(staged + (row + i / 4 * 16 + i % 4) * PITCH + staged_column(column + j * 8)) = {acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]};
  if constexpr (TURNS > 2) read_ahead(early, place, 0, bias, out);
  finish(staged, place, early, bias, out);
}
}  // namespace tile
