/** The graph of a fuzz case under construction: operators added one by one, with dims that are known and values that others can read. */
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attr, Attrs, ValueId, ValueType } from "../../src/ir/types.js";
import { Tensor } from "../../src/tensor.js";

export interface RandomGraph {
  readonly bytes: Uint8Array;
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly ops: readonly string[];
}
/** A float32 value of known dims; `open`: the first dim is declared by a name. */
export interface Operand {
  readonly id: ValueId;
  readonly dims: readonly number[];
  readonly open: boolean;
}

/** The name of an open first dim. */
export const BATCH = "batch";
const typeOf = (dtype: "float32" | "int64" | "bool", dims: readonly number[], open: boolean): ValueType => ({
  kind: "tensor",
  dtype,
  shape: dims.map((d, i) => (open && i === 0 ? BATCH : d)),
});
export const ints = (...value: readonly number[]): Attr => ({ kind: "ints", value });
export const int = (value: number): Attr => ({ kind: "int", value });
export const float = (value: number): Attr => ({ kind: "float", value });
export const text = (value: string): Attr => ({ kind: "string", value });
export const count = (dims: readonly number[]): number => dims.reduce((a, d) => a * d, 1);
/** Largest number of elements of a value. */
export const LARGEST = 20_000;

export class Builder {
  readonly #draft = new Editor({ name: "random", opsets: { "": 20 } });
  readonly #next: () => number;
  readonly #pool: Operand[] = [];
  /** What a body reads from outside: the value there, and its name here. */
  readonly #captures = new Map<ValueId, ValueId>();
  readonly feeds: Record<string, Tensor> = {};
  readonly ops: string[];
  readonly #names: { next: number };

  /** Bodies share the names and the operators of the graph around them. */
  constructor(next: () => number, around?: { readonly ops: string[]; readonly names: { next: number } }) {
    this.#next = next;
    this.ops = around?.ops ?? [];
    this.#names = around?.names ?? { next: 0 };
  }

  below(n: number): number {
    return Math.floor(this.#next() * n);
  }
  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)] as T;
  }
  chance(p: number): boolean {
    return this.#next() < p;
  }
  /** Recent values more often than old ones. */
  operand(fits: (x: Operand) => boolean = () => true): Operand | undefined {
    const all = this.#pool.filter(fits);
    return all.length === 0 ? undefined : all[Math.max(0, all.length - 1 - Math.floor(this.#next() ** 2 * all.length))];
  }

  input(dims: readonly number[], open: boolean): void {
    const name = `x${Object.keys(this.feeds).length}`;
    const id = this.#draft.addInput(name, typeOf("float32", dims, open));
    this.feeds[name] = new Tensor(
      "float32",
      Float32Array.from({ length: count(dims) }, () => 2 * this.#next() - 1),
      dims,
    );
    this.#pool.push({ id, dims, open });
  }
  /** Random weights, small enough that sums stay near one. */
  weights(dims: readonly number[], fan = 1, positive = false): ValueId {
    const scale = Math.sqrt(3 / Math.max(1, fan));
    const values = Array.from({ length: count(dims) }, () => (positive ? 0.5 + this.#next() : scale * (2 * this.#next() - 1)));
    return this.#draft.addConstant(this.#name("w"), makeConstant("float32", dims, values));
  }
  scalar(x: number): ValueId {
    return this.#draft.addConstant(this.#name("c"), makeConstant("float32", [], [x]));
  }
  int64(...values: readonly number[]): ValueId {
    return this.#draft.addConstant(this.#name("i"), makeConstant("int64", [values.length], values));
  }
  int64scalar(value: number): ValueId {
    return this.#draft.addConstant(this.#name("i"), makeConstant("int64", [], [value]));
  }
  truth(): ValueId {
    return this.#draft.addConstant(this.#name("m"), makeConstant("bool", [], [true]));
  }
  /** Places below `size`, a whole tensor of them. */
  indices(dims: readonly number[], size: number): ValueId {
    const values = Array.from({ length: count(dims) }, () => this.below(2 * size) - size);
    return this.#draft.addConstant(this.#name("i"), makeConstant("int64", dims, values));
  }
  bool(dims: readonly number[]): ValueId {
    const values = Array.from({ length: count(dims) }, () => this.chance(0.5));
    return this.#draft.addConstant(this.#name("m"), makeConstant("bool", dims, values));
  }
  #name(stem: string): string {
    return `${stem}${this.#names.next++}`;
  }
  node(op: string, ins: readonly (ValueId | undefined)[], attrs: Attrs = {}, outs = 1): readonly ValueId[] {
    this.ops.push(op);
    const names = Array.from({ length: outs }, () => this.#draft.declare(this.#name("v")));
    this.#draft.add({ op, name: this.#name(op.toLowerCase()), ins, outs: names, attrs });
    return names;
  }
  one(op: string, ins: readonly (ValueId | undefined)[], attrs: Attrs = {}): ValueId {
    return this.node(op, ins, attrs)[0] as ValueId;
  }
  /** A body; `write` gives its outputs. */
  body(write: (inner: Builder) => readonly ValueId[]): Attr {
    const inner = new Builder(this.#next, { ops: this.ops, names: this.#names });
    inner.#draft.setOutputs(write(inner));
    return { kind: "graph", value: { graph: inner.#draft.finish(), captures: [...inner.#captures.keys()] } };
  }
  captured({ id, dims, open }: Operand): ValueId {
    const known = this.#captures.get(id);
    if (known !== undefined) return known;
    const here = this.#draft.addCapture(this.#name("outer"), typeOf("float32", dims, open));
    this.#captures.set(id, here);
    return here;
  }
  parameter(dtype: "float32" | "int64" | "bool", dims: readonly number[], open = false): ValueId {
    return this.#draft.addInput(this.#name("p"), typeOf(dtype, dims, open));
  }
  /** Keeps a result for others to read. */
  keep(id: ValueId, dims: readonly number[], open: boolean): void {
    this.#pool.push({ id, dims, open });
  }

  finish(): RandomGraph {
    const made = this.#pool.slice(Object.keys(this.feeds).length);
    const outputs = new Set(made.filter(() => this.chance(0.15)));
    for (const x of made.slice(-1)) outputs.add(x);
    // An input may be a result too.
    if (this.chance(0.05) && this.#pool[0] !== undefined) outputs.add(this.#pool[0]);
    const results = [...outputs].map(({ id, dims, open }) => {
      const produced = made.some((m) => m.id === id);
      if (!produced) return id;
      this.#draft.setType(id, typeOf("float32", dims, open));
      return id;
    });
    this.#draft.setOutputs(results);
    return { bytes: encodeOnnx(this.#draft.finish()), feeds: this.feeds, ops: this.ops };
  }
}

/** Adds one pattern; false where nothing in the graph fits it. */
export type Pattern = (b: Builder) => boolean;
