/** A GraphDef as the lowering walks it: nodes by name, inputs as references, function bodies alike. Nothing is lowered here. */
import { defineError, type Where } from "../../diagnostics.js";
import type { ArgDef, AttrValue, FunctionDef, GraphDef, NodeDef } from "./schema.js";

export const malformed = defineError<{ what: string }>("P1304", "a TensorFlow graph is malformed", ({ what }) => ({
  what,
  fix: "freeze or save the model again; the graph is damaged or was edited by hand",
}));

export const notATensor = defineError<{ what: string }>("P1308", "a graph's result is no tensor", ({ what }) => ({
  what,
  fix: "name other `outputs`",
}));

/** `node:port`, or in a function `node:argument:index`. */
export interface Ref {
  readonly node: string;
  readonly port: number;
  /** Name of the output argument that `port` counts within; functions only. */
  readonly argument?: string | undefined;
}
export interface RawNode {
  readonly name: string;
  readonly op: string;
  readonly ins: readonly Ref[];
  readonly controls: readonly string[];
  readonly attrs: ReadonlyMap<string, AttrValue>;
  /** Place in the file. */
  readonly index: number;
}
export interface RawGraph {
  readonly nodes: ReadonlyMap<string, RawNode>;
}
export interface RawFunction extends RawGraph {
  readonly name: string;
  readonly args: readonly ArgDef[];
  readonly rets: readonly Ref[];
  /** Names of the results, in order. */
  readonly retNames: readonly string[];
}
export interface RawModel extends RawGraph {
  readonly functions: ReadonlyMap<string, RawFunction>;
  /** Version of the TensorFlow that wrote the graph, as GraphDef counts them; 0 when unknown. */
  readonly producer: number;
}

const NO_ATTRS: ReadonlyMap<string, AttrValue> = new Map();
/** Operator of a function's formal argument; `index` counts them. */
export const ARGUMENT = "_Arg";

export function readGraph(g: GraphDef, file: string | undefined): RawModel {
  const functions = new Map<string, RawFunction>();
  for (const f of g.library?.function ?? []) {
    const read = readFunction(f, file);
    functions.set(read.name, read);
  }
  return { nodes: readNodes(g.node ?? [], file, parseRef), functions, producer: Number(g.versions?.producer ?? 0) };
}

function readNodes(
  list: readonly NodeDef[],
  file: string | undefined,
  parse: (text: string, where: Where) => Ref,
  nodes = new Map<string, RawNode>(),
): Map<string, RawNode> {
  list.forEach((n, index) => {
    const name = n.name ?? "";
    const op = n.op ?? "";
    const where = { file, node: name, op };
    if (name === "") throw malformed({ what: `node number ${index} has no name` }, { file });
    if (op === "") throw malformed({ what: "a node names no operator" }, where);
    if (nodes.has(name)) throw malformed({ what: `two nodes are named '${name}'` }, where);
    const ins: Ref[] = [];
    const controls: string[] = [];
    for (const text of n.input ?? []) {
      if (text.startsWith("^")) controls.push(text.slice(1));
      else ins.push(parse(text, where));
    }
    nodes.set(name, { name, op, ins, controls, attrs: n.attr ?? NO_ATTRS, index });
  });
  return nodes;
}

/** `name` or `name:port`. Throws P1304. */
export function parseRef(text: string, where: Where): Ref {
  const colon = text.lastIndexOf(":");
  if (colon < 0) return { node: text, port: 0 };
  const port = text.slice(colon + 1);
  if (!/^\d{1,6}$/.test(port)) throw malformed({ what: `input '${text}' is no tensor name` }, where);
  return { node: text.slice(0, colon), port: Number(port) };
}

function parseFunctionRef(text: string, where: Where): Ref {
  const parts = text.split(":");
  const [node = "", second, third] = parts;
  if (second === undefined) return { node, port: 0 };
  if (third === undefined) {
    // `argument:index` of a list argument, as old writers spell it.
    if (/^\d{1,6}$/.test(second)) return { node, port: Number(second) };
    return { node, port: 0, argument: second };
  }
  if (!/^\d{1,6}$/.test(third) || parts.length > 3) throw malformed({ what: `input '${text}' is no tensor name` }, where);
  return { node, port: Number(third), argument: second };
}

function readFunction(f: FunctionDef, file: string | undefined): RawFunction {
  const name = f.signature?.name ?? "";
  if (name === "") throw malformed({ what: "a function has no name" }, { file });
  const args = f.signature?.input_arg ?? [];
  const nodes = new Map<string, RawNode>();
  args.forEach((a, index) => {
    const arg = a.name ?? "";
    nodes.set(arg, { name: arg, op: ARGUMENT, ins: [], controls: [], attrs: NO_ATTRS, index });
  });
  readNodes(f.node_def ?? [], file, parseFunctionRef, nodes);
  const rets = (f.signature?.output_arg ?? []).map((o): Ref => {
    const text = f.ret?.get(o.name ?? "");
    if (text === undefined) throw malformed({ what: `function '${name}' does not say what its result '${o.name ?? ""}' is` }, { file });
    return parseFunctionRef(text, { file, node: name });
  });
  return { name, args, nodes, rets, retNames: (f.signature?.output_arg ?? []).map((o) => o.name ?? "") };
}

export const refText = (r: Ref): string => (r.argument === undefined ? `${r.node}:${r.port}` : `${r.node}:${r.argument}:${r.port}`);
