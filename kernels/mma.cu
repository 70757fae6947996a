// Matrix product of one tile per block through mma.sync (sm_80 and up): out[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, n, k]).
// f16 and bf16 (k16) and tf32 (k8) accumulate in FP32, s8 (k32) in int32; every step along k takes 32 bytes of a row.
//
// Operands come through cp.async into a ring of STAGES stages; a stage is BM rows and BN rows of KB bytes. Any M, N, K: what lies outside
// is filled with zeros. The loaders (loaders.cu) say how rows are found: a strided matrix, or the windows of a convolution (NHWC).
// Constants: M N K (of one batch element or group), BM BN (block tile), WM WN (warp tile), KB (bytes of a shared row: 64 or 128), STAGES,
//   THREADS = 32 * (BM/WM) * (BN/WN), A_ALONG_K, B_ALONG_K (false: the operand's shared tile is k rows of BM or BN elements; f16 and bf16 only),
//   STEPS = ceil(K / BK), STEPS_PER_SPLIT, ALoader, BLoader, and those of tiles.cu and finish.cu.
// Launch: grid (tiles * batches, 1, SPLIT), THREADS threads, dynamic shared memory as the emitter says.
namespace tile {
//@constants
//@use common.cu
//@use loaders.cu
//@loaders
//@use tiles.cu

template <int KIND, class C> __device__ __forceinline__ void multiply(C (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (KIND == 0)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if constexpr (KIND == 1)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if constexpr (KIND == 2)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rows x 32 bytes of a stage as matrix fragments. Lane l names the row of one 8 x 16-byte matrix; `row` and `step` (32-byte step along k) are warp-wide.
__device__ __forceinline__ void fragment_a(u32 (&f)[4], u32 stage, int row, int step, int lane) {
  if constexpr (A_ALONG_K)
    load_matrices(f, stage + KMajor::chunk(row + (lane & 15), step * 2 + (lane >> 4)));
  else
    load_matrices_transposed(f, stage + MnMajor<BM>::chunk(step * 16 + (lane >> 4) * 8 + (lane & 7), (row >> 3) + ((lane >> 3) & 1)));
  if constexpr (PRECISION == 2)
    for (int i = 0; i < 4; i++) f[i] = round_tf32(f[i]);
}
// Two column blocks of 8: f[0], f[1] of the first, f[2], f[3] of the second.
__device__ __forceinline__ void fragment_b(u32 (&f)[4], u32 stage, int column, int step, int lane) {
  if constexpr (B_ALONG_K)
    load_matrices(f, stage + KMajor::chunk(column + (lane & 7) + ((lane >> 4) << 3), step * 2 + ((lane >> 3) & 1)));
  else
    load_matrices_transposed(f, stage + MnMajor<BN>::chunk(step * 16 + ((lane >> 3) & 1) * 8 + (lane & 7), (column >> 3) + (lane >> 4)));
  if constexpr (PRECISION == 2)
    for (int i = 0; i < 4; i++) f[i] = round_tf32(f[i]);
}
}  // namespace tile

//@epilogue

namespace tile {
//@use finish.cu

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
KERNEL(const T* __restrict__ a, const T* __restrict__ b SCRATCH_PARAMETERS EPILOGUE_PARAMETERS) {
  extern __shared__ __align__(1024) char shared_bytes[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Place place = place_of(blockIdx.x);
  const int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
  const u32 ring_a = shared_address(shared_bytes), ring_b = ring_a + STAGES * BM * KB;
  const int first = SPLIT == 1 ? 0 : (int)blockIdx.z * STEPS_PER_SPLIT;
  const int steps = SPLIT == 1 ? STEPS : STEPS - first < STEPS_PER_SPLIT ? STEPS - first : STEPS_PER_SPLIT;

  // What the epilogue reads is asked for before the products where that costs few registers, else before its shared-memory pass.
  Early early[AHEAD];
  if constexpr (TURNS <= 2) read_ahead(early, place, 0 EPILOGUE_ARGUMENTS);
  ALoader load_a;
  BLoader load_b;
  load_a.begin(a + a_offset(place.batch), place.m, first * BK);
  load_b.begin(b + b_offset(place.batch), place.n, first * BK);

  Acc acc[WM / 16][WN / 8][4];
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0;

#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      load_a.issue(ring_a + s * BM * KB);
      load_b.issue(ring_b + s * BN * KB);
      load_a.land(ring_a + s * BM * KB);
      load_b.land(ring_b + s * BN * KB);
    }
    copy_commit();
  }
  int read = 0, write = STAGES - 1;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    const bool more = step + STAGES - 1 < steps;
    if (more) {
      load_a.issue(ring_a + write * BM * KB);
      load_b.issue(ring_b + write * BN * KB);
    }
    copy_commit();
    const u32 stage_a = ring_a + read * BM * KB, stage_b = ring_b + read * BN * KB;
#pragma unroll
    for (int k = 0; k < KB / 32; k++) {
      u32 fa[WM / 16][4], fb[WN / 16][4];
#pragma unroll
      for (int i = 0; i < WM / 16; i++) fragment_a(fa[i], stage_a, wm + i * 16, k, lane);
#pragma unroll
      for (int j = 0; j < WN / 16; j++) fragment_b(fb[j], stage_b, wn + j * 16, k, lane);
#pragma unroll
      for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++) multiply<PRECISION>(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
    if (more) {
      load_a.land(ring_a + write * BM * KB);
      load_b.land(ring_b + write * BN * KB);
    }
    if (++read == STAGES) read = 0;
    if (++write == STAGES) write = 0;
  }
  copy_wait<0>();
  __syncthreads();

  Acc* staged = (Acc*)shared_bytes;
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      Acc* row = staged + (wm + i * 16 + h * 8 + (lane >> 2)) * PITCH;
#pragma unroll
      for (int j = 0; j < WN / 8; j++) *(Pair*)(row + staged_column(wn + j * 8 + (lane & 3) * 2)) = {acc[i][j][h * 2], acc[i][j][h * 2 + 1]};
    }
  if constexpr (TURNS > 2) read_ahead(early, place, 0 EPILOGUE_ARGUMENTS);
  finish(staged, place, early SCRATCH_ARGUMENTS EPILOGUE_ARGUMENTS);
}
}  // namespace tile
