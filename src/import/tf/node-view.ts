/** A NodeDef as lowerings see it: typed attributes with TensorFlow's defaults, inputs as values. */
import { defineError, type Where } from "../../diagnostics.js";
import type { Constant, DType } from "../../ir/types.js";
import type { TfAttr, TfFunc, TfNode, TfValue, Val } from "../../ops/tf/define.js";
import { dtypeFromTf, tfTypeName } from "../../ops/tf/types.js";
import { refused } from "./builder.js";
import type { RawNode } from "./graph.js";
import type { AttrValue, NameAttrList } from "./schema.js";
import { constantOfProto, shapeOfProto } from "./tensors.js";

export const badAttribute = defineError<{ what: string }>("P1321", "a TensorFlow node's attribute is missing or malformed", ({ what }) => ({
  what,
  fix: "freeze or save the model again; the node is incomplete",
}));
export const missingInput = defineError<{ index: number; has: number }>("P1322", "a TensorFlow node lacks an input", ({ index, has }) => ({
  what: `input ${index} is missing; the node has ${has}`,
  fix: "freeze or save the model again; the node is incomplete",
}));
export const handleInput = defineError<{ index: number; what: string }>(
  "P1323",
  "an operator is given a handle where it needs a tensor",
  ({ index, what }) => ({
    what: `input ${index} is a ${what}, a tensor is needed`,
    fix: "freeze the model, or cut the graph behind this node with `inputs`",
  }),
);
export const handleType = defineError<{ type: string }>("P1324", "an element type has no tensors", ({ type }) => ({
  what: `the type is ${type}, a handle`,
  fix: "freeze the model, or cut the graph behind this node with `inputs`",
}));

export class NodeView implements TfNode {
  readonly name: string;
  readonly op: string;
  readonly ins: readonly TfValue[];
  readonly #raw: RawNode;
  readonly #where: Where;
  /** The attributes of the call that a function body is inlined for. */
  readonly #outer: ReadonlyMap<string, TfAttr> | undefined;

  constructor(
    raw: RawNode,
    name: string,
    ins: readonly TfValue[],
    outer: ReadonlyMap<string, TfAttr> | undefined,
    file: string | undefined,
  ) {
    this.name = name;
    this.op = raw.op;
    this.ins = ins;
    this.#raw = raw;
    this.#outer = outer;
    this.#where = { file, node: name, op: raw.op };
  }

