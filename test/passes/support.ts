/** Graphs as text, the nodes of a result, and the numbers of a graph before and after a pass. */
import { expect } from "vitest";
import type { Remark } from "../../src/diagnostics.js";
import { evaluate, hostEngine } from "../../src/engines/host/index.js";
import { numberToHalf } from "../../src/ir/numeric.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { lower } from "../../src/passes/lower.js";
import { type Pass, runPasses } from "../../src/passes/pass.js";
import type { Keep } from "../../src/passes/spelling.js";
import { generator } from "../../src/runtime/measure.js";
import { Tensor } from "../../src/tensor.js";
import { relativeError, runGraph } from "../../src/testing.js";

/** The nodes alone: one line each, types and metadata left out. */
export const nodes = (text: string): string[] =>
  text
    .split("\n")
    .filter((l) => / = (?!graph)/.test(l) && !l.includes("const "))
    .map((l) =>
      l
        .trim()
        .replace(/: [a-z0-9]+(\[[^\]]*\])?(?= =|,)/g, "")
        .replace(/ meta \{.*\}$/, ""),
    );
export const graph = (inputs: string, outputs: string, ...lines: string[]): string =>
  `graph "g" opset {"": 18} (${inputs}) -> (${outputs}) {\n${lines.join("\n")}\n}`;

export interface Applied {
  readonly before: Graph;
  readonly after: Graph;
  readonly text: string;
  readonly nodes: readonly string[];
  readonly remarks: readonly Remark[];
}
/** A pass over a graph in text form, verified. */
export async function applied(pass: Pass | readonly Pass[], text: string): Promise<Applied> {
  const before = inferGraph(parse(text)).graph;
  const remarks: Remark[] = [];
  const list = "run" in pass ? [pass] : pass;
  const run = await runPasses(before, list, { evaluate, verify: true, remarks: (r) => remarks.push(r) });
  const after = inferGraph(run.graph).graph;
  const shown = print(after, { inlineElements: 64 });
  return { before, after, text: shown, nodes: nodes(shown), remarks };
}
/** The operators of a graph in order. */
export const ops = (g: Graph): string[] => g.nodes.map((n) => n.op);

/** Seeded random tensors for a graph's inputs: floats in [-3, 3], symbols bound to 2, booleans and small integers at random. */
export function feeds(g: Graph, seed = 1): Tensor[] {
  const next = generator(seed);
  return g.inputs.map((v) => {
    const t = g.values[v]?.type;
    if (t?.kind !== "tensor" || t.shape === undefined) throw new Error("an input without dims");
    const dims = t.shape.map((d) => (typeof d === "number" ? d : 2));
    const count = dims.reduce((a, d) => a * d, 1);
    const numbers = Array.from({ length: count }, () => next() * 6 - 3);
    if (t.dtype === "float16") return new Tensor("float16", Uint16Array.from(numbers, numberToHalf), dims);
    if (t.dtype === "bool")
      return new Tensor(
        "bool",
        Uint8Array.from(numbers, (x) => (x > -1 ? 1 : 0)),
        dims,
      );
    if (t.dtype === "int64")
      return new Tensor(
        "int64",
        BigInt64Array.from(numbers, (x) => BigInt(x > -1 ? 1 : 0)),
        dims,
      );
    return new Tensor("float32", Float32Array.from(numbers), dims);
  });
}

const nothing: Keep = () => false;
/**
 * The largest difference, relative to the largest value, that a pass made: what the host runs (at full optimisation) and the graph with
 * nothing left raised, against the graph before.
 */
export async function difference({ before, after }: Pick<Applied, "before" | "after">, inputs = feeds(before)): Promise<number> {
  const wanted = await runGraph(before, inputs);
  const host = inferGraph(lower(after, hostEngine.keeps ?? nothing)).graph;
  const spelled = inferGraph(lower(after, nothing)).graph;
  const errors = [relativeError(await runGraph(host, inputs, "all"), wanted), relativeError(await runGraph(spelled, inputs), wanted)];
  return Math.max(...errors);
}

/** A graph that a pass must turn into exactly one node of `op`, with the same numbers within 1e-5 (float16: 2e-3) of the largest. */
export async function raisesTo(pass: Pass, op: string, text: string, tolerance = 1e-5): Promise<Applied> {
  const done = await applied(pass, text);
  expect(done.nodes.map((l) => / = (\w+)\(/.exec(l)?.[1])).toEqual([op]);
  expect(await difference(done)).toBeLessThan(tolerance);
  return done;
}
/** A graph that a pass must leave as it is. */
export async function leaves(pass: Pass, text: string): Promise<Applied> {
  const done = await applied(pass, text);
  expect(done.text).toBe(print(done.before, { inlineElements: 64 }));
  return done;
}
