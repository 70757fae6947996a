/** All operators Partita knows, by name and by ONNX spelling. Tables are derived from the family files; nothing registers itself. */
import * as activations from "./activations.js";
import * as attention from "./attention.js";
import * as constants from "./constants.js";
import * as contrib from "./contrib.js";
import * as contribQuantized from "./contrib-quantized.js";
import * as control from "./control.js";
import * as conv from "./conv.js";
import type { AnyOp, OnnxReading } from "./define.js";
import * as elementwise from "./elementwise.js";
import * as gather from "./gather.js";
import * as image from "./image.js";
import * as losses from "./losses.js";
import * as matmul from "./matmul.js";
import * as ml from "./ml.js";
import * as normalization from "./normalization.js";
import * as pooling from "./pooling.js";
import * as quantization from "./quantization.js";
import * as random from "./random.js";
import * as recurrent from "./recurrent.js";
import * as reductions from "./reductions.js";
import * as sequences from "./sequences.js";
import * as signal from "./signal.js";
import * as slicing from "./slicing.js";
import * as sorting from "./sorting.js";
import * as strings from "./strings.js";
import * as training from "./training.js";
import * as views from "./views.js";

const families = {
  ...activations,
  ...attention,
  ...constants,
  ...contrib,
  ...contribQuantized,
  ...control,
  ...conv,
  ...elementwise,
  ...gather,
  ...image,
  ...losses,
  ...matmul,
  ...ml,
  ...normalization,
  ...pooling,
  ...quantization,
  ...random,
  ...recurrent,
  ...reductions,
  ...sequences,
  ...signal,
  ...slicing,
  ...sorting,
  ...strings,
  ...training,
  ...views,
} satisfies Record<string, AnyOp>;

const key = (domain: string, op: string): string => (domain === "" ? op : `${domain}.${op}`);
const byName = new Map<string, AnyOp>();
type Reader = { readonly def: AnyOp; readonly reading: OnnxReading };
/** Domain, then ONNX spelling (operator name of any version), to the definitions that read it, newest `since` last. */
const readers = new Map<string, Map<string, Reader[]>>();

for (const def of Object.values(families) as readonly AnyOp[]) {
  const name = key(def.domain ?? "", def.name);
  if (byName.has(name)) throw new Error(`two operators are named '${name}'`);
  byName.set(name, def);
  const ofDomain = readers.get(def.domain ?? "") ?? new Map<string, Reader[]>();
  readers.set(def.domain ?? "", ofDomain);
  for (const reading of def.reads.onnx) {
    const spelling = reading.op ?? def.name;
    const list = ofDomain.get(spelling) ?? [];
    if (list.some((r) => r.reading.since === reading.since)) throw new Error(`'${spelling}' since ${reading.since} is read twice`);
    list.push({ def, reading });
    list.sort((a, b) => a.reading.since - b.reading.since);
    ofDomain.set(spelling, list);
  }
}

/** The definition of an operator in its canonical spelling. `domain` "" is ai.onnx. */
export const lookup = (domain: string, op: string): AnyOp | undefined => byName.get(key(domain, op));

/** All definitions, sorted by domain and name. */
export function allOps(): readonly AnyOp[] {
  return [...byName.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, def]) => def);
}

/** How a node of an ONNX model is read: the entry with the largest `since` not above its operator set. */
export function readingOf(domain: string, op: string, opset: number): Reader | undefined {
  const list = readers.get(domain)?.get(op) ?? [];
  for (let i = list.length - 1; i >= 0; i--) {
    const r = list[i];
    if (r !== undefined && r.reading.since <= opset) return r;
  }
  return undefined;
}

/** The lowest operator set that has the canonical spelling; undefined for operators the registry does not know. */
export const exportOpset = (domain: string, op: string): number | undefined =>
  lookup(domain, op)?.reads.onnx.findLast((r) => r.adapt === undefined && r.op === undefined)?.since;
