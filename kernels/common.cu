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