  in(i: number): Val {
    const at = i < 0 ? i + this.ins.length : i;
    const v = this.ins[at];
    if (v === undefined) throw missingInput({ index: at, has: this.ins.length }, this.#where);
    if (v.kind !== "tensor") throw handleInput({ index: at, what: v.kind === "opaque" ? v.what : v.kind }, this.#where);
    return v;
  }
  list(from: number, to?: number): readonly Val[] {
    const out: Val[] = [];
    const end = to === undefined ? this.ins.length : to < 0 ? to + this.ins.length : to;
    for (let i = from; i < end; i++) out.push(this.in(i));
    return out;
  }
  refuse(why: string, fix?: string): never {
    throw refused({ why, fix }, this.#where);
  }

  has(attr: string): boolean {
    return this.#raw.attrs.has(attr);
  }
  attr(name: string): TfAttr | undefined {
    const raw = this.#raw.attrs.get(name);
    if (raw === undefined) return undefined;
    const a = attrOfProto(raw, { ...this.#where, attribute: name });
    return a?.kind === "placeholder" ? this.#outer?.get(a.value) : a;
  }
  #fail(name: string, what: string): never {
    throw badAttribute({ what }, { ...this.#where, attribute: name });
  }
  #get<K extends TfAttr["kind"]>(name: string, kind: K, hasFallback: boolean): Extract<TfAttr, { kind: K }> | undefined {
    const a = this.attr(name);
    if (a === undefined) return hasFallback ? undefined : this.#fail(name, `the attribute is required and missing`);
    if (a.kind !== kind) return this.#fail(name, `the attribute is a ${a.kind}, a ${kind} is needed`);
    return a as Extract<TfAttr, { kind: K }>;
  }
  int(name: string, fallback?: number): number {
    return Number(this.#get(name, "int", fallback !== undefined)?.value ?? fallback);
  }
  float(name: string, fallback?: number): number {
    return this.#get(name, "float", fallback !== undefined)?.value ?? (fallback as number);
  }
  bool(name: string, fallback?: boolean): boolean {
    return this.#get(name, "bool", fallback !== undefined)?.value ?? (fallback as boolean);
  }
  string(name: string, fallback?: string): string {
    const a = this.#get(name, "string", fallback !== undefined);
    return a === undefined ? (fallback as string) : Buffer.from(a.value).toString("utf8");
  }
  type(name: string, fallback?: DType): DType {
    const a = this.#get(name, "type", fallback !== undefined);
    if (a === undefined) return fallback as DType;
    const d = dtypeFromTf(a.value);
    if (d === undefined) throw handleType({ type: tfTypeName(a.value) }, { ...this.#where, attribute: name });
    return d;
  }
  shape(name: string, fallback?: readonly number[]): readonly number[] | undefined {
    const a = this.#get(name, "shape", fallback !== undefined);
    return a === undefined ? fallback : a.value;
  }
  tensor(name: string): Constant {
    const a = this.#get(name, "tensor", false);
    return a === undefined ? this.#fail(name, "the attribute is missing") : a.value;
  }
  func(name: string): TfFunc {
    const a = this.#get(name, "func", false);
    return a === undefined ? this.#fail(name, "the attribute is missing") : a.value;
  }
  #list(name: string, hasFallback: boolean): Extract<TfAttr, { kind: "list" }> | undefined {
    return this.#get(name, "list", hasFallback);
  }
  ints(name: string, fallback?: readonly number[]): readonly number[] {
    return this.#list(name, fallback !== undefined)?.ints.map(Number) ?? fallback ?? [];
  }
  floats(name: string, fallback?: readonly number[]): readonly number[] {
    return this.#list(name, fallback !== undefined)?.floats ?? fallback ?? [];
  }
  strings(name: string, fallback?: readonly string[]): readonly string[] {
    return this.#list(name, fallback !== undefined)?.strings.map((s) => Buffer.from(s).toString("utf8")) ?? fallback ?? [];
  }
  types(name: string, fallback?: readonly number[]): readonly number[] {
    return this.#list(name, fallback !== undefined)?.types ?? fallback ?? [];
  }
}

/** attr_value.proto's oneof; undefined when no value is set. */
export function attrOfProto(a: AttrValue, where: Where): TfAttr | undefined {
  if (a.list !== undefined)
    return {
      kind: "list",
      strings: a.list.s ?? [],
      ints: a.list.i ?? [],
      floats: a.list.f ?? [],
      bools: a.list.b ?? [],
      types: a.list.type ?? [],
      shapes: (a.list.shape ?? []).map((s) => shapeOfProto(s, where)),
      tensors: (a.list.tensor ?? []).map((t) => constantOfProto(t, where)),
      funcs: (a.list.func ?? []).map((f) => funcOf(f, where)),
    };
  if (a.s !== undefined) return { kind: "string", value: a.s };
  if (a.i !== undefined) return { kind: "int", value: a.i };
  if (a.f !== undefined) return { kind: "float", value: a.f };
  if (a.b !== undefined) return { kind: "bool", value: a.b };
  if (a.type !== undefined) return { kind: "type", value: a.type };
  if (a.shape !== undefined) return { kind: "shape", value: shapeOfProto(a.shape, where) };
  if (a.tensor !== undefined) return { kind: "tensor", value: constantOfProto(a.tensor, where) };
  if (a.placeholder !== undefined) return { kind: "placeholder", value: a.placeholder };
  if (a.func !== undefined) return { kind: "func", value: funcOf(a.func, where) };
  return undefined;
}
function funcOf(f: NameAttrList, where: Where): TfFunc {
  const attrs = new Map<string, TfAttr>();
  for (const [name, value] of f.attr ?? []) {
    const a = attrOfProto(value, where);
    if (a !== undefined) attrs.set(name, a);
  }
  return { name: f.name ?? "", attrs };
}
