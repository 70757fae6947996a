/** All TensorFlow operators Partita reads, by name. Derived from the family files; nothing registers itself. */

import * as absent from "./absent.js";
import * as bits from "./bits.js";
import * as conv from "./conv.js";
import * as decompositions from "./decompositions.js";
import type { TfOpDef } from "./define.js";
import * as detection from "./detection.js";
import * as diagonals from "./diagonals.js";
import * as elementwise from "./elementwise.js";
import * as gather from "./gather.js";
import * as image from "./image.js";
import * as linalg from "./linalg.js";
import * as lists from "./lists.js";
import * as matmul from "./matmul.js";
import * as normalization from "./normalization.js";
import * as pooling from "./pooling.js";
import * as quantization from "./quantization.js";
import * as random from "./random.js";
import * as recurrent from "./recurrent.js";
import * as reductions from "./reductions.js";
import * as resize from "./resize.js";
import * as segments from "./segments.js";
import * as shapes from "./shapes.js";
import * as signal from "./signal.js";
import * as slicing from "./slicing.js";
import * as sorting from "./sorting.js";
import * as space from "./space.js";
import * as special from "./special.js";
import * as structure from "./structure.js";
import * as unary from "./unary.js";

/** A list, not one record: two families may use the same export name. */
const families: readonly Readonly<Record<string, TfOpDef>>[] = [
  absent,
  bits,
  conv,
  decompositions,
  detection,
  diagonals,
  elementwise,
  gather,
  image,
  linalg,
  lists,
  matmul,
  normalization,
  pooling,
  quantization,
  random,
  recurrent,
  reductions,
  resize,
  segments,
  shapes,
  signal,
  slicing,
  sorting,
  space,
  special,
  structure,
  unary,
];

const byName = new Map<string, TfOpDef>();
for (const def of families.flatMap((f) => Object.values(f))) {
  for (const name of def.names) {
    if (byName.has(name)) throw new Error(`two TensorFlow operators are named '${name}'`);
    byName.set(name, def);
  }
}

export const lookupTf = (op: string): TfOpDef | undefined => byName.get(op);
/** All definitions by TensorFlow name, sorted. */
export const allTfOps = (): readonly (readonly [name: string, def: TfOpDef])[] => [...byName].sort(([a], [b]) => (a < b ? -1 : 1));
