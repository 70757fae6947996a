/**
 * Inference over every model of the data sets against the tensors ONNX Runtime really makes: types, dims and the elements of shape arithmetic
 * never contradict; how many shapes are static.
 */
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { isStaticShape, substitute } from "../../src/ir/dims.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Dim, Graph, Shape, ValueId, ValueType } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { isTensorDType } from "../../src/tensor.js";
import { casesOf, type Plain } from "../support/backend.js";
import { dataDir, NO_DATA } from "../support/data.js";
import { dataDependent } from "../support/dependence.js";
import { onesFor, onnxModels, recordedRun } from "../support/models.js";
import { ProcessPool } from "../support/pool.js";

interface Subject {
  readonly name: string;
  readonly model: string | Uint8Array;
  readonly feeds: Readonly<Record<string, Plain>>;
}
const plainFeeds = (feeds: Readonly<Record<string, { type: string; data: unknown; dims: readonly number[] }>>): Record<string, Plain> =>
  Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, { type: t.type, data: t.data as Plain["data"], dims: t.dims }]));

function backend(category: string): readonly Subject[] {
  const root = dataDir("onnx-backend");
  if (root === undefined) return [];
  const dir = join(root, category);
  return readdirSync(dir, { withFileTypes: true })
    .filter((f) => f.isDirectory())
    .flatMap(({ name }) => {
      const cases = casesOf(join(dir, name));
      return "skip" in cases ? [] : cases.map((c, i) => ({ name: `${name}/${i}`, model: c.model, feeds: c.feeds }));
    });
}
function whole(): readonly Subject[] {
  return onnxModels().map((m) => ({ name: m.name, model: m.path, feeds: plainFeeds(recordedRun(m)?.feeds ?? onesFor(m)) }));
}
function digits(): readonly Subject[] {
  const root = dataDir("digits");
  if (root === undefined) return [];
  return readdirSync(root)
    .filter((f) => f.endsWith(".onnx"))
    .map((f) => ({ name: f, model: join(root, f), feeds: plainFeeds(onesFor({ name: f, path: join(root, f) })) }));
}

/** onnxruntime-node ends the process when a result has a type that JavaScript lacks (bfloat16, float8, 4-bit). */
const fetchable = (t: ValueType): boolean => t.kind === "tensor" && isTensorDType(t.dtype) && t.dtype !== "bfloat16";

/** Every tensor on the way becomes an output, and declared types go: they would hide what inference itself says. */
function exposed(g: Graph): Graph {
  const e = new Editor(g);
  const outs: ValueId[] = [...g.outputs];
  for (const n of g.nodes) {
    for (const v of n.outs) {
      if (v === undefined) continue;
      if (!outs.includes(v) && fetchable(valueAt(g, v).type)) outs.push(v);
      e.setType(v, { kind: "unknown" });
    }
  }
  e.setOutputs(outs);
  return e.finish();
}

/** The same graph with a symbol for every dim of an input above 1; dims of one size share theirs, so that what must agree does. */
function symbolic(
  g: Graph,
  feeds: Subject["feeds"],
): { readonly shapes: Readonly<Record<string, Shape>>; readonly bindings: ReadonlyMap<string, number> } {
  const bindings = new Map<string, number>();
  const dim = (d: number): Dim => {
    if (d <= 1) return d;
    bindings.set(`n${d}`, d);
    return `n${d}`;
  };
  const shapes = Object.fromEntries(g.inputs.map((v) => [valueAt(g, v).name, feeds[valueAt(g, v).name]?.dims.map(dim)]));
  return { shapes, bindings };
}
/** Inference over symbols; undefined where static parts of the model (weights, attributes) want the numbers. */
function inferSymbolic(g: Graph, shapes: Readonly<Record<string, Shape>>): ReturnType<typeof inferGraph> | undefined {
  try {
    return inferGraph(g, { shapes });
  } catch (error) {
    if (error instanceof PartitaError) return undefined;
    throw error;
  }
}

