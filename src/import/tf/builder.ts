/**
 * The builder that lowerings write with: canonical nodes into an editor, inferred as they are made. Bodies are builders of their own that
 * capture what they use of the enclosing one.
 */
import { defineError, type Remarks, type Where } from "../../diagnostics.js";
import { isStatic, isUnknown } from "../../ir/dims.js";
import { byteLength, onnxNumber } from "../../ir/dtypes.js";
import { Editor } from "../../ir/edit.js";
import { elementCount, int64Constant, makeConstant, payloadLength, smallNumbers } from "../../ir/payload.js";
import type { Attr, Attrs, Constant, Dim, DType, Shape, ValueId, ValueType } from "../../ir/types.js";
import { dtypeOf, type Fact, MAX_ELEMENTS, shapeOf } from "../../ops/define.js";
import { constantFact, inferNode } from "../../ops/infer.js";
import { lookup } from "../../ops/registry.js";
import { numbersOf } from "../../ops/shapes.js";
import type { BodyRef, PlainAttr, PlainAttrs, TfBuilder, TfValue, Val } from "../../ops/tf/define.js";

export const refused = defineError<{ why: string; fix: string | undefined }>(
  "P1330",
  "a TensorFlow operator has no lowering here",
  ({ why, fix }) => ({ what: why, fix: fix ?? "cut the graph before it with `inputs` or behind it with `outputs`" }),
);
export const untyped = defineError<{ name: string }>("P1331", "a value's element type is not known", ({ name }) => ({
  what: `the element type of '${name}' is not known`,
  why: "it comes out of an operator that Partita cannot read",
  fix: "cut the graph behind that operator with `inputs`",
}));
export const tooDeep = defineError<{ limit: number }>("P1332", "control flow or functions are nested too deep", ({ limit }) => ({
  what: `loops, branches and calls are nested more than ${limit} deep`,
  fix: "check for a function that calls itself; flatten the model where it is made",
}));
export const tooMany = defineError<{ limit: number }>("P1333", "a graph grows beyond measure", ({ limit }) => ({
  what: `lowering it makes more than ${limit} nodes`,
  fix: "check for functions that call each other many times over",
}));

const MAX_NODES = 4_000_000;
const MAX_DEPTH = 60;
/** Constants up to this size are repeated inside a body; larger ones are captured. */
const REPEATED_BYTES = 1024;

class TensorVal implements Val {
  readonly kind = "tensor";
  readonly id: ValueId;
  readonly fact: Fact;
  readonly owner: Builder;
  /** Depends on constants alone. */
  readonly fixed: boolean;

  constructor(id: ValueId, fact: Fact, owner: Builder, fixed = fact.constant !== undefined) {
    this.id = id;
    this.fact = fact;
    this.owner = owner;
    this.fixed = fixed;
  }
  get dtype(): DType {
    const d = dtypeOf(this.fact);
    if (d === undefined) throw untyped({ name: this.owner.nameOf(this) }, this.owner.place);
    return d;
  }
  get shape(): Shape {
    return shapeOf(this.fact);
  }
  get rank(): number | undefined {
    return this.shape?.length;
  }
  get numbers(): readonly number[] | undefined {
    return numbersOf(this.fact) ?? smallNumbers(this.fact.constant, MAX_ELEMENTS);
  }
  get constant(): Constant | undefined {
    return this.fact.constant;
  }
}

/** What the builders of one import share. */
export interface Shared {
  readonly file: string | undefined;
  readonly remarks: Remarks;
  nodes: number;
  /** The builder of the outermost graph; symbols of dims are resolved there. */
  root: Builder | undefined;
}

export class Builder implements TfBuilder {
  readonly editor: Editor;
  readonly parent: Builder | undefined;
  readonly shared: Shared;
  readonly depth: number;
  /** The TensorFlow node being lowered: the name of what is made, and its origin. */
  node = "";
  op_ = "";
  origin: readonly string[] = [];
  /** A loop's body: what does not change in it is made outside. */
  loop = false;
  readonly #captured = new Map<ValueId, TensorVal>();
  readonly #captures: ValueId[] = [];
  readonly #constants = new Map<ValueId, TensorVal>();
  readonly #dims = new Map<string, TensorVal>();
  readonly #finals = new Set<ValueId>();

