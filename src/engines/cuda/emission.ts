/** A plan under construction: which values are written where, the expressions of those that are not, weights, and the launches so far. */
import { valueAt } from "../../ir/graph.js";
import { makeConstant } from "../../ir/payload.js";
import type { Constant, DType, Node, ValueId } from "../../ir/types.js";
import type { Address, BufferSize, Step } from "./assemble.js";
import { type Index, linear, product, rowMajor, variable } from "./indexing.js";
import type { Inline } from "./inline.js";
import { type Kernel, mapKernel, type ParameterList } from "./loops.js";
import { literal } from "./pointwise.js";
import { Probe } from "./probe.js";
import type { Element, Scope } from "./scope.js";
import { storage } from "./storage.js";
import type { KernelText } from "./templates/index.js";
import { NotEmitted, Values } from "./values.js";
import { type BufferName, stridesOf, type View } from "./view.js";
import { packed, scalarOf } from "./weights.js";

export class Emission extends Values {
  readonly inline = new Map<Node, Inline>();
  readonly written = new Map<ValueId, View>();
  readonly buffers = new Map<BufferName, BufferSize>();
  readonly weights = new Map<BufferName, () => Uint8Array>();
  readonly steps: Step[] = [];
  readonly copies = new Map<string, View>();
  count = 0;

  outputName(v: ValueId): BufferName {
    return `output ${valueAt(this.graph, v).name}`;
  }
  port(kind: "input" | "output", v: ValueId): View {
    const { dims, dtype } = this.tensor(v);
    const buffer = `${kind} ${valueAt(this.graph, v).name}`;
    this.buffers.set(buffer, { kind, bytes: product(dims) * storage(dtype).bytes });
    return { buffer, dtype, dims, strides: rowMajor(dims), offset: 0 };
  }
  scratch(
    v: ValueId,
    dtype = this.masks.has(v) ? this.tensor(v).dtype : this.stored(this.tensor(v).dtype),
    order = this.order(v),
    name = `value ${valueAt(this.graph, v).name}`,
  ): View {
    const { dims } = this.tensor(v);
    this.buffers.set(name, { kind: "arena", bytes: product(dims) * storage(dtype).bytes });
    return { buffer: name, dtype, dims, strides: stridesOf(dims, order), offset: 0 };
  }

  /** A constant as a view over the weights, row-major. */
  weight(v: ValueId, dtype: DType, view?: Pick<View, "dims" | "strides" | "offset">, tag = ""): View {
    const c = this.constant(v);
    const { dims } = this.tensor(v);
    const source = view ?? { dims, strides: rowMajor(dims), offset: 0 };
    const name = `weight ${valueAt(this.graph, v).name} ${dtype}${tag}`;
    if (!this.buffers.has(name)) {
      this.buffers.set(name, { kind: "weights", bytes: product(source.dims) * storage(dtype).bytes });
      const own = c ?? this.synthesised(v);
      this.weights.set(name, () => packed(own, source, dtype));
    }
    return { buffer: name, dtype, dims: source.dims, strides: rowMajor(source.dims), offset: 0 };
  }
  synthesised(v: ValueId): Constant {
    const { dims, dtype } = this.tensor(v);
    if (dtype === "string") throw new Error("strings are not computed");
    return makeConstant(dtype, dims, this.numbers(v) ?? []);
  }

  /** An element of a value: a register at hand, a literal, a load, or the expression of its producer. */
  at(v: ValueId): Element {
    return (scope, index) => {
      const over = scope.overrides.get(v);
      if (over !== undefined) return over;
      const own = this.written.get(v);
      if (own !== undefined) return scope.load(own, index);
      if (this.known(v)) return this.constantElement(v, scope, index);
      const from = this.producer.get(v);
      if (from === undefined) throw new Error(`'${valueAt(this.graph, v).name}' is not computed anywhere`);
      const element = this.inline.get(from.node)?.elements[from.port];
      if (element === undefined) throw new NotEmitted(from.node, "its result is needed where it is not written");
      return element(scope, index);
    };
  }
  constantElement(v: ValueId, scope: Scope, index: readonly Index[]): string {
    const t = this.tensor(v);
    const { register } = storage(t.dtype);
    if (product(t.dims) === 1) {
      const numbers = this.numbers(v);
      const c = this.constant(v);
      if (c !== undefined) return literal(scalarOf(c), register);
      if (numbers !== undefined) return literal(numbers[0] as number, register);
    }
    // Tables of embeddings and the like follow the precision; small vectors stay as exact as they came.
    const dtype = product(t.dims) > 65_536 ? this.stored(t.dtype) : t.dtype;
    return scope.load(this.weight(v, dtype), index);
  }

