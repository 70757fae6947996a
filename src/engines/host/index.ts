/** The host engine: a segment as an ONNX model, run by ONNX Runtime in worker threads. Always there. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { no, yes } from "../../diagnostics.js";
import { encodeOnnx, writeOnnx } from "../../import/onnx/export.js";
import { isStatic, isStaticShape, isUnknown, symbolsOf } from "../../ir/dims.js";
import { byteLength } from "../../ir/dtypes.js";
import { bodiesOf, displayName, qualifiedOp, valueAt } from "../../ir/graph.js";
import { graphHash } from "../../ir/hash.js";
import { elementCount, fromTensor, payloadLength } from "../../ir/payload.js";
import { typeText } from "../../ir/print.js";
import type { Constant, DType, Graph, ValueId } from "../../ir/types.js";
import { shapeOf } from "../../ops/define.js";
import { inferGraph } from "../../ops/infer.js";
import { isTensorDType } from "../../tensor.js";
import { byShape } from "../by-shape.js";
import type { Engine } from "../engine.js";
import { halvesTransposed, maybeByVector, NCHWC, TRANSPOSE_FUSION } from "./avoid.js";
import { carried, isBfloat16 } from "./bfloat16.js";
import { noCrossing, tooLarge } from "./errors.js";
import { guarded } from "./guard.js";
import { FUSIONS_THAT_ROUND, integers } from "./integers.js";
import { keeps } from "./keeps.js";
import { checkKernels } from "./kernels.js";
import { misfits, withOpenDims } from "./misfits.js";
import { openModel } from "./open.js";
import { type Level, PAD_FUSION } from "./stream.js";

/** Models above this go to ONNX Runtime as files. */
const IN_MEMORY = 1 << 30;
/** Bump when the way a segment is written changes: caches hold artifacts by key. */
const VERSION = "host/4";

const anyDims: Engine = {
  name: "host",
  serves: "range",
  keeps,
  async available() {
    try {
      import.meta.resolve("onnxruntime-node");
      return yes;
    } catch (error) {
      return no(
        `onnxruntime-node is not installed: ${error instanceof Error ? error.message : error}`,
        "npm install --ignore-scripts onnxruntime-node",
      );
    }
  },
  async build(segment, context) {
    checkKernels(segment);
    checkInterface(segment);
    const spelled = carried(guarded(misfits(segment) ? withOpenDims(segment) : segment));
    const graph = context.target.precision === "int8" ? integers(spelled) : spelled;
    const names = (ids: readonly number[]): string[] => ids.map((v) => valueAt(graph, v as never).name);
    let weights = 0;
    for (const c of graph.constants.values()) weights += payloadLength(c.data);
    // ONNX Runtime turns Q/DQ pairs into integer kernels, whose rounding is that of int8; a graph compiled for a float precision keeps the
    // arithmetic it spells.
    const quantized = graph.nodes.some((n) => n.op === "QuantizeLinear" || n.op === "DequantizeLinear");
    const level: Level = quantized && context.target.precision !== "int8" ? "basic" : "all";
    const without = [
      ...(graph === spelled ? [] : [FUSIONS_THAT_ROUND]),
      ...(padsPools(graph) ? [PAD_FUSION] : []),
      ...(halvesTransposed(graph) ? [NCHWC] : []),
      ...(maybeByVector(graph) ? [TRANSPOSE_FUSION] : []),
    ];
    const key = graphHash(graph, `${VERSION} ${level}`);
    const bfloat16 = segment.outputs.flatMap((v, i) => (isBfloat16(segment, v) ? [i] : []));
    const signature = {
      settings: {
        level,
        ...(without.length === 0 ? {} : { without: without.join(";") }),
        ...(bfloat16.length === 0 ? {} : { bfloat16: bfloat16.join() }),
        ...(byDims(graph) ? { byDims: "" } : {}),
      },
      engine: "host" as const,
      key,
      inputs: names(graph.inputs),
      outputs: names(graph.outputs),
    };
    if (weights < IN_MEMORY) return { ...signature, files: [{ name: "model.onnx", bytes: encodeOnnx(graph) }] };
    const folder = mkdtempSync(join(tmpdir(), "partita-host-"));
    process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
    writeOnnx(graph, join(folder, "model.onnx"));
    return {
      ...signature,
      files: [
        { name: "model.onnx", path: join(folder, "model.onnx") },
        { name: "model.onnx.data", path: join(folder, "model.onnx.data") },
      ],
    };
  },
  open: (artifact, context) => openModel(artifact, context, artifact.settings?.["level"] === "basic" ? "basic" : "all"),
};
/** Built by shape only where that is asked for: ONNX Runtime takes any dims. */
export const hostEngine: Engine = byShape(anyDims, () => anyDims);

