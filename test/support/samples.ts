/** An operator's sample as a graph with feeds. */
import { Editor } from "../../src/ir/edit.js";
import { numberToHalf } from "../../src/ir/numeric.js";
import { fromTensor, int64Constant } from "../../src/ir/payload.js";
import type { Dim, Graph, Node, NodeId, ValueId } from "../../src/ir/types.js";
import type { AnyOp, Fact, Sample, SampleInput, SampleSequence, Slot } from "../../src/ops/define.js";
import { isTensorDType, Tensor } from "../../src/tensor.js";

/** Whether the operator is a spelling of its own, rather than always read as others. */
export const isCanonical = (def: AnyOp): boolean => def.reads.onnx.some((r) => r.adapt === undefined && r.op === undefined);

function randomOf(seed: number): () => number {
  let s = (seed * 2654435761 + 1) >>> 0;
  return () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 32;
  };
}
function tensorOf(s: SampleInput, seed: number): Tensor {
  if (!isTensorDType(s.dtype) || s.dtype === "bfloat16") throw new Error(`samples of ${s.dtype} cannot be fed`);
  const count = s.dims.reduce((a, b) => a * b, 1);
  const next = randomOf(seed);
  const draw = (): number | boolean => {
    const r = next();
    if (s.dtype === "bool") return r < 0.5;
    if (s.dtype.startsWith("float")) return 4 * r - 2;
    return s.dtype.startsWith("u") ? Math.floor(r * 16) : Math.floor(r * 17) - 8;
  };
  const values = s.fill === "random" ? Array.from({ length: count }, draw) : s.fill;
  if (s.dtype === "string") return new Tensor("string", values.map(String), s.dims);
  if (s.dtype === "float16")
    return new Tensor(
      "float16",
      Uint16Array.from(values, (x) => numberToHalf(Number(x))),
      s.dims,
    );
  return new Tensor(s.dtype, values as readonly number[], s.dims);
}

export interface Built {
  readonly graph: Graph;
  /** The operator's own node; around it, sequences are made of fed tensors and taken apart again. */
  readonly node: NodeId;
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** Numbers for the symbols. */
  readonly bindings: ReadonlyMap<string, number>;
}
/** With `symbolic`, every dim of a fed input is a symbol of its own (dims of equal size that must agree share one). */
export function buildSample(def: AnyOp, sample: Sample, symbolic: boolean): Built {
  const newest = Math.max(...def.reads.onnx.map((r) => r.since));
  const opset = isCanonical(def) || def.domain ? 18 : Math.max(18, newest);
  const e = new Editor({ name: "sample", opsets: { "": opset, ...(def.domain ? { [def.domain]: newest } : {}) } });
  const feeds: Record<string, Tensor> = {};
  const bindings = new Map<string, number>();
  let seed = 1;
  const dim = (d: number): Dim => {
    if (!symbolic || d <= 1) return d;
    bindings.set(`n${d}`, d);
    return `n${d}`;
  };
  const operand = (name: string, s: SampleInput | SampleSequence): ValueId => {
    if ("items" in s)
      return e.add({ op: "SequenceConstruct", ins: s.items.map((item, i) => operand(`${name}.${i}`, item)), outs: 1 }).outs[0] as ValueId;
    const t = tensorOf(s, seed++);
    if (s.constant === true) return e.addConstant(name, fromTensor(t));
    const id = e.addInput(name, { kind: "tensor", dtype: s.dtype, shape: s.dims.map(dim) });
    feeds[e.value(id).name] = t;
    return id;
  };
  const ins: (ValueId | undefined)[] = [];
  for (const [name, slot] of Object.entries(def.in as Record<string, Slot>)) {
    const raw = sample.in[name];
    const list = (slot.kind === "variadic" ? (raw ?? []) : [raw]) as readonly (SampleInput | SampleSequence | undefined)[];
    for (const s of list) ins.push(s === undefined ? undefined : operand(name, s));
  }
  while (ins.length > 0 && ins[ins.length - 1] === undefined) ins.pop();
  const n: Node = e.add({ op: def.name, domain: def.domain ?? "", name: "n", ins, outs: sample.outs ?? 1, attrs: sample.attrs ?? {} });
  e.setOutputs(n.outs.filter((v) => v !== undefined));
  return { graph: e.finish(), node: n.id, feeds, bindings };
}

/** The same graph with outputs that can be fetched: a sequence shows its length and first item, an optional what it holds, maps nothing. */
export function fetchable(g: Graph, facts: (v: ValueId) => Fact): Graph {
  const e = new Editor(g);
  e.setOutputs(
    g.outputs.flatMap((v): ValueId[] => {
      const out = (op: string, ...ins: readonly ValueId[]): ValueId => e.add({ op, ins, outs: 1 }).outs[0] as ValueId;
      const { type, items } = facts(v);
      if (type.kind === "optional") return [out("OptionalHasElement", v), out("OptionalGetElement", v)];
      if (type.kind !== "sequence") return [v];
      if (type.of.kind === "map") return [];
      const length = out("SequenceLength", v);
      return items?.length === 0 ? [length] : [length, out("SequenceAt", v, e.addConstant("first", int64Constant(0)))];
    }),
  );
  return e.finish();
}
