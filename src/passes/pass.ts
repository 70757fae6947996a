/** What a pass is: a named function from graph to graph with its reason, and the runner that applies a list of them. */
import type { Remarks } from "../diagnostics.js";
import { NO_ATTRS } from "../ir/graph.js";
import { graphHash } from "../ir/hash.js";
import type { Attr, Constant, Graph, Node, ValueId } from "../ir/types.js";
import { verify } from "../ir/verify.js";
import type { Fact } from "../ops/define.js";
import { type InferOptions, inferGraph } from "../ops/infer.js";

export interface PassContext {
  readonly remarks: Remarks;
  /** Runs a graph without inputs on ONNX Runtime and gives its outputs; absent where nothing can be evaluated. */
  readonly evaluate?: ((g: Graph) => Promise<readonly (Constant | undefined)[]>) | undefined;
  /** Folded constants above this many bytes are not worth their room. */
  readonly maxFoldedBytes: number;
  readonly shapes?: InferOptions["shapes"];
  /** Facts of the graph's values, bodies' captures not among them. Inference runs once per graph. */
  facts(g: Graph): (v: ValueId) => Fact;
}
export interface Pass {
  readonly name: string;
  /** Why it exists and why it stands where it does. */
  readonly why: string;
  run(g: Graph, context: PassContext): Graph | Promise<Graph>;
}
export const definePass = (pass: Pass): Pass => pass;

export interface PassRecord {
  readonly pass: string;
  readonly nodesBefore: number;
  readonly nodesAfter: number;
  readonly changed: boolean;
}
export interface PassRun {
  readonly graph: Graph;
  readonly log: readonly PassRecord[];
}
export interface RunPassesOptions extends Partial<Omit<PassContext, "facts">> {
  /** Verify after each pass, and compare hashes with what a pass says of itself. */
  readonly verify?: boolean | undefined;
  /** Stop after this pass. */
  readonly until?: string | undefined;
  readonly onPass?: ((pass: string) => void) | undefined;
}

/** Applies passes in order. Throws P1410 (naming the pass) when `verify` is on and a pass breaks the graph. */
export async function runPasses(g: Graph, passes: readonly Pass[], options: RunPassesOptions = {}): Promise<PassRun> {
  const context = passContext(options);
  const log: PassRecord[] = [];
  let graph = g;
  for (const pass of passes) {
    options.onPass?.(pass.name);
    const next = await pass.run(graph, context);
    if (options.verify === true) {
      verify(next, pass.name);
      if (next === graph || graphHash(next) === graphHash(graph)) {
        log.push({ pass: pass.name, nodesBefore: graph.nodes.length, nodesAfter: next.nodes.length, changed: false });
        graph = next;
        if (pass.name === options.until) break;
        continue;
      }
    }
    log.push({ pass: pass.name, nodesBefore: graph.nodes.length, nodesAfter: next.nodes.length, changed: next !== graph });
    graph = next;
    if (pass.name === options.until) break;
  }
  return { graph, log };
}

export function passContext(options: RunPassesOptions = {}): PassContext {
  const known = new WeakMap<Graph, (v: ValueId) => Fact>();
  return {
    remarks: options.remarks ?? (() => {}),
    evaluate: options.evaluate,
    maxFoldedBytes: options.maxFoldedBytes ?? 64 * 2 ** 20,
    shapes: options.shapes,
    facts(g) {
      let f = known.get(g);
      if (f === undefined) {
        f = inferGraph(g, { shapes: options.shapes }).facts;
        known.set(g, f);
      }
      return f;
    },
  };
}

/** Applies a function to a graph and, innermost first, to the bodies in it. */
export function deep(g: Graph, f: (g: Graph) => Graph): Graph {
  const work = bodies(g);
  for (const b of work) b.result = deep(b.graph, f);
  return f(withBodies(g, work));
}
/** As `deep`, for functions that wait. */
export async function deepAsync(g: Graph, f: (g: Graph) => Promise<Graph>): Promise<Graph> {
  const work = bodies(g);
  for (const b of work) b.result = await deepAsync(b.graph, f);
  return await f(withBodies(g, work));
}

interface BodyWork {
  readonly node: Node;
  readonly attribute: string;
  readonly graph: Graph;
  result: Graph;
}
function bodies(g: Graph): BodyWork[] {
  return g.nodes.flatMap((node) =>
    node.attrs === NO_ATTRS
      ? []
      : Object.entries(node.attrs).flatMap(([attribute, a]) =>
          a.kind === "graph" ? [{ node, attribute, graph: a.value.graph, result: a.value.graph }] : [],
        ),
  );
}
function withBodies(g: Graph, work: readonly BodyWork[]): Graph {
  const changed = new Map<Node, Record<string, Attr>>();
  for (const { node, attribute, graph, result } of work) {
    if (result === graph) continue;
    const attrs = changed.get(node) ?? { ...node.attrs };
    const old = node.attrs[attribute];
    if (old?.kind === "graph") attrs[attribute] = { kind: "graph", value: { graph: result, captures: old.value.captures } };
    changed.set(node, attrs);
  }
  if (changed.size === 0) return g;
  return {
    ...g,
    nodes: g.nodes.map((n) => {
      const attrs = changed.get(n);
      return attrs === undefined ? n : { ...n, attrs };
    }),
  };
}