  name(label: string): string {
    return `k${this.count++}_${label.replace(/\W+/g, "_").slice(0, 40)}`;
  }

  push(k: Kernel, nodes: readonly string[]): void {
    this.steps.push({
      writes: [k.parameters.at(-1) as BufferName],
      reads: k.parameters.slice(0, -1),
      scratch: [],
      kernel: k,
      args: k.parameters,
      source: { kind: "loop", text: k.text },
      nodes,
    });
  }

  copyOut(v: ValueId): void {
    const out = this.port("output", v);
    this.push(mapKernel(this.name("copy"), out, this.at(v)), []);
  }

  /** A value as a plain view: what it is in memory seen through transposes, slices and the like. Undefined when it is no such thing. */
  view(v: ValueId): View | undefined {
    const { dims } = this.tensor(v);
    const own = this.written.get(v);
    if (own !== undefined) return own;
    const probe = new Probe();
    const result = this.at(v)(
      probe,
      dims.map((d, i) => variable(`d${i}`, d - 1)),
    );
    const [only, second] = probe.loads;
    if (only === undefined || second !== undefined || probe.computed || result !== only.name) return undefined;
    const address = linear(only.index, only.view.strides, only.view.offset);
    if (address.terms.some((t) => t.atom.kind !== "variable")) return undefined;
    return {
      buffer: only.view.buffer,
      dtype: only.view.dtype,
      dims,
      strides: dims.map((_, i) => address.terms.find((t) => t.atom.key === `d${i}`)?.factor ?? 0),
      offset: address.constant,
    };
  }

  /** A value in memory with this element type and, unless `fits` accepts what is there, this order of dims: a copy where need be. */
  inMemory(v: ValueId, dtype: DType, order: readonly number[], fits: (view: View) => boolean): View {
    const t = this.tensor(v);
    if (this.known(v)) {
      const dims = order.map((i) => t.dims[i] as number);
      const natural = rowMajor(t.dims);
      const view = this.weight(v, dtype, { dims, strides: order.map((i) => natural[i] as number), offset: 0 }, ` ${order.join("")}`);
      const strides = new Array<number>(order.length).fill(0);
      order.forEach((d, i) => {
        strides[d] = view.strides[i] as number;
      });
      return { ...view, dims: t.dims, strides };
    }
    const view = this.view(v);
    if (view !== undefined && view.dtype === dtype && fits(view)) return view;
    const key = `copy ${valueAt(this.graph, v).name} ${dtype} ${order.join("")}`;
    const made = this.copies.get(key);
    if (made !== undefined) return made;
    const copy = this.scratch(v, dtype, order, key);
    this.copies.set(key, copy);
    this.push(mapKernel(this.name("pack"), copy, this.at(v)), []);
    return copy;
  }

  pushText(
    k: KernelText,
    operands: Readonly<Record<string, View>>,
    epilogue: { readonly parameters: ParameterList; readonly out: View } | undefined,
    outs: readonly View[],
    nodes: readonly string[],
  ): void {
    const args: Address[] = [];
    const writes = outs.map((v) => v.buffer);
    const named = (operand: string): { readonly buffer: BufferName; readonly offset: number } => {
      const view = operands[operand];
      if (view === undefined) throw new Error(`${k.name} asks for an operand '${operand}'`);
      return { buffer: view.buffer, offset: view.offset * storage(view.dtype).bytes };
    };
    const scratch: { name: BufferName; bytes: number; zero: boolean }[] = [];
    for (const a of k.arguments) {
      switch (a.kind) {
        case "operand":
          args.push(named(a.operand));
          break;
        case "tensorMap":
          args.push({ ...named(a.operand), map: a.map });
          break;
        case "scratch": {
          const name = `scratch ${k.name} ${scratch.length}`;
          this.buffers.set(name, { kind: "arena", bytes: a.bytes });
          scratch.push({ name, bytes: a.bytes, zero: a.zero });
          args.push(name);
          break;
        }
        case "epilogue":
          if (epilogue !== undefined) args.push(...epilogue.parameters.buffers(), epilogue.out.buffer);
          break;
        default:
          a satisfies never;
      }
    }
    this.steps.push({
      writes,
      reads: [...Object.values(operands).map((v) => v.buffer), ...(epilogue?.parameters.buffers() ?? [])].filter(
        (b) => !writes.includes(b),
      ),
      scratch,
      kernel: k,
      args,
      source: { kind: "whole", text: k.source },
      nodes,
    });
  }
}
