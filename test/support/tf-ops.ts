/** Runs one TensorFlow operator through the importer and ONNX Runtime, operands as constants or as graph inputs with known or open dims. */
import { expect } from "vitest";
import { importTf } from "../../src/import/tf/index.js";
import { demandReadable } from "../../src/import/tf/unreadable.js";
import { bodiesOf } from "../../src/ir/graph.js";
import { halfToNumber, numberToHalf } from "../../src/ir/numeric.js";
import type { Graph } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";
import { lookupTf } from "../../src/ops/tf/registry.js";
import { Tensor, type TensorDType } from "../../src/tensor.js";
import { runGraph } from "../../src/testing.js";
import { constant, graphDef, type NodeSpec, node, placeholder, type Write } from "./tf-graph.js";

const numbers: Readonly<Partial<Record<TensorDType, number>>> = {
  float32: 1,
  float64: 2,
  int32: 3,
  uint8: 4,
  int16: 5,
  int8: 6,
  string: 7,
  int64: 9,
  bool: 10,
  uint16: 17,
  float16: 19,
  uint32: 22,
  uint64: 23,
};
export const tfNumber = (dtype: TensorDType): number => numbers[dtype] ?? 0;

export interface Operand {
  readonly tensor: Tensor;
  /** A Const node, whatever the run. */
  readonly fixed: boolean;
}
/** Operators that only move elements or compute shapes; lowerings do not list them all. */
const GLUE = new Set(
  "Cast Reshape Transpose Unsqueeze Squeeze Slice Concat Shape Size Gather Expand Range ConstantOfShape Identity".split(" "),
);
/** Operators of a graph, bodies included, that the TensorFlow operator does not say it becomes. */
function undeclared(op: string, g: Graph): readonly string[] {
  const listed = new Set(lookupTf(op)?.to);
  const found = (graph: Graph): string[] => graph.nodes.flatMap((n) => [n.op, ...bodiesOf(n).flatMap(({ body }) => found(body.graph))]);
  return [...new Set(found(g))].filter((made) => !listed.has(made) && !GLUE.has(made));
}
type Values = readonly (number | bigint | boolean)[];
const make = (dtype: Exclude<TensorDType, "string">, dims: readonly number[], values: Values, fixed = false): Operand => {
  const list =
    dtype === "float16"
      ? values.map((v) => numberToHalf(Number(v)))
      : dtype.endsWith("64") && dtype !== "float64"
        ? values.map((v) => BigInt(v))
        : values;
  return { tensor: new Tensor(dtype, list as Values, dims), fixed };
};
export const t = (dtype: Exclude<TensorDType, "string">, dims: readonly number[], values: Values): Operand => make(dtype, dims, values);
export const f = (dims: readonly number[], values: Values): Operand => make("float32", dims, values);
export const i = (dims: readonly number[], values: Values): Operand => make("int32", dims, values);
/** Constants: what a lowering must know. */
export const ci = (dims: readonly number[], values: Values): Operand => make("int32", dims, values, true);
export const cf = (dims: readonly number[], values: Values): Operand => make("float32", dims, values, true);

export type Mode = "static" | "open";
/** `open`: every dim of every graph input is unknown. */
export async function run(
  op: string,
  ins: readonly Operand[],
  attrs: Readonly<Record<string, Write>> = {},
  outs = 1,
  mode: Mode = "static",
): Promise<readonly Tensor[]> {
  const nodes: NodeSpec[] = ins.map(({ tensor, fixed }, k) =>
    fixed
      ? constant(`x${k}`, tfNumber(tensor.type), tensor.dims, Array.from(tensor.data as ArrayLike<number>, Number))
      : placeholder(`x${k}`, tfNumber(tensor.type), mode === "open" ? tensor.dims.map(() => -1) : tensor.dims),
  );
  nodes.push(
    node(
      "y",
      op,
      ins.map((_, k) => `x${k}`),
      attrs,
    ),
  );
  const g = importTf(graphDef(nodes), { outputs: Array.from({ length: outs }, (_, k) => `y:${k}`) });
  verify(g);
  demandReadable(g);
  expect(undeclared(op, g), `${op} makes operators that its definition does not list`).toEqual([]);
  const feeds = g.inputs.map((v) => {
    const name = g.values[v]?.name ?? "";
    const operand = ins[Number(/^x(\d+)/.exec(name)?.[1])];
    if (operand === undefined) throw new Error(`no operand for '${name}'`);
    return operand.tensor;
  });
  return runGraph(g, feeds);
}
export const plain = (x: Tensor | undefined): number[] =>
  x === undefined
    ? []
    : Array.from(x.data as ArrayLike<number | bigint>, (v) => (x.type === "float16" ? halfToNumber(Number(v)) : Number(v)));

export interface Want {
  readonly dtype: TensorDType;
  readonly dims: readonly number[];
  readonly values: readonly number[];
}
export const want = (dtype: TensorDType, dims: readonly number[], values: readonly (number | boolean)[]): Want => ({
  dtype,
  dims,
  values: values.map(Number),
});
export const wf = (dims: readonly number[], values: readonly number[]): Want => want("float32", dims, values);
export const wi = (dims: readonly number[], values: readonly number[]): Want => want("int32", dims, values);

/** Compares results with what TensorFlow gives, with known and with open dims: integers exactly, floats to 1e-5 of the largest (half precision: 1e-3). */
export async function check(
  op: string,
  ins: readonly Operand[],
  attrs: Readonly<Record<string, Write>>,
  wanted: Want | readonly Want[],
  options: { readonly modes?: readonly Mode[]; readonly tolerance?: number } = {},
): Promise<void> {
  const list = Array.isArray(wanted) ? (wanted as readonly Want[]) : [wanted as Want];
  for (const mode of options.modes ?? (["static", "open"] as const)) {
    const results = await run(op, ins, attrs, list.length, mode);
    list.forEach((w, k) => {
      const r = results[k];
      const at = `${op}, ${mode} dims, output ${k}`;
      expect([r?.type, r?.dims], at).toEqual([w.dtype, w.dims]);
      const has = plain(r);
      if (!w.dtype.startsWith("float")) {
        expect(has, at).toEqual(w.values);
        return;
      }
      const scale = Math.max(1e-30, ...w.values.filter(Number.isFinite).map(Math.abs));
      const limit = (options.tolerance ?? (w.dtype === "float16" ? 1e-3 : 1e-5)) * scale;
      const off = has.findIndex((v, j) => {
        const e = w.values[j] as number;
        return !Object.is(v, e) && !(v === e) && !(Math.abs(v - e) <= limit) && !(Number.isNaN(v) && Number.isNaN(e));
      });
      expect(off < 0 ? "equal" : `element ${off} is ${has[off]}, expected ${w.values[off]} (all: ${has.slice(0, 24).join(", ")})`, at).toBe(
        "equal",
      );
    });
  }
}
