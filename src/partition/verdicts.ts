/** Asks every engine about every node, and keeps the answers: the reasons of the report. */
import { defineError, didYouMean, no, type Verdict, yes } from "../diagnostics.js";
import { displayName, originOf, qualifiedOp, readsOf } from "../ir/graph.js";
import type { Graph, Node, NodeId, ValueId } from "../ir/types.js";
import { type EngineName, engineNames, type Fact, type Target } from "../ops/define.js";
import { doneSite } from "../ops/infer.js";
import type { Parts } from "../passes/parts.js";

/**
 * User control: nodes whose name, origin or operator matches go to `to`. Strings are exact names, operators, patterns with `*`, or regions:
 * `a..b` is every node on a path from a to b, `a..` a and all that depends on it, `..b` b and all it depends on.
 */
export interface Pin {
  readonly match: string | RegExp;
  readonly to: EngineName;
}
export const pinNowhere = defineError<{ match: string; near: string | undefined }>("P1701", "a pin matches nothing", ({ match, near }) => ({
  what: `no node, origin or operator matches the pin '${match}'`,
  fix: near === undefined ? "list the names with `partita inspect MODEL --ir`" : `did you mean '${near}'?`,
}));
export const pinRefused = defineError<{ to: string; why: string }>("P1702", "a pin asks for what an engine cannot do", ({ to, why }) => ({
  what: `it is pinned to '${to}', which cannot run it: ${why}`,
  fix: "pin it elsewhere, or remove the pin",
}));
export const strictRefused = defineError<{ count: number; why: string }>(
  "P1703",
  "strict mode: something would run on the host",
  ({ count, why }) => ({
    what: `${count} node${count === 1 ? "" : "s"} would run on the host, the first because ${why}`,
    why: "strict allows no node outside the engines asked for",
    fix: "pin them to the host, cut them off with `outputs`, or compile without strict",
  }),
);

/** Per engine, the verdict on each node by node id. */
export interface Verdicts {
  /** Engines besides the host, in order of preference. */
  readonly engines: readonly EngineName[];
  readonly of: (node: NodeId, engine: EngineName) => Verdict;
  /** Where a pin sends a node. */
  readonly pinned: ReadonlyMap<NodeId, EngineName>;
}

export interface JudgeOptions {
  readonly engines: readonly EngineName[];
  readonly target: Target;
  readonly pins?: readonly Pin[] | undefined;
  readonly facts: (v: ValueId) => Fact;
  /** Of engines that are given some operators in parts. */
  readonly parts?: Readonly<Partial<Record<EngineName, Parts | undefined>>> | undefined;
  /** Verdicts as if: operator name to engine that is taken to support it ("host": to refuse it everywhere). */
  readonly whatIf?: ReadonlyMap<string, EngineName> | undefined;
}

export const noSuchOperator = defineError<{ op: string; near: string | undefined }>(
  "P1704",
  "a what-if names an operator that the graph does not have",
  ({ op, near }) => ({
    what: `no node has the operator '${op}'`,
    fix: near === undefined ? "list the operators with `partita inspect MODEL --ops`" : `did you mean '${near}'?`,
  }),
);

/** Throws P1701 for a pin that matches nothing, P1702 for one that asks too much, P1704 for a what-if without a node. */
export function judge(g: Graph, options: JudgeOptions): Verdicts {
  for (const op of options.whatIf?.keys() ?? []) {
    const known = new Set(g.nodes.flatMap((n) => [n.op, qualifiedOp(n)]));
    if (!known.has(op)) throw noSuchOperator({ op, near: didYouMean(op, known) }, { file: g.extra?.file });
  }
  const table = new Map<NodeId, readonly Verdict[]>();
  for (const n of g.nodes)
    table.set(
      n.id,
      engineNames.map((e) => ask(g, n, e, options)),
    );
  const pinned = new Map<NodeId, EngineName>();
  for (const pin of options.pins ?? []) {
    let any = false;
    for (const n of matched(g, pin.match)) {
      any = true;
      const verdict = table.get(n.id)?.[engineNames.indexOf(pin.to)] ?? yes;
      if (!verdict.ok)
        throw pinRefused({ to: pin.to, why: verdict.why }, { file: g.extra?.file, node: displayName(g, n), op: qualifiedOp(n) });
      pinned.set(n.id, pin.to);
    }
    if (!any)
      throw pinNowhere({
        match: String(pin.match),
        near: typeof pin.match === "string" ? didYouMean(pin.match, new Set(g.nodes.flatMap((n) => [displayName(g, n), n.op]))) : undefined,
      });
  }
  return {
    engines: options.engines,
    pinned,
    of: (node, engine) => {
      const pin = pinned.get(node);
      if (pin !== undefined && pin !== engine && engine !== "host") return no(`it is pinned to '${pin}'`, "remove the pin");
      return table.get(node)?.[engineNames.indexOf(engine)] ?? no("the node is not in the graph");
    },
  };
}

