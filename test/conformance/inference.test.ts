/** Inference over every model of the data sets against the tensors ONNX Runtime really makes: types and dims never contradict; how many are exact. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { expect, it } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Graph, ValueType } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { isTensorDType, Tensor } from "../../src/tensor.js";
import { dataDir } from "../support/data.js";

/** Their results' sizes depend on element values. */
const DATA_DEPENDENT = new Set([
  "NonZero",
  "Unique",
  "Compress",
  "NonMaxSuppression",
  "Loop",
  "If",
  "Scan",
  "StringSplit",
  "SequenceAt",
  "TfIdfVectorizer",
]);

function models(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true, recursive: true })
    .filter((f) => f.isFile() && f.name.endsWith(".onnx"))
    .map((f) => join(f.parentPath, f.name))
    .sort();
}
/** onnxruntime-node ends the process when a result has a type that JavaScript lacks (bfloat16, float8, 4-bit). */
const fetchable = (t: ValueType): boolean => t.kind === "tensor" && isTensorDType(t.dtype);
/** Every tensor on the way becomes an output; nodes behind a data-dependent one do not count towards exactness. */
function exposed(g: Graph): { readonly graph: Graph; readonly open: ReadonlySet<string> } {
  const e = new Editor(g);
  const open = new Set<number>();
  const outs = [...g.outputs];
  for (const n of g.nodes) {
    const behind = DATA_DEPENDENT.has(n.op) || n.ins.some((v) => v !== undefined && open.has(v));
    for (const v of n.outs) {
      if (v === undefined) continue;
      if (behind) open.add(v);
      if (!outs.includes(v) && fetchable(valueAt(g, v).type)) outs.push(v);
    }
  }
  // Declared types would hide what inference itself says (and some test models declare them for their own data).
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) e.setType(v, { kind: "unknown" });
  e.setOutputs(outs);
  return { graph: e.finish(), open: new Set([...open].map((v) => g.values[v]?.name ?? "")) };
}

for (const [set, sub] of [
  ["onnx-backend", "node"],
  ["onnx-backend", "simple"],
  ["onnx-backend", "pytorch-converted"],
  ["onnx-backend", "pytorch-operator"],
  ["digits", ""],
] as const) {
  const root = dataDir(set);
  const dir = root === undefined ? undefined : join(root, sub);
  it.skipIf(dir === undefined)(
    `${set}/${sub}: inferred types agree with ONNX Runtime (skipped when PARTITA_TEST_DATA is not set)`,
    { timeout: 300_000 },
    async () => {
      const count = { models: 0, refused: 0, ran: 0, notRun: 0, values: 0, exact: 0 };
      const wrong: string[] = [];
      const refusals: string[] = [];
      const loose = new Map<string, number>();
      for (const path of models(dir ?? "")) {
        count.models++;
        const at = path.slice((dir ?? "").length);
        let done: ReturnType<typeof inferGraph>;
        let open: ReadonlySet<string>;
        try {
          const g = importOnnx(path);
          const first = inferGraph(g).graph;
          const all = exposed(first);
          open = all.open;
          const shapes = Object.fromEntries(
            all.graph.inputs.flatMap((v) => {
              const { name, type } = valueAt(all.graph, v);
              return type.kind === "tensor" && type.shape !== undefined
                ? [[name, type.shape.map((d) => (typeof d === "number" ? d : 1))] as const]
                : [];
            }),
          );
          done = inferGraph(all.graph, { shapes });
        } catch (e) {
          if (!(e instanceof PartitaError)) wrong.push(`${at}: ${String(e)}`);
          else refusals.push(`${at}: ${e.message}`);
          count.refused++;
          continue;
        }
        if (!done.graph.outputs.every((v) => fetchable(done.facts(v).type))) {
          count.notRun++;
          continue;
        }
        let out: ort.InferenceSession.OnnxValueMapType;
        try {
          const session = await ort.InferenceSession.create(encodeOnnx(done.graph), { logSeverityLevel: 4, intraOpNumThreads: 1 });
          const feeds: Record<string, ort.Tensor> = {};
          for (const v of done.graph.inputs) {
            const { name, type } = valueAt(done.graph, v);
            if (type.kind !== "tensor" || !isTensorDType(type.dtype) || type.shape === undefined) throw new Error("not fed");
            const dims = type.shape.map((d) => (typeof d === "number" ? d : 1));
            const size = dims.reduce((a, b) => a * b, 1);
            if (size > 1e7) throw new Error("not fed");
            const t =
              type.dtype === "string"
                ? new Tensor("string", new Array<string>(size).fill("a"), dims)
                : new Tensor(type.dtype, new Array<number>(size).fill(1), dims);
            feeds[name] = new ort.Tensor(t.type, t.data as never, t.dims);
          }
          out = await session.run(feeds);
          await session.release();
        } catch {
          count.notRun++;
          continue;
        }
        count.ran++;
        for (const v of done.graph.outputs) {
          const { name } = valueAt(done.graph, v);
          const real = out[name];
          const { type } = done.facts(v);
          if (real === undefined || type.kind !== "tensor" || !("dims" in real)) continue;
          if (type.dtype !== real.type) wrong.push(`${at}: '${name}' inferred ${type.dtype}, is ${real.type}`);
          if (
            type.shape !== undefined &&
            (type.shape.length !== real.dims.length || type.shape.some((d, i) => typeof d === "number" && d !== real.dims[i]))
          )
            wrong.push(`${at}: '${name}' inferred [${type.shape}], is [${real.dims}]`);
          if (open.has(name)) continue;
          count.values++;
          if (type.shape?.every((d) => typeof d === "number") === true) count.exact++;
          else loose.set(at, (loose.get(at) ?? 0) + 1);
        }
      }
      console.log(
        set,
        JSON.stringify(count),
        `\nrefused:\n${refusals.join("\n")}\nopen:\n${[...loose].map(([k, n]) => `${n} ${k}`).join("\n")}\nwrong:\n${wrong.join("\n")}`,
      );
      expect(wrong).toEqual([]);
      expect(count.ran).toBeGreaterThan(0);
      // In a handful of values the cases whose target shape is itself an input outweigh the rest.
      if (count.values >= 50) expect(count.exact / count.values).toBeGreaterThan(0.9);
    },
  );
}
