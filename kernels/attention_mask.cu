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
