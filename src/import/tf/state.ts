/**
 * Variables that a graph changes. They are constants here, so a run that reads one after it was changed would give another value than TensorFlow:
 * such reads are refused. One that is read first and changed then has the right value in the first run; a remark says that it keeps it.
 */

import { ARGUMENT, type RawFunction, type RawGraph, type RawModel, type RawNode } from "./graph.js";
import type { AttrValue } from "./schema.js";

/** A node that changes a variable, and those that come after it. */
interface Change {
  readonly by: RawNode;
  readonly after: ReadonlySet<string>;
}
/** By the node that gives the handle: a variable, or a function's argument. */
type Changes = ReadonlyMap<string, readonly Change[]>;

const CHANGES =
  /^(Assign|Resource(Scatter|StridedSliceAssign|Apply|SparseApply)|Scatter(Add|Sub|Mul|Div|Min|Max|Update|Nd(Add|Sub|Update))$|Apply[A-Z])/;
const NOTHING: Changes = new Map();
const PASSES = new Set(["Identity", "Enter", "RefEnter", "Switch", "RefSwitch"]);
const LOOPS = new Set(["While", "StatelessWhile"]);

export class State {
  readonly #model: RawModel;
  /** Indices of the arguments that a function changes, in it or in what it calls. */
  readonly #changed = new Map<string, ReadonlySet<number>>();
  readonly #found = new Map<RawGraph, Changes>();

  constructor(model: RawModel) {
    this.#model = model;
  }

  /** What a graph changes; of the model's own graph, what `runs` says is run at all. */
  changes(graph: RawGraph, runs?: ReadonlySet<string>): Changes {
    const known = this.#found.get(graph);
    if (known !== undefined) return known;
    const writers: (readonly [string, RawNode])[] = [];
    for (const n of graph.nodes.values()) {
      if (runs?.has(n.name) === false) continue;
      for (const i of this.#changedInputs(n)) {
        const from = handleOf(graph, n.ins[i]?.node);
        if (from !== undefined) writers.push([from, n]);
      }
    }
    const found = writers.length === 0 ? NOTHING : group(graph, writers);
    this.#found.set(graph, found);
    return found;
  }

  #changedInputs(n: RawNode): readonly number[] {
    if (CHANGES.test(n.op)) return [0];
    const first = /^(Stateless)?(If|Case)$/.test(n.op) ? 1 : 0;
    return calledBy(this.#model, n).flatMap((name) => [...this.#changedArguments(name)].map((i) => i + first));
  }
  #changedArguments(name: string): ReadonlySet<number> {
    const known = this.#changed.get(name);
    if (known !== undefined) return known;
    // One that calls itself is refused where it is inlined.
    this.#changed.set(name, new Set());
    const f: RawFunction | undefined = this.#model.functions.get(name);
    if (f === undefined) return new Set();
    const changed = new Set<number>();
    for (const from of this.changes(f).keys()) {
      const n = f.nodes.get(from);
      if (n?.op === ARGUMENT) changed.add(n.index);
    }
    this.#changed.set(name, changed);
    return changed;
  }
}

/** The variable, or the argument, that a node passes on. */
export function handleOf(graph: RawGraph, node: string | undefined): string | undefined {
  let at = node === undefined ? undefined : graph.nodes.get(node);
  for (let steps = 0; at !== undefined && PASSES.has(at.op) && steps < 100; steps++) at = graph.nodes.get(at.ins[0]?.node ?? "");
  return at?.name;
}

/** Names of the functions that a node runs. */
function calledBy(model: RawModel, n: RawNode): readonly string[] {
  const of = (a: AttrValue | undefined): readonly string[] =>
    a === undefined ? [] : [a.func?.name, ...(a.list?.func ?? []).map((f) => f.name)].filter((f) => f !== undefined);
  const called = ["f", "then_branch", "else_branch", "cond", "body", "branches"].flatMap((key) => of(n.attrs.get(key)));
  return model.functions.has(n.op) ? [n.op, ...called] : called;
}

function group(graph: RawGraph, writers: readonly (readonly [string, RawNode])[]): Changes {
  const followers = new Map<string, string[]>();
  for (const n of graph.nodes.values()) {
    for (const before of [...n.ins.map((r) => r.node), ...n.controls]) {
      const list = followers.get(before);
      if (list === undefined) followers.set(before, [n.name]);
      else list.push(n.name);
    }
  }
  const out = new Map<string, Change[]>();
  for (const [from, by] of writers) {
    const after = new Set<string>(LOOPS.has(by.op) ? [by.name] : []);
    const stack = [by.name];
    for (let n = stack.pop(); n !== undefined; n = stack.pop()) {
      for (const next of followers.get(n) ?? []) {
        if (after.has(next)) continue;
        after.add(next);
        stack.push(next);
      }
    }
    out.set(from, [...(out.get(from) ?? []), { by, after }]);
  }
  return out;
}
