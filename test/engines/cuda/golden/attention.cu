// Attention of one head and BQ queries per block on the matrix units (sm_80 and up): out = softmax(scale * Q K^T + mask) V, f16 or bf16, FP32 sums.
// Keys come in blocks of BKEYS; the row maximum and sum are carried along (online softmax), so scores never leave registers. A warp owns 16 * TILES queries.
// The loads of a key block and of its values run behind the arithmetic of the other. Rows are padded to odd multiples of 16 bytes: ldmatrix without conflicts.
// A row whose keys are all excluded gives NaN, as softmax of nothing but minus infinity does.
// Constants: QUERIES KEYS DIM DIM_V (head sizes of q, k and of v, out), DIM_P DIM_V_P (rounded up to 16), BKEYS, WARPS, TILES, GROUP (query heads per key head),
//   VE_K VE_V (elements a copy takes), Q_B Q_H Q_S, K_.., V_.., O_.. (strides of batch, head, position), MASK (0 none, 1 float, 2 f16, 3 bf16, 4 bool) with M_B M_H M_Q M_K
//   and MASK_PAIRS (the elements of keys 2i and 2i + 1 lie side by side, aligned as one),
//   CAUSAL, CAUSAL_OFFSET (key j is seen by query i when j <= i + offset), KEEP_Q (Q stays in registers), SOFTCAP; floats SCALE, CAP;
//   FOLD (no mask, no soft cap, SCALE > 0: the scale goes into the exponent).
// Launch: grid (ceil(QUERIES / BQ), heads, batch), 32 * WARPS threads, dynamic shared memory as the emitter says.
namespace tile {
using T = unsigned short;
using Acc = float;
constexpr int QUERIES = 64, KEYS = 64, DIM = 64, DIM_V = 64, DIM_P = 64, DIM_V_P = 64, WARPS = 4, TILES = 1, MIN_BLOCKS = 3, VE_K = 8, VE_V = 8, BKEYS = 64, GROUP = 1, MASK = 2, CAUSAL_OFFSET = 0, PRECISION = 0, ES = 2;
constexpr bool MASK_PAIRS = true, CAUSAL = false, SOFTCAP = false, KEEP_Q = true, FOLD = false;
constexpr long long Q_B = 16384, Q_H = 64, Q_S = 256, K_B = 16384, K_H = 64, K_S = 256, V_B = 16384, V_H = 64, V_S = 256, O_B = 16384, O_H = 64, O_S = 256, M_B = 0, M_H = 0, M_Q = 64, M_K = 1;
constexpr float SCALE = 0.125f, CAP = 1.0f;
#define INFINITE __int_as_float(0x7f800000)
using MaskT = unsigned short;
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
constexpr int BQ = WARPS * TILES * 16, THREADS = WARPS * 32, PITCH_K = DIM_P * 2 + 16, PITCH_V = DIM_V_P * 2 + 16;
constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
__device__ __forceinline__ u32 narrow2(float low, float high) {
  u32 r;
  if constexpr (PRECISION == 0) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (PRECISION == 0)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Rows first.. of a [LIMIT, WIDTH] matrix into ROWS shared rows of PADDED elements; what does not exist becomes zero. `first` is a multiple of ROWS.
template <int VE, int ROWS, int WIDTH, int PADDED, int LIMIT> __device__ __forceinline__ void copy_rows(u32 to, const T* from, long long stride, int first) {
  constexpr int PER_ROW = PADDED / VE, PITCH = PADDED * 2 + 16;
  const auto copy = [&](int row, int c, const T* p) {
    const bool exists = (LIMIT % ROWS == 0 || first + row < LIMIT) && (WIDTH == PADDED || c < WIDTH);
    if constexpr (VE >= 2) copy_async<VE * 2>(to + row * PITCH + c * 2, p, exists ? VE * 2 : 0);
    else asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + row * PITCH + c * 2), "h"(exists ? *p : (T)0) : "memory");
  };
  if constexpr (THREADS % PER_ROW == 0) {
    // Every thread keeps to its column and goes down the rows.
    constexpr int STEP = THREADS / PER_ROW;
    const int row = threadIdx.x / PER_ROW, c = threadIdx.x % PER_ROW * VE;
    const T* p = from + (first + row) * stride + c;
#pragma unroll 4
    for (int i = 0; i < ROWS; i += STEP, p += STEP * stride)
      if (ROWS % STEP == 0 || row + i < ROWS) copy(row + i, c, p);
  } else {
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * PER_ROW; i += THREADS) {
      const int row = i / PER_ROW, c = i % PER_ROW * VE;
      copy(row, c, from + (first + row) * stride + c);
    }
  }
}
// CAP * tanh(x * SCALE / CAP).
__device__ __forceinline__ float capped(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.f + exp2_fast(x * (2.f * LOG2E * SCALE / CAP))));
  return fmaf(r, -2.f * CAP, CAP);
}
// Score x under an element of the mask: added, or (bool) kept where true.
__device__ __forceinline__ float with_mask(float x, MaskT m) {
  if constexpr (MASK == 1) return x + (float)m;
  else if constexpr (MASK == 2) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)m));
    return x + f;
  } else if constexpr (MASK == 3) return x + __uint_as_float((u32)m << 16);
  else return m != 0 ? x : -INFINITE;
}
// The same after the element of (batch, head, query, key). Elements beyond the problem are not read.
__device__ __forceinline__ float masked(float x, const MaskT* __restrict__ mask, int batch, int head, int query, int key) {
  if (query >= QUERIES || key >= KEYS) return x;
  return with_mask(x, mask[batch * M_B + head * M_H + query * M_Q + key * M_K]);
}
// The mask's elements of keys `key` and `key + 1`, 0 for what lies beyond the problem.
struct alignas(MASK_PAIRS ? 2 * sizeof(MaskT) : sizeof(MaskT)) MaskPair { MaskT e[2]; };
__device__ __forceinline__ MaskPair mask_pair(const MaskT* __restrict__ mask, int batch, int head, int query, int key) {
  MaskPair m = {{(MaskT)0, (MaskT)0}};
  if ((M_Q == 0 || QUERIES % BQ == 0 || query < QUERIES) && (KEYS % BKEYS == 0 || key < KEYS)) {
    const MaskT* p = mask + batch * M_B + head * M_H + query * M_Q + key * M_K;
    if constexpr (MASK_PAIRS) m = *(const MaskPair*)p;
    else {
      m.e[0] = p[0];
      if (KEYS % BKEYS == 0 || key + 1 < KEYS) m.e[1] = p[M_K];
    }
  }
  return m;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out, const MaskT* __restrict__ mask) {
  extern __shared__ __align__(128) char shared_bytes[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, batch = blockIdx.z;
  // Under a causal mask the last queries have the most keys: start with them.
  const int q0 = (CAUSAL ? (int)(gridDim.x - 1 - blockIdx.x) : (int)blockIdx.x) * BQ;
  const u32 at_q = shared_address(shared_bytes), at_k = at_q + BQ * PITCH_K, at_v = at_k + BKEYS * PITCH_K;
  q += batch * Q_B + head * Q_H;
  k += batch * K_B + head / GROUP * K_H;
  v += batch * V_B + head / GROUP * V_H;
  const int seen = CAUSAL ? q0 + BQ + CAUSAL_OFFSET : KEYS, keys = seen < KEYS ? (seen < 0 ? 0 : seen) : KEYS;

  copy_rows<VE_K, BQ, DIM, DIM_P, QUERIES>(at_q, q, Q_S, q0);
  copy_rows<VE_K, BKEYS, DIM, DIM_P, KEYS>(at_k, k, K_S, 0);
  copy_commit();

  float o[TILES][DIM_V_P / 8][4], largest[TILES][2], sum[TILES][2];
#pragma unroll
  for (int i = 0; i < TILES; i++) {
    largest[i][0] = largest[i][1] = -INFINITE, sum[i][0] = sum[i][1] = 0.f;
#pragma unroll
    for (int j = 0; j < DIM_V_P / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) o[i][j][e] = 0.f;
  }
  u32 fq[TILES][KEEP_Q ? DIM_P / 16 : 1][4];
  const int own = warp * TILES * 16;
  const u32 own_q = at_q + (own + (lane & 15)) * PITCH_K + (lane >> 4) * 16;
  const int row = q0 + own + (lane >> 2);
  // What a score is multiplied by before exp2.
  constexpr float TO_EXPONENT = FOLD ? SCALE * LOG2E : LOG2E;

#pragma unroll 1
  for (int key0 = 0; key0 < keys; key0 += BKEYS) {
    copy_wait<0>();
    __syncthreads();
    copy_rows<VE_V, BKEYS, DIM_V, DIM_V_P, KEYS>(at_v, v, V_S, key0);
    copy_commit();
    if constexpr (KEEP_Q) {
      if (key0 == 0) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
          for (int d = 0; d < DIM_P / 16; d++) load_matrices(fq[i][d], own_q + i * 16 * PITCH_K + d * 32);
      }
    }
    float s[TILES][BKEYS / 8][4];
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int j = 0; j < BKEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][j][e] = 0.f;
    // Unrolled whole, the loads of Q would crowd the registers.
#pragma unroll(KEEP_Q ? DIM_P / 16 : 2)
    for (int d = 0; d < DIM_P / 16; d++) {
      if constexpr (!KEEP_Q) {
#pragma unroll
        for (int i = 0; i < TILES; i++) load_matrices(fq[i][0], own_q + i * 16 * PITCH_K + d * 32);
      }
#pragma unroll
      for (int j = 0; j < BKEYS / 16; j++) {
        u32 fk[4];
        load_matrices(fk, at_k + (j * 16 + (lane & 7) + ((lane >> 4) << 3)) * PITCH_K + d * 32 + ((lane >> 3) & 1) * 16);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          multiply(s[i][2 * j], fq[i][KEEP_Q ? d : 0], fk[0], fk[1]);
          multiply(s[i][2 * j + 1], fq[i][KEEP_Q ? d : 0], fk[2], fk[3]);
        }
      }
    }
    // A thread holds rows row + 16i and 8 below, columns key0 + 8j + 2(lane % 4) and the next.
    if constexpr (!FOLD) {
#pragma unroll
      for (int j = 0; j < BKEYS / 8; j++) {
        const int key = key0 + j * 8 + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const MaskPair m = mask_pair(mask, batch, head, row + i * 16 + h * 8, key);
#pragma unroll
            for (int c = 0; c < 2; c++) {
              float x = s[i][j][h * 2 + c];
              if constexpr (SOFTCAP) x = capped(x);
              else x *= SCALE;
              x = with_mask(x, m.e[c]);
              s[i][j][h * 2 + c] = x;
            }
          }
      }
    }
    if (key0 + BKEYS > KEYS || (CAUSAL && key0 + BKEYS - 1 > q0 + own + CAUSAL_OFFSET)) {
#pragma unroll
      for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < BKEYS / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int key = key0 + j * 8 + (lane & 3) * 2 + (e & 1), query = row + i * 16 + (e >> 1) * 8;
            if (key >= KEYS || (CAUSAL && key > query + CAUSAL_OFFSET)) s[i][j][e] = -INFINITE;
          }
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      float top[2] = {largest[i][0], largest[i][1]}, shrink[2];
#pragma unroll
      for (int j = 0; j < BKEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) top[e >> 1] = fmaxf(top[e >> 1], s[i][j][e]);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
        // With no key seen so far the maximum is minus infinity; subtracting it would give NaN.
        const float base = top[h] == -INFINITE ? 0.f : top[h];
        shrink[h] = exp2_fast((largest[i][h] - base) * TO_EXPONENT);
        largest[i][h] = top[h];
        // Folded, the subtraction joins the multiplication; a mask of -3e38 would overflow there, so it comes first otherwise.
        top[h] = FOLD ? base * TO_EXPONENT : base;
        sum[i][h] *= shrink[h];
      }
