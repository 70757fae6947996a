/** The evaluator of shape arithmetic against ONNX Runtime, on random graphs of small constants: what it claims to know must be so. */
import * as ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { int64Constant, makeConstant } from "../../src/ir/payload.js";
import type { Attrs, ValueId } from "../../src/ir/types.js";
import { exactly, known, nonZero, reduced, small } from "../../src/ops/elements.js";
import { inferGraph } from "../../src/ops/infer.js";
import { fact } from "../../src/ops/shapes.js";

type Kind = "int64" | "float32" | "bool";
interface Made {
  readonly id: ValueId;
  readonly dims: readonly number[];
  readonly kind: Kind;
}
function generator(seed: number): (n: number) => number {
  let s = (seed * 2654435761 + 12345) >>> 0;
  return (n) => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return Math.floor((s / 2 ** 32) * n);
  };
}

/** A graph of `steps` operators over random constants; dims up to 3, ranks up to 3. */
function randomGraph(seed: number, steps: number) {
  const pick = generator(seed);
  const e = new Editor({ name: "arithmetic", opsets: { "": 18 } });
  const made: Made[] = [];
  const one = <T>(list: readonly T[]): T => list[pick(list.length)] as T;
  const constant = (kind: Kind, dims: readonly number[]): Made => {
    const count = dims.reduce((a, b) => a * b, 1);
    const draw = (): number => (kind === "bool" ? pick(2) : kind === "int64" ? pick(13) - 6 : (pick(64) - 32) / 4);
    return { id: e.addConstant("c", makeConstant(kind, dims, Array.from({ length: count }, draw))), dims, kind };
  };
  const shape = (): number[] => Array.from({ length: pick(4) }, () => 1 + pick(3));
  for (const kind of ["int64", "float32", "bool"] as const) for (let i = 0; i < 3; i++) made.push(constant(kind, shape()));
  const of = (...kinds: readonly Kind[]): Made => one(made.filter((m) => kinds.includes(m.kind)));
  const ints = (...values: readonly number[]): ValueId => e.addConstant("i", int64Constant(values));
  const add = (op: string, ins: readonly (ValueId | undefined)[], dims: readonly number[], kind: Kind, attrs: Attrs = {}): void => {
    if (dims.reduce((a, b) => a * b, 1) > 200) return;
    made.push({ id: e.add({ op, ins, outs: 1, attrs }).outs[0] as ValueId, dims, kind });
  };
  /** A partner that broadcasts with `x`: its dims with some ones, maybe fewer. */
  const partner = (x: Made, kind: Kind): Made => {
    const dims = x.dims.slice(pick(x.dims.length + 1)).map((d) => (pick(3) === 0 ? 1 : d));
    return constant(kind, dims);
  };
  for (let i = 0; i < steps; i++) {
    switch (pick(19)) {
      case 18: {
        const x = of("int64", "float32");
        const [lo, hi] = [constant(x.kind, []), constant(x.kind, [])];
        add("Clip", [x.id, one([lo.id, undefined]), one([hi.id, undefined])], x.dims, x.kind);
        break;
      }
      case 0:
      case 1: {
        const x = of("int64", "float32");
        const op = one(["Add", "Sub", "Mul", "Max", "Min"]);
        add(op, [x.id, partner(x, x.kind).id], x.dims, x.kind);
        break;
      }
      case 2: {
        const x = of("int64", "float32");
        const divisor = e.addConstant("d", makeConstant(x.kind, [], [one([1, 2, 3, -2])]));
        // Integer division truncates, Mod follows the divisor.
        add(x.kind === "int64" ? one(["Div", "Mod"]) : "Div", [x.id, divisor], x.dims, x.kind);
        break;
      }
      case 3: {
        const x = of("int64", "float32");
        add(one(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]), [x.id, partner(x, x.kind).id], x.dims, "bool");
        break;
      }
      case 4: {
        const x = of("bool");
        if (pick(2) === 0) add("Not", [x.id], x.dims, "bool");
        else add(one(["And", "Or", "Xor"]), [x.id, partner(x, "bool").id], x.dims, "bool");
        break;
      }
      case 5: {
        const x = of("int64", "float32");
        add("Where", [partner(x, "bool").id, x.id, partner(x, x.kind).id], x.dims, x.kind);
        break;
      }
      case 6: {
        const x = one(made);
        const to = one(["int64", "float32", "bool"] as const);
        add("Cast", [x.id], x.dims, to, { to: { kind: "int", value: { int64: 7, float32: 1, bool: 9 }[to] } });
        break;
      }
      case 7: {
        const x = of("float32");
        add(one(["Floor", "Ceil", "Round", "Abs", "Neg", "Sign"]), [x.id], x.dims, "float32");
        break;
      }
      case 8: {
        const x = one(made);
        const perm = x.dims.map((_, k) => k).sort(() => pick(3) - 1);
        add(
          "Transpose",
          [x.id],
          perm.map((p) => x.dims[p] as number),
          x.kind,
          { perm: { kind: "ints", value: perm } },
        );
        break;
      }
      case 9: {
        const x = one(made);
        const count = x.dims.reduce((a, b) => a * b, 1);
        const first = one([1, 2, 3].filter((d) => count % d === 0));
        add("Reshape", [x.id, ints(first, -1)], [first, count / first], x.kind);
        break;
      }
      case 10: {
        const x = one(made);
        const axis = pick(x.dims.length + 1);
        add("Unsqueeze", [x.id, ints(axis)], [...x.dims.slice(0, axis), 1, ...x.dims.slice(axis)], x.kind);
        break;
      }
      case 11: {
        const x = one(made);
        const target = [1 + pick(2), ...x.dims].map((d) => (d === 1 ? 1 + pick(3) : d));
        add("Expand", [x.id, ints(...target)], target, x.kind);
        break;
      }
      case 12: {
        const x = one(made);
        const repeats = x.dims.map(() => 1 + pick(2));
        if (x.dims.length > 0)
          add(
            "Tile",
            [x.id, ints(...repeats)],
            x.dims.map((d, k) => d * (repeats[k] as number)),
            x.kind,
          );
        break;
      }
      case 13: {
        const x = one(made);
        if (x.dims.length === 0) break;
        const axis = pick(x.dims.length);
        const [size, step] = [x.dims[axis] as number, one([1, 2, -1])];
        const [from, to] = step > 0 ? [pick(size), size] : [size - 1, -size - 1];
        const length = step > 0 ? Math.ceil((to - from) / step) : size;
        add(
          "Slice",
          [x.id, ints(from), ints(to), ints(axis), ints(step)],
          x.dims.map((d, k) => (k === axis ? length : d)),
          x.kind,
        );
        break;
      }
      case 14: {
        const x = one(made);
        if (x.dims.length === 0) break;
        const axis = pick(x.dims.length);
        const size = x.dims[axis] as number;
        const index = Array.from({ length: 1 + pick(3) }, () => pick(2 * size) - size);
        add(
          "Gather",
          [x.id, ints(...index)],
          x.dims.map((d, k) => (k === axis ? index.length : d)),
          x.kind,
          { axis: { kind: "int", value: axis } },
        );
        break;
      }
      case 15: {
        const x = one(made);
        if (x.dims.length === 0) break;
        const axis = pick(x.dims.length);
        const other = constant(
          x.kind,
          x.dims.map((d, k) => (k === axis ? 1 + pick(2) : d)),
        );
        const dims = x.dims.map((d, k) => (k === axis ? d + (other.dims[k] as number) : d));
        add("Concat", pick(2) === 0 ? [x.id, other.id] : [other.id, x.id], dims, x.kind, {
          axis: { kind: "int", value: axis - x.dims.length },
        });
        break;
      }
      case 16: {
        const x = of("int64", "float32");
        if (x.dims.length === 0) break;
        const axis = pick(x.dims.length);
        const op = x.kind === "int64" ? one(["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"]) : one(["ReduceMax", "ReduceMin"]);
        // At opset 18 the axes of every one of them are an input.
        add(
          op,
          [x.id, ints(axis)],
          x.dims.map((d, k) => (k === axis ? 1 : d)),
          x.kind,
        );
        break;
      }
      default: {
        const [start, delta, n] = [pick(7) - 3, one([1, 2, -3]), 1 + pick(5)];
        const scalar = (v: number): ValueId => e.addConstant("s", int64Constant(v));
        add("Range", [scalar(start), scalar(start + delta * n), scalar(delta)], [n], "int64");
      }
    }
  }
  const results = made.filter((m) => e.producer(m.id) !== undefined).map((m) => m.id);
  e.setOutputs(results);
  return e.finish();
}

