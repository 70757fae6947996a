/** Parts of a checkpoint's tensors: partitioned variables are kept in slices, and any variable may be restored from a part of a tensor. */
import type { Constant } from "../../ir/types.js";

/** Start and length by dim. */
type Region = readonly { readonly start: number; readonly length: number }[];
/** A part of a tensor, as RestoreV2's `shape_and_slices` says it: `7 4 0,3:-`. */
export interface Part {
  readonly dims: readonly number[];
  readonly region: Region;
}
export interface Piece {
  readonly region: Region;
  readonly constant: Constant;
}

/** Undefined for text that means the whole tensor, or nothing. */
export function parsePart(text: string): Part | undefined {
  const words = text.split(" ");
  const spec = words.pop() ?? "";
  const dims = words.map(Number);
  const extents = spec === "" ? [] : spec.split(":");
  if (dims.length === 0 || extents.length !== dims.length) return undefined;
  const region = extents.map((e, i) => {
    const [start = 0, length = 0] = e === "-" ? [0, dims[i]] : e.split(",").map(Number);
    return { start, length };
  });
  const sound = region.every(({ start, length }, i) => within(start, length, dims[i] ?? 0));
  return sound ? { dims, region } : undefined;
}
/** Whether a run of a dim lies in it. */
export const within = (start: number, length: number, dim: number): boolean =>
  [start, length, dim].every((n) => Number.isSafeInteger(n) && n >= 0) && start + length <= dim;

export const wholeRegion = (dims: readonly number[]): Region => dims.map((length) => ({ start: 0, length }));
export const sameRegion = (a: Region, b: Region): boolean =>
  a.length === b.length && a.every((r, i) => r.start === b[i]?.start && r.length === b[i]?.length);
export const volume = (r: Region): number => r.reduce((n, { length }) => n * length, 1);
export function common(a: Region, b: Region): Region | undefined {
  const both = a.map((r, i) => {
    const s = b[i] ?? { start: 0, length: 0 };
    const start = Math.max(r.start, s.start);
    return { start, length: Math.min(r.start + r.length, s.start + s.length) - start };
  });
  return both.every((r) => r.length > 0) ? both : undefined;
}

/**
 * The key that a slice is kept under: a code whose order is that of its parts (0, the name, the rank, start and length of every dim), one
 * character a byte. A full dim has length -1 there.
 */
export function sliceKey(name: string, extents: readonly { readonly start: number; readonly length: number }[]): string {
  const natural = (n: number): string => {
    let digits = "";
    for (let rest = n; rest > 0; rest = Math.floor(rest / 256)) digits = String.fromCharCode(rest % 256) + digits;
    return String.fromCharCode(digits.length) + digits;
  };
  const escaped = Buffer.from(name, "utf8")
    .toString("latin1")
    .replace(/[\0\xff]/g, (c) => (c === "\0" ? "\0\xff" : "\xff\0"));
  return `${natural(0)}${escaped}\0\x01${natural(extents.length)}${extents.map((e) => signed(e.start) + signed(e.length)).join("")}`;
}
/** Seven bits a byte; as many leading ones as there are bytes, then the number, all of it inverted where it is negative. */
function signed(n: number): string {
  const value = BigInt(n);
  const bits = (value < 0n ? ~value : value).toString(2).replace(/^0$/, "").length + 1;
  const bytes = Math.ceil(bits / 7);
  const width = BigInt(8 * bytes);
  const header = ((1n << BigInt(bytes)) - 1n) << (width - BigInt(bytes));
  const code = BigInt.asUintN(Number(width), value) ^ BigInt.asUintN(Number(width), header);
  return Buffer.from(code.toString(16).padStart(2 * bytes, "0"), "hex").toString("latin1");
}

/** Copies what `piece` has of `wanted` into `out`, which holds `wanted` in rows; `size` is the bytes of an element. */
export function copyPart(out: Uint8Array, wanted: Region, piece: Region, bytes: Uint8Array, size: number): void {
  const part = common(wanted, piece);
  if (part === undefined) return;
  // Behind `axis` all three have the same dims: what lies there is one run.
  let axis = part.length - 1;
  while (axis > 0 && part[axis]?.length === wanted[axis]?.length && part[axis]?.length === piece[axis]?.length) axis--;
  const run = size * volume(part.slice(Math.max(axis, 0)));
  const at = new Array<number>(Math.max(axis, 0)).fill(0);
  const offset = (of: Region): number =>
    size * of.reduce((sum, r, i) => sum * r.length + ((part[i]?.start ?? 0) - r.start + (at[i] ?? 0)), 0);
  for (;;) {
    const from = offset(piece);
    out.set(bytes.subarray(from, from + run), offset(wanted));
    let i = at.length - 1;
    for (; i >= 0; i--) {
      at[i] = (at[i] ?? 0) + 1;
      if ((at[i] ?? 0) < (part[i]?.length ?? 0)) break;
      at[i] = 0;
    }
    if (i < 0) return;
  }
}
