/** Control flow. Bodies are graphs with captures (ir/types.ts); engines run them only when the host decides which and how often. */
import { PartitaError } from "../diagnostics.js";
import { UNKNOWN } from "../ir/dims.js";
import { Editor } from "../ir/edit.js";
import { makeConstant } from "../ir/payload.js";
import type { ValueType } from "../ir/types.js";
import { hostOnly } from "./answers.js";
import {
  absent,
  defineOp,
  type Fact,
  graphAttr,
  int,
  optInts,
  optional,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  tensorType,
  unknownType,
  variadic,
} from "./define.js";
import { aBody, aInt, aInts, fed, given, random } from "./samples.js";
import { elementsFact, elementsOf, fact, free } from "./shapes.js";

const int8 = absent("its body is quantized in its own right");
const on = hostOnly(
  "the host decides which body runs and how often",
  "an If of a known condition and a short Loop of known trips are spelled out; let the condition be a constant, or bind the input that it comes from (bind, --bind)",
);

/** What holds of a value that is one or the other. */
function either(a: Fact | undefined, b: Fact | undefined): Fact {
  const [x, y] = [a?.type, b?.type];
  if (x === undefined || y === undefined || x.kind !== y.kind) return { type: x ?? y ?? unknownType };
  return { type: eitherType(x, y) };
}
function eitherType(x: ValueType, y: ValueType): ValueType {
  if (x.kind === "tensor" && y.kind === "tensor") {
    if (x.dtype !== y.dtype) return unknownType;
    if (x.shape === undefined || y.shape === undefined || x.shape.length !== y.shape.length) return { ...x, shape: undefined };
    return { ...x, shape: x.shape.map((d, i) => (d === y.shape?.[i] ? d : UNKNOWN)) };
  }
  if ((x.kind === "sequence" && y.kind === "sequence") || (x.kind === "optional" && y.kind === "optional"))
    return { ...x, of: eitherType(x.of, y.of) };
  return x.kind === y.kind ? x : unknownType;
}

/** The facts, or why there are none. */
function attempted(infer: () => readonly Fact[]): readonly Fact[] | PartitaError {
  try {
    return infer();
  } catch (error) {
    if (error instanceof PartitaError) return error;
    throw error;
  }
}

export const if_ = defineOp({
  name: "If",
  doc: "Runs one of two bodies.",
  reads: { onnx: [{ since: 1 }] },
  in: { condition: tensor("bool") },
  out: { ys: variadic() },
  attrs: { then_branch: graphAttr(), else_branch: graphAttr() },
  role: "compute",
  infer: (at) => {
    // A condition that is known leaves the other branch out: what it says of these shapes need not even make sense.
    const known = at.in.condition.elements?.[0];
    if (typeof known === "number") return at.body(known !== 0 ? "then_branch" : "else_branch", []);
    // Of two branches for different shapes one may make no sense at these: it is never run, and what holds is what the other one says.
    const [a, b] = [attempted(() => at.body("then_branch", [])), attempted(() => at.body("else_branch", []))];
    if (a instanceof PartitaError) {
      if (b instanceof PartitaError) throw a;
      return b;
    }
    return b instanceof PartitaError ? a : Array.from({ length: at.outs }, (_, i) => either(a[i], b[i]));
  },
  cost: free,
  int8,
  on,
  *samples() {
    const branch = (...values: readonly number[]) => aBody((e) => [e.addConstant("y", makeConstant("float32", [values.length], values))]);
    const condition = fed("bool", [], [1]);
    yield { name: "same dims", in: { condition }, attrs: { then_branch: branch(1, 2), else_branch: branch(3, 4) } };
    yield {
      name: "known condition",
      in: { condition: given("bool", [], [0]) },
      attrs: { then_branch: branch(1, 2), else_branch: branch(3, 4, 5) },
    };
  },
});
export const loop = defineOp({
  name: "Loop",
  doc: "Runs a body a number of times or while a condition holds, carrying values and stacking scan outputs.",
  reads: { onnx: [{ since: 1 }] },
  in: { trips: optional("int64"), condition: optional("bool"), carried: variadic() },
  out: { ys: variadic() },
  attrs: { body: graphAttr() },
  role: "compute",
  infer: (at) => {
    const trip = fact("int64", []);
    // A condition that starts true and that the body hands on unchanged stays true: then the trip count alone ends the loop.
    const starts = at.in.condition === undefined || at.in.condition.elements?.[0] === 1;
    const condition = starts ? elementsFact([1], 0, "bool") : fact("bool", []);
    const n = at.in.carried.length;
    // A carried value keeps only what an iteration preserves; two rounds reach what matters, a third confirms it.
    let carried: Fact[] = at.in.carried.map((f) => ({ type: f?.type ?? unknownType }));
    let outs: readonly Fact[] = [];
    for (let round = 0; round < 4; round++) {
      outs = at.body("body", [trip, condition, ...carried]);
      const next = carried.map((c, i) => either(c, outs[i + 1]));
      const same = next.every((f, i) => JSON.stringify(f.type) === JSON.stringify(carried[i]?.type));
      carried = next;
      if (same) break;
    }
    const counted = starts && outs[0]?.elements?.[0] === 1;
    const trips = counted ? (elementsOf(at.in.trips)?.[0] ?? UNKNOWN) : UNKNOWN;
    const turns = typeof trips === "number" ? Math.max(0, trips) : trips;
    const scans = outs.slice(n + 1).map((f): Fact => {
      const t = f.type;
      if (t.kind !== "tensor") return { type: unknownType };
      const slice = t.shape?.map((d) => (typeof d === "number" ? d : UNKNOWN));
      return { type: { ...t, shape: slice === undefined ? undefined : [turns, ...slice] } };
    });
    return [...carried, ...scans];
  },
  cost: free,
  int8,
  on,
  *samples() {
    const body = aBody((e) => {
      e.addInput("turn", tensorType("int64", []));
      const go = e.addInput("go", tensorType("bool", []));
      const x = e.addInput("x", tensorType("float32", [2, 3]));
      const next = e.add({ op: "Add", ins: [x, x], outs: 1 }).outs[0];
      return [e.add({ op: "Identity", ins: [go], outs: 1 }).outs[0], next, e.add({ op: "Neg", ins: [next], outs: 1 }).outs[0]];
    });
    yield {
      name: "counted",
      in: { trips: given("int64", [], [3]), condition: given("bool", [], [1]), carried: [random("float32", 2, 3)] },
      attrs: { body },
      outs: 2,
    };
  },
});
/**
 * Scan of opset 8 has a batch axis before the sequence axis in every state and scan input, and lengths that may differ by batch element as
 * its first input. Without lengths it is a scan over the batch whose body is the scan over the sequence.
 */