describe("on random graphs", () => {
  it("knows what ONNX Runtime computes, and nearly all of it", async () => {
    let [values, wholly] = [0, 0];
    for (let seed = 1; seed <= 60; seed++) {
      const g = randomGraph(seed, 40);
      const { graph, facts } = inferGraph(g);
      const session = await ort.InferenceSession.create(encodeOnnx(graph), { graphOptimizationLevel: "disabled", logSeverityLevel: 4 });
      const out = await session.run({});
      await session.release();
      for (const v of graph.outputs) {
        const { name } = valueAt(graph, v);
        const real = out[name] as ort.Tensor;
        const { type, elements } = facts(v);
        expect(type, `seed ${seed}, ${name}`).toEqual({ kind: "tensor", dtype: real.type, shape: [...real.dims] });
        values++;
        if (elements === undefined) continue;
        const data = Array.from(real.data as ArrayLike<number | bigint | boolean>, Number);
        elements.forEach((e, i) => {
          if (typeof e === "number")
            expect(e, `seed ${seed}, ${graph.nodes.find((n) => n.outs.includes(v))?.op} ${name}[${i}]`).toBe(data[i]);
        });
        if (elements.every((e) => typeof e === "number")) wholly++;
      }
    }
    expect(values).toBeGreaterThan(1500);
    expect(wholly / values).toBeGreaterThan(0.99);
  });
});

