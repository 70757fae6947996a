// A recurrent layer (LSTM, GRU, RNN), all its steps in one launch: gates[t] = x[t] W' (computed before, `xw`) + h[t-1] R' + bias, then the cell. A
// cluster of CLUSTER blocks shares the hidden units of TILE batch rows of one direction: each block computes UNITS of them and writes its part of the new
// state into every block's shared memory. Within a block, SLICES groups of threads each sum a share of h R'; partial sums meet in shared memory in a fixed
// order. State, sums and gates are single precision; R is T.
// A row of length n < STEPS is run for n steps (backwards from step n - 1 in a reverse direction), gives zeros behind them, and keeps its last state.
// Constants: KIND (0 LSTM, gates i o f c; 1 GRU, gates z r h; 2 RNN), GATES, STEPS, BATCH, DIRECTIONS, HIDDEN, UNITS = HIDDEN / CLUSTER, UNIT_THREADS, SLICES,
//   TILE, CLUSTER, R_SHARED (R's part is kept in shared memory), REVERSE_FIRST, LINEAR_BEFORE_RESET, COUPLED (f = 1 - i), HAS_* (optional operands),
//   STORE_Y, STORE_H, STORE_C, Y_T Y_D Y_B Y_H (strides of y); T, and the stored types Out_Y Out_H Out_C with narrow().
// Layouts: xw [STEPS, BATCH, DIRECTIONS, GATES, HIDDEN], r [DIRECTIONS, HIDDEN (summed), GATES, HIDDEN], bias [DIRECTIONS, 2, GATES, HIDDEN],
//   lengths [BATCH], h0 and c0 [DIRECTIONS, BATCH, HIDDEN], peephole [DIRECTIONS, 3 (i o f), HIDDEN], yh and yc as h0.
// activate_f, activate_g, activate_h (direction, x): the cell's functions, and clipped(x), emitted.
// Launch: grid (CLUSTER, DIRECTIONS, ceil(BATCH / TILE)), UNIT_THREADS * SLICES threads, cluster (CLUSTER, 1, 1), SHARED bytes.
//@constants
//@activations

namespace recurrent {
typedef unsigned u32;
constexpr int THREADS = UNIT_THREADS * SLICES;

__device__ __forceinline__ float widen(T x) {
  if constexpr (PRECISION == 0) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((unsigned short)x));
    return r;
  } else if constexpr (PRECISION == 1) {
    return __uint_as_float((u32)x << 16);
  } else {
    return x;
  }
}
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// Everything written before is seen by the whole cluster behind it.
__device__ __forceinline__ void meet() {
  if constexpr (CLUSTER == 1) {
    __syncthreads();
  } else {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
  }
}
// Stores into the same place of every block's shared memory.
__device__ __forceinline__ void share(float* to, float x) {
  if constexpr (CLUSTER == 1) {
    *to = x;
  } else {
#pragma unroll
    for (int rank = 0; rank < CLUSTER; rank++) {
      u32 remote;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(to)), "r"(rank));
      asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote), "f"(x) : "memory");
    }
  }
}

