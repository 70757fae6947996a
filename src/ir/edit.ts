/**
 * The only way to make a graph, or a new graph out of an old one. An `Editor` owns its draft; `finish` freezes it into a `Graph`
 * (topological order, live values only). Nodes and values that were not touched are shared with the base graph and keep their ids.
 */
import { defineError } from "../diagnostics.js";
import { NO_ATTRS, readsOf, topologicalOrder, UNKNOWN_TYPE } from "./graph.js";
import type { Attrs, Body, Constant, Graph, GraphExtra, Node, NodeId, Value, ValueId, ValueType, Verbatim } from "./types.js";

export const cycleError = defineError<{ nodes: readonly string[]; total: number }>(
  "P1401",
  "the graph has a cycle",
  ({ nodes, total }) => ({
    what: `${total} nodes lie on a cycle or behind one, the first of them ${nodes.map((n) => `'${n}'`).join(", ")}`,
    why: "a graph must be acyclic; loops are written with Loop or Scan",
    fix: "break the cycle where the model is made",
  }),
);

/** What `add` needs to know of a node. */
export interface NodeSpec {
  readonly op: string;
  readonly domain?: string | undefined;
  readonly name?: string | undefined;
  readonly ins: readonly (ValueId | undefined)[];
  /** Values declared before (inputs of nothing yet), or how many fresh ones to make. */
  readonly outs: readonly (ValueId | undefined)[] | number;
  readonly attrs?: Attrs | undefined;
  readonly origin?: readonly string[] | undefined;
  readonly overload?: string | undefined;
  readonly extra?: Verbatim | undefined;
}

/** Nodes by id, in the order of their insertion. Ids are small and dense: an array serves where a map of large graphs would not fit the cache. */
class NodeTable {
  readonly #byId: (Node | undefined)[] = [];
  readonly #order: NodeId[] = [];
  readonly #removed = new Set<NodeId>();

