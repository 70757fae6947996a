/**
 * Type and shape inference over a graph: binds every node to its operator, runs the operator's own rule, and joins the result with what the
 * file declares. Small integer tensors carry their elements as dims, so that shape arithmetic stays exact and symbolic. Linear in the graph.
 */
import { defineError, type Remarks } from "../diagnostics.js";
import { clamped, isUnknown, substitute, UNKNOWN } from "../ir/dims.js";
import { isDType } from "../ir/dtypes.js";
import { bodiesOf, displayName, qualifiedOp, typeAt, valueAt } from "../ir/graph.js";
import { smallNumbers } from "../ir/payload.js";
import { typeText } from "../ir/print.js";
import type { Attr, Body, Constant, Dim, DType, Graph, Node, Shape, Value, ValueId, ValueType } from "../ir/types.js";
import { type AnyOp, type AttrSpecs, type Cost, type DoneSite, dtypeOf, type Fact, MAX_ELEMENTS, type Site, type Slot } from "./define.js";
import { lookup } from "./registry.js";

export const operandError = defineError<{ what: string; fix: string }>(
  "P1501",
  "a node's operands do not fit its operator",
  ({ what, fix }) => ({ what, fix }),
);
export const arityError = defineError<{ slot: string; has: number }>("P1502", "a node lacks an input", ({ slot, has }) => ({
  what: `required input '${slot}' is missing; the node has ${has} inputs`,
  fix: "export the model again; the node is incomplete",
}));
export const attributeError = defineError<{ what: string; allowed: string }>(
  "P1503",
  "an attribute does not fit its operator",
  ({ what, allowed }) => ({ what, fix: allowed === "" ? "set it where the model is made" : `use one of ${allowed}` }),
);

export const typeError = defineError<{ slot: string; has: DType; wants: string }>(
  "P1504",
  "an operand's element type does not fit its operator",
  ({ slot, has, wants }) => ({ what: `'${slot}' is ${has}, where ${wants} is needed`, fix: "insert a Cast where the model is made" }),
);
export const surplusError = defineError<{ takes: number; has: number }>("P1505", "a node has too many inputs", ({ takes, has }) => ({
  what: `the operator takes ${takes} inputs, the node has ${has}`,
  fix: "export the model again; the node was written for another version of the operator",
}));

export const declaredError = defineError<{ declared: string; made: string }>(
  "P1506",
  "a declared type contradicts what its node makes",
  ({ declared, made }) => ({
    what: `it is declared ${declared}, the node makes ${made}`,
    fix: "export the model again, or mend the declaration (value_info or output) where the model is made",
  }),
);

// biome-ignore lint/suspicious/noExplicitAny: sites of operators of any signature.
type AnySite = Site<any, any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
type AnyDone = DoneSite<any, any>;

export interface InferOptions {
  /** Shapes for graph inputs, by name; they replace the declared ones. */
  readonly shapes?: Readonly<Record<string, Shape>> | undefined;
  readonly remarks?: Remarks | undefined;
}
export interface Inferred {
  /** The graph with every value's type as far as it is known. */
  readonly graph: Graph;
  readonly facts: (v: ValueId) => Fact;
}

/** Infers all types of a graph. Throws P1501 to P1503 for what is certainly wrong. */
export function inferGraph(g: Graph, options: InferOptions = {}): Inferred {
  const run = new Inference(options.remarks, g.extra?.file);
  const bindings = new Map<string, number>();
  const inputs = g.inputs.map((v): Fact => {
    const declared = valueAt(g, v);
    const given = options.shapes !== undefined && Object.hasOwn(options.shapes, declared.name) ? options.shapes[declared.name] : undefined;
    if (given === undefined || declared.type.kind !== "tensor") return { type: declared.type };
    declared.type.shape?.forEach((d, i) => {
      const n = given[i];
      if (typeof d === "string" && typeof n === "number" && !isUnknown(d)) bindings.set(d, n);
    });
    return { type: { ...declared.type, shape: given } };
  });
  run.bindings = bindings;
  run.replaced = Object.keys(options.shapes ?? {}).length > 0;
  const done = run.graph(
    g,
    inputs.map((f) => run.bound(f)),
    [],
  );
  return { graph: done.graph, facts: (v) => done.facts[v] ?? { type: typeAt(done.graph, v) } };
}