struct Places {
  float *state, *reset, *partial, *cell, *update;
  T* weights;
};
// Partial sums of vector[row] times R for COUNT gates from FIRST on.
template <int FIRST, int COUNT> __device__ __forceinline__ void multiply(const float* vector, const T* r, const Places& at, int unit0) {
  const int slice = threadIdx.x / UNIT_THREADS;
  constexpr int SHARE = (HIDDEN + SLICES - 1) / SLICES;
  const int begin = slice * SHARE, end = min(begin + SHARE, HIDDEN);
  for (int u = threadIdx.x % UNIT_THREADS; u < UNITS; u += UNIT_THREADS) {
    float sum[TILE][COUNT];
#pragma unroll
    for (int row = 0; row < TILE; row++)
#pragma unroll
      for (int g = 0; g < COUNT; g++) sum[row][g] = 0.f;
#pragma unroll 4
    for (int k = begin; k < end; k++) {
      float w[COUNT];
#pragma unroll
      for (int g = 0; g < COUNT; g++)
        w[g] = widen(R_SHARED ? at.weights[(k * GATES + FIRST + g) * UNITS + u] : r[(k * GATES + FIRST + g) * HIDDEN + unit0 + u]);
#pragma unroll
      for (int row = 0; row < TILE; row++) {
        const float h = vector[row * HIDDEN + k];
#pragma unroll
        for (int g = 0; g < COUNT; g++) sum[row][g] = fmaf(w[g], h, sum[row][g]);
      }
    }
#pragma unroll
    for (int row = 0; row < TILE; row++)
#pragma unroll
      for (int g = 0; g < COUNT; g++) at.partial[((slice * TILE + row) * GATES + FIRST + g) * UNITS + u] = sum[row][g];
  }
}
__device__ __forceinline__ float total(const Places& at, int row, int gate, int u) {
  float sum = 0.f;
#pragma unroll
  for (int slice = 0; slice < SLICES; slice++) sum += at.partial[((slice * TILE + row) * GATES + gate) * UNITS + u];
  return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const float* __restrict__ xw, const T* __restrict__ r_all SCRATCH_PARAMETERS) {
  extern __shared__ float memory[];
  Places at;
  at.state = memory;                                    // [2][TILE][HIDDEN]
  at.reset = at.state + 2 * TILE * HIDDEN;              // [TILE][HIDDEN], GRU alone
  at.partial = at.reset + (KIND == 1 ? TILE * HIDDEN : 0);
  at.cell = at.partial + SLICES * TILE * GATES * UNITS;  // [TILE][UNITS]: c of an LSTM
  at.update = at.cell + TILE * UNITS;                   // [TILE][UNITS]: z of a GRU
  at.weights = (T*)(at.update + TILE * UNITS);
  const int unit0 = blockIdx.x * UNITS, direction = blockIdx.y, row0 = blockIdx.z * TILE;
  const bool reverse = direction == 1 || REVERSE_FIRST;
  const T* r = r_all + (long long)direction * HIDDEN * GATES * HIDDEN;

  if constexpr (R_SHARED)
    for (int i = threadIdx.x; i < HIDDEN * GATES * UNITS; i += THREADS)
      at.weights[i] = r[i / UNITS * HIDDEN + unit0 + i % UNITS];
  for (int i = threadIdx.x; i < TILE * HIDDEN; i += THREADS) {
    const int row = row0 + i / HIDDEN;
    float h = 0.f;
    if constexpr (HAS_H0) {
      if (row < BATCH) h = h0[((long long)direction * BATCH + row) * HIDDEN + i % HIDDEN];
    }
    at.state[i] = h;
  }
  for (int i = threadIdx.x; i < TILE * UNITS; i += THREADS) {
    const int row = row0 + i / UNITS;
    float c = 0.f;
    if constexpr (HAS_C0) {
      if (row < BATCH) c = c0[((long long)direction * BATCH + row) * HIDDEN + unit0 + i % UNITS];
    }
    at.cell[i] = c;
  }
  meet();

  for (int step = 0; step < STEPS; step++) {
    const float* before = at.state + (step & 1) * TILE * HIDDEN;
    float* after = at.state + (1 - (step & 1)) * TILE * HIDDEN;
    if constexpr (KIND == 1 && !LINEAR_BEFORE_RESET) multiply<0, 2>(before, r, at, unit0);
    else multiply<0, GATES>(before, r, at, unit0);
    __syncthreads();
    // In two passes for a GRU whose reset comes before the product: gates z and r, then h.
    for (int pass = 0; pass < (KIND == 1 && !LINEAR_BEFORE_RESET ? 2 : 1); pass++) {
      if (pass == 1) {
        meet();
        if constexpr (KIND == 1) multiply<GATES - 1, 1>(at.reset, r, at, unit0);
        __syncthreads();
      }
      for (int i = threadIdx.x; i < TILE * UNITS; i += THREADS) {
        const int tile_row = i / UNITS, u = i % UNITS, unit = unit0 + u, row = row0 + tile_row;
        const float old = before[tile_row * HIDDEN + unit];
        int length = STEPS;
        if constexpr (HAS_LENGTHS) length = row < BATCH ? min(max(lengths[row], 0), STEPS) : 0;
        const bool active = row < BATCH && step < length;
        if (!active) {
          if (pass == 1 || KIND != 1 || LINEAR_BEFORE_RESET) {
            share(after + tile_row * HIDDEN + unit, old);
            if constexpr (STORE_Y)
              if (row < BATCH) y[(long long)step * Y_T + (long long)direction * Y_D + (long long)row * Y_B + (long long)unit * Y_H] = narrow_y(0.f);
          } else {
            share(at.reset + tile_row * HIDDEN + unit, 0.f);
          }
          continue;
        }
        const int t = reverse ? length - 1 - step : step;
        const float* x = xw + (((long long)t * BATCH + row) * DIRECTIONS + direction) * (GATES * HIDDEN) + unit;
        auto bias_of = [&](int half, int gate) -> float {
          if constexpr (HAS_BIAS) return bias[((direction * 2 + half) * GATES + gate) * HIDDEN + unit];
          return 0.f;
        };
        auto gate_of = [&](int gate) -> float { return x[gate * HIDDEN] + total(at, tile_row, gate, u) + (bias_of(0, gate) + bias_of(1, gate)); };
        auto peep = [&](int which) -> float {
          if constexpr (HAS_PEEPHOLE) return peephole[(direction * 3 + which) * HIDDEN + unit];
          return 0.f;
        };
        float next;
        if constexpr (KIND == 0) {
          const float c = at.cell[i];
          const float in = activate_f(direction, clipped(gate_of(0) + peep(0) * c));
          const float forget = COUPLED ? 1.f - in : activate_f(direction, clipped(gate_of(2) + peep(2) * c));
          const float renewed = forget * c + in * activate_g(direction, clipped(gate_of(3)));
          const float out = activate_f(direction, clipped(gate_of(1) + peep(1) * renewed));
          at.cell[i] = renewed;
          next = out * activate_h(direction, renewed);
        } else if constexpr (KIND == 1) {
          if (pass == 0) {
            const float z = activate_f(direction, clipped(gate_of(0)));
            const float reset = activate_f(direction, clipped(gate_of(1)));
            if constexpr (!LINEAR_BEFORE_RESET) {
              at.update[i] = z;
              share(at.reset + tile_row * HIDDEN + unit, reset * old);
              continue;
            }
            const float candidate = activate_g(direction, clipped(x[2 * HIDDEN] + bias_of(0, 2) + reset * (total(at, tile_row, 2, u) + bias_of(1, 2))));
            next = (1.f - z) * candidate + z * old;
          } else {
            const float z = at.update[i];
            next = (1.f - z) * activate_g(direction, clipped(gate_of(2))) + z * old;
          }
        } else {
          next = activate_f(direction, clipped(gate_of(0)));
        }
        share(after + tile_row * HIDDEN + unit, next);
        if constexpr (STORE_Y) y[(long long)t * Y_T + (long long)direction * Y_D + (long long)row * Y_B + (long long)unit * Y_H] = narrow_y(next);
      }
    }
    meet();
  }
  const float* last = at.state + (STEPS & 1) * TILE * HIDDEN;
  for (int i = threadIdx.x; i < TILE * UNITS; i += THREADS) {
    const int tile_row = i / UNITS, unit = unit0 + i % UNITS, row = row0 + tile_row;
    if (row >= BATCH) continue;
    const long long place = ((long long)direction * BATCH + row) * HIDDEN + unit;
    if constexpr (STORE_H) yh[place] = narrow_h(last[tile_row * HIDDEN + unit]);
    if constexpr (STORE_C) yc[place] = narrow_c(at.cell[i]);
  }
}
}  // namespace recurrent
