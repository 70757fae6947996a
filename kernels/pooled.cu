// A first layer and the max pooling behind it (sm_90a): a convolution of few channels and stride 2, then windows of 3 by 3 and stride 2 over it, of which only
// the maxima leave the chip. What follows the convolution must not fall where it rises (bias, positive scales, Relu, rounding), so that it is done after.
//
// Input lines are rows (s8: pairs of rows) of 16-byte chunks, each of two neighbouring pixels of 4 channels: chunk J begins at column 2 J of the padded row,
// where window J of the convolution begins. A line is stored as its even chunks, then its odd ones, ENTRIES each, entry e of plane v being chunk 2 (e - 1) + v.
// Even output columns 2 i and odd ones 2 i + 1 are products of their own, E and O: their operand A is the line itself, without copies. Eight rows of a core
// matrix are eight neighbouring entries, and groups of eight begin 7 entries apart, so that every group has the odd column left of its first window:
// 64 rows are 56 maxima of E[i], O[i] and O[i - 1].
// B comes as an image of core matrices, [E, O][line][32 bytes of k][16 bytes][8 rows of B], rows in the order of wgmma.cu; for O the halves of 32 bytes are exchanged,
// because its first chunk lies in the other plane.
// Constants: N (32 or 64 channels), IMAGES, ROWS and COLUMNS (of the result; at most 56 columns), LINES (of an image), STEP (lines from one output row to
//   the next), TAP_LINES, STRIP (rows of the result that a warpgroup walks down; divides ROWS), WARPGROUPS, RING (lines a warpgroup keeps), PRECISION, V.
// Launch: WARPGROUPS * 128 threads, blocks as many as there are multiprocessors or fewer.
namespace tile {
//@constants
typedef unsigned u32;
typedef unsigned long long u64;
constexpr int ENTRIES = 64, PLANE = ENTRIES * 16, LINE = 2 * PLANE, STEP_B = N * 32, COPY_B = TAP_LINES * 2 * STEP_B;
constexpr int AT_RING = 2 * COPY_B, AT_BARRIERS = AT_RING + WARPGROUPS * RING * LINE, STRIPS = IMAGES * (ROWS / STRIP);

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_wait(u32 b, u32 parity) {
  u32 done;
  do
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(b), "r"(parity) : "memory");
  while (!done);
}
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
// Core matrices of 8 rows x 16 bytes that are 128 bytes in a row: `along` bytes from one to the next along k, `across` along the rows.
__device__ __forceinline__ u64 descriptor(u32 address, u32 along, u32 across) {
  return (u64)((address & 0x3ffff) >> 4) | ((u64)(along >> 4) << 16) | ((u64)(across >> 4) << 32);
}
__device__ __forceinline__ int larger(int a, int b) { return max(a, b); }
__device__ __forceinline__ float larger(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ Acc least() {
  if constexpr (PRECISION == 4) return (Acc)(-2147483647 - 1);
  else return (Acc)__int_as_float(0xff800000);
}
//@wgmma
}  // namespace tile

//@epilogue

namespace tile {
extern "C" __global__ void __launch_bounds__(WARPGROUPS * 128, 1)
KERNEL(const T* __restrict__ x, const T* __restrict__ w EPILOGUE_PARAMETERS) {
  extern __shared__ __align__(1024) char shared_bytes[];
  // Uniform across the warp, and known to be: descriptors are then made in uniform registers.
  const int group = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0), warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31;
  const u32 base = shared_address(shared_bytes), weights = base + AT_BARRIERS, ring = base + AT_RING + group * (RING * LINE), full = weights + 8 + group * (RING * 8);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 1 + WARPGROUPS * RING; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(weights + i * 8));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    copy_bulk(base, w, 2 * COPY_B, weights);
  }
  __syncthreads();
  barrier_wait(weights, 0);

  // Lines are counted over all strips: line `count` lies in slot count % RING and completes phase count / RING of its barrier.
  int count = 0;
#pragma unroll 1
  for (int strip = blockIdx.x * WARPGROUPS + group; strip < STRIPS; strip += gridDim.x * WARPGROUPS) {
    const int image = strip / (ROWS / STRIP), top = strip % (ROWS / STRIP) * STRIP, first = top == 0 ? 0 : 2 * top - 1, last = 2 * (top + STRIP) - 1;
    const char* const lines = (const char*)x + ((long long)image * LINES + first * STEP) * LINE;
    const int all = (last - first) * STEP + TAP_LINES;
    const auto fetch = [&](int from, int to) {
      for (int i = from; i < to && i < all; i++) copy_bulk(ring + (count + i) % RING * LINE, lines + (long long)i * LINE, LINE, full + (count + i) % RING * 8);
    };
    if ((threadIdx.x & 127) == 0) fetch(0, RING);
    Acc carry[N / 2];
#pragma unroll
    for (int e = 0; e < N / 2; e++) carry[e] = least();
#pragma unroll 1
    for (int row = first; row <= last; row++) {
      const int line = (row - first) * STEP;
      for (int i = row == first ? 0 : TAP_LINES - STEP; i < TAP_LINES; i++) barrier_wait(full + (count + line + i) % RING * 8, (count + line + i) / RING & 1);
      Acc even[N / 2], odd[N / 2];
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int t = 0; t < TAP_LINES; t++) {
        const u32 at = ring + (count + line + t) % RING * LINE;
#pragma unroll
        for (int u = 0; u < 2; u++) {
          const u32 b = base + (t * 2 + u) * STEP_B;
          multiply(even, descriptor(at + u * 16, PLANE, 112), descriptor(b, N * 16, 128), t != 0 || u != 0);
          multiply(odd, descriptor(at + u * 16 + 16, PLANE - 16, 112), descriptor(b + COPY_B, N * 16, 128), t != 0 || u != 0);
        }
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      // Every warp has read the lines that the next row has no use for.
      asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
      if ((threadIdx.x & 127) == 0) fetch(line + RING, line + RING + STEP);
      // Row r of a core matrix is column i = 7 g + r - 1 of the result; its first row is there for the second's sake.
      const int r = lane >> 2;
#pragma unroll
      for (int e = 0; e < N / 2; e++) {
        const Acc left = __shfl_up_sync(0xffffffffu, odd[e], 4);
        const bool outside = warp == 0 && (e & 2) == 0 && r == 1;
        even[e] = larger(larger(even[e], odd[e]), outside ? least() : left);
      }
      if ((row & 1) == 0) {
#pragma unroll
        for (int e = 0; e < N / 2; e++) carry[e] = larger(carry[e], even[e]);
        continue;
      }
      if (row > 2 * top) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int column = 7 * (2 * warp + h) + r - 1;
          if (r > 0 && column < COLUMNS) {
#pragma unroll
            for (int part = 0; part < N / (4 * V); part++) {
              Acc v[V];
#pragma unroll
              for (int i = 0; i < V; i++) {
                const int e = (part * (V / 2) + i / 2) * 4 + h * 2 + i % 2;
                v[i] = larger(carry[e], even[e]);
              }
              apply(v, Early{}, 0, (image * ROWS + row / 2) * COLUMNS + column, part * (4 * V) + (lane & 3) * V EPILOGUE_ARGUMENTS);
            }
          }
        }
      }
#pragma unroll
      for (int e = 0; e < N / 2; e++) carry[e] = even[e];
    }
    count += all;
  }
}
}  // namespace tile