/** Infers one node by itself, by the registry's definition of its operator or the one given: the facts of its outputs, and its attributes with the bodies' types filled in. Throws as `inferGraph`. */
export function inferNode(
  n: Node,
  factOf: (v: ValueId) => Fact,
  options: { readonly file?: string | undefined; readonly def?: AnyOp | undefined } = {},
): { readonly facts: readonly Fact[]; readonly attrs: Node["attrs"] } {
  const def = options.def ?? lookup(n.domain, n.op);
  if (def === undefined) return { facts: [], attrs: n.attrs };
  return new Inference(undefined, options.file).single(n, def, factOf);
}

class Inference {
  bindings: ReadonlyMap<string, number> = new Map();
  /** Whether the caller gave shapes of inputs: declared shapes behind them are then out of date, not wrong. */
  replaced = false;
  readonly #remarks: Remarks | undefined;
  readonly #file: string | undefined;
  /** Symbolic dims of tensors, in this graph and around it: as dims they are at least 0, whatever they were computed from. */
  #dims: Scope = { own: new Set(), outer: undefined };

  constructor(remarks: Remarks | undefined, file: string | undefined) {
    this.#remarks = remarks;
    this.#file = file;
  }

  single(n: Node, def: AnyOp, factOf: (v: ValueId) => Fact): { facts: readonly Fact[]; attrs: Node["attrs"] } {
    const bodies = new Map<string, Body>();
    const facts = this.#node(n.name, n, def, factOf, bodies);
    if (bodies.size === 0) return { facts, attrs: n.attrs };
    const attrs: Record<string, Attr> = { ...n.attrs };
    for (const [name, value] of bodies) attrs[name] = { kind: "graph", value };
    return { facts, attrs };
  }

  bound(f: Fact): Fact {
    return this.bindings.size === 0 ? f : { ...f, type: mapDims(f.type, (d) => substitute(d, this.bindings)) };
  }

  graph(g: Graph, inputs: readonly Fact[], captures: readonly Fact[]): { graph: Graph; facts: Fact[] } {
    const facts = new Array<Fact>(g.values.length);
    this.#dims = { own: new Set(), outer: this.#dims };
    g.inputs.forEach((v, i) => {
      facts[v] = this.#counted(joinInput(inputs[i], typeAt(g, v)));
    });
    g.captures.forEach((v, i) => {
      facts[v] = captures[i] ?? { type: typeAt(g, v) };
    });
    for (const [v, c] of g.constants) facts[v] = constantFact(c);
    const nodes: Node[] = [];
    let bodiesChanged = false;
    for (const n of g.nodes) {
      const def = lookup(n.domain, n.op);
      const bodies = new Map<string, Body>();
      const results = def === undefined ? [] : this.#node(displayName(g, n), n, def, (v) => facts[v], bodies);
      n.outs.forEach((v, i) => {
        if (v === undefined) return;
        facts[v] = this.#counted(this.#join(results[i], this.bound({ type: typeAt(g, v) }).type, n, valueAt(g, v)));
      });
      if (bodies.size > 0) {
        bodiesChanged = true;
        const attrs: Record<string, Attr> = { ...n.attrs };
        for (const [name, value] of bodies) attrs[name] = { kind: "graph", value };
        nodes.push({ ...n, attrs });
      } else nodes.push(n);
    }
    this.#dims = this.#dims.outer ?? this.#dims;
    const values = g.values.map((v): Value | undefined => {
      const f = v === undefined ? undefined : facts[v.id];
      return v === undefined || f === undefined || f.type === v.type ? v : { ...v, type: f.type };
    });
    return { graph: { ...g, values, nodes: bodiesChanged ? nodes : g.nodes }, facts };
  }

