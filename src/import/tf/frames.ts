/**
 * TensorFlow 1's control flow in a graph: which nodes make up the loop of a frame, which Switch a Merge closes. Found once per graph, from
 * the shape of the graph alone; control.ts lowers what is found.
 */
import type { TfValue } from "../../ops/tf/define.js";
import type { Builder } from "./builder.js";
import { controlError, lowerIf, lowerLoop } from "./control.js";
import { type RawGraph, type RawNode, type Ref, refText } from "./graph.js";
import type { Lowering, Scope } from "./lower.js";

interface LoopVar {
  readonly enter: RawNode;
  readonly merge: RawNode;
  readonly branch: RawNode | undefined;
  readonly exit: RawNode | undefined;
  readonly next: Ref;
}
interface LoopInfo {
  readonly vars: readonly LoopVar[];
  /** Every Enter of the frame, constant ones too. */
  readonly enters: readonly RawNode[];
  readonly cond: Ref;
  readonly members: ReadonlySet<string>;
}
interface BranchInfo {
  readonly predicate: string;
  readonly pred: Ref;
  /** The Merge's inputs by the predicate's value, and their places. */
  readonly no: Ref;
  readonly yes: Ref;
  readonly trueIndex: number;
  /** Nodes outside the branches that they read. */
  readonly needs: readonly string[];
}

const isOp = (n: RawNode | undefined, op: string): n is RawNode => n !== undefined && (n.op === op || n.op === `Ref${op}`);
type Conditions = ReadonlyMap<string, 0 | 1>;
const NONE: Conditions = new Map();

export class Frames {
  readonly #graph: RawGraph;
  readonly #file: string | undefined;
  readonly #roots: readonly Ref[];
  #readers: Map<string, RawNode[]> | undefined;
  #followers: Map<string, string[]> | undefined;
  #needed: Set<string> | undefined;
  readonly #loops = new Map<string, LoopInfo>();
  readonly #branches = new Map<string, BranchInfo>();
  readonly #members = new Map<string, ReadonlySet<string>>();
  readonly #conditions = new Map<string, Conditions>();
  readonly #done = new WeakMap<Scope, Map<string, ReadonlyMap<string, TfValue>>>();

  constructor(graph: RawGraph, roots: readonly Ref[], file: string | undefined) {
    this.#graph = graph;
    this.#roots = roots;
    this.#file = file;
  }

  #fail(n: RawNode, what: string): never {
    throw controlError({ what }, { file: this.#file, node: n.name, op: n.op });
  }

  /** Nodes that read a node's results. */
  readers(name: string): readonly RawNode[] {
    if (this.#readers === undefined) {
      this.#readers = new Map();
      for (const n of this.#graph.nodes.values()) {
        for (const r of n.ins) {
          const list = this.#readers.get(r.node);
          if (list === undefined) this.#readers.set(r.node, [n]);
          else if (list[list.length - 1] !== n) list.push(n);
        }
      }
    }
    return this.#readers.get(name) ?? [];
  }
  /** Nodes that come after a node, by data or by control. */
  #after(name: string): readonly string[] {
    if (this.#followers === undefined) {
      this.#followers = new Map();
      for (const n of this.#graph.nodes.values()) {
        for (const before of [...n.ins.map((r) => r.node), ...n.controls]) {
          const list = this.#followers.get(before);
          if (list === undefined) this.#followers.set(before, [n.name]);
          else list.push(n.name);
        }
      }
    }
    return this.#followers.get(name) ?? [];
  }
  /** One more than the highest result that somebody reads. */
  ports(name: string): number {
    let ports = 0;
    const seen = new Set<string>();
    for (const n of this.readers(name)) {
      for (const r of n.ins) {
        if (r.node !== name) continue;
        seen.add(refText(r));
        if (r.argument === undefined) ports = Math.max(ports, r.port + 1);
      }
    }
    for (const r of this.#roots) if (r.node === name) ports = Math.max(ports, r.port + 1);
    return Math.max(ports, seen.size);
  }
  /** What the roots need. */
  needed(): ReadonlySet<string> {
    if (this.#needed === undefined)
      // Control edges count: a branch without operands hangs on its predicate by nothing else.
      this.#needed = backwards(
        this.#graph,
        this.#roots.map((r) => r.node),
        undefined,
        true,
      );
    return this.#needed;
  }
  #isNeeded(name: string): boolean {
    return this.needed().has(name);
  }

