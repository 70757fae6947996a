/**
 * Cases of the ONNX backend suite: a model with feeds and expected results. Sequences, optionals and element types that JavaScript lacks
 * cannot cross the border of a session; such inputs and outputs get operators that make them of tensors and take them apart.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { dtypeClass, onnxNumber } from "../../src/ir/dtypes.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import { halfToNumber } from "../../src/ir/numeric.js";
import { int64Constant } from "../../src/ir/payload.js";
import type { DType, Graph, ValueId, ValueType } from "../../src/ir/types.js";
import { isTensorDType, Tensor } from "../../src/tensor.js";
import { type ProtoValue, readProto } from "./onnx-tensors.js";

export interface Plain {
  readonly type: string;
  readonly data: ArrayLike<number | bigint | string>;
  readonly dims: readonly number[];
}
/** One data set of a test. `model` is the file itself wherever its inputs and outputs are plain tensors. */
export interface Case {
  readonly model: string | Uint8Array;
  readonly wrapped: boolean;
  readonly feeds: Readonly<Record<string, Plain>>;
  readonly expected: ReadonlyMap<string, Tensor>;
}
/** Why a test cannot be put to a session at all. */
export interface Skip {
  readonly skip: string;
}

/** JavaScript's type that holds every value of an element type it lacks. */
function carrier(dtype: DType): "float32" | "int8" | "uint8" | undefined {
  const kind = dtypeClass(dtype);
  return kind === "float" ? "float32" : kind === "int" ? "int8" : kind === "uint" ? "uint8" : undefined;
}
const plainTensor = (t: Tensor): Plain => ({ type: t.type, data: t.data as Plain["data"], dims: t.dims });

class Unsupported extends Error {}

/** Puts tensors where a container or a foreign element type is wanted. */
class Wrapper {
  readonly e: Editor;
  readonly feeds: Record<string, Plain> = {};
  readonly expected = new Map<string, Tensor>();
  readonly outputs: ValueId[] = [];
  wrapped = false;

  constructor(g: Graph) {
    this.e = new Editor(g);
  }

  #input(stem: string, t: Tensor): ValueId {
    const id = this.e.addInput(stem, { kind: "tensor", dtype: t.type, shape: t.dims });
    this.feeds[this.e.value(id).name] = plainTensor(t);
    return id;
  }

  /** Makes `value` of fed tensors; `into`: the value to define, a fresh one when absent. */
  make(value: ProtoValue, type: ValueType, stem: string, into?: ValueId): ValueId {
    const { e } = this;
    const outs = into === undefined ? 1 : [into];
    const add = (op: string, ins: readonly ValueId[], attrs = {}): ValueId => e.add({ op, ins, outs, attrs }).outs[0] as ValueId;
    this.wrapped = true;
    if (type.kind === "optional") {
      if (value.kind === "nothing") return add("Optional", [], { type: { kind: "type", value: type.of } });
      return add("Optional", [this.make(value, type.of, stem)]);
    }
    switch (value.kind) {
      case "tensor": {
        const fed = this.#input(`${stem}.fed`, value.tensor);
        return into === undefined ? fed : add("Identity", [fed]);
      }
      case "foreign": {
        const to = value.dtype === undefined ? undefined : carrier(value.dtype);
        if (value.dtype === undefined || to === undefined) throw new Unsupported(`input of type ${value.dtype}`);
        const fed = this.#input(`${stem}.fed`, new Tensor(to, value.values, value.dims));
        return add("Cast", [fed], { to: { kind: "int", value: onnxNumber(value.dtype) } });
      }
      case "list": {
        const of: ValueType = type.kind === "sequence" ? type.of : { kind: "unknown" };
        if (value.items.length === 0)
          return add("SequenceEmpty", [], { dtype: { kind: "int", value: of.kind === "tensor" ? onnxNumber(of.dtype) : 1 } });
        return add(
          "SequenceConstruct",
          value.items.map((item, i) => this.make(item, of, `${stem}.${i}`)),
        );
      }
      case "nothing":
        throw new Unsupported(`input without a value, of kind ${type.kind}`);
      default:
        return value satisfies never;
    }
  }

  /** Adds outputs that show `v`, and what they must be. */
  take(v: ValueId, value: ProtoValue, type: ValueType, stem: string): void {
    const { e } = this;
    const add = (op: string, ins: readonly ValueId[], attrs = {}): ValueId =>
      e.add({ op, ins, outs: 1, name: stem, attrs }).outs[0] as ValueId;
    const show = (id: ValueId, t: Tensor): void => {
      this.outputs.push(id);
      this.expected.set(e.value(id).name, t);
    };
    if (type.kind === "optional") {
      this.wrapped = true;
      const has = add("OptionalHasElement", [v]);
      show(has, new Tensor("bool", [value.kind === "nothing" ? 0 : 1], []));
      if (value.kind !== "nothing") this.take(add("OptionalGetElement", [v]), value, type.of, stem);
      return;
    }
    switch (value.kind) {
      case "tensor":
        show(v, value.tensor);
        return;
      case "foreign": {
        const to = value.dtype === undefined ? undefined : carrier(value.dtype);
        if (to === undefined) throw new Unsupported(`output of type ${value.dtype}`);
        this.wrapped = true;
        show(add("Cast", [v], { to: { kind: "int", value: onnxNumber(to) } }), new Tensor(to, value.values, value.dims));
        return;
      }
      case "list": {
        this.wrapped = true;
        show(add("SequenceLength", [v]), new Tensor("int64", [value.items.length], []));
        const of: ValueType = type.kind === "sequence" ? type.of : { kind: "unknown" };
        value.items.forEach((item, i) => {
          const at = e.addConstant(`${stem}.at`, int64Constant(i));
          this.take(add("SequenceAt", [v, at]), item, of, stem);
        });
        return;
      }
      case "nothing":
        throw new Unsupported(`output without a value, of kind ${type.kind}`);
      default:
        value satisfies never;
    }
  }
}

