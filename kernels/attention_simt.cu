// Attention of one head and 64 queries per block in true FP32 (FFMA): out = softmax(scale * Q K^T + mask) V with the online softmax of attention.cu.
// 128 threads as 16 x 8: a thread owns 4 queries; of the scores BKEYS/8 keys, of the output DIM_V_P/8 columns. Q and K lie transposed ([d][row]) and
// probabilities [key][query], so every shared-memory read is a 16-byte vector. Constants as attention.cu, with DIM_V_P a multiple of 32.
namespace tile {
//@constants
//@use common.cu
constexpr int BQ = 64, THREADS = 128, PITCH_Q = BQ + 4, PITCH_K = BKEYS + 4, PITCH_V = DIM_V_P + 4, OWN_K = BKEYS / 8, OWN_V = DIM_V_P / 8;

// Rows first.. of a [limit, WIDTH] matrix, transposed: to[column * PITCH + row].
template <int ROWS, int WIDTH, int PITCH> __device__ __forceinline__ void copy_transposed(u32 to, const float* from, long long stride, int first, int limit) {
  // 8 lanes of neighbouring columns by 4 rows: 32-byte reads, shared-memory writes in 32 banks.
  constexpr int COLUMNS = (WIDTH + 7) / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * COLUMNS * 8; i += THREADS) {
    const int lane = i & 31, block = i >> 5, row = block % (ROWS / 4) * 4 + (lane >> 3), c = block / (ROWS / 4) * 8 + (lane & 7);
    if (WIDTH % 8 != 0 && c >= WIDTH) continue;
    copy_async<4>(to + (c * PITCH + row) * 4, from + (first + row) * stride + c, first + row < limit ? 4 : 0);
  }
}
template <int VE, int ROWS, int WIDTH> __device__ __forceinline__ void copy_rows(u32 to, const float* from, long long stride, int first, int limit) {
  constexpr int PER_ROW = DIM_V_P / VE;
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * PER_ROW; i += THREADS) {
    const int row = i / PER_ROW, c = i % PER_ROW * VE;
    copy_async<VE * 4>(to + (row * PITCH_V + c) * 4, from + (first + row) * stride + c, first + row < limit && c < WIDTH ? VE * 4 : 0);
  }
}
//@mask

extern "C" __global__ void __launch_bounds__(THREADS, 2)
KERNEL(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, float* __restrict__ out SCRATCH_PARAMETERS) {
  extern __shared__ __align__(128) char shared_bytes[];
  float* const sq = (float*)shared_bytes;
  float* const sk = sq + DIM * PITCH_Q;
  float* const sv = sk + DIM * PITCH_K;
  float* const sp = sv + BKEYS * PITCH_V;
  const int across = threadIdx.x & 7, down = threadIdx.x >> 3, head = blockIdx.y, batch = blockIdx.z;
  const int q0 = (CAUSAL ? (int)(gridDim.x - 1 - blockIdx.x) : (int)blockIdx.x) * BQ;
  q += batch * Q_B + head * Q_H;
  k += batch * K_B + head / GROUP * K_H;
  v += batch * V_B + head / GROUP * V_H;
  const int seen = CAUSAL ? q0 + BQ + CAUSAL_OFFSET : KEYS, keys = seen < KEYS ? (seen < 0 ? 0 : seen) : KEYS;

  copy_transposed<BQ, DIM, PITCH_Q>(shared_address(sq), q, Q_S, q0, QUERIES);
  copy_transposed<BKEYS, DIM, PITCH_K>(shared_address(sk), k, K_S, 0, KEYS);
  copy_commit();
  float o[4][OWN_V], largest[4], sum[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    largest[i] = -INFINITE, sum[i] = 0.f;
#pragma unroll
    for (int j = 0; j < OWN_V; j++) o[i][j] = 0.f;
  }
#pragma unroll 1
  for (int key0 = 0; key0 < keys; key0 += BKEYS) {
    copy_wait<0>();
    __syncthreads();
    copy_rows<VE_V, BKEYS, DIM_V>(shared_address(sv), v, V_S, key0, KEYS);
    copy_commit();
    float s[4][OWN_K];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < OWN_K; j++) s[i][j] = 0.f;
#pragma unroll 4
    for (int d = 0; d < DIM; d++) {
      const Quad fq = *(const Quad*)(sq + d * PITCH_Q + down * 4);
#pragma unroll
      for (int j = 0; j < OWN_K; j += 4) {
        const Quad fk = *(const Quad*)(sk + d * PITCH_K + j * 8 + across * 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) s[i][j + e] = fmaf(fq.v[i], fk.v[e], s[i][j + e]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int query = q0 + down * 4 + i;
      float top = -INFINITE;
#pragma unroll
      for (int j = 0; j < OWN_K; j++) {
        const int key = key0 + j / 4 * 32 + across * 4 + j % 4;
        float x = s[i][j] * SCALE;
        if constexpr (SOFTCAP) x = CAP * tanhf(x / CAP);
//@apply_mask_simt
        if (key >= KEYS || (CAUSAL && key > query + CAUSAL_OFFSET)) x = -INFINITE;
        s[i][j] = x;
        top = fmaxf(top, x);
      }
#pragma unroll
      for (int lane = 1; lane < 8; lane *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, lane));
      top = fmaxf(top, largest[i]);
      const float base = top == -INFINITE ? 0.f : top, shrink = expf(largest[i] - base);
      largest[i] = top;
      sum[i] *= shrink;
#pragma unroll
      for (int j = 0; j < OWN_K; j++) {
        s[i][j] = expf(s[i][j] - base);
        sum[i] += s[i][j];
      }
#pragma unroll
      for (int j = 0; j < OWN_V; j++) o[i][j] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < OWN_K; j++) *(Quad*)(sp + (j / 4 * 32 + across * 4 + j % 4) * PITCH_Q + down * 4) = {s[0][j], s[1][j], s[2][j], s[3][j]};
    copy_wait<0>();
    __syncthreads();
    if (key0 + BKEYS < keys) copy_transposed<BKEYS, DIM, PITCH_K>(shared_address(sk), k, K_S, key0 + BKEYS, KEYS);
    copy_commit();
#pragma unroll 4
    for (int key = 0; key < BKEYS; key++) {
      const Quad fp = *(const Quad*)(sp + key * PITCH_Q + down * 4);
#pragma unroll
      for (int j = 0; j < OWN_V; j += 4) {
        const Quad fv = *(const Quad*)(sv + key * PITCH_V + j * 8 + across * 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) o[i][j + e] = fmaf(fp.v[i], fv.v[e], o[i][j + e]);
      }
    }
  }
  copy_wait<0>();
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int lane = 1; lane < 8; lane *= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], lane);
    const int query = q0 + down * 4 + i;
    if (query >= QUERIES) continue;
    float* to = out + batch * O_B + head * O_H + query * O_S;
#pragma unroll
    for (int j = 0; j < OWN_V; j++) {
      const int d = j / 4 * 32 + across * 4 + j % 4;
      if (d < DIM_V) to[d] = o[i][j] / sum[i];
    }
  }
}
}  // namespace tile
