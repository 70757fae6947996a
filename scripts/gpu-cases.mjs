// The problems that scripts/gpu-kernels.mjs emits: awkward sizes for correctness, layers of real networks for speed; and the epilogue they share.

/** bias, residual, ReLU and store as the engine's emitter would write them: f16, bf16 and f32 by conversion, s8 by the shared requantization. */
export function epilogueFor({ kind, problem, fused = {} }) {
  const { dtype } = problem;
  const N = kind === "gemm" ? problem.N : (problem.k ?? problem.c);
  const M = kind === "gemm" ? problem.M : 0;
  const type = { f16: "unsigned short", bf16: "unsigned short", s8: "signed char", tf32: "float", f32: "float" }[dtype];
  const int8 = dtype === "s8";
  const params = [`const ${int8 ? "int" : "float"}* __restrict__ bias`];
  if (int8) params.push("const float* __restrict__ scale");
  if (fused.residual) params.push(`const ${type}* __restrict__ residual`);
  params.push(`${type}* __restrict__ out`);
  const convert =
    dtype === "f16"
      ? `__device__ __forceinline__ unsigned short narrow(float x) { unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
__device__ __forceinline__ float widen(unsigned short x) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x)); return r; }`
      : dtype === "bf16"
        ? `__device__ __forceinline__ unsigned short narrow(float x) { unsigned short r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x)); return r; }
__device__ __forceinline__ float widen(unsigned short x) { return __uint_as_float((unsigned)x << 16); }`
        : int8
          ? `__device__ __forceinline__ signed char narrow(float x) { return (signed char)max(-128, min(127, __float2int_rn(x))); }
__device__ __forceinline__ float widen(signed char x) { return (float)x; }`
          : "__device__ __forceinline__ float narrow(float x) { return x; }\n__device__ __forceinline__ float widen(float x) { return x; }";
  return {
    prelude: `${convert}\ntemplate <int V> struct alignas(sizeof(${type}) * V) Packed { ${type} v[V]; };
template <class E, int V> struct alignas(sizeof(E) * V > 16 ? 16 : sizeof(E) * V) Wide { E v[V]; };`,
    params,
    vector: 8,
    ...(fused.residual
      ? {
          early: {
            type: (V) => `Packed<${V}>`,
            body: (V) =>
              `  return *(const Packed<${V}>*)(residual + (${kind === "gemm" ? `((long long)b * ${M} + m)` : "(long long)m"} * ${N} + n));`,
          },
        }
      : {}),
    body: (V) =>
      [
        `  const long long at = ${kind === "gemm" ? `((long long)b * ${M} + m)` : "(long long)m"} * ${N} + n;`,
        `  const Wide<${int8 ? "int" : "float"}, ${V}> add = *(const Wide<${int8 ? "int" : "float"}, ${V}>*)(bias + n);`,
        int8 ? `  const Wide<float, ${V}> factor = *(const Wide<float, ${V}>*)(scale + n);` : "",
        `  Packed<${V}> o;`,
        "#pragma unroll",
        `  for (int i = 0; i < ${V}; i++) {`,
        int8 ? "    float x = __fmul_rn(__int2float_rn(acc[i] + add.v[i]), factor.v[i]);" : "    float x = acc[i] + add.v[i];",
        fused.residual ? "    x = __fadd_rn(x, widen(early.v[i]));" : "",
        fused.relu ? "    x = fmaxf(x, 0.f);" : "",
        "    o.v[i] = narrow(x);",
        "  }",
        `  *(Packed<${V}>*)(out + at) = o;`,
      ]
        .filter((line) => line !== "")
        .join("\n"),
  };
}

const gemm = (name, dtype, M, N, K, extra = {}) => {
  const { batch = [], a, b, fused, tactics } = extra;
  return {
    name: `gemm_${name}_${dtype}`,
    kind: "gemm",
    fused: fused ?? {},
    tactics,
    problem: {
      M,
      N,
      K,
      batch,
      dtype,
      a: a ?? { rowStride: K, colStride: 1, batchStride: batch.map((_, i) => M * K * batch.slice(i + 1).reduce((x, y) => x * y, 1)) },
      b: b ?? { rowStride: K, colStride: 1, batchStride: batch.map((_, i) => N * K * batch.slice(i + 1).reduce((x, y) => x * y, 1)) },
    },
  };
};
const conv = (name, dtype, n, h, w, c, k, r, s, extra = {}) => {
  const { stride = [1, 1], pad = [0, 0], dilation = [1, 1], groups = 1, depth, fused, tactics, end = pad } = extra;
  const [sh, sw] = stride.slice(-2);
  const [dh, dw] = dilation.slice(-2);
  const [ph, pw] = pad.slice(-2);
  const [eh, ew] = end.slice(-2);
  const p = Math.floor((h + ph + eh - (r - 1) * dh - 1) / sh) + 1;
  const q = Math.floor((w + pw + ew - (s - 1) * dw - 1) / sw) + 1;
  return {
    name: `conv_${name}_${dtype}`,
    kind: "conv",
    fused: fused ?? {},
    tactics,
    problem: { n, h, w, c, k, r, s, p, q, stride, dilation, pad, groups, dtype, ...(depth === undefined ? {} : { depth }) },
  };
};