#pragma unroll
      for (int j = 0; j < BKEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          if constexpr (FOLD) s[i][j][e] = exp2_fast(fmaf(s[i][j][e], TO_EXPONENT, -top[e >> 1]));
          else s[i][j][e] = exp2_fast((s[i][j][e] - top[e >> 1]) * TO_EXPONENT);
          sum[i][e >> 1] += s[i][j][e];
        }
#pragma unroll
      for (int j = 0; j < DIM_V_P / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[i][j][e] *= shrink[e >> 1];
    }

    copy_wait<0>();
    __syncthreads();
    if (key0 + BKEYS < keys) copy_rows<VE_K, BKEYS, DIM, DIM_P, KEYS>(at_k, k, K_S, key0 + BKEYS);
    copy_commit();
#pragma unroll
    for (int j = 0; j < BKEYS / 16; j++) {
      u32 fp[TILES][4];
#pragma unroll
      for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) fp[i][e] = narrow2(s[i][2 * j + e / 2][e % 2 * 2], s[i][2 * j + e / 2][e % 2 * 2 + 1]);
#pragma unroll
      for (int d = 0; d < DIM_V_P / 16; d++) {
        u32 fv[4];
        load_matrices_transposed(fv, at_v + (j * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)) * PITCH_V + d * 32 + (lane >> 4) * 16);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          multiply(o[i][2 * d], fp[i], fv[0], fv[1]);
          multiply(o[i][2 * d + 1], fp[i], fv[2], fv[3]);
        }
      }
    }
  }
  copy_wait<0>();
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = sum[i][h];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const int query = row + i * 16 + h * 8;
      if (query >= QUERIES) continue;
      const float share = 1.f / total;
      T* to = out + batch * O_B + head * O_H + query * O_S + (lane & 3) * 2;
#pragma unroll
      for (int j = 0; j < DIM_V_P / 8; j++) {
        const u32 both = narrow2(o[i][j][h * 2] * share, o[i][j][h * 2 + 1] * share);
        const int d = j * 8 + (lane & 3) * 2;
        if constexpr (DIM_V % 2 == 0 && O_S % 2 == 0 && O_H % 2 == 0 && O_B % 2 == 0) {
          if (d < DIM_V) *(u32*)(to + j * 8) = both;
        } else {
          if (d < DIM_V) to[j * 8] = (T)both;
          if (d + 1 < DIM_V) to[j * 8 + 1] = (T)(both >> 16);
        }
      }
    }
}
}  // namespace tile