interface Made {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data?: readonly number[] | undefined;
}
interface Count {
  models: number;
  notRun: number;
  values: number;
  dataDependent: number;
  static: number;
  /** Small tensors whose elements inference knows. */
  evaluated: number;
  /** Values whose dims inference over symbols expresses in them. */
  symbolic: number;
  readonly notRunWhy: string[];
  readonly open: string[];
  readonly wrong: string[];
}
async function judge(s: Subject, pool: ProcessPool, count: Count): Promise<void> {
  count.models++;
  const graph = exposed(inferGraph(importOnnx(s.model)).graph);
  const shapes = Object.fromEntries(Object.entries(s.feeds).map(([name, t]) => [name, t.dims]));
  const { graph: typed, facts } = inferGraph(graph, { shapes });
  if (!typed.outputs.every((v) => fetchable(facts(v).type))) {
    count.notRun++;
    count.notRunWhy.push(`${s.name}: an output's type cannot be fetched`);
    return;
  }
  const reply = await pool.run<Readonly<Record<string, Made>>>({
    model: encodeOnnx(typed),
    feeds: s.feeds,
  });
  if (!("result" in reply)) {
    count.notRun++;
    count.notRunWhy.push(`${s.name}: ${"error" in reply ? reply.error : reply.crashed}`.slice(0, 200));
    return;
  }
  const open = dataDependent(graph);
  const symbols = symbolic(graph, s.feeds);
  const half = inferSymbolic(graph, symbols.shapes);
  for (const v of typed.outputs) {
    const { name } = valueAt(typed, v);
    const [real, type] = [reply.result[name], facts(v).type];
    if (real === undefined || type.kind !== "tensor") continue;
    if (type.dtype !== real.type) count.wrong.push(`${s.name}: '${name}' inferred ${type.dtype}, is ${real.type}`);
    const { shape } = type;
    if (shape !== undefined && (shape.length !== real.dims.length || shape.some((d, i) => typeof d === "number" && d !== real.dims[i])))
      count.wrong.push(`${s.name}: '${name}' inferred [${shape}], is [${real.dims}]`);
    const loose = half?.facts(v).type;
    if (loose?.kind === "tensor" && loose.shape !== undefined) {
      const dims = loose.shape.map((d) => substitute(d, symbols.bindings));
      if (dims.length !== real.dims.length || dims.some((d, i) => typeof d === "number" && d !== real.dims[i]))
        count.wrong.push(`${s.name}: '${name}' inferred [${loose.shape}] over symbols, is [${real.dims}]`);
      if (isStaticShape(dims)) count.symbolic++;
    }
    const { elements } = facts(v);
    if (elements !== undefined && real.data !== undefined && elements.length === real.data.length) {
      count.evaluated++;
      const off = elements.findIndex(
        (e, i) => typeof e === "number" && e !== real.data?.[i] && !(Number.isNaN(e) && Number.isNaN(real.data?.[i])),
      );
      if (off >= 0) count.wrong.push(`${s.name}: element ${off} of '${name}' inferred ${elements[off]}, is ${real.data[off]}`);
    }
    if (open.has(v)) {
      count.dataDependent++;
      continue;
    }
    count.values++;
    if (isStaticShape(shape)) count.static++;
    else count.open.push(`${s.name}: '${name}' of ${typed.nodes.find((n) => n.outs.includes(v))?.op} is [${shape ?? "no rank"}]`);
  }
}

for (const [set, subjects] of [
  ["onnx-backend/node", () => backend("node")],
  ["onnx-backend/simple", () => backend("simple")],
  ["onnx-backend/pytorch-converted", () => backend("pytorch-converted")],
  ["onnx-backend/pytorch-operator", () => backend("pytorch-operator")],
  ["digits", digits],
  ["whole models", whole],
] as const) {
  const present = dataDir(set === "whole models" ? "real" : (set.split("/")[0] as string)) !== undefined;
  it.skipIf(!present)(`${set}: inferred types and shapes are ONNX Runtime's (skipped when ${NO_DATA})`, async () => {
    const count: Count = {
      models: 0,
      notRun: 0,
      values: 0,
      dataDependent: 0,
      static: 0,
      evaluated: 0,
      symbolic: 0,
      notRunWhy: [],
      open: [],
      wrong: [],
    };
    const pool = new ProcessPool(new URL("../support/ort-child.mjs", import.meta.url), availableParallelism());
    try {
      // A few at a time: whole models are large.
      const all = [...subjects()];
      const next = async (): Promise<void> => {
        for (let s = all.shift(); s !== undefined; s = all.shift()) await judge(s, pool, count);
      };
      await Promise.all([next(), next(), next()]);
    } finally {
      pool.close();
    }
    const { open, wrong, notRunWhy, ...numbers } = count;
    console.log(`${set}: ${JSON.stringify(numbers)}\nnot run:\n${notRunWhy.join("\n")}\nnot static:\n${open.join("\n")}`);
    expect(wrong).toEqual([]);
    expect(count.values).toBeGreaterThan(0);
    expect(count.static / count.values).toBeGreaterThanOrEqual(0.99);
    // With a symbol in every dim of every input; in a handful of values the data-dependent ones outweigh the rest.
    if (count.values >= 50) expect(count.symbolic / (count.values + count.dataDependent)).toBeGreaterThan(0.9);
  });
}
