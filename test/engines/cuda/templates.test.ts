import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  a100,
  attentionKernel,
  attentionStepKernel,
  attentionTactics,
  type ConvProblem,
  convDepth,
  convFlops,
  convKernel,
  convRows,
  convTactics,
  depthwiseKernel,
  depthwiseTactics,
  type GemmProblem,
  gemmFlops,
  gemmKernel,
  gemmTactics,
  h200,
  isDepthwise,
  type Precision,
  tacticName,
} from "../../../src/engines/cuda/templates/index.js";
import { constantsText, epilogueVector, parameterName } from "../../../src/engines/cuda/templates/text.js";
import { attentionProblem, convProblem, gemmProblem, plainEpilogue } from "../../support/kernels.js";

const precisions: readonly Precision[] = ["f16", "bf16", "tf32", "f32", "s8"];
const emitGemm = (p: GemmProblem, pick = 0, device = h200) => {
  const tactic = gemmTactics(p, device)[pick];
  if (tactic === undefined) throw new Error("no tactic");
  return { tactic, kernel: gemmKernel(p, tactic, plainEpilogue(p.dtype, p.N), "k", device) };
};
const emitConv = (p: ConvProblem, template?: string) => {
  const tactic = convTactics(p, h200).find((t) => template === undefined || t.template === template);
  if (tactic === undefined) throw new Error("no tactic");
  return { tactic, kernel: convKernel(p, tactic, plainEpilogue(p.dtype, p.k), "k") };
};

