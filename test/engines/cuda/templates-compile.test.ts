/**
 * Every template through the CUDA compiler, without a GPU: golden sources, registers that do not spill. PARTITA_ALL_KERNELS=1 takes every tactic
 * (minutes); without it, the first guesses and one tactic of each tile shape of f16.
 */
import { availableParallelism } from "node:os";
import { describe, expect, it } from "vitest";
import { compileSource } from "../../../src/engines/cuda/compiler.js";
import { inspectCubin } from "../../../src/engines/cuda/cubin.js";
import {
  a100,
  attentionKernel,
  attentionTactics,
  convKernel,
  convTactics,
  type DeviceModel,
  depthwiseKernel,
  depthwiseTactics,
  gemmKernel,
  gemmTactics,
  h200,
  type KernelText,
  type Precision,
  type Tactic,
  tacticName,
} from "../../../src/engines/cuda/templates/index.js";
import { compilerMissing, needsCompiler } from "../../support/cuda.js";
import { attentionProblem, convProblem, gemmProblem, plainEpilogue } from "../../support/kernels.js";

const everything = process.env["PARTITA_ALL_KERNELS"] === "1";
const precisions: readonly Precision[] = ["f16", "bf16", "tf32", "f32", "s8"];
const identifier = (text: string) => text.replaceAll(/\W/g, "_");
const shape = (t: Tactic) =>
  t.template === "wgmma"
    ? `${t.rows} ${t.bn} ${t.pingPong} ${t.warpgroups} ${t.resident}`
    : `${t.bm} ${t.bn} ${t.wm} ${t.wn} ${t.split > 1 ? t.reduce : ""}`;
/** All tactics, or the first and (`wide`) one of each tile shape. */
function chosen(tactics: readonly Tactic[], wide: boolean): readonly Tactic[] {
  if (everything) return tactics;
  const seen = new Set<string>();
  return tactics.filter((t, i) => (i === 0 || wide) && !seen.has(shape(t)) && seen.add(shape(t)));
}

const gemms = (dtype: Precision, device: DeviceModel): KernelText[] => {
  const p = gemmProblem(200, 768, 2048, dtype);
  return chosen(gemmTactics(p, device), dtype === "f16").map((t) =>
    gemmKernel(p, t, plainEpilogue(dtype, 768, t.template === "wgmma"), identifier(`gemm_${dtype}_${tacticName(t)}`), device),
  );
};
const convs = (dtype: Precision): KernelText[] => {
  const p = convProblem(4, 28, 128, 128, 3, dtype);
  const [tiled] = convTactics(p, h200).filter((t) => t.template !== "wgmma");
  return [...chosen(convTactics(p, h200), false), ...(tiled === undefined ? [] : [tiled])].map((t) =>
    convKernel(p, t, plainEpilogue(dtype, 128), identifier(`conv_${dtype}_${tacticName(t)}`)),
  );
};
const odd = (dtype: Precision): KernelText[] => {
  const product = gemmProblem(37, 53, 41, dtype, { a: { rowStride: 1, colStride: 37 } });
  const window = convProblem(2, 13, 15, 25, 3, dtype, {
    groups: 5,
    stride: [1, 1, 1],
    dilation: [1, 1, 2],
    pad: [1, 1, 2],
    depth: { d: 4, t: 3, o: 4 },
  });
  return [
    gemmKernel(product, gemmTactics(product, a100)[0] as Tactic, plainEpilogue(dtype, 53), `odd_gemm_${dtype}`),
    convKernel(window, convTactics(window, a100)[0] as Tactic, plainEpilogue(dtype, 25), `odd_conv_${dtype}`),
  ];
};
const depthwises = (dtype: Precision): KernelText[] =>
  [3, 7].flatMap((r) => {
    const p = convProblem(2, 28, 96, 96, r, dtype, { groups: 96 });
    const tactics = depthwiseTactics(p, h200);
    return (everything ? tactics : tactics.slice(0, 1)).map((t) =>
      depthwiseKernel(p, t, plainEpilogue(dtype, 96), identifier(`dw${r}_${dtype}_${tacticName(t)}`)),
    );
  });
