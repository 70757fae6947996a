/**
 * Channels-last regions between channels-first operators become channels-first, where that leaves fewer transposed bytes. A region is what
 * elementwise operators, concatenations, pads, reductions and their like tie together; its transposes lie on its boundary, so that turning
 * the whole region either removes them or is not worth it: the pass never adds more than it takes away.
 */

import { Editor } from "../ir/edit.js";
import { shapeOfType, UNKNOWN_TYPE } from "../ir/graph.js";
import { int64Constant, movesNothing, transposed } from "../ir/payload.js";
import type { Attr, Dim, Graph, Node, NodeId, Shape, ValueId } from "../ir/types.js";
import { rulesOf, type Turn, type TurnContext, toFirst, toLast } from "./layout-rules.js";
import { deep, definePass } from "./pass.js";

export const layout = definePass({
  name: "layout",
  why: "TensorFlow's channels-last graphs are read with a Transpose on each side of every convolution; after folding constants, so that biases and scales are vectors whose layout costs nothing.",
  run: (g, context) => {
    const shapes = (of: Graph) => {
      const facts = context.facts(of);
      return (v: ValueId): Shape => shapeOfType(facts(v).type);
    };
    // Bodies carry the types that inference wrote into them.
    const declared = (of: Graph) => (v: ValueId) => shapeOfType(of.values[v]?.type ?? UNKNOWN_TYPE);
    return deep(g, (part) => {
      if (part.outputs !== g.outputs) return turned(part, declared);
      const done = turned(part, shapes);
      return asReshapes(done, shapes(done));
    });
  },
});

const permOf = (n: Node | undefined): readonly number[] | undefined => {
  const a = n?.op === "Transpose" && n.domain === "" ? n.attrs["perm"] : undefined;
  return a?.kind === "ints" ? a.value.map(Number) : undefined;
};
const isPerm = (n: Node | undefined, perm: readonly number[]): n is Node => {
  const p = permOf(n);
  return p !== undefined && p.length === perm.length && p.every((x, i) => x === perm[i]);
};
const permAttr = (p: readonly number[]): Record<string, Attr> => ({ perm: { kind: "ints", value: p } });

/** A transpose's weight: its elements, unknown dims counting as one; next to nothing where no byte moves. */
function weigh(s: Shape): number {
  if (s === undefined) return 1;
  return movesNothing(s, toFirst(s.length)) ? 0.01 : s.reduce<number>((a, d) => a * (typeof d === "number" ? d : 1), 1);
}

interface Region {
  readonly nodes: Node[];
  readonly values: Set<ValueId>;
}

function turned(g: Graph, shapesOf: (g: Graph) => (v: ValueId) => Shape): Graph {
  const shapeOf = shapesOf(g);
  const draft = new Editor(g);
  meet(draft, g);
  const rankOf = (v: ValueId): number => shapeOf(v)?.length ?? 0;
  const turns = new Map<Node, Turn>();
  const context: TurnContext = { shape: shapeOf, constant: (v) => draft.constant(v) };
  const eligible = (v: ValueId | undefined): v is ValueId => v !== undefined && rankOf(v) >= 3 && rankOf(v) <= 5;
  // Values tied by an operator that works in either layout are of one region.
  const parent = new Map<ValueId, ValueId>();
  const find = (v: ValueId): ValueId => {
    let root = v;
    for (let p = parent.get(root); p !== undefined && p !== root; p = parent.get(root)) root = p;
    for (let at = v; at !== root; ) {
      const next = parent.get(at) ?? root;
      parent.set(at, root);
      at = next;
    }
    return root;
  };
  for (const n of draft.nodes()) {
    const turn = rulesOf(n, context);
    if (turn === undefined || !turn.tied.every(eligible)) continue;
    turns.set(n, turn);
    const [first] = turn.tied;
    for (const v of turn.tied) {
      if (!parent.has(v)) parent.set(v, v);
      if (first !== undefined) parent.set(find(v), find(first));
    }
  }
  const regions = new Map<ValueId, Region>();
  for (const [n, turn] of turns) {
    const root = find(turn.tied[0] as ValueId);
    let r = regions.get(root);
    if (r === undefined) {
      r = { nodes: [], values: new Set() };
      regions.set(root, r);
    }
    r.nodes.push(n);
    for (const v of turn.tied) r.values.add(v);
  }
  // With three axes a Transpose into one layout is the one into the other, and may end one region and begin another: what it made is then
  // gone with the first of them, and the other is looked at again. Each round takes away transposed elements, so that there is a last one.
  const gone = new Set<ValueId>();
  let left = false;
  for (const r of regions.values()) {
    if (gone.size > 0 && [...r.values].some((v) => gone.has(v))) left = true;
    else if (worth(draft, r, turns, shapeOf)) for (const v of flip(draft, r, turns, shapeOf)) gone.add(v);
  }
  const done = draft.finish();
  return left ? turned(done, shapesOf) : done;
}