  constructor(editor: Editor, shared: Shared, parent: Builder | undefined) {
    this.editor = editor;
    this.shared = shared;
    this.parent = parent;
    this.depth = parent === undefined ? 0 : parent.depth + 1;
    if (this.depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, this.place);
    shared.root ??= this;
  }

  get place(): Where {
    return { file: this.shared.file, node: this.node === "" ? undefined : this.node, op: this.op_ === "" ? undefined : this.op_ };
  }
  nameOf(v: TensorVal): string {
    return v.owner.editor.value(v.id).name;
  }

  /** A value of this graph for `v`, which may be one of an enclosing graph: captured then. */
  use(v: Val): TensorVal {
    const t = v as TensorVal;
    if (t.owner === this) return t;
    if (this.parent === undefined) throw new Error(`value '${this.nameOf(t)}' is not of an enclosing graph`);
    const outer = this.parent.use(t);
    const known = this.#captured.get(outer.id) ?? this.#constants.get(outer.id);
    if (known !== undefined) return known;
    const c = outer.constant;
    if (c !== undefined && payloadLength(c.data) <= REPEATED_BYTES) {
      const copy = new TensorVal(this.editor.addConstant(this.parent.nameOf(outer), c), outer.fact, this);
      this.#constants.set(outer.id, copy);
      return copy;
    }
    const id = this.editor.addCapture(this.parent.nameOf(outer), outer.fact.type);
    const local = new TensorVal(id, outer.fact, this, outer.fixed);
    this.#captured.set(outer.id, local);
    this.#captures.push(outer.id);
    return local;
  }

  // ---- nodes ------------------------------------------------------------------------------------------------------------------------

  op(op: string, ins: readonly (Val | undefined)[], attrs?: PlainAttrs): Val {
    const [v] = this.ops(op, ins, attrs, 1);
    if (v === undefined) throw new Error(`${op} made no value`);
    return v;
  }

