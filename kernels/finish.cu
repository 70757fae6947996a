// The end of a tile: partial sums of a split K are added in a fixed order (bitwise reproducible), then the epilogue takes V columns at a time.
// `staged` is the block's BM x BN tile in shared memory, rows of PITCH accumulators, written but not yet synchronised.
// Constants: SPLIT, REDUCE (0 none, 1 workspace: the last block of a tile adds all, 2 cluster of SPLIT blocks: each adds a share of the rows through
// distributed shared memory), V, N_BASE (columns per batch step when groups are batches, else 0).
// Workspace: tiles * SPLIT * BM * BN accumulators, and one counter a tile that is zero before the first launch and left zero.
template <int COUNT> __device__ __forceinline__ void read_columns(Acc (&v)[COUNT], const Acc* p) {
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      const Quad q = *(const Quad*)(p + i);
      v[i] = q.v[0], v[i + 1] = q.v[1], v[i + 2] = q.v[2], v[i + 3] = q.v[3];
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) v[i] = p[i];
  }
}

__device__ __forceinline__ void finish(Acc* staged, const Place place SCRATCH_PARAMETERS EPILOGUE_PARAMETERS) {
  const int t = threadIdx.x;
  int first = 0, last = BM;
  if constexpr (REDUCE == 2) {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    first = blockIdx.z * (BM / SPLIT);
    last = first + BM / SPLIT;
  } else {
    __syncthreads();
  }
//@workspace
  constexpr int TURNS = REDUCE == 2 ? BM * BN / SPLIT / (THREADS * V) : BM * BN / (THREADS * V);
#pragma unroll(TURNS <= 8 && TURNS > 0 ? TURNS : 4)
  for (int e = first * BN + t * V; e < last * BN; e += THREADS * V) {
    const int row = e / BN, column = e % BN, m = place.m + row, n = place.n + column;
    if (m >= M || n >= N) continue;
    Acc v[V];
    if constexpr (REDUCE == 2) {
#pragma unroll
      for (int i = 0; i < V; i++) v[i] = 0;
      const u32 here = shared_address(staged + row * PITCH + column);
#pragma unroll
      for (int s = 0; s < SPLIT; s++) {
        u32 there, bits[V];
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(s));
        if constexpr (V % 4 == 0) {
#pragma unroll
          for (int i = 0; i < V; i += 4)
            asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(bits[i]), "=r"(bits[i + 1]), "=r"(bits[i + 2]), "=r"(bits[i + 3]) : "r"(there + i * 4) : "memory");
        } else {
#pragma unroll
          for (int i = 0; i < V; i++) asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(bits[i]) : "r"(there + i * 4) : "memory");
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
          if constexpr (PRECISION == 4) v[i] += (int)bits[i];
          else v[i] += __uint_as_float(bits[i]);
        }
      }
    } else {
      read_columns<V>(v, staged + row * PITCH + column);
    }
    if constexpr (N_BASE != 0) epilogue(v, 0, m, place.batch * N_BASE + n EPILOGUE_ARGUMENTS);
    else epilogue(v, place.batch, m, n EPILOGUE_ARGUMENTS);
  }
  // Other blocks of the cluster may still be reading this block's shared memory.
  if constexpr (REDUCE == 2) asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