const depthwise = (name, dtype, n, h, w, c, r, s, extra = {}) => {
  const { multiplier = 1 } = extra;
  const base = conv(name, dtype, n, h, w, c, c * multiplier, r, s, { ...extra, groups: c });
  return { ...base, name: `dw_${name}_${dtype}`, kind: "depthwise" };
};
const attention = (name, dtype, batch, heads, queries, keys, dim, extra = {}) => {
  const { kvHeads = heads, dimV = dim, causal, mask, softcap, packed, tactics } = extra;
  // As [batch, position, head, channel]; `packed` reads q, k and v from one [batch, position, 3, head, channel] tensor.
  const of = (positions, h, d) => ({ batch: positions * h * d, head: d, position: h * d });
  const wide = packed ? { batch: queries * 3 * heads * dim, head: dim, position: 3 * heads * dim } : undefined;
  return {
    name: `attn_${name}_${dtype}`,
    kind: "attention",
    tactics,
    problem: {
      batch,
      heads,
      kvHeads,
      queries,
      keys,
      dim,
      dimV,
      dtype,
      scale: 1 / Math.sqrt(dim),
      ...(causal === undefined ? {} : { causal }),
      ...(mask === undefined ? {} : { mask }),
      ...(softcap === undefined ? {} : { softcap }),
      q: wide ?? of(queries, heads, dim),
      k: wide ?? of(keys, kvHeads, dim),
      v: wide ?? of(keys, kvHeads, dimV),
      out: of(queries, heads, dimV),
    },
  };
};

const all = ["f16", "bf16", "tf32", "f32", "s8"];

/** ResNet-50 v1.5 after the stem: name, input size, channels, outputs, filter, stride, residual, times in the network. */
export const resnet50 = [
  ["s2.c1a", 56, 64, 64, 1, 1, false, 1],
  ["s2.c1b", 56, 256, 64, 1, 1, false, 2],
  ["s2.c2", 56, 64, 64, 3, 1, false, 3],
  ["s2.c3", 56, 64, 256, 1, 1, true, 3],
  ["s2.ds", 56, 64, 256, 1, 1, false, 1],
  ["s3.c1a", 56, 256, 128, 1, 1, false, 1],
  ["s3.c2a", 56, 128, 128, 3, 2, false, 1],
  ["s3.c1b", 28, 512, 128, 1, 1, false, 3],
  ["s3.c2", 28, 128, 128, 3, 1, false, 3],
  ["s3.c3", 28, 128, 512, 1, 1, true, 4],
  ["s3.ds", 56, 256, 512, 1, 2, false, 1],
  ["s4.c1a", 28, 512, 256, 1, 1, false, 1],
  ["s4.c2a", 28, 256, 256, 3, 2, false, 1],
  ["s4.c1b", 14, 1024, 256, 1, 1, false, 5],
  ["s4.c2", 14, 256, 256, 3, 1, false, 5],
  ["s4.c3", 14, 256, 1024, 1, 1, true, 6],
  ["s4.ds", 28, 512, 1024, 1, 2, false, 1],
  ["s5.c1a", 14, 1024, 512, 1, 1, false, 1],
  ["s5.c2a", 14, 512, 512, 3, 2, false, 1],
  ["s5.c1b", 7, 2048, 512, 1, 1, false, 2],
  ["s5.c2", 7, 512, 512, 3, 1, false, 2],
  ["s5.c3", 7, 512, 2048, 1, 1, true, 3],
  ["s5.ds", 14, 1024, 2048, 1, 2, false, 1],
];
const resnet = (batch, dtype, tactics) =>
  resnet50.map(([name, h, c, k, r, stride, residual, times]) => ({
    ...conv(`${name}_b${batch}`, dtype, batch, h, h, c, k, r, r, {
      stride: [stride, stride],
      pad: [(r - 1) / 2, (r - 1) / 2],
      fused: { relu: !name.endsWith("ds"), residual },
      tactics,
    }),
    times,
  }));