  ops(op: string, ins: readonly (Val | undefined)[], attrs: PlainAttrs | undefined, outs: number): readonly Val[] {
    if (++this.shared.nodes > MAX_NODES) throw tooMany({ limit: MAX_NODES }, this.place);
    const dot = op.lastIndexOf(".");
    const [domain, name] = dot < 0 ? ["", op] : [op.slice(0, dot), op.slice(dot + 1)];
    const fixed = ins.length > 0 && ins.every((v) => v === undefined || (v as TensorVal).fixed) && lookup(domain, name)?.random !== true;
    const bodies = attrs !== undefined && Object.values(attrs).some((a) => typeof a === "object" && "kind" in a && a.kind === "body");
    if (this.loop && fixed && !bodies && this.parent !== undefined)
      return this.#outside(this.parent, op, ins as readonly (TensorVal | undefined)[], attrs, outs);
    const operands = ins.map((v) => (v === undefined ? undefined : this.use(v)));
    while (operands.length > 0 && operands[operands.length - 1] === undefined) operands.pop();
    const facts = new Map<ValueId, Fact>();
    for (const v of operands) if (v !== undefined) facts.set(v.id, v.fact);
    const written = this.#attributes(domain, name, attrs);
    for (const a of Object.values(written))
      if (a.kind === "graph") for (const v of a.value.captures) if (!facts.has(v)) facts.set(v, this.#factById(v));
    const stem = this.node === "" ? name.toLowerCase() : `${this.node}/${name.toLowerCase()}`;
    const ids = Array.from({ length: outs }, (_, i) => this.editor.declare(i === 0 ? stem : `${stem}:${i}`));
    const node = this.editor.add({
      op: name,
      domain,
      name: this.node === "" ? stem : this.node,
      ins: operands.map((v) => v?.id),
      outs: ids,
      attrs: written,
      origin: this.origin,
    });
    const inferred = inferNode(node, (v) => facts.get(v) ?? { type: { kind: "unknown" } }, { file: this.shared.file });
    if (inferred.attrs !== written) this.editor.patch(node.id, { attrs: inferred.attrs });
    const results = ids.map((id, i) => {
      const fact = inferred.facts[i] ?? { type: { kind: "unknown" } };
      this.editor.setType(id, fact.type);
      return new TensorVal(id, fact, this, fixed && !bodies);
    });
    const folded = results.map((v) => foldedElements(v.fact));
    if (!folded.every((c) => c !== undefined)) return results;
    // Shape arithmetic that inference worked out needs no node.
    this.editor.remove(node.id);
    return folded.map((c) => this.constant(c as Constant));
  }

  /** What constants alone decide is computed once, before the loop, and folded there. */
  #outside(
    parent: Builder,
    op: string,
    ins: readonly (TensorVal | undefined)[],
    attrs: PlainAttrs | undefined,
    outs: number,
  ): readonly Val[] {
    const before = [parent.node, parent.op_, parent.origin] as const;
    [parent.node, parent.op_, parent.origin] = [this.node, this.op_, this.origin];
    try {
      // Constants of the body are the parent's as well; other fixed values are captured from there already.
      const lifted = ins.map((v) => (v === undefined || v.owner !== this ? v : this.#lifted(parent, v)));
      return parent.ops(op, lifted, attrs, outs).map((v) => this.use(v));
    } finally {
      [parent.node, parent.op_, parent.origin] = before;
    }
  }
  #lifted(parent: Builder, v: TensorVal): Val {
    if (v.constant !== undefined) return parent.namedConstant(this.nameOf(v), v.constant);
    for (const [outer, local] of this.#captured) if (local === v) return new TensorVal(outer, v.fact, parent, true);
    throw new Error(`'${this.nameOf(v)}' is neither a constant nor captured`);
  }

  /** A node that stays as TensorFlow's, with outputs nobody knows the type of. */
  verbatim(op: string, ins: readonly Val[], attrs: Attrs, types: readonly ValueType[], doc: string | undefined): readonly Val[] {
    const ids = types.map((type, i) => this.editor.declare(`${this.node}:${i}`, type));
    this.editor.add({
      op,
      domain: "tensorflow",
      name: this.node,
      ins: ins.map((v) => this.use(v).id),
      outs: ids,
      attrs,
      origin: this.origin,
      ...(doc === undefined ? {} : { extra: { doc } }),
    });
    return ids.map((id, i) => new TensorVal(id, { type: types[i] ?? { kind: "unknown" } }, this));
  }

  #factById(id: ValueId): Fact {
    const c = this.editor.constant(id);
    return c === undefined ? { type: this.editor.type(id) } : constantFact(c);
  }

  #attributes(domain: string, op: string, plain: PlainAttrs | undefined): Attrs {
    if (plain === undefined) return {};
    const specs = lookup(domain, op)?.attrs as Readonly<Record<string, { readonly kind: Attr["kind"] }>> | undefined;
    const out: Record<string, Attr> = {};
    for (const [name, value] of Object.entries(plain)) {
      if (value === undefined) continue;
      out[name] = writeAttr(value, specs?.[name]?.kind, `${op}.${name}`);
    }
    return out;
  }

  constant(c: Constant): Val {
    return new TensorVal(this.editor.addConstant(`${this.node === "" ? "c" : this.node}/const`, c), constantFact(c), this);
  }
  namedConstant(name: string, c: Constant): Val {
    return new TensorVal(this.editor.addConstant(name, c), constantFact(c), this);
  }
  input(name: string, type: ValueType): Val {
    return new TensorVal(this.editor.addInput(name, type), { type }, this);
  }
  const(dtype: Exclude<DType, "string">, dims: readonly number[], values: readonly (number | bigint | boolean)[]): Val {
    return this.constant(makeConstant(dtype, dims, values));
  }
  scalar(dtype: Exclude<DType, "string">, value: number | bigint | boolean): Val {
    return this.constant(makeConstant(dtype, [], [value]));
  }
  int64(values: readonly (number | bigint)[] | number): Val {
    return this.constant(int64Constant(values));
  }

  // ---- common spellings -----------------------------------------------------------------------------------------------------------------