function batchedScan(n: RawNode, to: Rewriter): void {
  const [lengths, ...operands] = n.ins;
  const [body, count] = [n.attrs["body"], n.attrs["num_scan_inputs"]];
  if (lengths !== undefined || body?.kind !== "graph" || count?.kind !== "int") {
    to.keep();
    return;
  }
  const outer = new Editor({ name: "batch", opsets: body.value.graph.opsets });
  const ins = operands.map((v, i) => {
    const t = to.typeOf(v);
    const element: ValueType = t.kind === "tensor" ? { ...t, shape: t.shape?.slice(1) } : t;
    return outer.addInput(`in${i}`, element);
  });
  const captures = body.value.captures.map((v, i) => outer.addCapture(`captured${i}`, to.typeOf(v)));
  const directions = n.attrs["directions"];
  const inner = outer.add({
    op: "Scan",
    name: n.name,
    ins,
    outs: n.outs.length,
    attrs: {
      num_scan_inputs: count,
      ...(directions === undefined ? {} : { scan_input_directions: directions }),
      body: { kind: "graph", value: { graph: body.value.graph, captures } },
    },
  });
  outer.setOutputs(inner.outs.filter((v) => v !== undefined));
  to.emit(
    "Scan",
    operands,
    {
      num_scan_inputs: { kind: "int", value: operands.length },
      body: { kind: "graph", value: { graph: outer.finish(), captures: body.value.captures } },
    },
    n.outs,
  );
}
export const scan = defineOp({
  name: "Scan",
  doc: "Runs a body over slices of its inputs, carrying state and stacking outputs.",
  reads: { onnx: [{ since: 8, adapt: batchedScan }, { since: 9 }] },
  in: { ins: variadic() },
  out: { ys: variadic() },
  attrs: {
    body: graphAttr(),
    num_scan_inputs: int(),
    scan_input_axes: optInts(),
    scan_input_directions: optInts(),
    scan_output_axes: optInts(),
    scan_output_directions: optInts(),
  },
  role: "compute",
  infer: (at) => {
    const scans = at.attrs.num_scan_inputs;
    const states = at.in.ins.length - scans;
    let length: number | string = UNKNOWN;
    const slices = at.in.ins.slice(states).map((f, i): Fact => {
      const s = shapeOf(f);
      if (f === undefined || f.type.kind !== "tensor" || s === undefined)
        return { type: f?.type.kind === "tensor" ? { ...f.type, shape: undefined } : unknownType };
      const axis = at.attrs.scan_input_axes?.[i] ?? 0;
      const a = axis < 0 ? axis + s.length : axis;
      length = s[a] ?? UNKNOWN;
      return { type: { ...f.type, shape: s.filter((_, k) => k !== a) } };
    });
    let carried: Fact[] = at.in.ins.slice(0, states).map((f) => ({ type: f?.type ?? unknownType }));
    let outs: readonly Fact[] = [];
    for (let round = 0; round < 4; round++) {
      outs = at.body("body", [...carried, ...slices]);
      const next = carried.map((c, i) => either(c, outs[i]));
      const same = next.every((f, i) => JSON.stringify(f.type) === JSON.stringify(carried[i]?.type));
      carried = next;
      if (same) break;
    }
    const stacked = outs.slice(states).map((f, i): Fact => {
      const t = f.type;
      if (t.kind !== "tensor" || t.shape === undefined) return { type: t.kind === "tensor" ? t : unknownType };
      const axis = at.attrs.scan_output_axes?.[i] ?? 0;
      const a = axis < 0 ? axis + t.shape.length + 1 : axis;
      return { type: { ...t, shape: [...t.shape.slice(0, a), length, ...t.shape.slice(a)] } };
    });
    return [...carried, ...stacked];
  },
  cost: free,
  int8,
  on,
  *samples() {
    const body = aBody((e) => {
      const sum = e.addInput("sum", tensorType("float32", [2]));
      const x = e.addInput("x", tensorType("float32", [2]));
      const next = e.add({ op: "Add", ins: [sum, x], outs: 1 }).outs[0];
      return [next, e.add({ op: "Identity", ins: [next], outs: 1 }).outs[0]];
    });
    const ins = [random("float32", 2), random("float32", 3, 2)];
    yield { name: "running sum", in: { ins }, attrs: { body, num_scan_inputs: aInt(1) }, outs: 2 };
    yield {
      name: "backwards, second axis",
      in: { ins: [random("float32", 2), random("float32", 2, 3)] },
      attrs: { body, num_scan_inputs: aInt(1), scan_input_axes: aInts(1), scan_input_directions: aInts(1), scan_output_axes: aInts(-1) },
      outs: 2,
    };
  },
});
