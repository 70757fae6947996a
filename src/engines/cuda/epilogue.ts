/** The end of a template's kernel: what happens to neighbouring results between the sums and the store, as text. */

import { Block, type EarlyRead } from "./block.js";
import { add, delinear, type Index, linear, product, scale, variable } from "./indexing.js";
import { ParameterList, store, storePack, type Tail } from "./loops.js";
import { operand, type Site } from "./site.js";
import { PRELUDE, storage } from "./storage.js";
import type { EpilogueText } from "./templates/index.js";
import type { View } from "./view.js";
import { largestSum } from "./weights.js";

export interface Epilogue {
  readonly text: EpilogueText;
  readonly parameters: ParameterList;
  readonly out: View;
  /** Where tiles of results go and tiles of the residual come from, when the text has a tile form: the operands of its tensor maps. */
  readonly tiles: Readonly<Record<string, View>>;
}

interface Written {
  readonly body: string;
  readonly early: readonly EarlyRead[];
  /** Address of the first of the V results. */
  readonly first: Index;
  /** Whether they lie side by side. */
  readonly together: boolean;
}

/**
 * What a template does with V neighbouring results: the operator's own end, the nodes fused behind it, and the store. `limit`: how far from 0 a sum can
 * be, where that is known.
 */
export function epilogueOf(
  columns: number,
  out: View,
  tail: Tail,
  own: (scope: Block, m: Index, n: Index, acc: string, batch: Index) => { readonly index: readonly Index[]; readonly value: string },
  rows: number,
  batchDims: readonly number[],
  accumulator: "float" | "int" = "float",
  limit?: number,
): Epilogue {
  const parameters = new ParameterList();
  const { type, bytes } = storage(out.dtype);
  const write = (V: number, tile = false): Written => {
    const b = new Block(parameters);
    // A residual is large and its address known from the start: it is fetched while the product is still being summed.
    const early = b.readEarly((view) => !view.buffer.startsWith("weight"), ["m", "nv", "b"]);
    b.line(`const int nv = n / ${V};`);
    const done = Array.from({ length: V }, (_, k) => {
      const n = add(scale(variable("nv", columns / V - 1), V), k);
      const acc = b.let(accumulator, `acc[${k}]`);
      if (limit !== undefined) b.numbers.set(acc, { under: acc, limit });
      const { index, value } = own(b, variable("m", rows - 1), n, acc, variable("b", Math.max(product(batchDims) - 1, 0)));
      return tail(b, index, value);
    });
    const addresses = done.map((d) => linear(d.index, out.strides, out.offset));
    const [first = linear([], [], 0)] = addresses;
    const together = addresses.every((a, i) => a.constant === first.constant + i && sameTerms(a, first));
    const values = done.map((d) => d.value);
    if (tile) b.line(storePack(b, out.dtype, "tile_out", values));
    else
      store(
        b,
        out,
        done.map((d) => d.index),
        values,
      );
    return { body: b.render().join("\n"), early, first, together };
  };
  const width = 16 / bytes;
  let vector = Math.min(16, width);
  while (vector > 1 && columns % vector !== 0) vector /= 2;
  // Every width names the same parameters in the same order: the text of one is written now, to know them.
  const sample = write(vector);
  const early: EpilogueText["early"] =
    sample.early.length > 0
      ? {
          type: (V) =>
            `struct { ${write(V)
              .early.map((e, i) => `${e.type} p${i};`)
              .join(" ")} }`,
          body: (V) =>
            `  const int nv = n / ${V};\n  return {${write(V)
              .early.map((e) => e.load)
              .join(", ")}};`,
        }
      : undefined;
  const made = tileOf(sample, out, vector, batchDims);
  return {
    text: {
      prelude: PRELUDE,
      params: [...parameters.declarations(), `${type}* __restrict__ out`],
      body: (V) => write(V).body,
      vector,
      ...(early === undefined ? {} : { early }),
      ...(made === undefined ? {} : { tile: { ...made.tile, body: (V: number) => write(V, true).body } }),
    },
    parameters,
    out,
    tiles: made?.views ?? {},
  };
}

/** The end of a convolution: row m is a position of the result ([images, ...spatial]), column n one of its `channels`. */
export function convolutionEnd(
  conv: Site,
  channels: number,
  positions: readonly number[],
  integer: boolean,
  out: View,
  tail: Tail,
): Epilogue {
  // The third input of an integer convolution is a zero point, which is zero.
  const bias = integer ? undefined : conv.ins[2];
  return epilogueOf(
    channels,
    out,
    tail,
    (scope, m, n, acc) => {
      const at = delinear(m, positions);
      return {
        index: [at[0] as Index, n, ...at.slice(1)],
        value: bias === undefined ? acc : scope.let("float", `${acc} + ${bias.at(scope, [n])}`),
      };
    },
    product(positions),
    [],
    integer ? "int" : "float",
    integer ? largestSum(operand(conv, 1), 0) : undefined,
  );
}

const sameTerms = (a: Index, b: Index): boolean =>
  a.terms.length === b.terms.length && a.terms.every((t, i) => t.atom.key === b.terms[i]?.atom.key && t.factor === b.terms[i]?.factor);

/** Elements from one row to the next when an address is that of row m, column nv * V of a matrix; undefined when it is not. */
function rowStride(address: Index, V: number): number | undefined {
  let stride = 0;
  for (const { atom, factor } of address.terms) {
    if (atom.kind !== "variable") return undefined;
    if (atom.key === "m") stride = factor;
    else if (atom.key !== "nv" || factor !== V) return undefined;
  }
  return stride > 0 ? stride : undefined;
}

const MAPS = { float16: "float16", bfloat16: "bfloat16", int8: "uint8", uint8: "uint8" } as const;

function tileOf(
  w: Written,
  out: View,
  V: number,
  batchDims: readonly number[],
): { readonly tile: Omit<NonNullable<EpilogueText["tile"]>, "body">; readonly views: Readonly<Record<string, View>> } | undefined {
  const { bytes, type } = storage(out.dtype);
  if (!Object.hasOwn(MAPS, out.dtype) || !w.together || product(batchDims) !== 1) return undefined;
  const stride = rowStride(w.first, V);
  // TMA wants rows and the first element at multiples of 16 bytes.
  const fits = (s: number | undefined, offset: number): s is number =>
    s !== undefined && (s * bytes) % 16 === 0 && (offset * bytes) % 16 === 0;
  if (!fits(stride, w.first.constant) || (bytes !== 1 && bytes !== 2)) return undefined;
  const views: Record<string, View> = { out: { ...out, offset: w.first.constant } };
  const base = { bytes, type, dtype: MAPS[out.dtype as keyof typeof MAPS], rowStride: stride } as const;
  const [only, second] = w.early;
  const from = only === undefined || second !== undefined || only.width !== V ? undefined : only;
  const step = from === undefined ? undefined : rowStride(from.address, V);
  if (
    from === undefined ||
    storage(from.view.dtype).bytes !== bytes ||
    !Object.hasOwn(MAPS, from.view.dtype) ||
    !fits(step, from.address.constant)
  )
    return { tile: base, views };
  views["residual"] = { ...from.view, offset: from.address.constant };
  return { tile: { ...base, residual: { dtype: MAPS[from.view.dtype as keyof typeof MAPS], rowStride: step } }, views };
}