/** Whether a Pad is read by a pool, bodies included. */
function padsPools(g: Graph): boolean {
  const padded = new Set(g.nodes.flatMap((n) => (n.op === "Pad" ? n.outs : [])));
  return g.nodes.some(
    (n) => (n.op.endsWith("Pool") && n.ins.some((v) => padded.has(v))) || bodiesOf(n).some(({ body }) => padsPools(body.graph)),
  );
}

/** Nodes of a graph that runs on the calling thread may have; none of more is as short. */
const MOST_NODES = 500;
/** Whether the work of a run follows from the dims of its inputs alone: no body, and no dim that depends on values. */
function byDims(g: Graph): boolean {
  if (g.nodes.length > MOST_NODES || g.nodes.some((n) => bodiesOf(n).length > 0)) return false;
  const { graph, facts } = inferGraph(g);
  const known = new Set(graph.inputs.flatMap((v) => (shapeOf(facts(v)) ?? []).flatMap((d) => symbolsOf(d))));
  return graph.nodes.every((n) =>
    n.outs.every(
      (v) => v === undefined || shapeOf(facts(v))?.every((d) => isStatic(d) || (!isUnknown(d) && symbolsOf(d).every((s) => known.has(s)))),
    ),
  );
}

/** What one typed array holds at most. */
const MAX_OUTPUT = 2 ** 32 - 1;
/** Memory this process may have, bytes: the machine's, or its container's. */
const memory = (): number => {
  const constrained = process.constrainedMemory();
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
};

/**
 * Refuses what would end the process inside ONNX Runtime's binding: element types it cannot make arrays of (P2004), and tensors that no
 * memory holds (P2005).
 */
function checkInterface(g: Graph): void {
  const file = g.extra?.file;
  for (const [direction, ids] of [
    ["input", g.inputs],
    ["output", g.outputs],
  ] as const)
    for (const id of ids) {
      const { name, type } = valueAt(g, id);
      // An optional that turns out to be empty ends the process in the binding; as an input it is a tensor that is there.
      const crosses =
        type.kind === "tensor" ? isTensorDType(type.dtype) : type.kind === "unknown" || (type.kind === "optional" && direction === "input");
      if (!crosses) throw noCrossing({ direction, type: typeText(type), tensor: zipped(g, id) }, { file, value: name });
    }
  checkSizes(g, memory(), file);
}
/** The tensor whose columns a ZipMap gives names, as converters of classifiers end them. */
function zipped(g: Graph, id: ValueId): string | undefined {
  const made = g.nodes.find((n) => n.op === "ZipMap" && n.outs.includes(id));
  const [tensor] = made?.ins ?? [];
  return tensor === undefined ? undefined : valueAt(g, tensor).name;
}
function bytesOf(dtype: DType, dims: readonly number[]): number {
  const count = elementCount(dims);
  return count === undefined ? Number.POSITIVE_INFINITY : byteLength(dtype, count);
}
function checkSizes(g: Graph, limit: number, file: string | undefined): void {
  const outputs = new Set(g.outputs);
  // What no array can hold nobody can feed; ONNX Runtime would make room for it all the same.
  for (const id of g.inputs) {
    const { name, type } = valueAt(g, id);
    const bytes = type.kind === "tensor" && isStaticShape(type.shape) ? bytesOf(type.dtype, type.shape) : 0;
    if (bytes > MAX_OUTPUT) throw tooLarge({ bytes, limit: MAX_OUTPUT }, { file, value: name });
  }
  for (const n of g.nodes) {
    for (const id of n.outs) {
      if (id === undefined) continue;
      const { name, type } = valueAt(g, id);
      if (type.kind !== "tensor" || !isStaticShape(type.shape)) continue;
      const bytes = bytesOf(type.dtype, type.shape);
      const most = outputs.has(id) ? Math.min(limit, MAX_OUTPUT) : limit;
      if (bytes > most) throw tooLarge({ bytes, limit: most }, { file, node: displayName(g, n), op: qualifiedOp(n), value: name });
    }
    for (const { body } of bodiesOf(n)) checkSizes(body.graph, limit, file);
  }
}

/** Runs a graph without inputs and gives its outputs as constants: the evaluator of constant folding. Exactness over speed: level basic. */
export async function evaluate(graph: Graph): Promise<readonly Constant[]> {
  const artifact = await hostEngine.build(graph, { target: { sm: 0, tensorrt: 0, precision: "fp32" } });
  const executable = await openModel(artifact, { streams: 1, threads: 1 }, "basic");
  try {
    return (await executable.run([])).map((t) => fromTensor(t));
  } finally {
    await executable.dispose();
  }
}
