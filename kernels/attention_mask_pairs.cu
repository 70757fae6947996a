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