describe("what exporters write", () => {
  it("takes the simplest of the dims that Concat needs to be equal (MobileBERT)", () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[n, s, 4]) -> (%y) {
      const %one = int64[1] [1]
      const %far = int64[1] [9223372036854775807]
      const %pads = int64[6] [0, 0, 0, 0, 1, 0]
      %rest: float32 = Slice(%x, %one, %far, %one)
      %next: float32 = Pad(%rest, %pads)
      %y: float32 = Concat(%next, %x) {axis = 2}
    }`);
    const { facts, graph } = inferGraph(g);
    expect(facts(graph.outputs[0] as ValueId).type).toEqual({ kind: "tensor", dtype: "float32", shape: ["n", "s", 8] });
  });
  it("follows the pads of PyTorch through a matrix, reversed and transposed", () => {
    const g = parse(`graph "pads" opset {"": 18} (%x: float32[1, 512]) -> (%y) {
      const %half = int64[2] [0, 64]
      const %zero = int64[1] [0]
      const %two = int64[2] [-1, 2]
      const %last = int64[1] [-1]
      const %first = int64[1] [-9223372036854775807]
      const %flat = int64[1] [-1]
      const %n = int64[1] [2]
      %rest: int64 = ConstantOfShape(%n) {value = int64[1] [0]}
      %all: int64 = Concat(%half, %rest) {axis = 0}
      %pairs: int64 = Reshape(%all, %two)
      %turned: int64 = Slice(%pairs, %last, %first, %zero, %last)
      %swapped: int64 = Transpose(%turned) {perm = [1, 0]}
      %pads: int64 = Reshape(%swapped, %flat)
      %y: float32 = Pad(%x, %pads) {mode = "reflect"}
    }`);
    const { facts, graph } = inferGraph(g);
    expect(facts(graph.outputs[0] as ValueId).type).toEqual({ kind: "tensor", dtype: "float32", shape: [1, 576] });
  });
  it("carries symbols through casts, products and choices", () => {
    const g = parse(`graph "symbols" opset {"": 18} (%x: float32[n, 4], %v: float32[4]) -> (%y) {
      const %zero = int64[] [0]
      const %axes = int64[1] [0]
      const %four = int64[1] [4]
      %s: int64 = Shape(%x)
      %n: int64 = Gather(%s, %zero) {axis = 0}
      %wide: int64 = Unsqueeze(%n, %axes)
      %double: int64 = Add(%wide, %wide)
      %dims: int64 = Concat(%double, %four) {axis = 0}
      %y: float32 = Expand(%v, %dims)
    }`);
    const { facts, graph } = inferGraph(g);
    expect(facts(graph.outputs[0] as ValueId).type).toEqual({ kind: "tensor", dtype: "float32", shape: ["2*n", 4] });
  });
});

describe("limits", () => {
  it("drops what a type cannot hold", () => {
    expect(known(fact("int8", [3]), [1, 200, "n"]).elements).toEqual([1, "?", "?"]);
    expect(known(fact("int64", [2]), [2 ** 60, -0]).elements).toEqual(["?", 0]);
    expect(known(fact("float32", [1]), [0.1]).elements).toEqual([Math.fround(0.1)]);
    expect(known(fact("float16", [1]), [1]).elements).toBeUndefined();
    expect(known(fact("int64", [2]), [1]).elements).toBeUndefined();
    expect(known(fact("int64", ["n"]), [1]).elements).toBeUndefined();
  });
  it("reads no constant that is too large to matter", () => {
    let reads = 0;
    const bytes = new Uint8Array(8 * 2000);
    const large = {
      dtype: "int64" as const,
      dims: [2000],
      data: {
        kind: "lazy" as const,
        length: bytes.length,
        read: () => {
          reads++;
          return bytes;
        },
      },
    };
    expect(small({ ...fact("int64", [2000]), constant: large })).toBeUndefined();
    expect(reads).toBe(0);
  });
  it("reduces nothing to what ONNX says, and to nothing where it does not", () => {
    const sum = exactly((a, b) => a + b);
    expect(reduced({ dims: [0, 2], e: [] }, [0], sum, 0)).toEqual([0, 0]);
    expect(reduced({ dims: [0, 2], e: [] }, [0], sum, undefined)).toBeUndefined();
  });
  it("lists the places of what is not zero, and gives up on what is not known", () => {
    expect(nonZero({ dims: [2, 2], e: [0, 5, 1, 0] })).toEqual({ dims: [2, 2], e: [0, 1, 1, 0] });
    expect(nonZero({ dims: [1], e: ["?"] })).toBeUndefined();
  });
});
