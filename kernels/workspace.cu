  {
    // Every block publishes its partial tile; the last one to arrive adds them all, in the order of the splits, into its own shared memory.
    __shared__ u32 is_last;
    Acc* mine = workspace + ((long long)place.index * SPLIT + blockIdx.z) * (BM * BN);
    for (int e = t * 4; e < BM * BN; e += THREADS * 4) *(Quad*)(mine + e) = *(const Quad*)(staged + e / BN * PITCH + staged_column(e % BN));
    __threadfence();
    __syncthreads();
    if (t == 0) is_last = atomicInc(counters + place.index, SPLIT - 1) == SPLIT - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int e = t * 4; e < BM * BN; e += THREADS * 4) {
      Quad sum = {};
#pragma unroll
      for (int s = 0; s < SPLIT; s++) {
        u32 bits[4];
        asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                     : "l"(workspace + ((long long)place.index * SPLIT + s) * (BM * BN) + e) : "memory");
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if constexpr (PRECISION == 4) sum.v[i] += (int)bits[i];
          else sum.v[i] += __uint_as_float(bits[i]);
        }
      }
      *(Quad*)(staged + e / BN * PITCH + staged_column(e % BN)) = sum;
    }
    __syncthreads();
  }