  // ---- loops ----------------------------------------------------------------------------------------------------------------------------

  loop(exit: RawNode): LoopInfo {
    const nodes = this.#graph.nodes;
    const branch = nodes.get(exit.ins[0]?.node ?? "");
    const merge = isOp(branch, "Switch") ? nodes.get(branch.ins[0]?.node ?? "") : undefined;
    if (!isOp(branch, "Switch") || !isOp(merge, "Merge"))
      return this.#fail(exit, "an Exit does not leave a loop: no Switch of a Merge is before it");
    const enter = merge.ins.map((r) => nodes.get(r.node)).find((n) => isOp(n, "Enter"));
    if (enter === undefined) return this.#fail(merge, "the Merge of a loop has no Enter");
    const frame = frameOf(enter);
    const known = this.#loops.get(frame);
    if (known !== undefined) return known;
    const enters = [...nodes.values()].filter((n) => isOp(n, "Enter") && frameOf(n) === frame);
    const condition = branch.ins[1];
    if (condition === undefined) return this.#fail(branch, "a Switch has no predicate");
    const test = nodes.get(condition.node);
    const cond = test?.op === "LoopCond" ? test.ins[0] : condition;
    if (cond === undefined) return this.#fail(exit, "the LoopCond has no input");
    const vars: LoopVar[] = [];
    for (const e of enters) {
      const m = this.readers(e.name).find((n) => isOp(n, "Merge"));
      if (m === undefined) continue;
      const back = m.ins.map((r) => nodes.get(r.node)).find((n) => isOp(n, "NextIteration"));
      const next = back?.ins[0];
      if (next === undefined) return this.#fail(m, "the Merge of a loop has no NextIteration");
      const s = this.readers(m.name).find((n) => isOp(n, "Switch") && n.ins[0]?.node === m.name && n.ins[1]?.node === condition.node);
      const x = s === undefined ? undefined : this.readers(s.name).find((n) => isOp(n, "Exit"));
      vars.push({ enter: e, merge: m, branch: s, exit: x, next });
    }
    const exits = new Set(vars.flatMap((v) => (v.exit === undefined ? [] : [v.exit.name])));
    const info: LoopInfo = {
      vars,
      enters,
      cond,
      members: this.#forward(
        enters.map((e) => e.name),
        (n) => exits.has(n),
      ),
    };
    this.#loops.set(frame, info);
    return info;
  }

  /** The value of an Exit; the loop is lowered with the first of them. */
  exit(lowering: Lowering, scope: Scope, node: RawNode): TfValue {
    const info = this.loop(node);
    const key = info.vars[0]?.merge.name ?? node.name;
    const finals = this.#once(scope, key, () => this.#lowerLoop(lowering, scope, info));
    const v = finals.get(node.name);
    return v ?? this.#fail(node, "an Exit does not belong to the loop it leaves");
  }
  #lowerLoop(lowering: Lowering, scope: Scope, info: LoopInfo): ReadonlyMap<string, TfValue> {
    const vars = this.#liveVars(info);
    const initials = lowering.values(
      scope,
      vars.map((v) => v.enter.ins[0] ?? this.#fail(v.enter, "an Enter has no input")),
    );
    const within = (b: Builder, values: readonly TfValue[], body: boolean): Scope => {
      const inner = this.#inner(scope, b, info.members, undefined);
      vars.forEach((v, k) => {
        const x = values[k];
        if (x === undefined) return;
        inner.values.set(v.merge.name, [x]);
        if (body && v.branch !== undefined) inner.values.set(v.branch.name, [x, x]);
      });
      return inner;
    };
    const finals = lowerLoop(scope.builder, {
      initials,
      invariant: vars.map((v) => this.#invariant(v)),
      cond: (b, values) => lowering.value(within(b, values, false), info.cond),
      body: (b, values) =>
        lowering.values(
          within(b, values, true),
          vars.map((v) => v.next),
        ),
    });
    const out = new Map<string, TfValue>();
    vars.forEach((v, k) => {
      const x = finals[k];
      if (v.exit !== undefined && x !== undefined) out.set(v.exit.name, x);
    });
    return out;
  }
  /** The variables that the condition or a needed Exit depends on, through any number of iterations. */
  #liveVars(info: LoopInfo): readonly LoopVar[] {
    const live = new Set<LoopVar>();
    const byMerge = new Map(info.vars.map((v) => [v.merge.name, v]));
    const reach = (root: string): void => {
      for (const n of backwards(this.#graph, [root], (name) => byMerge.has(name) || !info.members.has(name))) {
        const v = byMerge.get(n);
        if (v !== undefined && !live.has(v)) {
          live.add(v);
          reach(v.next.node);
        }
      }
    };
    reach(info.cond.node);
    for (const v of info.vars) {
      if (v.exit === undefined || !this.#isNeeded(v.exit.name) || live.has(v)) continue;
      live.add(v);
      reach(v.next.node);
    }
    return info.vars.filter((v) => live.has(v));
  }
  #invariant(v: LoopVar): boolean {
    const at = this.#throughIdentity(v.next);
    return at.node === v.branch?.name && at.port === 1;
  }

  // ---- branches -------------------------------------------------------------------------------------------------------------------------

  branch(merge: RawNode): BranchInfo {
    const known = this.#branches.get(merge.name);
    if (known !== undefined) return known;
    const [a, b, ...more] = merge.ins;
    if (a === undefined || b === undefined || more.length > 0)
      return this.#fail(merge, `a Merge has ${merge.ins.length} inputs; two are read`);
    const [ca, cb] = [this.#conditionsOf(a), this.#conditionsOf(b)];
    const predicate = this.#closing(ca, cb);
    if (predicate === undefined) return this.#fail(merge, "no Switch decides between the inputs of a Merge");
    const side = ca.get(predicate) ?? (cb.get(predicate) === 1 ? 0 : 1);
    const colon = predicate.lastIndexOf(":");
    const pred: Ref = { node: predicate.slice(0, colon), port: Number(predicate.slice(colon + 1)) };
    const members = this.#branchMembers(predicate);
    const needs = new Set<string>([pred.node]);
    for (const n of backwards(this.#graph, [a.node, b.node], (name) => !members.has(name))) {
      if (!members.has(n)) needs.add(n);
    }
    const info: BranchInfo = {
      predicate,
      pred,
      no: side === 0 ? a : b,
      yes: side === 0 ? b : a,
      trueIndex: side === 0 ? 1 : 0,
      needs: [...needs],
    };
    this.#branches.set(merge.name, info);
    return info;
  }

  /** Results of a Merge; all Merges that one If can answer are lowered together. */
  merge(lowering: Lowering, scope: Scope, node: RawNode): readonly TfValue[] {
    const info = this.branch(node);
    const level = this.#level(node, info.predicate);
    const key = `${info.predicate}@${level}`;
    const test = lowering.value(scope, info.pred);
    const made = this.#once(scope, key, () => {
      const group = this.#closers(info.predicate).filter((m) => this.#isNeeded(m.name) && this.#level(m, info.predicate) === level);
      if (!group.includes(node)) group.push(node);
      const infos = group.map((m) => this.branch(m));
      const run = (side: "yes" | "no") => (b: Builder) =>
        lowering.values(
          this.#inner(scope, b, this.#branchMembers(info.predicate), info.predicate),
          infos.map((i) => i[side]),
        );
      const values = lowerIf(scope.builder, test, { yes: run("yes"), no: run("no") });
      return new Map(group.flatMap((m, i) => (values[i] === undefined ? [] : [[m.name, values[i]] as const])));
    });
    const v = made.get(node.name);
    if (v === undefined) return this.#fail(node, "a Merge has no value");
    if (this.ports(node.name) < 2) return [v];
    const b = scope.builder;
    if (test.kind !== "tensor") return [v];
    const truth = b.cast(test, "bool");
    return [v, b.cast(info.trueIndex === 1 ? truth : b.op("Not", [truth]), "int32")];
  }

  #once(scope: Scope, key: string, make: () => ReadonlyMap<string, TfValue>): ReadonlyMap<string, TfValue> {
    let table = this.#done.get(scope);
    if (table === undefined) {
      table = new Map();
      this.#done.set(scope, table);
    }
    let found = table.get(key);
    if (found === undefined) {
      found = make();
      table.set(key, found);
    }
    return found;
  }
  #inner(scope: Scope, builder: Builder, members: ReadonlySet<string>, predicate: string | undefined): Scope {
    return {
      graph: scope.graph,
      builder,
      outer: scope,
      belongs: (n) => members.has(n),
      values: new Map(),
      open: new Set(),
      attrs: scope.attrs,
      calls: scope.calls,
      path: scope.path,
      predicate,
    };
  }

  /** How many Merges of the predicate lie one behind the other before this one. */
  #level(merge: RawNode, predicate: string): number {
    const others = this.#closers(predicate);
    if (others.length < 2) return 0;
    const names = new Set(others.map((m) => m.name));
    names.delete(merge.name);
    const before = backwards(
      this.#graph,
      merge.ins.map((r) => r.node),
    );
    return others.filter((m) => names.has(m.name) && before.has(m.name)).length;
  }
  #closersByPredicate: Map<string, RawNode[]> | undefined;
  #closers(predicate: string): RawNode[] {
    if (this.#closersByPredicate === undefined) {
      this.#closersByPredicate = new Map();
      for (const n of this.#graph.nodes.values()) {
        if (!isOp(n, "Merge") || this.#isLoopMerge(n)) continue;
        const [a, b] = n.ins;
        if (a === undefined || b === undefined) continue;
        const p = this.#closing(this.#conditionsOf(a), this.#conditionsOf(b));
        if (p === undefined) continue;
        const list = this.#closersByPredicate.get(p);
        if (list === undefined) this.#closersByPredicate.set(p, [n]);
        else list.push(n);
      }
    }
    return [...(this.#closersByPredicate.get(predicate) ?? [])];
  }

  #branchMembers(predicate: string): ReadonlySet<string> {
    const known = this.#members.get(predicate);
    if (known !== undefined) return known;
    const closers = new Set(this.#closers(predicate).map((m) => m.name));
    const switches: string[] = [];
    for (const n of this.#graph.nodes.values())
      if (isOp(n, "Switch") && n.ins[1] !== undefined && this.#key(n.ins[1]) === predicate) switches.push(n.name);
    const members = this.#forward(switches, (n) => closers.has(n));
    this.#members.set(predicate, members);
    return members;
  }

  #isLoopMerge(n: RawNode): boolean {
    return n.ins.some((r) => isOp(this.#graph.nodes.get(r.node), "NextIteration"));
  }
  #throughIdentity(ref: Ref): Ref {
    let at = ref;
    for (let steps = 0; steps < 100; steps++) {
      const n = this.#graph.nodes.get(at.node);
      const [before] = n?.ins ?? [];
      if (n?.op !== "Identity" || before === undefined) return at;
      at = before;
    }
    return at;
  }
  /** A predicate's identity: the tensor behind its Identities. */
  #key(ref: Ref): string {
    const r = this.#throughIdentity(ref);
    return `${r.node}:${r.port}`;
  }

  /** The predicate on which two sets of conditions differ; where one input hangs on nothing, the innermost of the other's. */
  #closing(a: Conditions, b: Conditions): string | undefined {
    for (const [p, side] of [...a].reverse()) if (b.has(p) && b.get(p) !== side) return p;
    const single = [...a.keys()].filter((p) => !b.has(p)).concat([...b.keys()].filter((p) => !a.has(p)));
    // Conditions are listed outermost first.
    return single[single.length - 1];
  }

  /** Which way each Switch before a tensor must have gone. Without recursion: graphs are deep. */
  #conditionsOf(ref: Ref): Conditions {
    const stack = [ref.node];
    for (let name = stack[stack.length - 1]; name !== undefined; name = stack[stack.length - 1]) {
      const n = this.#graph.nodes.get(name);
      if (n === undefined || this.#conditions.has(name)) {
        stack.pop();
        continue;
      }
      const before = this.#before(n);
      const pending = before.filter((b) => !this.#conditions.has(b.node) && this.#graph.nodes.has(b.node) && !this.#open.has(b.node));
      if (pending.length > 0 && !this.#open.has(name)) {
        this.#open.add(name);
        stack.push(...pending.map((p) => p.node));
        continue;
      }
      this.#open.delete(name);
      this.#conditions.set(name, this.#join(n, before));
      stack.pop();
    }
    return this.#at(ref);
  }
  readonly #open = new Set<string>();
  #before(n: RawNode): readonly Ref[] {
    if (isOp(n, "Merge") && this.#isLoopMerge(n)) return n.ins.filter((r) => isOp(this.#graph.nodes.get(r.node), "Enter"));
    return [...n.ins, ...n.controls.map((node): Ref => ({ node, port: -1 }))];
  }
  #join(n: RawNode, before: readonly Ref[]): Conditions {
    if (before.length === 0) return NONE;
    if (isOp(n, "Merge") && before.length >= 2 && !this.#isLoopMerge(n)) {
      const [a, b] = [this.#at(n.ins[0]), this.#at(n.ins[1])];
      const p = this.#closing(a, b);
      const out = new Map([...a, ...b]);
      if (p !== undefined) out.delete(p);
      return out;
    }
    let out: Map<string, 0 | 1> | undefined;
    for (const r of before) {
      for (const [p, side] of this.#at(r)) {
        out ??= new Map();
        if (!out.has(p)) out.set(p, side);
      }
    }
    return out ?? NONE;
  }
  /** The conditions of one result: those of its node, and its side where the node is a Switch. */
  #at(ref: Ref | undefined): Conditions {
    if (ref === undefined) return NONE;
    const own = this.#conditions.get(ref.node) ?? NONE;
    const n = this.#graph.nodes.get(ref.node);
    if (!isOp(n, "Switch") || n.ins[1] === undefined || ref.port < 0) return own;
    if (isOp(this.#graph.nodes.get(n.ins[1].node), "LoopCond")) return own;
    const side = ref.argument === "output_true" || ref.port === 1 ? 1 : 0;
    return new Map([...own, [this.#key(n.ins[1]), side]]);
  }

  #forward(roots: readonly string[], stop: (n: string) => boolean): ReadonlySet<string> {
    const seen = new Set<string>(roots);
    const stack = [...roots];
    for (let n = stack.pop(); n !== undefined; n = stack.pop()) {
      for (const next of this.#after(n)) {
        if (seen.has(next) || stop(next)) continue;
        seen.add(next);
        stack.push(next);
      }
    }
    return seen;
  }
}

/** Everything `roots` need by data (and by control, where asked); nodes where `stop` holds are in the result, what they need is not. */
export function backwards(graph: RawGraph, roots: readonly string[], stop?: (n: string) => boolean, controls = false): Set<string> {
  const seen = new Set<string>(roots);
  const stack = [...roots];
  for (let name = stack.pop(); name !== undefined; name = stack.pop()) {
    if (stop?.(name) === true) continue;
    const node = graph.nodes.get(name);
    for (const r of node?.ins ?? []) {
      if (seen.has(r.node)) continue;
      seen.add(r.node);
      stack.push(r.node);
    }
    if (!controls) continue;
    for (const c of node?.controls ?? []) {
      if (seen.has(c)) continue;
      seen.add(c);
      stack.push(c);
    }
  }
  return seen;
}

function frameOf(enter: RawNode): string {
  const a = enter.attrs.get("frame_name");
  return a?.s === undefined ? "" : Buffer.from(a.s).toString("utf8");
}