describe("text of templates", () => {
  it("writes integers beyond 31 bits as long long and switches as bool", () => {
    expect(constantsText({ A: 1, B: 2 ** 40, C: true, D: -7 })).toBe(
      "constexpr int A = 1, D = -7;\nconstexpr long long B = 1099511627776;\nconstexpr bool C = true;",
    );
  });
  it("finds the name in a parameter's declaration", () => {
    expect(parameterName("const float* __restrict__ p0")).toBe("p0");
    expect(parameterName("float scale")).toBe("scale");
    expect(() => parameterName("float*")).toThrow("declares no parameter name");
  });
  it("takes the widest vector that the epilogue supports and the columns allow", () => {
    const of = (vector: number) => ({ params: [], vector, body: () => "" });
    expect([96, 100, 6, 7].map((n) => epilogueVector(of(8), n))).toEqual([8, 4, 2, 1]);
    expect(epilogueVector(of(2), 96)).toBe(2);
  });
  it("leaves no marker and includes nothing", () => {
    const kernels = [
      emitGemm(gemmProblem(64, 64, 64, "f16")).kernel,
      emitGemm(gemmProblem(64, 64, 64, "f32")).kernel,
      emitConv(convProblem(32, 56, 64, 64, 3, "f16"), "wgmma").kernel,
      attentionKernel(attentionProblem(9, 9, 64, "f16"), attentionTactics(attentionProblem(9, 9, 64, "f16"), h200)[0] as never, "k"),
    ];
    for (const k of kernels) {
      expect(k.source).not.toMatch(/^\s*(\/\/@|#include)|\b(KERNEL|(SCRATCH|EPILOGUE)_(PARAMETERS|ARGUMENTS))\b/m);
      expect(k.source).toMatch(/extern "C" __global__ void __launch_bounds__\([^)]*\)\s*k\(/);
    }
  });
  it("is the same for the same problem and tactic", () => {
    expect(emitGemm(gemmProblem(100, 72, 40, "bf16")).kernel).toEqual(emitGemm(gemmProblem(100, 72, 40, "bf16")).kernel);
  });
});

describe("problems", () => {
  it("count operations", () => {
    expect(gemmFlops(gemmProblem(3, 5, 7, "f16", { batch: [2, 4] }))).toBe(2 * 3 * 5 * 7 * 8);
    const p = convProblem(2, 8, 12, 6, 3, "f32", { groups: 3 });
    expect([convRows(p), convDepth(p), convFlops(p)]).toEqual([128, 36, 2 * 128 * 6 * 36]);
  });
  it("know a depthwise convolution", () => {
    expect(isDepthwise(convProblem(1, 8, 12, 24, 3, "f16", { groups: 12 }))).toBe(true);
    expect(isDepthwise(convProblem(1, 8, 12, 24, 3, "f16", { groups: 6 }))).toBe(false);
    expect(isDepthwise(convProblem(1, 8, 1, 1, 3, "f16"))).toBe(false);
    const p = convProblem(1, 8, 12, 24, 3, "f16", { groups: 6 });
    expect(() => depthwiseKernel(p, depthwiseTactics(p, h200)[0] as never, plainEpilogue("f16", 24), "k")).toThrow(
      "6 groups over 12 channels",
    );
  });
});

describe("loads", () => {
  const loader = (p: GemmProblem, name: string) =>
    new RegExp(`using ${name} = Loader<(\\w+)<(\\d+)`)
      .exec(gemmKernel(p, mma(p), plainEpilogue(p.dtype, p.N), "k").source)
      ?.slice(1, 3)
      .join(" ");
  const mma = (p: GemmProblem) => {
    const tactic = gemmTactics(p, a100)[0];
    if (tactic === undefined) throw new Error("no tactic");
    return tactic;
  };
  it.each([
    ["16 bytes along k", 64, 1, 16, "AlongK 8"],
    ["8 bytes when rows are 8 bytes apart", 68, 1, 16, "AlongK 4"],
    ["4 bytes", 66, 1, 16, "AlongK 2"],
    ["one element from odd rows", 65, 1, 16, "AlongK 1"],
    ["what the address allows", 64, 1, 4, "AlongK 2"],
    ["along the rows when those are contiguous", 1, 96, 16, "AlongRows 8"],
    ["one element when nothing is contiguous", 3, 300, 16, "AlongK 1"],
  ])("take %s", (_, rowStride, colStride, align, expected) => {
    const p = gemmProblem(96, 64, 64, "f16", { a: { rowStride, colStride, align } });
    expect(loader(p, "ALoader")).toBe(expected);
  });
  it("find batches row-major, with shared operands at stride 0", () => {
    const p = gemmProblem(8, 8, 64, "f16", { batch: [2, 3, 4], a: { rowStride: 64, colStride: 1, batchStride: [5000, 0, 512] } });
    const { source } = gemmKernel(p, mma(p), plainEpilogue("f16", 8), "k");
    expect(source).toContain("a_offset(int batch) { return (batch / 12) * 5000LL + (batch % 4) * 512LL; }");
    expect(source).toContain("b_offset(int batch) { return 0; }");
  });
  it("of windows take as many channels as divide 16 bytes", () => {
    for (const [c, expected] of [
      [64, 8],
      [12, 4],
      [6, 2],
      [3, 1],
    ] as const)
      expect(emitConv(convProblem(1, 9, c, 16, 3, "f16"), "mma").kernel.source).toContain(`Loader<Windows<${expected}>`);
  });
});

describe("tactics", () => {
  it("come first by a fixed guess on the layers they were measured on", () => {
    const first = (p: GemmProblem | ConvProblem) => tacticName(("K" in p ? gemmTactics(p, h200) : convTactics(p, h200))[0] as never);
    expect(first(convProblem(128, 14, 256, 256, 3, "f16"))).toBe("wgmma-128x128-pp2-s7");
    expect(first(convProblem(128, 56, 64, 64, 3, "f16"))).toBe("wgmma-128x64-pp2-s8-w");
    expect(first(convProblem(1, 28, 128, 128, 3, "f16"))).toBe("wgmma-64x32-pp2-s8-o2");
    expect(first(gemmProblem(4096, 4096, 4096, "s8"))).toMatch(/^wgmma-/);
    expect(first(gemmProblem(4096, 4096, 4096, "f32"))).toBe("simt-128x128-w32x64-k64-s3");
  });
  it("of an A100 use neither wgmma nor clusters", () => {
    for (const dtype of precisions)
      for (const t of [...gemmTactics(gemmProblem(64, 64, 4096, dtype), a100), ...convTactics(convProblem(1, 7, 64, 64, 3, dtype), a100)]) {
        expect(t.template).toBe(dtype === "f32" ? "simt" : "mma");
        if (t.template === "mma") expect(t.reduce).not.toBe("cluster");
      }
  });
  it("split k where there are few tiles, in powers of two, in clusters of at most 8", () => {
    const tactics = gemmTactics(gemmProblem(32, 32, 8192, "f16"), h200).flatMap((t) => (t.template === "mma" ? [t] : []));
    expect(tactics.some((t) => t.split > 1)).toBe(true);
    for (const t of tactics) {
      expect(Math.log2(t.split) % 1).toBe(0);
      expect(t.reduce).toBe(t.split === 1 ? "none" : t.split <= 8 ? "cluster" : "workspace");
    }
  });
  it("ask for scratch exactly when they reduce through memory", () => {
    const p = gemmProblem(32, 32, 8192, "f16");
    const workspace = gemmTactics(p, a100).find((t) => t.template === "mma" && t.reduce === "workspace");
    if (workspace?.template !== "mma") throw new Error("no split");
    const k = gemmKernel(p, workspace, plainEpilogue("f16", 32), "k", a100);
    const tiles = Math.ceil(32 / workspace.bm) * Math.ceil(32 / workspace.bn);
    expect(k.arguments).toEqual([
      { kind: "operand", operand: "a" },
      { kind: "operand", operand: "b" },
      { kind: "scratch", bytes: tiles * workspace.split * workspace.bm * workspace.bn * 4, zero: false },
      { kind: "scratch", bytes: tiles * 4, zero: true },
      { kind: "epilogue" },
    ]);
    expect(k.cluster).toBeUndefined();
    expect(k.grid[2]).toBe(workspace.split);
  });
  it("never split k into more parts than it has steps", () => {
    const p = gemmProblem(16, 16, 40, "f16");
    const t = { template: "mma", bm: 32, bn: 32, wm: 16, wn: 16, kb: 64, stages: 3, split: 8, reduce: "cluster" } as const;
    const k = gemmKernel(p, t, plainEpilogue("f16", 16), "k");
    expect([k.grid[2], k.cluster?.[2]]).toEqual([2, 2]);
  });
  it("have different names", () => {
    for (const dtype of precisions) {
      const names = gemmTactics(gemmProblem(128, 768, 768, dtype), h200).map(tacticName);
      expect(new Set(names).size).toBe(names.length);
    }
    expect(tacticName({ template: "depthwise", run: 4, threads: 128 })).toBe("depthwise-q4-t128");
    expect(tacticName({ template: "attention", queries: 64, keys: 128, warps: 4 })).toBe("attention-64x128-w4");
  });
  it("exist for every problem, fit the machine, and launch a block for every tile", () => {
    const size = fc.integer({ min: 1, max: 300 });
    fc.assert(
      fc.property(
        size,
        size,
        fc.integer({ min: 1, max: 3000 }),
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom(...precisions),
        fc.boolean(),
        (M, N, K, b, dtype, transposed) => {
          const operand = (rows: number) => ({
            ...(transposed ? { rowStride: 1, colStride: rows } : { rowStride: K, colStride: 1 }),
            batchStride: [rows * K],
          });
          const p = gemmProblem(M, N, K, dtype, { batch: [b], a: operand(M), b: operand(N) });
          for (const device of [h200, a100]) {
            const tactics = gemmTactics(p, device);
            expect(tactics.length).toBeGreaterThan(0);
            const k = gemmKernel(p, tactics[0] as never, plainEpilogue(dtype, N), "k", device);
            expect(k.shared).toBeLessThanOrEqual(device.sharedPerBlock);
            expect(k.block[0]).toBeLessThanOrEqual(1024);
            const t = tactics[0];
            if (t !== undefined && t.template !== "wgmma") expect(k.grid[0]).toBe(Math.ceil(M / t.bm) * Math.ceil(N / t.bn) * b);
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe("Hopper kernels", () => {
  const applies = (p: ConvProblem) => convTactics(p, h200).some((t) => t.template === "wgmma");
  it("address a convolution by an im2col map", () => {
    const { kernel } = emitConv(convProblem(2, 15, 64, 32, 3, "f16", { stride: [2, 2] }), "wgmma");
    expect(kernel.arch).toBe("sm_90a");
    expect(kernel.arguments[0]).toMatchObject({
      kind: "tensorMap",
      operand: "a",
      map: {
        mode: "im2col",
        dtype: "float16",
        dims: [64, 15, 15, 2],
        strides: [128, 1920, 28800],
        elementStrides: [1, 2, 2, 1],
        lowerCorner: [-1, -1],
        upperCorner: [-1, -1],
        swizzle: 128,
      },
    });
  });
  it("address a product by tiled maps, batches that move as further dims", () => {
    const p = gemmProblem(100, 80, 72, "bf16", {
      batch: [2, 3],
      a: { rowStride: 72, colStride: 1, batchStride: [21600, 7200] },
      b: { rowStride: 72, colStride: 1, batchStride: [0, 5760] },
    });
    const tactic = gemmTactics(p, h200).find((t) => t.template === "wgmma");
    if (tactic === undefined) throw new Error("no tactic");
    const [a, b] = gemmKernel(p, tactic, plainEpilogue("bf16", 80), "k").arguments;
    expect(a).toMatchObject({ map: { mode: "tiled", dims: [72, 100, 3, 2], strides: [144, 14400, 43200] } });
    expect(b).toMatchObject({ map: { dims: [72, 80, 3], strides: [144, 11520] } });
  });
  it("do not apply to FP32, unaligned strides, transposed operands, channels that fill no row, or three dimensions", () => {
    const hopper = (p: GemmProblem) => gemmTactics(p, h200).some((t) => t.template === "wgmma");
    expect(hopper(gemmProblem(128, 128, 128, "f16"))).toBe(true);
    expect(hopper(gemmProblem(128, 128, 128, "f32"))).toBe(false);
    expect(hopper(gemmProblem(128, 128, 100, "f16"))).toBe(false);
    expect(hopper(gemmProblem(128, 128, 128, "f16", { a: { rowStride: 1, colStride: 128 } }))).toBe(false);
    expect(hopper(gemmProblem(128, 128, 128, "f16", { a: { rowStride: 128, colStride: 1, align: 8 } }))).toBe(false);
    expect(applies(convProblem(8, 28, 64, 64, 3, "f16"))).toBe(true);
    expect(applies(convProblem(8, 28, 16, 64, 3, "f16"))).toBe(false);
    expect(
      applies(
        convProblem(8, 28, 64, 64, 3, "f16", { stride: [1, 1, 1], dilation: [1, 1, 1], pad: [1, 1, 1], depth: { d: 4, t: 3, o: 4 } }),
      ),
    ).toBe(false);
    expect(applies(convProblem(8, 280, 64, 64, 3, "f16", { dilation: [130, 130], pad: [130, 130] }))).toBe(false);
  });
  it("say why a tactic that does not apply is refused", () => {
    const t = { template: "wgmma", rows: 64, warpgroups: 2, bn: 64, stages: 4, pingPong: true, resident: 1, weightsStay: false } as const;
    expect(() => gemmKernel(gemmProblem(8, 8, 9, "f16"), t, plainEpilogue("f16", 8), "k")).toThrow(
      "k: the operands' strides cannot be fetched by TMA",
    );
    expect(() => convKernel(convProblem(1, 8, 3, 8, 3, "f16"), t, plainEpilogue("f16", 8), "k")).toThrow(
      "k: this convolution has no im2col map",
    );
  });
  it("are persistent: no more blocks than stay resident", () => {
    const { kernel } = emitConv(convProblem(128, 56, 64, 256, 1, "f16"), "wgmma");
    expect(kernel.grid[0]).toBeLessThanOrEqual(4 * h200.multiprocessors);
    expect(kernel.grid[0] % h200.multiprocessors).toBe(0);
  });
});

describe("attention", () => {
  it("has tactics for heads up to 256 channels that fit the machine", () => {
    for (const dtype of ["f16", "bf16", "f32"] as const)
      for (const dim of [16, 19, 64, 80, 128, 256]) {
        const p = attentionProblem(100, 90, dim, dtype);
        const [t] = attentionTactics(p, a100);
        if (t === undefined) throw new Error(`no tactic for ${dim}`);
        expect(attentionKernel(p, t, "k").shared).toBeLessThanOrEqual(a100.sharedPerBlock);
      }
    expect(attentionTactics(attentionProblem(8, 8, 257, "f16"), h200)).toEqual([]);
  });
  it("takes the mask as its last operand", () => {
    const p = attentionProblem(8, 8, 64, "f16", { mask: { dtype: "bool", batch: 8, head: 0, query: 0, key: 1, even: true } });
    const k = attentionKernel(p, attentionTactics(p, h200)[0] as never, "k");
    expect(k.arguments.map((a) => (a.kind === "operand" ? a.operand : a.kind))).toEqual(["q", "k", "v", "out", "mask"]);
    expect(k.source).toContain("M_B = 8, M_H = 0, M_Q = 0, M_K = 1");
  });
  it("caps the scores of a step where that is asked for, and says nothing of it elsewhere", () => {
    const p = attentionProblem(1, 78, 64, "f16");
    const cache = { ...p.k, dtype: "f16", aligned: true } as const;
    const step = (softcap?: number) =>
      attentionStepKernel(
        { ...p, softcap, causal: true, past: 77, pastK: cache, pastV: cache, grownK: cache, grownV: cache, aligned: true },
        h200,
        "k",
      ).source;
    expect(step(30)).toContain("CAP = 30.0f;");
    expect(step(30)).toContain("score = CAP * tanhf(score / CAP);");
    expect(step()).not.toMatch(/CAP\b/);
  });
  it("folds the scale into the exponent only without mask, cap or negative scale", () => {
    const folded = (more: Parameters<typeof attentionProblem>[4]) => {
      const p = attentionProblem(8, 8, 64, "f16", more);
      return /FOLD = (\w+)/.exec(attentionKernel(p, attentionTactics(p, h200)[0] as never, "k").source)?.[1];
    };
    expect(folded({})).toBe("true");
    expect(folded({ softcap: 30 })).toBe("false");
    expect(folded({ scale: -1 })).toBe("false");
    expect(folded({ mask: { dtype: "f32", batch: 0, head: 0, query: 8, key: 1, even: true } })).toBe("false");
  });
});