  /** A range as long as another tensor has rows: `max(0, rows)` is `rows`. */
  #counted(f: Fact): Fact {
    const t = f.type;
    if (t.kind !== "tensor" || t.shape === undefined) return f;
    let shape = t.shape;
    t.shape.forEach((d, i) => {
      if (typeof d === "number") return;
      const inner = clamped(d);
      if (typeof inner === "string" && hasDim(this.#dims, inner)) shape = shape.with(i, inner);
      else this.#dims.own.add(d);
    });
    return shape === t.shape ? f : { ...f, type: { ...t, shape } };
  }

  #node(label: string, n: Node, def: AnyOp, facts: (v: ValueId) => Fact | undefined, bodies: Map<string, Body>): readonly Fact[] {
    const where = { file: this.#file, node: label, op: qualifiedOp(n) };
    const site: AnySite = {
      in: bindInputs(n, def, (v) => facts(v) ?? { type: { kind: "unknown" } }, where),
      attrs: readAttributes(n, def, where),
      node: n,
      outs: n.outs.length,
      body: (attribute, inputs) => {
        const found = bodiesOf(n).find((b) => b.attribute === attribute);
        if (found === undefined) return [];
        const { body } = found;
        const done = this.graph(
          body.graph,
          inputs,
          body.captures.map((v) => facts(v) ?? { type: { kind: "unknown" } }),
        );
        bodies.set(attribute, { graph: done.graph, captures: body.captures });
        return done.graph.outputs.map((v) => done.facts[v] ?? { type: typeAt(done.graph, v) });
      },
      fail: (what, fix) => {
        throw operandError({ what, fix }, where);
      },
    };
    checkTypes(n, def, facts, where);
    return def.infer(site);
  }

  /** Inferred and declared: what inference knows wins; declared fills the gaps. */
  #join(inferred: Fact | undefined, declared: ValueType, n: Node, v: Value): Fact {
    if (inferred === undefined || inferred.type.kind === "unknown") return { type: declared };
    const t = inferred.type;
    if (contradicts(t, declared))
      throw declaredError(
        { declared: typeText(declared), made: typeText(t) },
        { file: this.#file, node: n.name === "" ? v.name : n.name, op: qualifiedOp(n), value: v.name },
      );
    if (t.kind !== "tensor" || declared.kind !== "tensor") return inferred;
    if (this.#remarks !== undefined && !this.replaced && shapesDiffer(t.shape, declared.shape))
      this.#remarks({
        severity: "warning",
        text: `'${v.name}' is declared ${typeText(declared)}; ${n.op} makes it ${typeText(t)}, which holds`,
        where: { file: this.#file, node: n.name === "" ? v.name : n.name, op: qualifiedOp(n), value: v.name },
        fix: "mend the declared shape where the model is made",
      });
    if (t.shape === undefined) return { ...inferred, type: declared };
    if (declared.shape === undefined || declared.shape.length !== t.shape.length) return inferred;
    const shape = joinDims(t.shape, declared.shape);
    return shape === t.shape ? inferred : { ...inferred, type: { ...t, shape } };
  }
}

/** The dims seen in a graph, and in those around it. */
interface Scope {
  readonly own: Set<string>;
  readonly outer: Scope | undefined;
}
function hasDim(scope: Scope, d: string): boolean {
  for (let s: Scope | undefined = scope; s !== undefined; s = s.outer) if (s.own.has(d)) return true;
  return false;
}

/** Whether two types cannot be of one value: another kind, or another element type. Shapes do not count. */
function contradicts(a: ValueType, b: ValueType): boolean {
  if (a.kind === "unknown" || b.kind === "unknown") return false;
  if (a.kind === "tensor" && b.kind === "tensor") return a.dtype !== b.dtype;
  if (a.kind === "sequence" && b.kind === "sequence") return contradicts(a.of, b.of);
  if (a.kind === "optional" && b.kind === "optional") return contradicts(a.of, b.of);
  // An optional may be declared by what it holds, and a sparse tensor as a dense one.
  return (a.kind === "tensor" && b.kind === "sequence") || (a.kind === "sequence" && b.kind === "tensor");
}
/** Whether two shapes say different numbers somewhere. */
function shapesDiffer(a: Shape, b: Shape): boolean {
  if (a === undefined || b === undefined) return false;
  return a.length !== b.length || a.some((d, i) => typeof d === "number" && typeof b[i] === "number" && d !== b[i]);
}

/** Dims of `a`, with unknown ones, and symbolic ones where `b` has a number, taken from `b`. */
function joinDims(a: readonly Dim[], b: readonly Dim[]): readonly Dim[] {
  let changed = false;
  const out = a.map((d, i) => {
    const e = b[i] ?? UNKNOWN;
    if (isUnknown(e) || typeof d === "number" || d === e) return d;
    if (isUnknown(d) || typeof e === "number") {
      changed = true;
      return e;
    }
    return d;
  });
  return changed ? out : a;
}

function joinInput(given: Fact | undefined, declared: ValueType): Fact {
  if (given === undefined || given.type.kind === "unknown") return { type: declared };
  if (given.type.kind === "tensor" && declared.kind === "tensor") {
    if (given.type.shape === undefined) return { ...given, type: declared };
    if (declared.shape !== undefined && declared.shape.length === given.type.shape.length)
      return { ...given, type: { ...given.type, shape: joinDims(given.type.shape, declared.shape) } };
  }
  return given;
}

export function mapDims(t: ValueType, f: (d: Dim) => Dim): ValueType {
  switch (t.kind) {
    case "tensor":
    case "sparse":
      return t.shape === undefined ? t : { ...t, shape: t.shape.map(f) };
    case "sequence":
    case "optional":
      return { ...t, of: mapDims(t.of, f) };
    case "map":
      return { ...t, of: mapDims(t.of, f) };
    case "opaque":
    case "unknown":
      return t;
    default:
      return t satisfies never;
  }
}

const INTEGER_ELEMENTS: ReadonlySet<string> = new Set(["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"]);
export function constantFact(c: Constant): Fact {
  const kind = c.data.kind === "sparse" ? "sparse" : "tensor";
  const small = kind === "tensor" && c.dims.length <= 1 && INTEGER_ELEMENTS.has(c.dtype) && (c.dims[0] ?? 1) <= MAX_ELEMENTS;
  const elements = small ? smallNumbers(c, MAX_ELEMENTS) : undefined;
  const safe = elements?.every(Number.isSafeInteger) === true;
  return { type: { kind, dtype: c.dtype, shape: c.dims }, constant: c, ...(safe ? { elements } : {}) };
}

/** Slots of one type variable agree, and lie within its types. */
function checkTypes(n: Node, def: AnyOp, factAt: (v: ValueId) => Fact | undefined, where: object): void {
  const slots = Object.entries(def.in) as [string, Slot][];
  const bound = new Map<string, DType>();
  n.ins.forEach((v, i) => {
    const [name, slot] = slots[Math.min(i, slots.length - 1)] ?? [];
    if (v === undefined || name === undefined || slot?.type === undefined) return;
    const has = dtypeOf(factAt(v));
    if (has === undefined) return;
    const allowed = def.types?.[slot.type];
    if (allowed === undefined) {
      if (isDType(slot.type) && slot.type !== has) throw typeError({ slot: name, has, wants: slot.type }, where);
      return;
    }
    const known = bound.get(slot.type);
    if (known !== undefined && known !== has) throw typeError({ slot: name, has, wants: `${known}, as its other operands are,` }, where);
    if (!allowed.includes(has)) throw typeError({ slot: name, has, wants: `one of ${allowed.join(", ")}` }, where);
    bound.set(slot.type, has);
  });
}

function bindInputs(
  n: Node,
  def: AnyOp,
  factAt: (v: ValueId) => Fact,
  where: object,
): Record<string, Fact | undefined | readonly (Fact | undefined)[]> {
  const bound: Record<string, Fact | undefined | readonly (Fact | undefined)[]> = {};
  const at = (i: number): Fact | undefined => {
    const v = n.ins[i];
    return v === undefined ? undefined : factAt(v);
  };
  let i = 0;
  for (const [name, slot] of Object.entries(def.in) as [string, Slot][]) {
    if (slot.kind === "variadic") {
      bound[name] = n.ins.slice(i).map((_, k) => at(i + k));
      i = n.ins.length;
      continue;
    }
    const f = at(i++);
    if (f === undefined && slot.kind === "tensor") throw arityError({ slot: name, has: n.ins.length }, where);
    bound[name] = f;
  }
  if (i < n.ins.length) throw surplusError({ takes: i, has: n.ins.length }, where);
  return bound;
}

function readAttributes(n: Node, def: AnyOp, where: object): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(def.attrs as AttrSpecs)) {
    const raw = Object.hasOwn(n.attrs, name) ? n.attrs[name] : undefined;
    if (raw === undefined) {
      if (spec.required)
        throw attributeError(
          { what: "the attribute is required and missing", allowed: spec.oneOf?.join(", ") ?? "" },
          { ...where, attribute: name },
        );
      out[name] = spec.fallback;
      continue;
    }
    const value = spec.read(raw);
    if (value === undefined) {
      const shown = "value" in raw && (typeof raw.value === "string" || typeof raw.value === "number") ? ` '${raw.value}'` : "";
      throw attributeError(
        { what: `the ${raw.kind}${shown} is not a legal ${spec.kind} here`, allowed: spec.oneOf?.join(", ") ?? "" },
        { ...where, attribute: name },
      );
    }
    out[name] = value;
  }
  return out;
}