export function caseSets() {
  const awkward = all.flatMap((d) => [
    gemm("one", d, 1, 1, 1),
    gemm("prime", d, 37, 53, 41, { tactics: 2 }),
    gemm("tail", d, 130, 72, 200, { tactics: 3, fused: { relu: true } }),
    gemm("row", d, 1, 1000, 2048, { tactics: 2 }),
    gemm("column", d, 257, 1, 64),
    gemm("outer", d, 65, 66, 1),
    gemm("odd_stride", d, 70, 60, 50, { a: { rowStride: 51, colStride: 1 }, b: { rowStride: 53, colStride: 1 } }),
    gemm("transposed", d, 96, 80, 72, { a: { rowStride: 1, colStride: 96 }, b: { rowStride: 1, colStride: 80 }, tactics: 2 }),
    gemm("transposed_odd", d, 97, 81, 73, { a: { rowStride: 1, colStride: 97 }, b: { rowStride: 1, colStride: 81 } }),
    gemm("neither", d, 40, 24, 56, { a: { rowStride: 3, colStride: 130 }, b: { rowStride: 120, colStride: 2 } }),
    gemm("batch", d, 50, 40, 64, { batch: [3], fused: { residual: true } }),
    gemm("batch2", d, 33, 48, 32, {
      batch: [2, 3],
      a: { rowStride: 96, colStride: 1, batchStride: [33 * 96, 32] },
      b: { rowStride: 32, colStride: 1, batchStride: [0, 48 * 32] },
    }),
    gemm("deep", d, 64, 64, 4096, { tactics: 4 }),
    conv("three", d, 2, 15, 17, 3, 20, 3, 3, { pad: [1, 1] }),
    conv("stem", d, 1, 64, 64, 4, 64, 7, 7, { stride: [2, 2], pad: [3, 3], fused: { relu: true } }),
    conv("c8", d, 2, 13, 13, 8, 24, 3, 3, { pad: [1, 1], tactics: 2 }),
    conv("c12", d, 1, 9, 31, 12, 40, 3, 5, { pad: [1, 2] }),
    conv("dilated", d, 1, 20, 22, 32, 48, 3, 3, { pad: [2, 2], dilation: [2, 2] }),
    conv("asymmetric", d, 2, 11, 14, 16, 32, 3, 2, { stride: [2, 3], pad: [0, 1], end: [1, 0], fused: { relu: true } }),
    conv("groups", d, 2, 10, 10, 64, 96, 3, 3, { pad: [1, 1], groups: 4 }),
    conv("groups_odd", d, 1, 8, 8, 15, 25, 3, 3, { pad: [1, 1], groups: 5 }),
    conv("one_by_one", d, 2, 7, 9, 40, 72, 1, 1, { fused: { residual: true, relu: true } }),
    conv("one_by_one_s2", d, 1, 28, 28, 64, 128, 1, 1, { stride: [2, 2] }),
    conv("deep", d, 1, 7, 7, 512, 128, 3, 3, { pad: [1, 1], tactics: 4 }),
    conv("volume", d, 1, 7, 8, 16, 24, 3, 3, { stride: [1, 2, 1], pad: [1, 1, 1], dilation: [1, 1, 1], depth: { d: 5, t: 3, o: 5 } }),
  ]);
  const depthwises = all.flatMap((d) => [
    depthwise("small", d, 2, 9, 11, 24, 3, 3, { pad: [1, 1], fused: { relu: true } }),
    depthwise("five", d, 1, 14, 15, 40, 5, 5, { stride: [2, 2], pad: [2, 2], tactics: 4 }),
    depthwise("odd", d, 2, 8, 7, 13, 3, 3, { pad: [1, 1] }),
    depthwise("multiplier", d, 1, 10, 10, 6, 3, 3, { pad: [1, 1], multiplier: 4 }),
    depthwise("dilated", d, 1, 20, 20, 16, 3, 3, { pad: [2, 2], dilation: [2, 2], tactics: 4 }),
    depthwise("seven", d, 1, 14, 14, 32, 7, 7, { pad: [3, 3], tactics: 4, fused: { residual: true } }),
    depthwise("mobile_b32", d, 32, 56, 56, 144, 3, 3, { pad: [1, 1], tactics: 4 }),
    depthwise("convnext_b32", d, 32, 56, 56, 96, 7, 7, { pad: [3, 3], tactics: 4 }),
  ]);
  const attentions = ["f16", "bf16", "f32"].flatMap((d) => [
    attention("tiny", d, 1, 1, 1, 1, 16),
    attention("prime", d, 2, 3, 37, 53, 24),
    attention("odd_dim", d, 1, 2, 33, 29, 19),
    attention("causal", d, 1, 4, 100, 100, 64, { causal: { offset: 0 }, tactics: 3 }),
    attention("past", d, 2, 4, 7, 77, 64, { causal: { offset: 70 }, kvHeads: 2 }),
    attention("decode", d, 1, 8, 1, 300, 128, { kvHeads: 2 }),
    attention("bias", d, 2, 4, 65, 130, 32, { mask: { dtype: "f32", batch: 130, head: 0, query: 0, key: 1 } }),
    attention("bias_half", d, 1, 2, 49, 49, 32, { mask: { dtype: d === "f32" ? "f32" : d, batch: 0, head: 49 * 49, query: 49, key: 1 } }),
    attention("keep", d, 2, 2, 20, 90, 40, { mask: { dtype: "bool", batch: 90, head: 0, query: 0, key: 1 } }),
    attention("values", d, 1, 2, 70, 70, 64, { dimV: 80, softcap: 20 }),
    attention("capped", d, 2, 4, 65, 130, 32, { softcap: 0.5, kvHeads: 2, mask: { dtype: "f32", batch: 130, head: 0, query: 0, key: 1 } }),
    attention("capped_wide", d, 1, 4, 200, 200, 256, { softcap: 50, causal: { offset: 0 }, kvHeads: 2, tactics: 3 }),
    attention("wide", d, 1, 2, 80, 96, 256, { causal: { offset: 16 } }),
    attention("bert_b1", d, 1, 12, 128, 128, 64, { packed: true, tactics: 5 }),
    attention("bert_b32", d, 32, 12, 128, 128, 64, {
      packed: true,
      tactics: 5,
      mask: { dtype: "f32", batch: 128, head: 0, query: 0, key: 1 },
    }),
    attention("large_b32", d, 32, 16, 384, 384, 64, { packed: true, tactics: 5 }),
    attention("gpt_2k", d, 4, 16, 2048, 2048, 128, { causal: { offset: 0 }, tactics: 5 }),
  ]);
  return {
    awkward,
    depthwise: depthwises,
    attention: attentions,
    "resnet1-f16": resnet(1, "f16", 6),
    "resnet1-s8": resnet(1, "s8", 6),
    "resnet32-f16": resnet(32, "f16", 6),
    "resnet128-f16": resnet(128, "f16", 6),
    "resnet32-s8": resnet(32, "s8", 6),
    "resnet128-s8": resnet(128, "s8", 6),
    bert: ["f16", "s8"].flatMap((d) => [
      gemm("bert_qkv_b1", d, 128, 2304, 768, { tactics: 8 }),
      gemm("bert_out_b1", d, 128, 768, 768, { tactics: 8, fused: { residual: true } }),
      gemm("bert_ffn1_b1", d, 128, 3072, 768, { tactics: 8 }),
      gemm("bert_ffn2_b1", d, 128, 768, 3072, { tactics: 8, fused: { residual: true } }),
      gemm("bert_qkv_b32", d, 4096, 2304, 768, { tactics: 8 }),
      gemm("bert_out_b32", d, 4096, 768, 768, { tactics: 8, fused: { residual: true } }),
      gemm("bert_ffn1_b32", d, 4096, 3072, 768, { tactics: 8 }),
      gemm("bert_ffn2_b32", d, 4096, 768, 3072, { tactics: 8, fused: { residual: true } }),
    ]),
    large: [
      ...["f16", "bf16", "tf32", "s8", "f32"].map((d) => gemm("4096", d, 4096, 4096, 4096, { tactics: 6 })),
      gemm("kn_4096", "f16", 4096, 4096, 4096, { tactics: 3, b: { rowStride: 1, colStride: 4096 } }),
      gemm("bert_f32", "f32", 4096, 3072, 768, { tactics: 4 }),
      gemm("b1_f32", "f32", 128, 768, 768, { tactics: 6 }),
      conv("s3.c2_b32", "f32", 32, 28, 28, 128, 128, 3, 3, { pad: [1, 1], tactics: 4 }),
      conv("s3.c2_b32", "tf32", 32, 28, 28, 128, 128, 3, 3, { pad: [1, 1], tactics: 4 }),
      conv("s4.c2_b1", "f32", 1, 14, 14, 256, 256, 3, 3, { pad: [1, 1], tactics: 6 }),
      conv("stem_b32", "f16", 32, 224, 224, 4, 64, 7, 7, { stride: [2, 2], pad: [3, 3], fused: { relu: true }, tactics: 4 }),
      conv("stem8_b32", "f16", 32, 224, 224, 8, 64, 7, 7, { stride: [2, 2], pad: [3, 3], fused: { relu: true }, tactics: 4 }),
    ],
  };
}
