// Matrix product in true FP32 through FFMA, one tile per block: out[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, n, k]).
// A stage is BK lines of BM and of BN floats (k outermost), filled by cp.async whatever the strides. A warp is 4 x 8 threads; a thread
// owns TM x TN outputs as quads 16 rows and 32 columns apart, so every shared-memory read is 16 bytes wide and free of conflicts.
// Constants: M N K (of one batch element or group), BM BN BK, TM TN (4 or 8), WARPS_M WARPS_N, STAGES, THREADS, MIN_BLOCKS, STEPS, STEPS_PER_SPLIT,
//   ALoader, BLoader, and those of tiles.cu and finish.cu.
// Launch: grid (tiles * batches, 1, SPLIT), THREADS threads, dynamic shared memory as the emitter says.
namespace tile {
//@constants
//@use common.cu
//@use loaders.cu
//@loaders
//@use tiles.cu
}  // namespace tile

//@epilogue

namespace tile {
//@use finish.cu

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
KERNEL(const T* __restrict__ a, const T* __restrict__ b SCRATCH_PARAMETERS EPILOGUE_PARAMETERS) {
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
  if constexpr (TURNS <= 2) read_ahead(early, place, 0 EPILOGUE_ARGUMENTS);
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
  if constexpr (TURNS > 2) read_ahead(early, place, 0 EPILOGUE_ARGUMENTS);
  finish(staged, place, early SCRATCH_ARGUMENTS EPILOGUE_ARGUMENTS);
}
}  // namespace tile
