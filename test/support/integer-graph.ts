/** Evaluates a placed graph by the reference arithmetic alone: what every engine is to give, bit for bit. */
import { displayName, usesOf } from "../../src/ir/graph.js";
import { typedOf } from "../../src/ir/payload.js";
import type { Attr, Graph, Node, ValueId } from "../../src/ir/types.js";
import * as arithmetic from "../../src/quantize/arithmetic.js";

interface Real {
  readonly kind: "real";
  readonly data: Float32Array;
  readonly dims: readonly number[];
}
interface Steps {
  readonly kind: "steps";
  readonly data: Int8Array | Int32Array;
  readonly dims: readonly number[];
  readonly scales: Float32Array | undefined;
  readonly axis: number;
}
/** A product before its scale, and what activations did to it since. */
interface Sums {
  readonly kind: "sums";
  readonly acc: arithmetic.Accumulator;
  readonly x: number;
  readonly w: Float32Array;
  readonly bounds: readonly (readonly [low: number, high: number])[];
}
type Value = Real | Steps | Sums;

const numbers = (n: Node, name: string): readonly number[] | undefined => {
  const a: Attr | undefined = n.attrs[name];
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
const number = (n: Node, name: string, fallback: number): number => {
  const a: Attr | undefined = n.attrs[name];
  return a?.kind === "int" ? Number(a.value) : fallback;
};
const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

/** Outputs by name. Takes the operators that the tests' graphs have. */
export function evaluateIntegers(
  g: Graph,
  feeds: Readonly<Record<string, { readonly data: Float32Array; readonly dims: readonly number[] }>>,
): Record<string, Real> {
  const values = new Map<ValueId, Value>();
  const uses = usesOf(g);
  for (const v of g.inputs) {
    const fed = feeds[g.values[v]?.name ?? ""];
    if (fed !== undefined) values.set(v, { kind: "real", ...fed });
  }
  const constant = (v: ValueId | undefined) => {
    const c = v === undefined ? undefined : g.constants.get(v);
    return c === undefined ? undefined : { data: typedOf(c), dims: c.dims };
  };
  const of = (v: ValueId | undefined): Value => {
    const known = v === undefined ? undefined : (values.get(v) ?? fromConstant(v));
    if (known === undefined) throw new Error(`value ${v} is not there`);
    return known;
  };
  const fromConstant = (v: ValueId): Value | undefined => {
    const c = constant(v);
    if (c?.data instanceof Float32Array) return { kind: "real", data: c.data, dims: c.dims };
    return c?.data instanceof Int8Array || c?.data instanceof Int32Array
      ? { kind: "steps", data: c.data, dims: c.dims, scales: undefined, axis: 0 }
      : undefined;
  };
  /** Sums whose scale is asked for: the float32 they stand for. */
  const real = (v: ValueId | undefined): Real => {
    const x = of(v);
    if (x.kind === "real") return x;
    if (x.kind === "sums") {
      const data = arithmetic.toReal(x.acc, arithmetic.sumScales(x.x, x.w));
      for (const [low, high] of x.bounds) data.forEach((y, i) => void (data[i] = Math.min(Math.max(y, low), high)));
      return { kind: "real", data, dims: x.acc.dims };
    }
    if (x.scales === undefined) throw new Error("steps without a scale");
    const at = { dims: x.dims, axis: x.axis };
    return {
      kind: "real",
      data: arithmetic.dequantize(x.data, x.scales.length === 1 ? (x.scales[0] as number) : x.scales, at),
      dims: x.dims,
    };
  };
  const steps = (v: ValueId | undefined): Steps | undefined => {
    const x = v === undefined ? undefined : of(v);
    return x?.kind === "steps" ? x : undefined;
  };
  for (const n of g.nodes) {
    const [y] = n.outs;
    if (y === undefined) continue;
    const put = (x: Value): void => void values.set(y, x);
    switch (n.op) {
      case "QuantizeLinear": {
        const [scale = 1] = real(n.ins[1]).data;
        const x = of(n.ins[0]);
        if (x.kind === "sums") {
          const data = arithmetic.requantize(x.acc, arithmetic.multipliers(x.x, x.w, scale));
          for (const bounds of x.bounds) {
            const [low = 0, high = 0] = arithmetic.quantize(Float32Array.from(bounds), scale);
            data.forEach((q, i) => void (data[i] = Math.min(Math.max(q, low), high)));
          }
          put({ kind: "steps", data, dims: x.acc.dims, scales: undefined, axis: 0 });
        } else {
          const r = real(n.ins[0]);
          put({ kind: "steps", data: arithmetic.quantize(r.data, scale), dims: r.dims, scales: undefined, axis: 0 });
        }
        break;
      }
      case "DequantizeLinear": {
        const q = steps(n.ins[0]);
        if (q === undefined) throw new Error("no steps");
        put({ ...q, scales: real(n.ins[1]).data, axis: number(n, "axis", 1) });
        break;
      }
      case "Conv":
      case "ConvTranspose":
      case "Gemm":
      case "MatMul": {
        const [x, w, b] = [steps(n.ins[0]), steps(n.ins[1]), steps(n.ins[2])];
        if (x?.scales === undefined || w?.scales === undefined) throw new Error(`${displayName(g, n)} is not quantized`);
        const window = {
          strides: numbers(n, "strides"),
          dilations: numbers(n, "dilations"),
          pads: numbers(n, "pads"),
          group: number(n, "group", 1),
          outputPadding: numbers(n, "output_padding") ?? [],
        };
        const [xi, wi] = [x as arithmetic.Int8, w as arithmetic.Int8];
        const bias = b?.data as Int32Array | undefined;
        const acc =
          n.op === "Conv"
            ? arithmetic.conv(xi, wi, bias, window)
            : n.op === "ConvTranspose"
              ? arithmetic.convTranspose(xi, wi, bias, window)
              : n.op === "Gemm"
                ? arithmetic.gemm(xi, wi, bias, { transA: number(n, "transA", 0) === 1, transB: number(n, "transB", 0) === 1 })
                : arithmetic.matmul(xi, wi);
        const sums: Sums = { kind: "sums", acc, x: x.scales[0] as number, w: w.scales, bounds: [] };
        put(sums);
        if (!soleChain(y)) put(real(y));
        break;
      }
      case "Relu":
      case "Clip": {
        const bounds =
          n.op === "Relu"
            ? ([0, Number.POSITIVE_INFINITY] as const)
            : ([real(n.ins[1]).data[0] ?? 0, real(n.ins[2]).data[0] ?? 0] as const);
        const x = of(n.ins[0]);
        if (x.kind === "sums") put({ ...x, bounds: [...x.bounds, bounds] });
        else {
          const r = real(n.ins[0]);
          put({ kind: "real", data: r.data.map((v) => Math.min(Math.max(v, bounds[0]), bounds[1])), dims: r.dims });
        }
        break;
      }
      case "Add": {
        const [a, b] = [real(n.ins[0]), real(n.ins[1])];
        const [large, small] = a.data.length >= b.data.length ? [a, b] : [b, a];
        put({ kind: "real", data: large.data.map((v, i) => v + (small.data[i % small.data.length] as number)), dims: large.dims });
        break;
      }
      case "MaxPool": {
        const x = steps(n.ins[0]);
        if (x?.scales === undefined) throw new Error("MaxPool is not quantized");
        const pooled = arithmetic.maxPool(x as arithmetic.Int8, numbers(n, "kernel_shape") ?? [], {
          strides: numbers(n, "strides"),
          pads: numbers(n, "pads"),
        });
        put({ kind: "real", data: arithmetic.dequantize(pooled.data, x.scales[0] as number), dims: pooled.dims });
        break;
      }
      case "GlobalAveragePool": {
        const x = steps(n.ins[0]);
        const [q] = uses[y] ?? [];
        if (x?.scales === undefined || q?.op !== "QuantizeLinear") throw new Error("GlobalAveragePool is not quantized");
        const [scale = 1] = real(q.ins[1]).data;
        const mean = arithmetic.globalAveragePool(x as arithmetic.Int8, x.scales[0] as number, scale);
        put({ kind: "real", data: arithmetic.dequantize(mean.data, scale), dims: mean.dims });
        break;
      }
      case "Flatten": {
        const x = real(n.ins[0]);
        put({ ...x, dims: [x.dims[0] ?? 1, product(x.dims.slice(1))] });
        break;
      }
      default:
        throw new Error(`the evaluator has no ${n.op}`);
    }
  }
  /** Whether activations with bounds alone lie between a product and the one quantizer that reads it. */
  function soleChain(v: ValueId): boolean {
    const readers = uses[v] ?? [];
    const [reader] = readers;
    if (reader === undefined || readers.length !== 1 || g.outputs.includes(v)) return false;
    const [next] = reader.outs;
    return reader.op === "QuantizeLinear" || ((reader.op === "Relu" || reader.op === "Clip") && next !== undefined && soleChain(next));
  }
  return Object.fromEntries(g.outputs.map((v) => [g.values[v]?.name ?? "", real(v)]));
}