/** A Transpose and its inverse with nothing between them. */
function meet(draft: Editor, g: Graph): void {
  for (const n of g.nodes) {
    const perm = permOf(n);
    const [x] = n.ins;
    const [y] = n.outs;
    const before = draft.producer(x);
    const inner = permOf(before);
    const source = before?.ins[0];
    if (perm === undefined || inner === undefined || x === undefined || y === undefined || source === undefined || before === undefined)
      continue;
    if (inner.length !== perm.length || !perm.every((p, i) => inner[p] === i)) continue;
    if (draft.isOutput(y) && (draft.producer(source) === undefined || draft.isOutput(source))) continue;
    draft.replaceUses(y, source);
    draft.remove(n.id);
    if (draft.uses(x).length === 0 && !draft.isOutput(x)) draft.remove(before.id);
  }
}

/** Whether turning the region takes away more transposed elements than it adds. */
function worth(draft: Editor, r: Region, turns: ReadonlyMap<Node, Turn>, shapeOf: (v: ValueId) => Shape): boolean {
  let gain = 0;
  let loss = 0;
  const inside = new Set(r.nodes.map((n) => n.id));
  for (const v of r.values) {
    const rank = shapeOf(v)?.length ?? 0;
    const weight = weigh(shapeOf(v));
    const producer = draft.producer(v);
    const made = producer !== undefined && inside.has(producer.id);
    const readers = draft.uses(v).filter((u) => !inside.has(u.id));
    const away = readers.filter((u) => isPerm(u, toFirst(rank)));
    const others = readers.length > away.length || draft.isOutput(v);
    // Several Transposes of one value count once: they are one after common-subexpression elimination.
    if (away.length > 0) gain += weight;
    if (!made && isPerm(producer, toLast(rank))) {
      // The Transpose stays where somebody else reads its result.
      if (!others) gain += weight;
    } else if (!made) loss += draft.constant(v) === undefined ? weight : 0;
    else if (others) loss += weight;
  }
  for (const n of r.nodes) loss += turns.get(n)?.cost ?? 0;
  return gain > loss;
}

