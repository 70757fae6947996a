/**
 * Content hash of a graph (SHA-256): operators, attributes, edges, weights, types of the interface, operator sets. Independent of ids, of the
 * names of inner values and of nodes, and of everything that only informs people. Names of inputs and outputs count: they are the interface.
 */
import { createHash, type Hash } from "node:crypto";
import { bytesOf } from "./payload.js";
import type { Attr, Constant, Graph, ValueId, ValueType } from "./types.js";

const known = new WeakMap<Constant, string>();

/** SHA-256 of a constant's type and bytes, in hexadecimal; remembered per constant. */
export function constantHash(c: Constant): string {
  const before = known.get(c);
  if (before !== undefined) return before;
  const h = createHash("sha256");
  h.update(`${c.dtype}[${c.dims.join(",")}]${c.data.kind === "sparse" ? "sparse" : ""}`);
  if (c.data.kind === "strings") for (const s of c.data.values) h.update(`${s.length}:`).update(s);
  else if (c.data.kind === "sparse") h.update(constantHash(c.data.values)).update(constantHash(c.data.indices));
  else h.update(bytesOf(c));
  const hash = h.digest("hex");
  known.set(c, hash);
  return hash;
}

/** The hash of a graph, salted with whatever else a result depends on (options, versions). */
export function graphHash(g: Graph, salt = ""): string {
  const h = createHash("sha256");
  h.update(salt);
  h.update(JSON.stringify(Object.entries(g.opsets).sort()));
  feed(h, g);
  return h.digest("hex");
}

function feed(h: Hash, g: Graph): void {
  // A value is known by the place it comes from; constants by content.
  const place = new Map<ValueId, string>();
  g.inputs.forEach((v, i) => {
    place.set(v, `i${i}`);
    h.update(`in ${JSON.stringify(g.values[v]?.name)} ${JSON.stringify(g.values[v]?.type as ValueType)}\n`);
  });
  g.captures.forEach((v, i) => place.set(v, `c${i}`));
  const name = (v: ValueId | undefined): string => {
    if (v === undefined) return "_";
    const p = place.get(v);
    if (p !== undefined) return p;
    const c = g.constants.get(v);
    const text = c === undefined ? "?" : `k${constantHash(c)}`;
    place.set(v, text);
    return text;
  };
  g.nodes.forEach((n, i) => {
    h.update(`${n.domain}.${n.op}${n.overload ?? ""}(${n.ins.map(name).join(",")})`);
    for (const key of Object.keys(n.attrs).sort()) {
      h.update(` ${key}=`);
      attribute(h, n.attrs[key] as Attr, name);
    }
    h.update("\n");
    n.outs.forEach((v, k) => {
      if (v !== undefined) place.set(v, `n${i}.${k}`);
    });
  });
  for (const v of g.outputs) h.update(`out ${JSON.stringify(g.values[v]?.name)} ${name(v)}\n`);
}

function attribute(h: Hash, a: Attr, name: (v: ValueId) => string): void {
  h.update(a.kind);
  switch (a.kind) {
    case "tensor":
      h.update(constantHash(a.value));
      break;
    case "tensors":
      for (const c of a.value) h.update(constantHash(c));
      break;
    case "graph":
      h.update(`[${a.value.captures.map(name).join(",")}]`);
      feed(h, a.value.graph);
      break;
    case "graphs":
      for (const b of a.value) {
        h.update(`[${b.captures.map(name).join(",")}]`);
        feed(h, b.graph);
      }
      break;
    case "float":
      numbers(h, [a.value]);
      break;
    case "floats":
      numbers(h, a.value);
      break;
    case "ints":
      if (a.value.every((x) => typeof x === "number")) numbers(h, a.value);
      else h.update(a.value.join());
      break;
    case "strings":
      strings(h, a.value);
      break;
    default:
      h.update(
        JSON.stringify(a.value, (_, x) => (typeof x === "bigint" ? `${x}n` : x instanceof Uint8Array ? Buffer.from(x).toString("hex") : x)),
      );
  }
}
/** Elements of a list that are taken in at once: an ensemble of trees has millions. */
const PIECE = 4096;
const piece = new Float64Array(PIECE);
const pieceBytes = new Uint8Array(piece.buffer);
/** Numbers by their bits, after how many there are: NaN, infinities and -0 have no JSON. */
function numbers(h: Hash, list: readonly number[]): void {
  h.update(`#${list.length}:`);
  for (let from = 0; from < list.length; from += PIECE) {
    const n = Math.min(PIECE, list.length - from);
    for (let i = 0; i < n; i++) piece[i] = list[from + i] as number;
    h.update(pieceBytes.subarray(0, 8 * n));
  }
}
/** Texts by the place of their first appearance, after the different ones. */
function strings(h: Hash, list: readonly (string | Uint8Array)[]): void {
  // Those that are not UTF-8 apart: in hexadecimal they are like a text.
  const [texts, others] = [new Map<string, number>(), new Map<string, number>()];
  const order = list.map((x) => {
    const [places, sign, text] = typeof x === "string" ? [texts, 1, x] : [others, -1, Buffer.from(x).toString("hex")];
    const before = places.get(text);
    if (before !== undefined) return before;
    const place = sign * (places.size + 1);
    places.set(text, place);
    return place;
  });
  h.update(JSON.stringify([[...texts.keys()], [...others.keys()]]));
  numbers(h, order);
}
