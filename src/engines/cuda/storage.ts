/** Element types on the device: how they are stored, loaded into registers, and stored again. Arithmetic is float, int or long long. */
import type { DType } from "../../ir/types.js";

export type Register = "float" | "int" | "long long";
export interface Storage {
  readonly bytes: number;
  /** C type of one element in memory. */
  readonly type: string;
  readonly register: Register;
  /** C text that widens an element in memory, and that narrows a register. */
  widen(element: string): string;
  narrow(value: string): string;
}

const same = (text: string): string => text;
const table: Partial<Record<DType, Storage>> = {
  float32: { bytes: 4, type: "float", register: "float", widen: same, narrow: same },
  float16: {
    bytes: 2,
    type: "unsigned short",
    register: "float",
    widen: (e) => `half_to_float(${e})`,
    narrow: (v) => `float_to_half(${v})`,
  },
  bfloat16: {
    bytes: 2,
    type: "unsigned short",
    register: "float",
    widen: (e) => `bf16_to_float(${e})`,
    narrow: (v) => `float_to_bf16(${v})`,
  },
  int8: { bytes: 1, type: "signed char", register: "int", widen: same, narrow: (v) => `(signed char)(${v})` },
  uint8: { bytes: 1, type: "unsigned char", register: "int", widen: same, narrow: (v) => `(unsigned char)(${v})` },
  bool: { bytes: 1, type: "unsigned char", register: "int", widen: (e) => `(${e} != 0)`, narrow: (v) => `(unsigned char)(${v} != 0)` },
  int32: { bytes: 4, type: "int", register: "int", widen: same, narrow: same },
  int64: { bytes: 8, type: "long long", register: "long long", widen: same, narrow: same },
};

/** Undefined for types that the engine does not store. */
export const storageOf = (dtype: DType): Storage | undefined => table[dtype];
export function storage(dtype: DType): Storage {
  const found = table[dtype];
  if (found === undefined) throw new Error(`no storage for ${dtype}`);
  return found;
}

/** Helpers that every translation unit of emitted loops begins with. */
export const PRELUDE = `typedef unsigned short u16;
typedef unsigned int u32;
__device__ __forceinline__ float half_to_float(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
__device__ __forceinline__ u16 float_to_half(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
__device__ __forceinline__ float bf16_to_float(u16 h) { return __uint_as_float((u32)h << 16); }
__device__ __forceinline__ u16 float_to_bf16(float f) { u16 h; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
__device__ __forceinline__ float relu(float x) { float y; asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x)); return y; }
// 1 / x and 2^x within two units in the last place; what would be subnormal is 0.
__device__ __forceinline__ float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float power_of_two(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// x times the normal distribution function of x, by its tail (Abramowitz and Stegun 26.2.17): within 1.5e-7 |x|. In b = |x| sqrt(log2(e) / 2) the density is a
// power of two; from 54 on the tail is 0.
__device__ __forceinline__ float gelu(float x) {
  const float b = fminf(fabsf(x) * 0.849321783f, 54.0f), t = reciprocal(fmaf(b, 0.272737503f, 1.0f));
  const float tail = fmaf(t, fmaf(t, fmaf(t, fmaf(t, 0.624854684f, -0.85547787f), 0.836793363f), -0.167484656f), 0.150019452f);
  return relu(x) - b * t * (tail * power_of_two(-b * b));
}
// For results that keep 11 bits: within 2^-20 of the value.
__device__ __forceinline__ float coarse_sigmoid(float x) { return reciprocal(1.0f + power_of_two(x * -1.44269504f)); }
__device__ __forceinline__ float coarse_tanh(float x) {
  const float s = x * x;
  return s < 0.01f ? fmaf(x * s, fmaf(s, 0.133333333f, -0.333333333f), x) : fmaf(reciprocal(1.0f + power_of_two(x * 2.88539008f)), -2.0f, 1.0f);
}
// An integer of a signed byte, exactly, without the slow conversion: its low byte, sign bit turned, is the last byte of 2^23 + 128 + q.
__device__ __forceinline__ float byte_to_float(int q) { return __fadd_rn(__uint_as_float((u32)(q & 255) ^ 0x4b000080u), -8388736.0f); }
template <int I> __device__ __forceinline__ float byte_to_float(u32 word) {
  return __fadd_rn(__uint_as_float(__byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7440 | I)), -8388736.0f);
}
// q * s of a byte that is not negative, rounded once: it is the last byte of 2^23 + q, of which rest takes 2^23 s, which is exact, away again.
__device__ __forceinline__ float byte_times(int q, float s, float rest) { return __fmaf_rn(__uint_as_float((u32)(q & 255) | 0x4b000000u), s, rest); }
template <int I> __device__ __forceinline__ float byte_times(u32 word, float s, float rest) {
  return __fmaf_rn(__uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 | I)), s, rest);
}
// The low halves of four words, held between two bounds, as bytes.
template <int LOW, int HIGH> __device__ __forceinline__ u32 held_bytes(int a, int b, int c, int d) {
#if __CUDA_ARCH__ >= 900
  u32 x = __byte_perm(a, b, 0x5410), y = __byte_perm(c, d, 0x5410);
  constexpr u32 HIGHS = (u32)HIGH * 0x10001u, LOWS = (u32)(LOW & 0xffff) * 0x10001u;
  if constexpr (LOW == 0) {
    asm("min.relu.s16x2 %0, %0, %1;" : "+r"(x) : "r"(HIGHS));
    asm("min.relu.s16x2 %0, %0, %1;" : "+r"(y) : "r"(HIGHS));
  } else {
    asm("min.s16x2 %0, %0, %1;" : "+r"(x) : "r"(HIGHS));
    asm("max.s16x2 %0, %0, %1;" : "+r"(x) : "r"(LOWS));
    asm("min.s16x2 %0, %0, %1;" : "+r"(y) : "r"(HIGHS));
    asm("max.s16x2 %0, %0, %1;" : "+r"(y) : "r"(LOWS));
  }
  return __byte_perm(x, y, 0x6420);
#else
  const int w[4] = {a, b, c, d};
  u32 bytes = 0;
  for (int i = 0; i < 4; i++) bytes |= (u32)(min(max((int)(short)w[i], LOW), HIGH) & 255) << 8 * i;
  return bytes;
#endif
}
// The low bytes of four words.
__device__ __forceinline__ u32 low_bytes(int a, int b, int c, int d) { return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410); }
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T e[N]; };
template <class T, int N> __device__ __forceinline__ Pack<T, N> load_pack(const T* p) { return *reinterpret_cast<const Pack<T, N>*>(p); }
template <class T, int N> __device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& v) { *reinterpret_cast<Pack<T, N>*>(p) = v; }
`;
