/**
 * Loops whose number of trips is known, spelled out trip by trip, for engines that run no control flow. What is left of a loop's own machinery (the trip's
 * number, the condition) becomes constants.
 */
import { Editor } from "../ir/edit.js";
import { valueAt } from "../ir/graph.js";
import { int64Constant, makeConstant } from "../ir/payload.js";
import type { Body, Graph, Node, NodeId, ValueId, ValueType } from "../ir/types.js";
import type { Fact } from "../ops/define.js";
import { inferGraph } from "../ops/infer.js";
import { spellBody } from "./inline-body.js";

/** Longer loops stay loops: their kernels would take long to compile, and longer to start than the host takes to loop. */
const MOST_TRIPS = 64;
const MOST_NODES = 4096;

/** `takes`: whether the engine runs an operator; a loop that holds another stays, since every trip of it would come back to the host. */
export function unrollLoops(g: Graph, takes: (n: Node) => boolean): Graph {
  if (!g.nodes.some((n) => n.op === "Loop" && n.domain === "")) return g;
  const { facts } = inferGraph(g);
  const draft = new Editor(g);
  for (const n of g.nodes) {
    const body = n.op === "Loop" && n.domain === "" ? n.attrs["body"] : undefined;
    if (body?.kind !== "graph") continue;
    const trips = tripsOf(n, body.value, facts, takes);
    if (trips !== undefined) unroll(draft, n.id, trips);
  }
  return draft.changed ? draft.finish() : g;
}

/** How often a loop runs its body, where that is certain: a known count, and a condition that is true and stays so. */
function tripsOf(n: Node, { graph: body }: Body, facts: (v: ValueId) => Fact, takes: (n: Node) => boolean): number | undefined {
  const [count, condition] = n.ins;
  const trips = count === undefined ? undefined : facts(count).elements?.[0];
  if (typeof trips !== "number" || trips < 1 || trips > MOST_TRIPS || trips * body.nodes.length > MOST_NODES) return undefined;
  if (condition !== undefined && facts(condition).elements?.[0] !== 1) return undefined;
  if (!body.nodes.every(takes) || !body.values.every((v) => v === undefined || settled(v.type))) return undefined;
  // A body inside it could read what the loop carries: such loops stay.
  if (body.nodes.some((inner) => Object.values(inner.attrs).some((a) => a.kind === "graph" || a.kind === "graphs"))) return undefined;
  let [going] = body.outputs;
  for (let from = body.nodes.find((i) => i.outs.includes(going as ValueId)); from?.op === "Identity"; ) {
    [going] = from.ins as [ValueId];
    from = body.nodes.find((i) => i.outs.includes(going as ValueId));
  }
  if (going === undefined) return undefined;
  if (going === body.inputs[1]) return trips;
  const c = body.constants.get(going);
  return c !== undefined && inferGraph(body).facts(going).elements?.[0] === 1 ? trips : undefined;
}

/** Of a type and rank that are known, without dims that only a run reveals. */
const settled = (t: ValueType): boolean => t.kind === "tensor" && t.shape?.includes("?") === false;

function unroll(draft: Editor, id: NodeId, trips: number): void {
  // The draft's node: what its body captures may be the result of a loop that is spelled out by now.
  const now = draft.node(id);
  const body = now?.attrs["body"];
  if (now === undefined || body?.kind !== "graph") return;
  draft.remove(id);
  const { graph } = body.value;
  const stem = now.name === "" ? "loop" : now.name;
  const origin = now.origin ?? [now.name];
  const going = draft.addConstant(`${stem}.going`, makeConstant("bool", [], [1]));
  const first = draft.addConstant(`${stem}.axis`, int64Constant([0]));
  const shared = new Map<ValueId, ValueId>();
  for (const [v, c] of graph.constants) shared.set(v, draft.addConstant(valueAt(graph, v).name, c));
  const carried = graph.inputs.length - 2;
  let state = now.ins.slice(2) as readonly ValueId[];
  const scanned: ValueId[][] = graph.outputs.slice(1 + carried).map(() => []);
  for (let trip = 0; trip < trips; trip++) {
    const bound = new Map(shared);
    const [iteration, condition, ...variables] = graph.inputs as [ValueId, ValueId, ...ValueId[]];
    bound.set(iteration, draft.addConstant(`${stem}.trip${trip}`, makeConstant("int64", [], [trip])));
    bound.set(condition, going);
    variables.forEach((v, i) => {
      bound.set(v, state[i] as ValueId);
    });
    const at = spellBody(draft, body.value, bound);
    state = graph.outputs.slice(1, 1 + carried).map(at);
    graph.outputs.slice(1 + carried).forEach((v, i) => {
      const [row] = draft.add({ op: "Unsqueeze", ins: [at(v), first], outs: 1, name: `${stem}.row`, origin }).outs;
      scanned[i]?.push(row as ValueId);
    });
  }
  const rows = scanned.map(
    (list) =>
      draft.add({ op: "Concat", ins: list, outs: 1, name: `${stem}.rows`, origin, attrs: { axis: { kind: "int", value: 0 } } })
        .outs[0] as ValueId,
  );
  [...state, ...rows].forEach((made, i) => {
    const v = now.outs[i];
    if (v !== undefined) draft.replaceUses(v, made);
  });
}
