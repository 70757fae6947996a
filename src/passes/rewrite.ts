/**
 * Rewrite rules: a pattern and what stands in its place. Applying a table of them is one walk over the graph.
 *
 * Nodes are visited from the outputs backwards, so that of two patterns where one contains the other the larger is found first. The root
 * node is patched in place (it keeps its id, name, outputs and position), the nodes inside the match go, and the new node's `origin` lists
 * all of them.
 */
import { sameDim } from "../ir/dims.js";
import { Editor } from "../ir/edit.js";
import { displayName, originOf } from "../ir/graph.js";
import { elementCount } from "../ir/payload.js";
import type { Attrs, Graph, Node, ValueId } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { dimsOf, type Match, match, type Pattern, type Subject } from "./match.js";
import { deep, definePass, type Pass, type PassContext } from "./pass.js";

/** A graph under rewriting: `edit` is the draft, `type` knows what inference says of the values that were there before. */
export interface Draft extends Subject {
  readonly edit: Editor;
}
/** What the root node becomes. */
export interface Replacement {
  readonly op: string;
  readonly ins: readonly (ValueId | undefined)[];
  readonly attrs?: Attrs | undefined;
  /** Output values, where they are not the root's own. */
  readonly outs?: readonly (ValueId | undefined)[] | undefined;
}
export interface Rule {
  /** What it recognises, as a person would name it; remarks use it. */
  readonly name: string;
  readonly pattern: Pattern;
  /** The node in its place; undefined when the operands do not fit after all, or a reason in words that is worth a remark. */
  replace(found: Match, draft: Draft): Replacement | string | undefined;
}

/** A pass that applies rules, first fit wins, in the graph and in the bodies in it. */
export function rewritePass(pass: { readonly name: string; readonly why: string; readonly rules: readonly Rule[] }): Pass {
  const byOp = new Map<string, Rule[]>();
  for (const rule of pass.rules)
    for (const o of rootOps(rule.pattern)) {
      const list = byOp.get(o) ?? [];
      list.push(rule);
      byOp.set(o, list);
    }
  return definePass({ name: pass.name, why: pass.why, run: (g, context) => deep(g, (inner) => rewritten(inner, byOp, context)) });
}

const rootOps = (p: Pattern): readonly string[] =>
  p.kind === "op" ? p.ops : p.kind === "either" ? [...new Set(p.options.flatMap(rootOps))] : [];

/** A draft of a graph whose types are inferred when somebody first asks. */
export function draftOf(g: Graph, context: Pick<PassContext, "facts">): Draft {
  const edit = new Editor(g);
  let facts: ((v: ValueId) => Fact) | undefined;
  return {
    edit,
    producer: (v) => edit.producer(v),
    constant: (v) => edit.constant(v),
    uses: (v) => edit.uses(v),
    isOutput: (v) => edit.isOutput(v),
    value: (v) => edit.value(v),
    type: (v) => {
      if (v >= g.values.length) return edit.type(v);
      facts ??= context.facts(g);
      return facts(v).type;
    },
  };
}

function rewritten(g: Graph, byOp: ReadonlyMap<string, readonly Rule[]>, context: PassContext): Graph {
  const draft = draftOf(g, context);
  for (let i = g.nodes.length - 1; i >= 0; i--) {
    const id = g.nodes[i]?.id;
    const n = id === undefined ? undefined : draft.edit.node(id);
    if (n === undefined || n.domain !== "") continue;
    for (const rule of byOp.get(n.op) ?? []) {
      const found = match(draft, n, rule.pattern);
      if (found === undefined) continue;
      const leak = found.leak();
      const made = leak === undefined ? rule.replace(found, draft) : `'${draft.value(leak).name}' inside it is read elsewhere`;
      if (made === undefined) continue;
      if (typeof made === "string") {
        leave(context, g, n, rule.name, made);
        continue;
      }
      apply(draft.edit, n, found.nodes, made);
      break;
    }
  }
  return draft.edit.finish();
}

/** Tells that something was recognised and is left alone, and why. */
export function leave(context: PassContext, g: Graph, n: Node, what: string, why: string): void {
  context.remarks({
    severity: "note",
    text: `${what} was recognised and left as it is: ${why}`,
    where: { file: g.extra?.file, node: displayName(g, n), op: n.op },
  });
}

/** Puts a replacement in the place of `root` and removes those of `nodes` that nobody reads any more; origins are kept. */
export function apply(edit: Editor, root: Node, nodes: readonly Node[], made: Replacement): void {
  const origin = [...new Set([...nodes].sort((a, b) => a.id - b.id).flatMap((n) => originOf(n)))].filter((name) => name !== "");
  edit.patch(root.id, {
    op: made.op,
    ins: made.ins,
    attrs: made.attrs ?? {},
    outs: made.outs ?? root.outs,
    ...(origin.length === 0 ? {} : { origin }),
  });
  // In whatever order they come: a node goes once its readers are gone.
  let left = nodes.filter((n) => n.id !== root.id && edit.node(n.id) !== undefined);
  for (let before = -1; left.length !== before; ) {
    before = left.length;
    left = left.filter((n) => !removeUnread(edit, n));
  }
}

/** Removes a node nobody reads; returns whether it went. */
function removeUnread(edit: Editor, n: Node): boolean {
  if (n.outs.some((v) => v !== undefined && (edit.isOutput(v) || edit.uses(v).length > 0))) return false;
  edit.remove(n.id);
  return true;
}

/**
 * Whether the expression has the dims of its operand `name`, so that no constant in it broadcasts: either the dims are known and equal, or
 * every constant is a single element of no higher rank.
 */
export function elementwise(found: Match, draft: Draft, name = "x"): boolean {
  const [x, y] = [dimsOf(draft, found.value(name)), dimsOf(draft, found.root.outs[0])];
  if (x !== undefined && y !== undefined && x.length === y.length && x.every((d, i) => sameDim(d, y[i] ?? "?") === true)) return true;
  return found.nodes.every((n) =>
    n.ins.every((v) => {
      const c = draft.constant(v);
      return c === undefined || (elementCount(c.dims) === 1 && c.dims.length <= (x?.length ?? 0));
    }),
  );
}