/** A node as its operator's `supports` and `cost` see it; undefined for operators the registry does not know. */
export function doneSite(g: Graph, n: Node, facts: (v: ValueId) => Fact): { readonly def: AnyOp; readonly site: AnyDone } | undefined {
  const def = lookup(n.domain, n.op);
  if (def === undefined) return undefined;
  const where = { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) };
  const out = n.outs.map((v): ValueType => (v === undefined ? { kind: "unknown" } : facts(v).type));
  while (out.length > 0 && n.outs[out.length - 1] === undefined) out.pop();
  return { def, site: { in: bindInputs(n, def, facts, where), attrs: readAttributes(n, def, where), node: n, out } };
}

/** As `doneSite`, for a definition that need not be in the registry, with the types of the outputs given. */
export const siteOf = (n: Node, def: AnyOp, facts: (v: ValueId) => Fact, out: readonly ValueType[]): AnyDone => ({
  in: bindInputs(n, def, facts, { node: n.name, op: qualifiedOp(n) }),
  attrs: readAttributes(n, def, { node: n.name, op: qualifiedOp(n) }),
  node: n,
  out,
});

/** Cost of a node with symbols bound to numbers (1 where there is no binding); bodies count once. */
export function costOf(g: Graph, n: Node, facts: (v: ValueId) => Fact, bindings?: ReadonlyMap<string, number>): Cost {
  const bound = (v: ValueId): Fact => {
    const f = facts(v);
    return bindings === undefined || bindings.size === 0 ? f : { ...f, type: mapDims(f.type, (d) => substitute(d, bindings)) };
  };
  const done = doneSite(g, n, bound);
  if (done === undefined) return { flops: 0, bytes: 0 };
  let { flops, bytes } = done.def.cost(done.site);
  for (const { body } of bodiesOf(n)) {
    for (const inner of body.graph.nodes) {
      const c = costOf(body.graph, inner, (v) => constantOrType(body.graph, v), bindings);
      flops += c.flops;
      bytes += c.bytes;
    }
  }
  return { flops, bytes };
}
function constantOrType(g: Graph, v: ValueId): Fact {
  const c = g.constants.get(v);
  return c === undefined ? { type: typeAt(g, v) } : constantFact(c);
}