function ask(g: Graph, n: Node, engine: EngineName, options: JudgeOptions): Verdict {
  if (engine === "host") return yes;
  const assumed = options.whatIf?.get(n.op) ?? options.whatIf?.get(qualifiedOp(n));
  if (assumed !== undefined)
    return assumed === engine
      ? yes
      : assumed === "host"
        ? no("what-if: taken as unsupported")
        : no(`what-if: taken as supported by '${assumed}' alone`);
  const parts = options.parts?.[engine];
  const own = parts?.of(n.id);
  if (parts === undefined || own === undefined) return answer(g, n, engine, options.target, options.facts);
  for (const part of own) {
    const verdict = answer(parts.graph, part, engine, options.target, parts.facts);
    if (!verdict.ok) return no(`it is taken in parts, and of its ${qualifiedOp(part)}: ${verdict.why}`, verdict.fix);
  }
  return yes;
}
/** What the operator's own table says. */
function answer(g: Graph, n: Node, engine: EngineName, target: Target, facts: (v: ValueId) => Fact): Verdict {
  const done = doneSite(g, n, facts);
  if (done === undefined) return no(`${qualifiedOp(n)} is not an operator Partita knows`, "it runs on the host as it is");
  const lowering = done.def.on[engine];
  if ("absent" in lowering) return no(lowering.absent, lowering.fix);
  return lowering.supports(done.site, target);
}

/** The verdicts with some of them replaced: what `change` gives for a node and engine stands, undefined leaves it. Pins stay. */
export function assume(verdicts: Verdicts, change: (node: NodeId, engine: EngineName) => Verdict | undefined): Verdicts {
  return {
    ...verdicts,
    of: (node, engine) => {
      const pin = verdicts.pinned.get(node);
      const changed = pin === undefined || pin === engine ? change(node, engine) : undefined;
      return changed ?? verdicts.of(node, engine);
    },
  };
}

/** The nodes a pin speaks of, in the graph's order. */
export function matched(g: Graph, match: string | RegExp): readonly Node[] {
  const called = (test: (text: string) => boolean): readonly Node[] =>
    g.nodes.filter((n) => [displayName(g, n), ...originOf(n), n.op, qualifiedOp(n)].some(test));
  const direct = called(matcher(match));
  const at = typeof match === "string" ? match.indexOf("..") : -1;
  if (direct.length > 0 || at < 0 || typeof match !== "string") return direct;
  const [first, last] = [match.slice(0, at), match.slice(at + 2)];
  if (first === "" && last === "") return [];
  const after = first === "" ? undefined : reach(g, called(matcher(first)), false);
  const before = last === "" ? undefined : reach(g, called(matcher(last)), true);
  return g.nodes.filter((n) => after?.has(n.id) !== false && before?.has(n.id) !== false);
}

/** The nodes given, and all that lie behind them (or before them, backwards). */
function reach(g: Graph, from: readonly Node[], backwards: boolean): ReadonlySet<NodeId> {
  const found = new Set(from.map((n) => n.id));
  const values = new Set<ValueId>();
  const note = (n: Node): void => {
    for (const v of backwards ? readsOf(n) : n.outs) if (v !== undefined) values.add(v);
  };
  // Nodes stand in topological order, so one sweep in the right direction meets everything.
  for (const n of backwards ? [...g.nodes].reverse() : g.nodes) {
    const touches = (backwards ? n.outs : readsOf(n)).some((v) => v !== undefined && values.has(v));
    if (touches) found.add(n.id);
    if (touches || found.has(n.id)) note(n);
  }
  return found;
}

function matcher(match: string | RegExp): (text: string) => boolean {
  if (match instanceof RegExp) return (text) => match.test(text);
  if (!match.includes("*")) return (text) => text === match;
  const pattern = new RegExp(
    `^${match
      .split("*")
      .map((s) => s.replace(/[.+?^${}()|[\]\\]/g, "\\$&"))
      .join(".*")}$`,
  );
  return (text) => pattern.test(text);
}
