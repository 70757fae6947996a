/** Problems and an epilogue for tests of the kernel templates. */
import type { AttentionProblem, ConvProblem, EpilogueText, GemmProblem, Precision } from "../../src/engines/cuda/templates/index.js";

const stored: Readonly<Record<Precision, string>> = {
  f16: "unsigned short",
  bf16: "unsigned short",
  tf32: "float",
  f32: "float",
  s8: "signed char",
};

/** bias and store, as f16, bf16, f32 or s8; `residual` adds a read that runs ahead. */
export function plainEpilogue(dtype: Precision, columns: number, residual = false): EpilogueText {
  const type = stored[dtype];
  const narrow = {
    f16: 'unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;',
    bf16: 'unsigned short r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r;',
    tf32: "return x;",
    f32: "return x;",
    s8: "return (signed char)max(-128, min(127, __float2int_rn(x)));",
  }[dtype];
  return {
    prelude: `__device__ __forceinline__ ${type} narrow(float x) { ${narrow} }\ntemplate <class E, int V> struct alignas(sizeof(E) * V) Row { E v[V]; };`,
    params: ["const float* __restrict__ bias", ...(residual ? ["const float* __restrict__ residual"] : []), `${type}* __restrict__ out`],
    ...(residual
      ? {
          early: {
            type: (V: number) => `Row<float, ${V}>`,
            body: (V: number) => `  return *(const Row<float, ${V}>*)(residual + (long long)m * ${columns} + n);`,
          },
        }
      : {}),
    vector: 4,
    body: (V) => `  Row<${type}, ${V}> o;
#pragma unroll
  for (int i = 0; i < ${V}; i++) o.v[i] = narrow(acc[i] + bias[n + i]${residual ? " + early.v[i]" : ""});
  *(Row<${type}, ${V}>*)(out + (long long)m * ${columns} + n) = o;`,
  };
}

/** Row-major A [M, K] and B [N, K]. */
export function gemmProblem(M: number, N: number, K: number, dtype: Precision, more: Partial<GemmProblem> = {}): GemmProblem {
  return { M, N, K, batch: [], dtype, a: { rowStride: K, colStride: 1 }, b: { rowStride: K, colStride: 1 }, ...more };
}

/** A square filter with pads that keep the size at stride 1. */
export function convProblem(
  n: number,
  size: number,
  c: number,
  k: number,
  r: number,
  dtype: Precision,
  more: Partial<ConvProblem> = {},
): ConvProblem {
  const pad = Math.floor(r / 2);
  const stride = more.stride?.at(-1) ?? 1;
  const out = Math.floor((size + 2 * pad - r) / stride) + 1;
  return {
    n,
    h: size,
    w: size,
    c,
    k,
    r,
    s: r,
    p: out,
    q: out,
    stride: [1, 1],
    dilation: [1, 1],
    pad: [pad, pad],
    groups: 1,
    dtype,
    ...more,
  };
}

/** Heads side by side in [batch, position, head, channel]. */
export function attentionProblem(
  queries: number,
  keys: number,
  dim: number,
  dtype: "f16" | "bf16" | "f32",
  more: Partial<AttentionProblem> = {},
): AttentionProblem {
  const heads = 4;
  const of = (positions: number) => ({ batch: positions * heads * dim, head: dim, position: heads * dim });
  return {
    batch: 2,
    heads,
    kvHeads: heads,
    queries,
    keys,
    dim,
    dimV: dim,
    dtype,
    scale: 1 / Math.sqrt(dim),
    q: of(queries),
    k: of(keys),
    v: of(keys),
    out: of(queries),
    ...more,
  };
}
