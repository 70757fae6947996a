/** Operators that the TensorFlow importer had to leave as they are: nothing runs them, and compiling what needs them says so. */
import { defineError } from "../../diagnostics.js";
import { bodiesOf } from "../../ir/graph.js";
import type { Graph, Node } from "../../ir/types.js";
import { type Operator, operatorOf } from "../../ops/javascript.js";
import { lookupTf } from "../../ops/tf/registry.js";

export const unreadable = defineError<{ count: number; first: string; more: readonly string[] }>(
  "P1334",
  "a graph needs TensorFlow operators that nothing runs",
  ({ count, first, more }) => ({
    what: `${count} TensorFlow operator${count === 1 ? " has" : "s have"} no lowering${more.length === 0 ? "" : ` (${more.join(", ")})`}`,
    why: first,
    fix: "cut the graph before them with `outputs`, or behind them with `inputs` and feed what they compute; or supply them as JavaScript `operators`",
  }),
);

/**
 * The kept nodes of a graph and of the bodies in it; without those that have a lowering and only read what one of the others gives, whose type is
 * not known.
 */
export function unreadableNodes(g: Graph, operators: readonly Operator[] = []): readonly Node[] {
  const isKept = (n: Node): boolean => n.domain === "tensorflow" && operatorOf(operators, n) === undefined;
  const given = new Set(g.nodes.filter(isKept).flatMap((n) => n.outs));
  const follows = (n: Node): boolean => lookupTf(n.op)?.rule.kind === "lower" && n.ins.some((v) => v !== undefined && given.has(v));
  const found: Node[] = [];
  for (const n of g.nodes) {
    if (isKept(n) && !follows(n)) found.push(n);
    for (const { body } of bodiesOf(n)) found.push(...unreadableNodes(body.graph, operators));
  }
  return found;
}

/** Throws P1334 where the graph holds such operators, besides those that the user supplies. */
export function demandReadable(g: Graph, operators: readonly Operator[] = []): void {
  const nodes = unreadableNodes(g, operators);
  const [first] = nodes;
  if (first === undefined) return;
  const names = [...new Set(nodes.map((n) => n.op))].sort();
  throw unreadable(
    { count: nodes.length, first: first.extra?.doc ?? first.op, more: names.slice(0, 8) },
    { file: g.extra?.file, node: first.name, op: first.op },
  );
}