const attentions = (dtype: "f16" | "bf16" | "f32"): KernelText[] =>
  [64, 128, 256].flatMap((dim) =>
    [undefined, { dtype: "f32", batch: 333, head: 0, query: 0, key: 1, even: true } as const].flatMap((mask) => {
      const p = attentionProblem(300, 333, dim, dtype, { mask, causal: mask === undefined ? { offset: 33 } : undefined });
      const tactics = attentionTactics(p, h200);
      return (everything ? tactics : tactics.slice(0, 1)).map((t) =>
        attentionKernel(p, t, identifier(`attention_${dim}_${mask === undefined ? "causal" : "mask"}_${dtype}_${tacticName(t)}`)),
      );
    }),
  );

/** Names of kernels that use the stack, and of those the compiler says it slowed down. */
async function troubled(kernels: readonly KernelText[], arch: string): Promise<readonly string[]> {
  const found: string[] = [];
  const queue = [...kernels];
  await Promise.all(
    Array.from({ length: Math.min(8, availableParallelism()) }, async () => {
      for (let k = queue.pop(); k !== undefined; k = queue.pop()) {
        const { cubin, log } = await compileSource(k.source, arch, { name: k.name });
        const info = inspectCubin(cubin).kernels.find(({ name }) => name === k.name);
        if (info === undefined) found.push(`${k.name}: not in the cubin`);
        else if (info.localBytes > 0) found.push(`${k.name}: ${info.localBytes} bytes of stack, ${info.registers} registers`);
        if (/serialized|setmaxnreg/.test(log)) found.push(`${k.name}: ${log}`);
      }
    }),
  );
  return found;
}

describe.skipIf(compilerMissing !== undefined)(needsCompiler("templates compile without spills"), () => {
  const slow = everything ? 1_800_000 : 240_000;
  for (const dtype of precisions) {
    it(`products of ${dtype}`, { timeout: slow }, async () => {
      expect(await troubled(gemms(dtype, h200), "sm_90a")).toEqual([]);
      expect(await troubled(gemms(dtype, a100).slice(0, everything ? undefined : 2), "sm_80")).toEqual([]);
    });
    it(`convolutions of ${dtype}`, { timeout: slow }, async () => {
      expect(await troubled([...convs(dtype), ...depthwises(dtype)], "sm_90a")).toEqual([]);
      expect(await troubled(odd(dtype), "sm_80")).toEqual([]);
    });
  }
  for (const dtype of ["f16", "bf16", "f32"] as const)
    it(`attention of ${dtype}`, { timeout: slow }, async () => {
      expect(await troubled(attentions(dtype), "sm_90a")).toEqual([]);
    });
});

describe("golden sources", () => {
  const epilogue = plainEpilogue("f16", 64, true);
  const mma = { template: "mma", bm: 64, bn: 64, wm: 32, wn: 32, kb: 128, stages: 3, split: 4, reduce: "workspace" } as const;
  const wgmma = {
    template: "wgmma",
    rows: 128,
    warpgroups: 2,
    bn: 64,
    stages: 6,
    pingPong: true,
    resident: 1,
    weightsStay: false,
  } as const;
  const simt = { template: "simt", bm: 64, bn: 64, wm: 16, wn: 32, kb: 64, stages: 3, split: 1, reduce: "none" } as const;
  const window = convProblem(2, 14, 64, 64, 3, "f16");
  const grouped = convProblem(1, 14, 32, 32, 3, "f16", { groups: 32 });
  const heads = attentionProblem(64, 64, 64, "f16", { mask: { dtype: "f16", batch: 0, head: 0, query: 64, key: 1, even: true } });
  const cases: Readonly<Record<string, () => KernelText>> = {
    "gemm-mma-split": () => gemmKernel(gemmProblem(96, 64, 1024, "f16"), mma, epilogue, "gemm"),
    "gemm-simt": () =>
      gemmKernel(gemmProblem(96, 64, 100, "f32", { a: { rowStride: 1, colStride: 96 } }), simt, plainEpilogue("f32", 64), "gemm"),
    "conv-mma": () => convKernel(window, { ...mma, split: 1, reduce: "none" }, epilogue, "conv"),
    "conv-wgmma": () => convKernel(window, wgmma, epilogue, "conv"),
    depthwise: () => depthwiseKernel(grouped, { template: "depthwise", run: 4, threads: 128 }, plainEpilogue("f16", 32), "depthwise"),
    attention: () => attentionKernel(heads, { template: "attention", queries: 64, keys: 64, warps: 4 }, "attention"),
  };
  for (const [name, make] of Object.entries(cases))
    it(name, async () => {
      await expect(make().source).toMatchFileSnapshot(`golden/${name}.cu`);
    });
});
