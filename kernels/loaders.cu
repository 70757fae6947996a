// Loaders bring an operand's tile into a ring stage. A Source finds global memory, a Layout places elements in shared memory, a Loader pairs them.
//   Source: begin(base, outer, inner) for this thread's first chunk; chunk(i, p): elements of pass i that exist (0 to VE) and where; advance(): next BK;
//   WHOLE: whether a chunk exists as a whole or not at all.
//   "Outer" and "inner": a tile is OUTER lines of INNER elements, cut into chunks of VE elements that are contiguous in global memory. Either the lines
//   are rows (of M or N) and chunks run along k, or the lines are k and chunks run along M or N.

// Rows of KB bytes, 16-byte chunks exchanged by XOR so that ldmatrix reads eight rows without bank conflicts.
struct KMajor {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 chunk(int row, int c) {
    return KB == 128 ? row * 128 + ((c ^ (row & 7)) << 4) : row * 64 + ((c ^ ((row >> 1) & 3)) << 4);
  }
  static __device__ __forceinline__ u32 at(int row, int k) { return chunk(row, k * ES >> 4) + (k * ES & 15); }
};
struct KMajorFromColumns {
  static constexpr bool PERIODIC = false;
  static __device__ __forceinline__ u32 at(int k, int row) { return KMajor::at(row, k); }
};
// k lines of EXTENT 2-byte elements, for the transposing ldmatrix.
template <int EXTENT> struct MnMajor {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 chunk(int k, int c) {
    if constexpr (EXTENT >= 64) return k * (EXTENT * 2) + ((c ^ (k & 7)) << 4);
    else if constexpr (EXTENT == 32) return k * 64 + ((c ^ ((k >> 1) & 3)) << 4);
    else return k * 32 + ((c ^ ((k >> 2) & 1)) << 4);
  }
  static __device__ __forceinline__ u32 at(int k, int mn) { return chunk(k, mn >> 3) + (mn & 7) * 2; }
};
// k lines of EXTENT floats, 4 floats of padding: what the FFMA kernel reads as 16-byte vectors.
template <int EXTENT> struct Columns {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 at(int k, int mn) { return (k * (EXTENT + 4) + mn) * 4; }
};
template <int EXTENT> struct ColumnsFromRows {
  static constexpr bool PERIODIC = true;
  static __device__ __forceinline__ u32 at(int row, int k) { return Columns<EXTENT>::at(k, row); }
};

// A matrix with any strides, chunks along k. LIMIT rows exist. VE > 1 needs COLUMN_STRIDE 1 and aligned rows.
template <int VE_, int LIMIT, long long ROW_STRIDE, long long COLUMN_STRIDE> struct AlongK {
  static constexpr int VE = VE_;
  static constexpr bool WHOLE = K % VE == 0;
  template <int STEP, int PASSES> struct State {
    const T* p;
    int row, k;
    __device__ __forceinline__ void begin(const T* base, int row_, int k_) {
      row = row_, k = k_;
      p = base + row * ROW_STRIDE + k * COLUMN_STRIDE;
    }
    __device__ __forceinline__ int chunk(int i, const T*& at) const {
      at = p + i * (STEP * ROW_STRIDE);
      if (row + i * STEP >= LIMIT) return 0;
      if constexpr (K % BK == 0) return VE;
      else if constexpr (K % VE == 0) return k < K ? VE : 0;
      else return K - k >= VE ? VE : K - k < 0 ? 0 : K - k;
    }
    __device__ __forceinline__ void advance() { k += BK, p += BK * COLUMN_STRIDE; }
  };
};
// The same, chunks along M or N (which is contiguous when VE > 1), lines of k.
template <int VE_, int LIMIT, long long ROW_STRIDE, long long COLUMN_STRIDE> struct AlongRows {
  static constexpr int VE = VE_;
  static constexpr bool WHOLE = LIMIT % VE == 0;
  template <int STEP, int PASSES> struct State {
    const T* p;
    int exist, k;
    __device__ __forceinline__ void begin(const T* base, int k_, int row) {
      k = k_;
      exist = LIMIT - row >= VE ? VE : LIMIT - row < 0 ? 0 : LIMIT - row;
      p = base + row * ROW_STRIDE + k * COLUMN_STRIDE;
    }
    __device__ __forceinline__ int chunk(int i, const T*& at) const {
      at = p + i * (STEP * COLUMN_STRIDE);
      return K % BK == 0 || k + i * STEP < K ? exist : 0;
    }
    __device__ __forceinline__ void advance() { k += BK, p += BK * COLUMN_STRIDE; }
  };
};

__device__ __forceinline__ void put(u32 to, T x) {
  if constexpr (ES == 4) asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"((float)x) : "memory");
  else if constexpr (ES == 2) asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"((unsigned short)x) : "memory");
  else asm volatile("st.shared.u8 [%0], %1;" ::"r"(to), "r"((int)x) : "memory");
}

template <class Source, class Layout, int OUTER, int INNER, bool ROWS_ARE_OUTER> struct Loader {
  static constexpr int VE = Source::VE, BYTES = VE * ES, PER_LINE = INNER / VE, STEP = THREADS / PER_LINE, PASSES = (OUTER + STEP - 1) / STEP;
  static_assert(INNER % VE == 0 && THREADS % PER_LINE == 0, "a line's chunks divide the threads");
  typename Source::template State<STEP, PASSES> source;
  int outer, inner;
  T held[BYTES < 4 ? PASSES : 1];
  // `row` is the tile's first row (of M or N), `k` its first k.
  __device__ __forceinline__ void begin(const T* base, int row, int k) {
    outer = threadIdx.x / PER_LINE, inner = threadIdx.x % PER_LINE * VE;
    if constexpr (ROWS_ARE_OUTER) source.begin(base, row + outer, k + inner);
    else source.begin(base, k + outer, row + inner);
  }
  __device__ __forceinline__ u32 place(int i) const {
    // A periodic layout repeats after 8 lines: from there on, a pass is a constant distance.
    if constexpr (Layout::PERIODIC && STEP % 8 == 0) return Layout::at(outer, inner) + (Layout::at(i * STEP, 0) - Layout::at(0, 0));
    else return Layout::at(outer + i * STEP, inner);
  }
  __device__ __forceinline__ void issue(u32 stage) {
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
      if (OUTER % STEP != 0 && outer + i * STEP >= OUTER) continue;
      const T* p;
      const int count = source.chunk(i, p);
      if constexpr (BYTES >= 4) {
        if (Source::WHOLE || count == 0 || count == VE) {
          copy_async<BYTES>(stage + place(i), p, count * ES);
        } else {
          // The last elements of a tensor: what lies behind it is not touched.
#pragma unroll
          for (int e = 0; e < VE; e++) put(stage + place(i) + e * ES, e < count ? p[e] : T(0));
        }
      } else held[i] = count > 0 ? *p : T(0);
    }
    source.advance();
  }
  // Chunks too small for cp.async waited in registers.
  __device__ __forceinline__ void land(u32 stage) {
    if constexpr (BYTES < 4) {
#pragma unroll
      for (int i = 0; i < PASSES; i++) {
        if (OUTER % STEP != 0 && outer + i * STEP >= OUTER) continue;
        put(stage + place(i), held[i]);
      }
    }
  }
};
