/**
 * Checks a graph's invariants, by number:
 *  1. every id used is a value of the graph
 *  2. every value has exactly one origin: input, capture, constant or node output
 *  3. a node reads only values whose origin comes before it
 *  4. names are unique and not empty
 *  5. node ids are unique and below nodeLimit
 *  6. constants have legal dims, and their bytes fit their type
 *  7. outputs are defined
 *  8. bodies hold as many captures as their node binds, and are valid themselves; the top has none
 */
import { defineError } from "../diagnostics.js";
import { byteLength } from "./dtypes.js";
import { bodiesOf, displayName } from "./graph.js";
import { elementCount, payloadLength } from "./payload.js";
import type { Constant, Graph, ValueId } from "./types.js";

export const invariantBroken = defineError<{ invariant: number; what: string; after: string | undefined }>(
  "P1410",
  "a graph is not valid",
  ({ invariant, what, after }) => ({
    what: `invariant ${invariant} does not hold${after === undefined ? "" : ` after pass '${after}'`}: ${what}`,
    fix:
      after === undefined
        ? "report it with the model: the importer should have refused it"
        : "mend the pass; src/ir/verify.ts lists the invariants",
  }),
  70,
);

/** Throws P1410 for the first invariant that does not hold. `after` names the pass that made the graph. Linear time. */
export function verify(g: Graph, after?: string): void {
  if (g.captures.length > 0) throw invariantBroken({ invariant: 8, what: "the top graph has captures", after });
  verifyGraph(g, after);
}

function verifyGraph(g: Graph, after: string | undefined): void {
  const broken = (invariant: number, what: string, node?: string): never => {
    throw invariantBroken({ invariant, what, after }, { file: g.extra?.file, node });
  };
  const label = (v: ValueId): string => `'${g.values[v]?.name ?? `id ${v}`}'`;
  const defined = new Uint8Array(g.values.length);
  const define = (v: ValueId, what: string, node?: string): void => {
    if (g.values[v]?.id !== v) broken(1, `${what} ${label(v)} is not a value of the graph`, node);
    if (defined[v] === 1) broken(2, `${label(v)} has a second origin: ${what}`, node);
    defined[v] = 1;
  };
  const names = new Set<string>();
  for (const v of g.values) {
    if (v === undefined) continue;
    if (v.name === "" || names.has(v.name)) broken(4, v.name === "" ? "a value has no name" : `two values are named '${v.name}'`);
    names.add(v.name);
  }
  for (const v of g.inputs) define(v, "input");
  for (const v of g.captures) define(v, "capture");
  for (const [v, c] of g.constants) {
    define(v, "constant");
    const fault = constantFault(c);
    if (fault !== undefined) broken(6, `constant ${label(v)} ${fault}`);
  }
  const ids = new Set<number>();
  for (const n of g.nodes) {
    const name = displayName(g, n);
    if (n.id >= g.nodeLimit || ids.has(n.id)) broken(5, `node id ${n.id} is ${ids.has(n.id) ? "used twice" : "not below the limit"}`, name);
    ids.add(n.id);
    const read = (v: ValueId): void => {
      if (g.values[v] === undefined) broken(1, `it reads ${label(v)}, which is not a value of the graph`, name);
      if (defined[v] !== 1) broken(3, `it reads ${label(v)} before that is defined`, name);
    };
    for (const v of n.ins) if (v !== undefined) read(v);
    for (const { attribute, body } of bodiesOf(n)) {
      if (body.captures.length !== body.graph.captures.length)
        broken(8, `body '${attribute}' has ${body.graph.captures.length} captures, ${body.captures.length} are bound`, name);
      for (const v of body.captures) read(v);
      verifyGraph(body.graph, after);
    }
    for (const v of n.outs) if (v !== undefined) define(v, "output of a node:", name);
  }
  for (const v of g.outputs) if (defined[v] !== 1) broken(7, `output ${label(v)} is not defined`);
}

function constantFault(c: Constant): string | undefined {
  const count = elementCount(c.dims);
  if (count === undefined) return `has dims [${c.dims.join(", ")}]`;
  if (c.data.kind === "strings")
    return c.dtype === "string" && c.data.values.length === count
      ? undefined
      : `holds ${c.data.values.length} strings for ${count} elements`;
  if (c.data.kind === "sparse") return undefined;
  const [needs, has] = [byteLength(c.dtype, count), payloadLength(c.data)];
  return needs === has ? undefined : `needs ${needs} bytes and has ${has}`;
}
