// Attention of few queries over a cache of keys and values with the new ones behind it, in one launch: softmax(scale * Q [past K, K]^T + mask) [past V, V].
// A cluster of SPLITS blocks serves the heads that share one head of keys and values: block s takes the keys s * SPAN .. (s + 1) * SPAN - 1, reads each once,
// and writes it to the grown cache where that is asked for (STORE_K, STORE_V). Scores of a block stay in shared memory; the blocks' largest scores, sums and
// weighted values meet there too, added in the order of the blocks. Scores, probabilities and sums are single precision. A row that sees no key gives 0.
// Constants: SPLITS, SPAN, QUERIES, KEYS (past and new), PAST, GROUP (heads that share keys and values), DIM, DIM_V, CAUSAL (key j for query i: j <= i + PAST),
//   MASK and its strides M_*, SCALE, VE_K and VE_V (elements of one access), SLICES (groups of threads that share the keys of V), strides of [batch, head, position] of q, new and past k and v, grown caches
//   and out; T of q, k, v and out, emitted with what an absent operand is called.
// Launch: grid (SPLITS, heads of K, batch), THREADS threads, cluster (SPLITS, 1, 1), SHARED bytes.
//@constants

namespace step {
typedef unsigned u32;
constexpr int ROWS = QUERIES * GROUP, WARPS = THREADS / 32;
constexpr int COLUMNS = DIM_V / VE_V;
static_assert(DIM_V % VE_V == 0 && SLICES > 0 && SLICES * COLUMNS <= THREADS, "a thread takes one group of columns of a slice of the keys");
template <class E, int N> struct alignas(sizeof(E) * N) Row {
  E v[N];
};

// Stored types: f16 and bf16 as their bits.
struct Half {
  unsigned short bits;
};
struct Brain {
  unsigned short bits;
};
//@types
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(Half x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits));
  return r;
}
__device__ __forceinline__ float widen(Brain x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ void narrow(float& to, float x) { to = x; }
__device__ __forceinline__ void narrow(Half& to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
__device__ __forceinline__ void narrow(Brain& to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// Everything written before is seen by the whole cluster behind it.
__device__ __forceinline__ void meet() {
  if constexpr (SPLITS == 1) {
    __syncthreads();
  } else {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
  }
}
// What lies at this place of another block's shared memory.
__device__ __forceinline__ float of_block(const float* at, int rank) {
  if constexpr (SPLITS == 1) {
    return *at;
  } else {
    u32 remote;
    float x;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(at)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(remote) : "memory");
    return x;
  }
}
//@mask

// N elements, widened; where a grown cache is kept, they go there as well.
template <int N, class E> __device__ __forceinline__ void read(float (&to)[N], const E* from) {
  const Row<E, N> row = *(const Row<E, N>*)from;
#pragma unroll
  for (int e = 0; e < N; e++) to[e] = widen(row.v[e]);
}
template <int N, class E> __device__ __forceinline__ void write(E* to, const float (&x)[N]) {
  Row<E, N> row;
#pragma unroll
  for (int e = 0; e < N; e++) narrow(row.v[e], x[e]);
  *(Row<E, N>*)to = row;
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out SCRATCH_PARAMETERS) {
  extern __shared__ __align__(16) float memory[];
  float* const queries = memory;                        // [ROWS][DIM]
  float* const scores = queries + ROWS * DIM;           // [ROWS][SPAN], then probabilities
  float* const top = scores + ROWS * SPAN;              // [ROWS]
  float* const sum = top + ROWS;                        // [ROWS]
  float* const mixed = sum + ROWS;                      // [ROWS][DIM_V]
  float* const partial = mixed + ROWS * DIM_V;          // [SLICES][ROWS][DIM_V]
  const int rank = blockIdx.x, shared_head = blockIdx.y, batch = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first = rank * SPAN, last = min(first + SPAN, KEYS);

  for (int i = threadIdx.x; i < ROWS * DIM; i += THREADS) {
    const int row = i / DIM, head = shared_head * GROUP + row / QUERIES;
    queries[i] = widen(q[batch * Q_B + head * Q_H + row % QUERIES * Q_S + i % DIM]);
  }
  __syncthreads();

  // Eight lanes a key: each sums its share of the channels.
  for (int base = first + warp * 4; base < last; base += WARPS * 4) {
    const int key = base + lane / 8, share = lane % 8;
    const bool live = key < last;
    float x[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) x[row] = 0.f;
#pragma unroll
    for (int c = 0; c < DIM; c += 8 * VE_K) {
      const int d = c + share * VE_K;
      if (!live || d >= DIM) continue;
      float own[VE_K];
      if (key < PAST) read(own, past_k + batch * PK_B + shared_head * PK_H + key * PK_S + d);
      else read(own, k + batch * K_B + shared_head * K_H + (key - PAST) * K_S + d);
      if constexpr (STORE_K) write(grown_k + batch * GK_B + shared_head * GK_H + key * GK_S + d, own);
#pragma unroll
      for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int e = 0; e < VE_K; e++) x[row] = fmaf(queries[row * DIM + d + e], own[e], x[row]);
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
      for (int other = 1; other < 8; other *= 2) x[row] += __shfl_xor_sync(~0u, x[row], other);
      if (!live || share != row % 8) continue;
      const int head = shared_head * GROUP + row / QUERIES, query = row % QUERIES;
      float score = x[row] * SCALE;
//@cap
      if constexpr (MASK != 0) score = masked(score, mask, batch, head, query, key);
      if (CAUSAL && key > query + PAST) score = -INFINITE;
      scores[row * SPAN + key - first] = score;
    }
  }
  __syncthreads();

  for (int row = warp; row < ROWS; row += WARPS) {
    float largest = -INFINITE, total = 0.f;
    for (int i = lane; i < last - first; i += 32) largest = fmaxf(largest, scores[row * SPAN + i]);
#pragma unroll
    for (int other = 1; other < 32; other *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
    const float base = largest == -INFINITE ? 0.f : largest;
    for (int i = lane; i < last - first; i += 32) {
      const float p = expf(scores[row * SPAN + i] - base);
      scores[row * SPAN + i] = p;
      total += p;
    }
#pragma unroll
    for (int other = 1; other < 32; other *= 2) total += __shfl_xor_sync(~0u, total, other);
    if (lane == 0) top[row] = largest, sum[row] = total;
  }
  __syncthreads();

  const int column = threadIdx.x % COLUMNS * VE_V, slice = threadIdx.x / COLUMNS;
  if (slice < SLICES) {
    float o[ROWS][VE_V];
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
      for (int e = 0; e < VE_V; e++) o[row][e] = 0.f;
#pragma unroll 4
    for (int key = first + slice; key < last; key += SLICES) {
      float own[VE_V];
      if (key < PAST) read(own, past_v + batch * PV_B + shared_head * PV_H + key * PV_S + column);
      else read(own, v + batch * V_B + shared_head * V_H + (key - PAST) * V_S + column);
      if constexpr (STORE_V) write(grown_v + batch * GV_B + shared_head * GV_H + key * GV_S + column, own);
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        const float p = scores[row * SPAN + key - first];
#pragma unroll
        for (int e = 0; e < VE_V; e++) o[row][e] = fmaf(p, own[e], o[row][e]);
      }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
      for (int e = 0; e < VE_V; e++) partial[(slice * ROWS + row) * DIM_V + column + e] = o[row][e];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < ROWS * DIM_V; i += THREADS) {
    float x = 0.f;
    for (int s = 0; s < SLICES; s++) x += partial[s * ROWS * DIM_V + i];
    mixed[i] = x;
  }
  meet();

  for (int i = rank * THREADS + threadIdx.x; i < ROWS * DIM_V; i += SPLITS * THREADS) {
    const int row = i / DIM_V, head = shared_head * GROUP + row / QUERIES;
    float largest = -INFINITE, total = 0.f, x = 0.f;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) largest = fmaxf(largest, of_block(top + row, s));
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      const float there = of_block(top + row, s);
      const float weight = there == -INFINITE ? 0.f : expf(there - largest);
      total = fmaf(weight, of_block(sum + row, s), total);
      x = fmaf(weight, of_block(mixed + i, s), x);
    }
    narrow(out[batch * O_B + head * O_H + row % QUERIES * O_S + i % DIM_V], total == 0.f ? 0.f : x / total);
  }
  // No block ends while another reads its shared memory.
  meet();
}
}  // namespace step
