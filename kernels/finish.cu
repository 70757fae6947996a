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
__device__ __forceinline__ void read_ahead(Early (&early)[AHEAD], const Place& place, int turn EPILOGUE_PARAMETERS) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) {
    const int e = (REDUCE == 2 ? blockIdx.z * (BM / SPLIT) * BN : 0) + ((turn + i) * THREADS + threadIdx.x) * V, m = place.m + e / BN, n = place.n + e % BN;
    if (m < M && n < N && e < BM * BN) early[i] = early_reads(N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n EPILOGUE_ARGUMENTS);
  }
}

__device__ __forceinline__ void finish(Acc* staged, const Place place, Early (&early)[AHEAD] SCRATCH_PARAMETERS EPILOGUE_PARAMETERS) {
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
#pragma unroll(TURNS <= 4 ? 1 : TURNS <= 16 ? TURNS / AHEAD : 2)
  for (int turn = 0; turn == 0 || turn < TURNS; turn += AHEAD) {
    Early now[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) now[i] = early[i];
    if (turn + AHEAD < TURNS) read_ahead(early, place, turn + AHEAD EPILOGUE_ARGUMENTS);
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
    apply(v, now[i], N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n EPILOGUE_ARGUMENTS);
    }
  }
  // Other blocks of the cluster may still be reading this block's shared memory.
  if constexpr (REDUCE == 2) asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