const plainType = (t: ValueType): boolean =>
  t.kind === "unknown" || (t.kind === "tensor" && isTensorDType(t.dtype) && t.dtype !== "bfloat16");

/** The data sets of one test folder. Throws what the importer throws. */
export function casesOf(dir: string): readonly Case[] | Skip {
  const path = join(dir, "model.onnx");
  const graph = importOnnx(path);
  const sets = readdirSync(dir)
    .filter((f) => f.startsWith("test_data_set_"))
    .sort();
  const cases: Case[] = [];
  for (const set of sets) {
    const w = new Wrapper(graph);
    const kept: ValueId[] = [];
    try {
      for (const [i, v] of graph.inputs.entries()) {
        const { name, type } = valueAt(graph, v);
        const file = join(dir, set, `input_${i}.pb`);
        if (!existsSync(file)) throw new Unsupported(`no data for input '${name}'`);
        const value = readProto(readFileSync(file), type);
        if (value.kind === "tensor" && plainType(type)) {
          kept.push(v);
          w.feeds[name] = plainTensor(value.tensor);
        } else w.make(value, type, name, v);
      }
      for (const [i, v] of graph.outputs.entries()) {
        const { name, type } = valueAt(graph, v);
        const file = join(dir, set, `output_${i}.pb`);
        if (!existsSync(file)) throw new Unsupported(`no data for output '${name}'`);
        w.take(v, readProto(readFileSync(file), type), type, name);
      }
    } catch (error) {
      if (error instanceof Unsupported) return { skip: error.message };
      throw error;
    }
    if (!w.wrapped) {
      cases.push({ model: path, wrapped: false, feeds: w.feeds, expected: w.expected });
      continue;
    }
    // The order of inputs is of no consequence: feeds go by name.
    w.e.setInputs([...kept, ...w.e.inputs.filter((v) => !graph.inputs.includes(v))]);
    w.e.setOutputs(w.outputs);
    cases.push({ model: encodeOnnx(w.e.finish()), wrapped: true, feeds: w.feeds, expected: w.expected });
  }
  return cases.length === 0 ? { skip: "no data sets" } : cases;
}

/** numpy.allclose with the suite's tolerances; integers and strings are equal. Undefined when they agree. */
export function difference(actual: Plain | undefined, expected: Tensor, rtol = 1e-3, atol = 1e-7): string | undefined {
  if (actual === undefined) return "no such output";
  if (actual.type !== expected.type) return `type ${actual.type}, expected ${expected.type}`;
  if (actual.dims.length !== expected.dims.length || actual.dims.some((d, i) => d !== expected.dims[i]))
    return `dims [${actual.dims}], expected [${expected.dims}]`;
  const float = expected.type.startsWith("float");
  const half = expected.type === "float16";
  for (let i = 0; i < expected.data.length; i++) {
    const [a, e] = [actual.data[i], expected.data[i]];
    if (!float) {
      if (expected.type === "bool" ? Boolean(a) !== Boolean(e) : a !== e) return `element ${i} is ${a}, expected ${e}`;
      continue;
    }
    const [x, y] = half ? [halfToNumber(Number(a)), halfToNumber(Number(e))] : [Number(a), Number(e)];
    if (x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    if (!(Math.abs(x - y) <= atol + rtol * Math.abs(y))) return `element ${i} is ${x}, expected ${y}`;
  }
  return undefined;
}
