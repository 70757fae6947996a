// Depthwise convolution, direct: out[image, (o,) p, q, n] = epilogue(sum over taps of x[.., n / MULTIPLIER] * w[tap, n]). Input NDHWC, weights
// [T, R, S, N] (channels fastest), so that a thread reads V channels of both as one vector. A thread computes V channels of RUN neighbouring
// outputs of a row and reads each input vector of the row once. FP32 accumulation (int32 for s8).
// Constants: N (output channels), MULTIPLIER, V, RUN, X_* FILTER_* OUT_* STRIDE_* PAD_* DILATION_* as in windows.cu, X_C (elements of a pixel),
//   RUNS = ceil(OUT_W / RUN), WORK (threads with work), THREADS.
// Launch: grid ceil(WORK / THREADS), THREADS threads.
namespace tile {
using T = unsigned short;
using Acc = float;
constexpr int N = 32, MULTIPLIER = 1, V = 4, RUN = 4, RUNS = 4, X_D = 1, X_H = 14, X_W = 14, X_C = 32, FILTER_T = 1, FILTER_R = 3, FILTER_S = 3, OUT_D = 1, OUT_H = 14, OUT_W = 14, STRIDE_D = 1, STRIDE_H = 1, STRIDE_W = 1, PAD_D = 0, PAD_H = 1, PAD_W = 1, DILATION_D = 1, DILATION_H = 1, DILATION_W = 1, THREADS = 128, PRECISION = 0, ES = 2;
constexpr long long WORK = 448;
typedef unsigned u32;
}  // namespace tile

__device__ __forceinline__ unsigned short narrow(float x) { unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
template <class E, int V> struct alignas(sizeof(E) * V) Row { E v[V]; };
struct Early {};
__device__ __forceinline__ Early early_reads(int b, int m, int n, const float* __restrict__ bias, unsigned short* __restrict__ out) {
  return {};
}
__device__ __forceinline__ void epilogue(const float (&acc)[4], int b, int m, int n, const float* __restrict__ bias, unsigned short* __restrict__ out) {
  Row<unsigned short, 4> o;
#pragma unroll
  for (int i = 0; i < 4; i++) o.v[i] = narrow(acc[i] + bias[n + i]);
  *(Row<unsigned short, 4>*)(out + (long long)m * 32 + n) = o;
}
__device__ __forceinline__ void apply(const float (&acc)[4], const Early& early, int b, int m, int n, const float* __restrict__ bias, unsigned short* __restrict__ out) {
  epilogue(acc, b, m, n, bias, out);
}

namespace tile {
template <int COUNT> struct alignas(COUNT * ES) Vector {
  T v[COUNT];
};
__device__ __forceinline__ Acc widen(T x) {
  if constexpr (PRECISION == 0) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((unsigned short)x));
    return (Acc)r;
  } else if constexpr (PRECISION == 1) {
    return (Acc)__uint_as_float((u32)x << 16);
  } else {
    return (Acc)x;
  }
}
template <int COUNT> __device__ __forceinline__ void read(Acc (&to)[COUNT], const T* from) {
  const Vector<COUNT> bits = *(const Vector<COUNT>*)from;
#pragma unroll
  for (int i = 0; i < COUNT; i++) to[i] = widen(bits.v[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
depthwise(const T* __restrict__ x, const T* __restrict__ w, const float* __restrict__ bias, unsigned short* __restrict__ out) {
  const long long index = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (index >= WORK) return;
  const int n = (int)(index % (N / V)) * V;
  const long long place = index / (N / V);
  const int q0 = (int)(place % RUNS) * RUN, row = (int)(place / RUNS), p = row % OUT_H, o = row / OUT_H % OUT_D, image = row / (OUT_H * OUT_D);
  constexpr int SPAN = (RUN - 1) * STRIDE_W + (FILTER_S - 1) * DILATION_W + 1;
  const int left = q0 * STRIDE_W - PAD_W;

  Acc acc[RUN][V];
#pragma unroll
  for (int i = 0; i < RUN; i++)
#pragma unroll
    for (int e = 0; e < V; e++) acc[i][e] = 0;
#pragma unroll 1
  for (int tr = 0; tr < FILTER_T * FILTER_R; tr++) {
    const int z = o * STRIDE_D - PAD_D + tr / FILTER_R * DILATION_D, y = p * STRIDE_H - PAD_H + tr % FILTER_R * DILATION_H;
    if ((u32)z >= (u32)X_D || (u32)y >= (u32)X_H) continue;
    const T* line = x + (((long long)image * X_D + z) * X_H + y) * ((long long)X_W * X_C) + n / MULTIPLIER;
    const T* taps = w + (long long)tr * FILTER_S * N + n;
    Acc weights[FILTER_S][V];
#pragma unroll
    for (int s = 0; s < FILTER_S; s++) read(weights[s], taps + s * N);
#pragma unroll
    for (int i = 0; i < SPAN; i++) {
      const int column = left + i;
      Acc in[V];
#pragma unroll
      for (int e = 0; e < V; e++) in[e] = 0;
      if ((u32)column < (u32)X_W) {
        if constexpr (MULTIPLIER == 1) {
          read(in, line + (long long)column * X_C);
        } else {
#pragma unroll
          for (int e = 0; e < V; e++) in[e] = widen(line[(long long)column * X_C + (n % MULTIPLIER + e) / MULTIPLIER]);
        }
      }
#pragma unroll
      for (int j = 0; j < RUN; j++) {
        // The tap that sees input column i from output j, if any.
        const int d = i - j * STRIDE_W;
        if (d >= 0 && d % DILATION_W == 0 && d / DILATION_W < FILTER_S) {
#pragma unroll
          for (int e = 0; e < V; e++) {
            if constexpr (PRECISION == 4) acc[j][e] += in[e] * weights[d / DILATION_W][e];
            else acc[j][e] = fmaf(in[e], weights[d / DILATION_W][e], acc[j][e]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < RUN; j++)
    if (OUT_W % RUN == 0 || q0 + j < OUT_W) {
      const int m = row * OUT_W + q0 + j;
      apply(acc[j], early_reads(0, m, n, bias, out), 0, m, n, bias, out);
    }
}
}  // namespace tile