  get(id: NodeId): Node | undefined {
    return this.#byId[id];
  }
  set(id: NodeId, node: Node): void {
    if (this.#byId[id] === undefined) {
      // A removed id keeps its place in the order until then; one that comes back goes to the end.
      if (this.#removed.delete(id)) this.#order.splice(this.#order.indexOf(id), 1);
      this.#order.push(id);
    }
    this.#byId[id] = node;
  }
  delete(id: NodeId): void {
    if (this.#byId[id] === undefined) return;
    this.#byId[id] = undefined;
    this.#removed.add(id);
  }

  values(): readonly Node[] {
    const found: Node[] = [];
    for (const id of this.#order) {
      const n = this.#byId[id];
      if (n !== undefined) found.push(n);
    }
    return found;
  }
}

export class Editor {
  readonly #name: string;
  readonly #values: (Value | undefined)[];
  /** Names in use; made of the values when first asked for, as most edits name nothing. */
  #names: Set<string> | undefined;
  readonly #constants: Map<ValueId, Constant>;
  readonly #nodes = new NodeTable();
  /** Anchors for placing new nodes: insertion order, refined by the topological sort at `finish`. */
  #nodeLimit: number;
  #inputs: ValueId[];
  #captures: ValueId[];
  #outputs: ValueId[];
  #opsets: Record<string, number>;
  #extra: GraphExtra | undefined;
  #producers: (NodeId | undefined)[] | undefined;
  #uses: Map<ValueId, Set<NodeId>> | undefined;
  #outputSet: { readonly of: readonly ValueId[]; readonly set: ReadonlySet<ValueId> } | undefined;
  #changed = false;
  readonly #base: Graph | undefined;
  readonly #freshCounters = new Map<string, number>();

  constructor(
    base: Graph | { readonly name: string; readonly opsets?: Readonly<Record<string, number>>; readonly extra?: GraphExtra | undefined },
  ) {
    if ("nodes" in base) {
      this.#base = base;
      this.#values = base.values.slice();
      this.#constants = new Map(base.constants);
      for (const n of base.nodes) this.#nodes.set(n.id, n);
      this.#nodeLimit = base.nodeLimit;
      this.#inputs = [...base.inputs];
      this.#captures = [...base.captures];
      this.#outputs = [...base.outputs];
    } else {
      this.#values = [];
      this.#constants = new Map();
      this.#nodeLimit = 0;
      this.#inputs = [];
      this.#captures = [];
      this.#outputs = [];
      this.#changed = true;
    }
    this.#name = base.name;
    this.#opsets = { ...base.opsets };
    this.#extra = base.extra;
  }

  // ---- reading the draft ------------------------------------------------------------------------------------------------------------

  get inputs(): readonly ValueId[] {
    return this.#inputs;
  }
  get captures(): readonly ValueId[] {
    return this.#captures;
  }
  get outputs(): readonly ValueId[] {
    return this.#outputs;
  }
  /** Whether anything differs from the base graph so far. */
  get changed(): boolean {
    return this.#changed;
  }
  get opsets(): Readonly<Record<string, number>> {
    return this.#opsets;
  }
  /** Nodes in insertion order: the base graph's order, then the added ones. */
  nodes(): readonly Node[] {
    return this.#nodes.values();
  }
  node(id: NodeId): Node | undefined {
    return this.#nodes.get(id);
  }
  value(id: ValueId): Value {
    const v = this.#values[id];
    if (v === undefined) throw new Error(`value ${id} is not in the draft of '${this.#name}'`);
    return v;
  }
  type(id: ValueId): ValueType {
    return this.value(id).type;
  }
  constant(id: ValueId | undefined): Constant | undefined {
    return id === undefined ? undefined : this.#constants.get(id);
  }
  producer(id: ValueId | undefined): Node | undefined {
    if (id === undefined) return undefined;
    if (this.#producers === undefined) {
      this.#producers = [];
      for (const n of this.#nodes.values()) for (const v of n.outs) if (v !== undefined) this.#producers[v] = n.id;
    }
    const p = this.#producers[id];
    return p === undefined ? undefined : this.#nodes.get(p);
  }
  /** Nodes that read a value, through their bodies too; graph outputs are not among them. */
  uses(id: ValueId): readonly Node[] {
    const found: Node[] = [];
    for (const n of this.#useIndex().get(id) ?? []) {
      const node = this.#nodes.get(n);
      if (node !== undefined) found.push(node);
    }
    return found;
  }
  isOutput(id: ValueId): boolean {
    // The list is replaced, never changed: the set is as old as the list it was made of.
    if (this.#outputSet?.of !== this.#outputs) this.#outputSet = { of: this.#outputs, set: new Set(this.#outputs) };
    return this.#outputSet.set.has(id);
  }
  /** Whether exactly one node reads it, once or more, and no graph output is it. */
  hasOneUser(id: ValueId): boolean {
    return (this.#useIndex().get(id)?.size ?? 0) === 1 && !this.isOutput(id);
  }
  #useIndex(): Map<ValueId, Set<NodeId>> {
    if (this.#uses === undefined) {
      this.#uses = new Map();
      for (const n of this.#nodes.values()) this.#indexUses(n, this.#uses);
    }
    return this.#uses;
  }
  #indexUses(n: Node, uses: Map<ValueId, Set<NodeId>>): void {
    for (const v of readsOf(n)) {
      const set = uses.get(v);
      if (set === undefined) uses.set(v, new Set([n.id]));
      else set.add(n.id);
    }
  }

  // ---- writing ------------------------------------------------------------------------------------------------------------------------

  #taken(): Set<string> {
    if (this.#names === undefined) {
      this.#names = new Set();
      for (const v of this.#values) if (v !== undefined) this.#names.add(v.name);
    }
    return this.#names;
  }
  /** A name nobody has yet, `stem` itself if it is free. */
  freshName(stem: string): string {
    const wanted = stem === "" ? "v" : stem;
    const names = this.#taken();
    if (!names.has(wanted)) return wanted;
    for (let i = this.#freshCounters.get(wanted) ?? 1; ; i++) {
      const candidate = `${wanted}.${i}`;
      if (!names.has(candidate)) {
        this.#freshCounters.set(wanted, i + 1);
        return candidate;
      }
    }
  }
  /** Declares a value; a node, `addInput` or `addConstant` must give it its origin. */
  declare(name: string, type: ValueType = UNKNOWN_TYPE): ValueId {
    return this.#declare(this.freshName(name), type);
  }
  /** `declare` for a name that the caller knows to be new: an importer that has checked its file's names itself. */
  declareUnique(name: string, type: ValueType = UNKNOWN_TYPE): ValueId {
    return this.#declare(this.#names === undefined && name !== "" ? name : this.freshName(name), type);
  }
  #declare(name: string, type: ValueType): ValueId {
    const id = this.#values.length as ValueId;
    this.#names?.add(name);
    this.#values.push({ id, name, type });
    this.#changed = true;
    return id;
  }
  addInput(name: string, type: ValueType): ValueId {
    const id = this.declare(name, type);
    this.#inputs.push(id);
    return id;
  }
  addCapture(name: string, type: ValueType): ValueId {
    const id = this.declare(name, type);
    this.#captures.push(id);
    return id;
  }
  addConstant(name: string, c: Constant): ValueId {
    const kind = c.data.kind === "sparse" ? "sparse" : "tensor";
    const id = this.declare(name, { kind, dtype: c.dtype, shape: c.dims });
    this.#constants.set(id, c);
    return id;
  }
  /** Gives a value that is nobody's output any more (or was just declared) a constant as its origin. */
  setConstant(id: ValueId, c: Constant): void {
    this.#constants.set(id, c);
    this.setType(id, { kind: c.data.kind === "sparse" ? "sparse" : "tensor", dtype: c.dtype, shape: c.dims });
    this.#changed = true;
  }
  setType(id: ValueId, type: ValueType): void {
    this.#values[id] = { ...this.value(id), type };
    this.#changed = true;
  }
  /** Gives a value another name, made unique; the old one becomes free. */
  rename(id: ValueId, name: string): void {
    const old = this.value(id);
    if (old.name === name) return;
    const names = this.#taken();
    names.delete(old.name);
    const unique = this.freshName(name);
    names.add(unique);
    this.#values[id] = { ...old, name: unique };
    this.#changed = true;
  }
  setOpset(domain: string, version: number): void {
    this.#opsets[domain] = version;
    this.#changed = true;
  }
  setOutputs(outputs: readonly ValueId[]): void {
    this.#outputs = [...outputs];
    this.#changed = true;
  }
  setInputs(inputs: readonly ValueId[]): void {
    this.#inputs = [...inputs];
    this.#changed = true;
  }

  add(spec: NodeSpec): Node {
    const id = this.#nodeLimit++ as NodeId;
    const stem = spec.name !== undefined && spec.name !== "" ? spec.name : spec.op.toLowerCase();
    const outs =
      typeof spec.outs === "number"
        ? Array.from({ length: spec.outs }, (_, i) => this.declare(i === 0 ? stem : `${stem}:${i}`))
        : spec.outs;
    const { origin, overload, extra } = spec;
    const plain: Node = {
      id,
      domain: spec.domain ?? "",
      op: spec.op,
      name: spec.name ?? "",
      ins: spec.ins,
      outs,
      attrs: spec.attrs ?? NO_ATTRS,
    };
    const node: Node =
      origin === undefined && overload === undefined && extra === undefined
        ? plain
        : {
            ...plain,
            ...(origin === undefined ? {} : { origin }),
            ...(overload === undefined ? {} : { overload }),
            ...(extra === undefined ? {} : { extra }),
          };
    this.#put(node);
    return node;
  }
  /** Replaces parts of a node, which keeps its id and place. */
  patch(id: NodeId, changes: Partial<Omit<Node, "id">>): Node {
    const old = this.#nodes.get(id);
    if (old === undefined) throw new Error(`node ${id} is not in the draft of '${this.#name}'`);
    const node = { ...old, ...changes };
    this.#forget(old);
    this.#put(node);
    return node;
  }
  remove(id: NodeId): void {
    const old = this.#nodes.get(id);
    if (old === undefined) return;
    this.#forget(old);
    this.#nodes.delete(id);
    this.#changed = true;
  }
  #put(node: Node): void {
    this.#nodes.set(node.id, node);
    if (this.#producers !== undefined) for (const v of node.outs) if (v !== undefined) this.#producers[v] = node.id;
    if (this.#uses !== undefined) this.#indexUses(node, this.#uses);
    this.#changed = true;
  }
  #forget(old: Node): void {
    if (this.#producers !== undefined)
      for (const v of old.outs) if (v !== undefined && this.#producers[v] === old.id) this.#producers[v] = undefined;
    if (this.#uses !== undefined) for (const v of readsOf(old)) this.#uses.get(v)?.delete(old.id);
  }

  /**
   * Every reader of `from` reads `to` instead, graph outputs included. A graph output keeps its name: `to` takes it over, or, when `to`
   * is itself an input, a capture, a constant or another output, an Identity carries the name.
   */
  replaceUses(from: ValueId, to: ValueId): void {
    if (from === to) return;
    for (const n of this.uses(from)) this.#redirect(n, from, to);
    if (!this.isOutput(from)) return;
    const free = this.producer(to) !== undefined && !this.isOutput(to);
    if (free) {
      this.#outputs = this.#outputs.map((v) => (v === from ? to : v));
      this.#swapNames(from, to);
    } else {
      const old = this.value(from);
      const fresh = this.declare(old.name, this.type(to));
      this.add({ op: "Identity", ins: [to], outs: [fresh], name: "", origin: this.producer(from)?.origin });
      this.#outputs = this.#outputs.map((v) => (v === from ? fresh : v));
      this.#swapNames(from, fresh);
    }
    this.#changed = true;
  }
  #swapNames(a: ValueId, b: ValueId): void {
    const [x, y] = [this.value(a), this.value(b)];
    this.#values[a] = { ...x, name: y.name };
    this.#values[b] = { ...y, name: x.name };
  }
  #redirect(n: Node, from: ValueId, to: ValueId): void {
    const swap = (v: ValueId): ValueId => (v === from ? to : v);
    const swapBody = (b: Body): Body => (b.captures.includes(from) ? { graph: b.graph, captures: b.captures.map(swap) } : b);
    let attrs = n.attrs;
    for (const [key, a] of Object.entries(n.attrs)) {
      if (a.kind === "graph") attrs = { ...attrs, [key]: { kind: "graph", value: swapBody(a.value) } };
      else if (a.kind === "graphs") attrs = { ...attrs, [key]: { kind: "graphs", value: a.value.map(swapBody) } };
    }
    this.patch(n.id, { ins: n.ins.map((v) => (v === undefined ? v : swap(v))), attrs });
  }

  /**
   * Freezes the draft: nodes in a stable topological order, constants and values that nothing refers to dropped. Nodes without readers
   * stay (dead-code elimination is a pass). Returns the base graph itself when nothing changed. Throws P1401 on a cycle.
   */
  finish(): Graph {
    if (!this.#changed && this.#base !== undefined) return this.#base;
    const { order, rest } = topologicalOrder(this.#nodes.values(), this.#values.length);
    if (rest.length > 0) {
      const names = rest.slice(0, 3).map((n) => (n.name !== "" ? n.name : n.op));
      throw cycleError({ nodes: names, total: rest.length }, { file: this.#extra?.file });
    }
    const live = new Uint8Array(this.#values.length);
    for (const v of [...this.#inputs, ...this.#captures, ...this.#outputs]) live[v] = 1;
    for (const n of order) {
      for (const v of readsOf(n)) live[v] = 1;
      for (const v of n.outs) if (v !== undefined) live[v] = 1;
    }
    const values = this.#values.map((v, i) => (live[i] === 1 ? v : undefined));
    const constants = new Map([...this.#constants].filter(([id]) => live[id] === 1));
    return {
      name: this.#name,
      inputs: this.#inputs,
      captures: this.#captures,
      outputs: this.#outputs,
      nodes: order,
      values,
      constants,
      opsets: this.#opsets,
      nodeLimit: this.#nodeLimit,
      ...(this.#extra === undefined ? {} : { extra: this.#extra }),
    };
  }
}