  cast(x: Val, to: DType): Val {
    if (x.dtype === to) return x;
    return this.op("Cast", [x], { to: onnxNumber(to) });
  }
  via(x: Val, dtype: DType, f: (x: Val) => Val): Val {
    const from = x.dtype;
    return from === dtype ? f(x) : this.cast(f(this.cast(x, dtype)), from);
  }
  reshape(x: Val, dims: readonly number[] | Val): Val {
    if (isList(dims)) {
      const now = x.shape;
      if (now !== undefined && now.length === dims.length && now.every((d, i) => d === dims[i])) return x;
      return this.op("Reshape", [x, this.int64(dims)], dims.includes(0) ? { allowzero: 1 } : undefined);
    }
    const copied = symbolicReshape(x.shape, dims.fact.elements);
    if (copied !== undefined) return this.op("Reshape", [x, this.int64(copied)]);
    const to = this.cast(dims, "int64");
    const known = to.fact.elements;
    const zeros = known === undefined || known.some((d) => d === 0 || (typeof d === "string" && isUnknown(d)));
    // Both a zero and a -1 would be illegal with allowzero; what inference knows decides where it can.
    return this.op("Reshape", [x, to], zeros && !(known?.includes(-1) === true) ? { allowzero: 1 } : undefined);
  }
  transpose(x: Val, perm: readonly number[]): Val {
    return perm.every((p, i) => p === i) ? x : this.op("Transpose", [x], { perm });
  }
  squeeze(x: Val, axes: readonly number[]): Val {
    return axes.length === 0 ? x : this.op("Squeeze", [x, this.int64(axes)]);
  }
  unsqueeze(x: Val, axes: readonly number[]): Val {
    return axes.length === 0 ? x : this.op("Unsqueeze", [x, this.int64(axes)]);
  }
  concat(xs: readonly Val[], axis: number): Val {
    const [only] = xs;
    return xs.length === 1 && only !== undefined ? only : this.op("Concat", xs, { axis });
  }
  slice(x: Val, begin: readonly number[], end: readonly number[], axes: readonly number[], steps?: readonly number[]): Val {
    return this.op("Slice", [x, this.int64(begin), this.int64(end), this.int64(axes), steps === undefined ? undefined : this.int64(steps)]);
  }
  gather(x: Val, indices: Val, axis = 0): Val {
    return this.op("Gather", [x, indices], { axis });
  }
  expand(x: Val, dims: readonly number[] | Val): Val {
    return this.op("Expand", [x, isList(dims) ? this.int64(dims) : this.cast(dims, "int64")]);
  }
  shape(x: Val): Val {
    const s = x.shape;
    return s?.every(isStatic) === true ? this.int64(s as readonly number[]) : this.op("Shape", [x]);
  }
  dim(x: Val, axis: number): Val {
    const s = x.shape;
    const d = s?.[axis < 0 ? axis + s.length : axis];
    return d !== undefined && isStatic(d) ? this.int64(d) : this.op("Gather", [this.op("Shape", [x]), this.int64(axis)], { axis: 0 });
  }
  size(x: Val): Val {
    const n = x.shape?.every(isStatic) === true ? elementCount(x.shape as readonly number[]) : undefined;
    return n !== undefined ? this.int64(n) : this.op("Size", [x]);
  }
  fill(dtype: Exclude<DType, "string">, value: number | bigint | boolean, dims: readonly number[] | Val): Val {
    const known = isList(dims) ? dims : dims.numbers;
    const count = known === undefined ? undefined : elementCount(known);
    if (known !== undefined && count !== undefined && count <= 64) return this.const(dtype, known, new Array(count).fill(value));
    return this.op("ConstantOfShape", [isList(dims) ? this.int64(dims) : this.cast(dims, "int64")], {
      value: makeConstant(dtype, [1], [value]),
    });
  }
  add(a: Val, b: Val): Val {
    return this.op("Add", [a, b]);
  }
  sub(a: Val, b: Val): Val {
    return this.op("Sub", [a, b]);
  }
  mul(a: Val, b: Val): Val {
    return this.op("Mul", [a, b]);
  }
  div(a: Val, b: Val): Val {
    return this.op("Div", [a, b]);
  }
  where(condition: Val, a: Val, b: Val): Val {
    return this.op("Where", [condition, a, b]);
  }
  toChannelsFirst(x: Val): Val {
    const rank = this.rank(x);
    return this.transpose(x, [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)]);
  }
  toChannelsLast(x: Val): Val {
    const rank = this.rank(x);
    return this.transpose(x, [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]);
  }

  // ---- demands --------------------------------------------------------------------------------------------------------------------------

  rank(x: Val): number {
    return this.dims(x).length;
  }
  dims(x: Val): readonly Dim[] {
    const s = x.shape;
    if (s === undefined)
      throw refused(
        { why: `the rank of its operand '${this.nameOf(x as TensorVal)}' is not known`, fix: "give the graph's inputs shapes" },
        this.place,
      );
    return s;
  }
  numbers(x: Val, what: string): readonly number[] {
    const n = x.numbers;
    if (n === undefined)
      throw refused(
        {
          why: `${what} ('${this.nameOf(x as TensorVal)}') is not known at compile time`,
          fix: "make it a constant, or give the graph's inputs shapes",
        },
        this.place,
      );
    return n;
  }
  number(x: Val, what: string): number {
    const [n, ...more] = this.numbers(x, what);
    if (n === undefined || more.length > 0)
      throw refused(
        { why: `${what} has ${more.length + (n === undefined ? 0 : 1)} elements, one is expected`, fix: undefined },
        this.place,
      );
    return n;
  }

  // ---- bodies ---------------------------------------------------------------------------------------------------------------------------

  body(
    name: string,
    inputs: readonly { readonly name: string; readonly type: ValueType }[],
    make: (b: TfBuilder, ins: readonly Val[]) => readonly Val[],
  ): BodyRef {
    const inner = new Builder(new Editor({ name, opsets: this.editor.opsets }), this.shared, this);
    inner.node = this.node;
    inner.op_ = this.op_;
    inner.origin = this.origin;
    const formals = inputs.map((i) => inner.input(i.name, i.type));
    const results = make(inner, formals).map((v) => inner.use(v));
    return inner.close(results);
  }
  /** Freezes the body with these results. A result that no node of the body makes gets an Identity, as ONNX Runtime asks. */
  close(results: readonly Val[]): BodyRef {
    const seen = new Set<ValueId>();
    const outs = results.map((r) => {
      const v = this.use(r);
      const own = this.editor.producer(v.id) !== undefined && !seen.has(v.id);
      const out = own ? v : (this.#identity(v) as TensorVal);
      seen.add(out.id);
      return out;
    });
    this.editor.setOutputs(outs.map((v) => v.id));
    return {
      kind: "body",
      value: { graph: this.editor.finish(), captures: this.#captures },
      outs: outs.map((v) => v.fact),
    };
  }
  #identity(v: TensorVal, name = `${this.nameOf(v)}/out`): Val {
    const id = this.editor.declare(name, v.fact.type);
    this.editor.add({ op: "Identity", name: this.node, ins: [v.id], outs: [id], origin: this.origin });
    return new TensorVal(id, v.fact, this);
  }

  remark(text: string, fix?: string): void {
    this.shared.remarks({ severity: "note", text, where: this.place, fix });
  }

  /** The values as the graph's outputs under these names. One that is an input, a constant or another output gets an Identity. */
  setOutputs(outputs: readonly { readonly name: string; readonly value: Val; readonly rename: boolean }[]): void {
    const seen = new Set<ValueId>();
    this.editor.setOutputs(
      outputs.map(({ name, value, rename }) => {
        let v = this.use(value);
        const own = this.editor.producer(v.id) !== undefined && !seen.has(v.id);
        if (!own || (this.nameOf(v) !== name && !rename)) {
          this.node = name.replace(/:\d+$/, "");
          this.origin = [this.node];
          // The output takes the name; what stands behind it steps back.
          if (this.nameOf(v) === name && !this.editor.inputs.includes(v.id)) this.editor.rename(v.id, `${name}/value`);
          v = this.#identity(v, name) as TensorVal;
        } else this.editor.rename(v.id, name);
        seen.add(v.id);
        return v.id;
      }),
    );
  }

  /** The elements of a small integer constant of this graph, by id. */
  numbersOf(id: ValueId): readonly number[] | undefined {
    return smallNumbers(this.editor.constant(id), MAX_ELEMENTS);
  }
  /** The number of the iteration, from `start` on, as `dtype`. */
  iterationFrom(iteration: ValueId, start: number, dtype: DType): Val {
    const number = new TensorVal(iteration, { type: this.editor.type(iteration) }, this);
    return this.cast(start === 0 ? number : this.add(number, this.int64(start)), dtype);
  }
  /** A value of this graph by its id. */
  valueOf(id: ValueId): Val {
    return new TensorVal(id, this.#factById(id), this);
  }
  /** `v` with dims that inference leaves open and the caller knows. */
  refined(v: Val, shape: Shape): Val {
    const t = v.fact.type;
    if (t.kind !== "tensor") return v;
    const own = this.use(v);
    const type = { ...t, shape };
    this.editor.setType(own.id, type);
    return new TensorVal(own.id, { type }, this);
  }

  // ---- for the driver ---------------------------------------------------------------------------------------------------------------------

  /** Names a node's results as TensorFlow does, `node:port`, unless they are another node's. */
  finish(values: readonly (TfValue | undefined)[], name: string): void {
    values.forEach((v, port) => {
      if (v?.kind !== "tensor" || (v as TensorVal).owner !== this || this.#finals.has(v.id)) return;
      this.#finals.add(v.id);
      if (this.editor.inputs.includes(v.id)) return;
      this.editor.rename(v.id, `${name}:${port}`);
    });
  }
  /** Remembers how a symbol of a dimension is found at run time. */
  bindSymbol(symbol: string, input: Val, axis: number): void {
    if (!this.#dims.has(symbol)) this.#pending.set(symbol, { input, axis });
  }
  readonly #pending = new Map<string, { input: Val; axis: number }>();
  /** int64 scalar of a dim that is a number or a symbol of a graph input; undefined for other dims. */
  dimension(d: Dim): Val | undefined {
    if (isStatic(d)) return this.int64(d);
    const root = this.shared.root;
    if (root === undefined) return undefined;
    const known = root.#dims.get(d);
    if (known !== undefined) return known;
    const found = root.#pending.get(d);
    if (found === undefined) return undefined;
    const v = root.dim(found.input, found.axis) as TensorVal;
    root.#dims.set(d, v);
    return v;
  }
}

const isList = (x: readonly number[] | Val): x is readonly number[] => Array.isArray(x);
const isBody = (x: object): x is BodyRef => "kind" in x && x.kind === "body";

function writeAttr(value: PlainAttr, kind: Attr["kind"] | undefined, name: string): Attr {
  if (typeof value === "boolean") return { kind: "int", value: value ? 1 : 0 };
  if (typeof value === "bigint") return { kind: "int", value };
  if (typeof value === "number") return kind === "float" ? { kind, value } : { kind: "int", value };
  if (typeof value === "string") return { kind: "string", value };
  if (Array.isArray(value)) {
    if (kind === "floats") return { kind, value: value as readonly number[] };
    if (kind === "strings" || (kind === undefined && typeof value[0] === "string"))
      return { kind: "strings", value: value as readonly string[] };
    return { kind: "ints", value: value as readonly number[] };
  }
  if (typeof value === "object" && isBody(value)) return { kind: "graph", value: value.value };
  if (typeof value === "object" && "dtype" in value) return { kind: "tensor", value };
  throw new Error(`attribute ${name} has no spelling`);
}

/** A Reshape's dims as numbers: dims that the operand has in the same place are 0, one more that is not a number is -1. */
function symbolicReshape(from: Shape, to: readonly Dim[] | undefined): readonly number[] | undefined {
  if (to === undefined || to.some((d) => d === 0) || to.filter((d) => !isStatic(d)).length === 0) return undefined;
  // One dim that is open is what the others leave.
  if (!to.includes(-1) && to.filter((d) => !isStatic(d)).length === 1) return to.map((d) => (isStatic(d) ? d : -1));
  let free = to.includes(-1) ? 0 : 1;
  const out = to.map((d, i) => (isStatic(d) ? d : !isUnknown(d) && from?.[i] === d ? 0 : free-- > 0 ? -1 : undefined));
  return out.every((d) => d !== undefined) ? out : undefined;
}

/** A constant of what inference knows exactly; undefined where it does not. */
function foldedElements(f: Fact): Constant | undefined {
  const { type, elements } = f;
  if (elements === undefined || type.kind !== "tensor" || type.shape === undefined) return undefined;
  if (!elements.every(isStatic) || !type.shape.every(isStatic) || type.dtype === "string") return undefined;
  if (elementCount(type.shape as readonly number[]) !== elements.length) return undefined;
  if (byteLength(type.dtype, elements.length) === 0 && elements.length > 0) return undefined;
  return makeConstant(type.dtype, type.shape as readonly number[], elements as readonly number[]);
}