/** Turns the region. Returns the values whose readers read another one now. */
function flip(draft: Editor, r: Region, turns: ReadonlyMap<Node, Turn>, shapeOf: (v: ValueId) => Shape): readonly ValueId[] {
  const gone: ValueId[] = [];
  const inside = new Set(r.nodes.map((n) => n.id));
  const first = new Map<ValueId, ValueId>();
  const entries = new Set<NodeId>();
  const made = new Set([...r.values].filter((v) => inside.has(draft.producer(v)?.id ?? (-1 as never))));
  const permuted = (v: ValueId, perm: readonly number[]): Shape => shapeOf(v)?.map((_, i, s): Dim => s[perm[i] ?? 0] ?? "?");
  const declare = (v: ValueId, suffix: string): ValueId => {
    const t = draft.type(v);
    const shape = permuted(v, toFirst(shapeOf(v)?.length ?? 0));
    return draft.declare(`${draft.value(v).name}.${suffix}`, t.kind === "tensor" ? { ...t, shape } : t);
  };
  for (const v of r.values) {
    const rank = shapeOf(v)?.length ?? 0;
    const producer = draft.producer(v);
    if (made.has(v)) {
      first.set(v, declare(v, "nchw"));
      continue;
    }
    if (isPerm(producer, toLast(rank)) && producer.ins[0] !== undefined) {
      first.set(v, producer.ins[0]);
      continue;
    }
    const c = draft.constant(v);
    if (c !== undefined) {
      first.set(v, draft.addConstant(`${draft.value(v).name}.nchw`, transposed(c, toFirst(rank))));
      continue;
    }
    const x = declare(v, "nchw");
    const reader = draft.uses(v).find((u) => inside.has(u.id));
    const entry = draft.add({
      op: "Transpose",
      ins: [v],
      outs: [x],
      attrs: permAttr(toFirst(rank)),
      name: reader?.name ?? "",
      origin: reader?.origin,
    });
    entries.add(entry.id);
    first.set(v, x);
  }
  const at = (v: ValueId): ValueId => first.get(v) ?? v;
  for (const n of r.nodes) {
    const now = draft.node(n.id);
    const turn = turns.get(n);
    if (now === undefined || turn === undefined) continue;
    const change = turn.apply(now, {
      at,
      constant: (stem, c) => draft.addConstant(stem, c),
      name: (v) => draft.value(v).name,
      insert: (op, ins, attrs, stem) => {
        const out = draft.declare(stem);
        draft.add({ op, ins, outs: [out], attrs, name: now.name, origin: now.origin });
        return out;
      },
    });
    draft.patch(n.id, { ...change, outs: now.outs.map((v) => (v !== undefined && r.values.has(v) ? at(v) : v)) });
  }
  for (const v of r.values) {
    const rank = shapeOf(v)?.length ?? 0;
    const x = at(v);
    for (const u of draft.uses(v)) {
      const [y] = u.outs;
      if (!isPerm(u, toFirst(rank)) || y === undefined || inside.has(u.id) || entries.has(u.id)) continue;
      // An output that the Transpose makes keeps it where what stands behind has a name of its own.
      if (draft.isOutput(y) && (draft.producer(x) === undefined || draft.isOutput(x))) continue;
      draft.replaceUses(y, x);
      draft.remove(u.id);
      gone.push(y);
    }
    const wanted = draft.uses(v).length > 0 || draft.isOutput(v);
    if (made.has(v)) {
      const maker = draft.producer(x);
      if (wanted)
        draft.add({ op: "Transpose", ins: [x], outs: [v], attrs: permAttr(toLast(rank)), name: maker?.name ?? "", origin: maker?.origin });
      continue;
    }
    const producer = draft.producer(v);
    if (!wanted && isPerm(producer, toLast(rank))) draft.remove(producer.id);
  }
  return gone;
}

/** A Transpose that moves no byte is a Reshape, which merges with its neighbours. */
function asReshapes(g: Graph, shapeOf: (v: ValueId) => Shape): Graph {
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const perm = permOf(n);
    const [x] = n.ins;
    const s = x === undefined ? undefined : shapeOf(x);
    if (perm === undefined || s === undefined || s.length !== perm.length || x === undefined || !movesNothing(s, perm)) continue;
    const dims = perm.map((p) => s[p] ?? "?");
    if (dims.filter((d) => typeof d !== "number").length > 1 || dims.includes(0)) continue;
    const shape = draft.addConstant(`${draft.value(x).name}.dims`, int64Constant(dims.map((d) => (typeof d === "number" ? d : -1))));
    draft.patch(n.id, { op: "Reshape", ins: [x, shape], attrs: {} });
  }
  return draft.finish();
}
