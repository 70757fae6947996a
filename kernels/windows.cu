// The rows of a convolution as a matrix: row m is output position (image, o, p, q), k runs over (t, r, s, c) with c fastest, the input lies NDHWC.
// Chunks run along c, so VE divides the channels. Positions outside the input are zeros.
// Constants: M K BK, X_D X_H X_W X_C (input; X_C from pixel to pixel) X_LINE (from row to row), C (channels of a group), FILTER_T FILTER_R FILTER_S, OUT_D OUT_H OUT_W,
//   STRIDE_D.. PAD_D.. (leading pads) DILATION_D.. and Offset (int, or long long for 2^31 elements and more).
template <int VE_> struct Windows {
  static constexpr int VE = VE_;
  static constexpr bool WHOLE = true;
  template <int STEP, int PASSES> struct State {
    const T* base;
    Offset origin[PASSES];
    int d[FILTER_T > 1 || PAD_D > 0 ? PASSES : 1], h[PASSES], w[PASSES];
    int c, s, r, t;
    static constexpr bool DEEP = FILTER_T > 1 || PAD_D > 0;
    __device__ __forceinline__ void begin(const T* x, int row, int k) {
      base = x;
#pragma unroll
      for (int i = 0; i < PASSES; i++) {
        const int m = row + i * STEP, q = m % OUT_W, p = m / OUT_W % OUT_H, o = m / (OUT_W * OUT_H) % OUT_D, image = m / (OUT_W * OUT_H * OUT_D);
        const int z = o * STRIDE_D - PAD_D;
        h[i] = p * STRIDE_H - PAD_H;
        w[i] = q * STRIDE_W - PAD_W;
        origin[i] = (((Offset)image * X_D + z) * X_H + h[i]) * X_LINE + (Offset)w[i] * X_C;
        if constexpr (DEEP) d[i] = z;
        if (m >= M) h[i] = -(1 << 29);
      }
      c = k % C, s = k / C % FILTER_S, r = k / (C * FILTER_S) % FILTER_R, t = k / (C * FILTER_S * FILTER_R);
    }
    __device__ __forceinline__ int chunk(int i, const T*& at) const {
      at = base + (origin[i] + (t * DILATION_D * X_H + r * DILATION_H) * X_LINE + s * DILATION_W * X_C + c);
      bool inside = (u32)(h[i] + r * DILATION_H) < (u32)X_H && (u32)(w[i] + s * DILATION_W) < (u32)X_W;
      if constexpr (DEEP) inside = inside && (u32)(d[i] + t * DILATION_D) < (u32)X_D;
      if constexpr (K % BK != 0) inside = inside && t < FILTER_T;
      return inside ? VE : 0;
    }
    __device__ __forceinline__ void advance() {
      int taps = BK / C;
      c += BK % C;
      if (BK % C != 0 && c >= C) c -= C, taps++;
      s += taps;
      if constexpr (BK / C + 1 <= FILTER_S) {
        if (s >= FILTER_S) s -= FILTER_S, r++;
      } else {
        r += s / FILTER_S, s %= FILTER_S;
      }
      if constexpr ((BK / C + 1) / FILTER_S + 1 <= FILTER_R) {
        if (r >= FILTER_R) r -= FILTER_R, t++;
      } else {
        t += r / FILTER_R, r %= FILTER_R;
      }
    }
  };
};
