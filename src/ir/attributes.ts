/** Attributes as plain JavaScript values: single ones, and all of a node for functions that users write. */
import type { Tensor } from "../tensor.js";
import { toTensor } from "./payload.js";
import type { Attrs, Node } from "./types.js";

type PlainValue = number | bigint | string | Tensor | readonly (number | bigint)[] | readonly string[];

/** A whole number among a node's attributes; the fallback where it is absent or of another kind. */
export function intOf(n: Pick<Node, "attrs">, name: string, fallback: number): number {
  const a = n.attrs[name];
  return a?.kind === "int" ? Number(a.value) : fallback;
}

/** Graphs, types and sparse tensors have no such form and are left out; text that is not UTF-8 is read as Latin-1. */
export function operatorAttrs(attrs: Attrs): Readonly<Record<string, PlainValue>> {
  // Any name may be an attribute's, "__proto__" among them.
  const out: Record<string, PlainValue> = Object.create(null) as Record<string, PlainValue>;
  const text = (s: string | Uint8Array): string => (typeof s === "string" ? s : Buffer.from(s).toString("latin1"));
  for (const [name, a] of Object.entries(attrs)) {
    if (a.kind === "int" || a.kind === "float" || a.kind === "ints" || a.kind === "floats") out[name] = a.value;
    else if (a.kind === "string") out[name] = text(a.value);
    else if (a.kind === "strings") out[name] = a.value.map(text);
    else if (a.kind === "tensor") {
      const t = toTensor(a.value);
      if (t !== undefined) out[name] = t;
    }
  }
  return out;
}
