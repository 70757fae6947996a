/**
 * Where calibration feeds come from, one at a time: iterables, NumPy files, folders of them, folders of images. Every feed is checked
 * against the graph's inputs before it is used, and counted into a hash that does not depend on the order.
 */
import { createHash } from "node:crypto";
import { readdirSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { defineError, didYouMean, type Remarks } from "../diagnostics.js";
import { valueAt } from "../ir/graph.js";
import type { Graph, ValueId } from "../ir/types.js";
import { readNpy, readNpz } from "../npz.js";
import { copyOf, isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import { IMAGE_EXTENSIONS, imageFeeds, type Preprocessing, preprocessingText } from "./images.js";
import type { FeedPort, Feeds } from "./types.js";

export const noFeeds = defineError<Record<never, never>>("P1601", "there are no feeds to calibrate with", () => ({
  what: "the calibration data is empty",
  fix: "give at least one feed; some hundred that are typical of the model's use give good ranges",
}));
export const badFeed = defineError<{ feed: number; what: string; fix: string }>(
  "P1602",
  "a calibration feed does not fit the graph",
  ({ feed, what, fix }) => ({ what: `feed ${feed}: ${what}`, fix }),
);
export const notFinite = defineError<{ feed: number; count: number; of: number; first: number; value: number }>(
  "P1603",
  "a calibration feed holds NaN or an infinity",
  ({ feed, count, of, first, value }) => ({
    what: `feed ${feed}: ${count} of ${of} elements are not finite, the first is ${value} at ${first}`,
    why: "ranges taken from such a feed mean nothing",
    fix: "leave the feed out, or mend its preprocessing (a division by a zero deviation is the usual cause)",
  }),
);
export const allEqual = defineError<{ count: number }>("P1604", "all calibration feeds are the same", ({ count }) => ({
  what: `all ${count} feeds hold the same bytes`,
  why: "one buffer that is filled again for every feed, but handed over each time, looks like this: only the last filling counts",
  fix: "make a new tensor for each feed; if the data really is one sample, give it once",
}));
export const badSource = defineError<{ what: string; fix: string }>("P1605", "calibration data cannot be read", ({ what, fix }) => ({
  what,
  fix,
}));

/** Feeds by input name, or the path of an .npz, an .npy or a folder. */
export type FeedSource = AsyncIterable<Feeds> | Iterable<Feeds> | string;
export interface FeedOptions {
  /** Rows of one feed where an array's first dim is cut into feeds and the input leaves it open. Default 1. */
  readonly batch?: number | undefined;
  /** For images. */
  readonly preprocessing?: Preprocessing | undefined;
  readonly remarks?: Remarks | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How many feeds there will be, as soon as that is known; of files, supposing that all are like the first. */
  readonly onTotal?: ((feeds: number) => void) | undefined;
}

/** The inputs of a graph, as feeds are checked against them. `quantized`: what quantizers may read; the others may be infinite. All, when absent. */
export const portsOf = (g: Graph, quantized?: ReadonlySet<ValueId>): readonly FeedPort[] =>
  g.inputs.map((v) => {
    const { name, type } = valueAt(g, v);
    const port = { name, type: type.kind === "tensor" ? type.dtype : type.kind, dims: type.kind === "tensor" ? type.shape : undefined };
    return quantized?.has(v) === false ? { ...port, infinite: true } : port;
  });

/** How a source's files become feeds, as a calibration's key holds it: "" for arrays, which are taken as they stand. */
export function preprocessingOf(source: FeedSource, ports: readonly FeedPort[], preprocessing: Preprocessing | undefined): string {
  if (typeof source !== "string" || statSync(source, { throwIfNoEntry: false })?.isDirectory() !== true) return "";
  const images = readdirSync(source).some((n) => !n.startsWith(".") && IMAGE_EXTENSIONS.includes(extname(n).toLowerCase()));
  return images ? preprocessingText(preprocessing, ports[0]?.dims?.includes(3) !== true) : "";
}

/** Milliseconds after which whoever waits for the event loop gets it. */
const TURN_MS = 20;
/** Below this many samples a remark says that they are few. */
const FEW = 32;

/** Counts feeds, and knows them again. */
export class FeedTally {
  /** Feeds so far. */
  count = 0;
  #samples = 0;
  #sum = 0n;
  readonly #seen = new Set<string>();

  /** Notes a feed and gives its SHA-256 in hexadecimal. */
  add(feed: Feeds): string {
    const hash = feedHash(feed);
    this.count++;
    this.#samples += Object.values(feed)[0]?.dims[0] ?? 1;
    this.#sum = BigInt.asUintN(256, this.#sum + BigInt(`0x${hash}`));
    this.#seen.add(hash);
    return hash;
  }
  /** The sum of the feeds' SHA-256 modulo 2^256, in hexadecimal: the same in any order, and the sum of the shards' sums. */
  get hash(): string {
    return this.#sum.toString(16).padStart(64, "0");
  }
  /** Throws P1601 when there was no feed, P1604 when all were the same; remarks on repetitions and on few feeds. */
  finish(remarks: Remarks | undefined, file?: string): void {
    if (this.count === 0) throw noFeeds({}, { file });
    if (this.count > 1 && this.#seen.size === 1) throw allEqual({ count: this.count }, { file });
    const repeated = this.count - this.#seen.size;
    if (repeated > 0)
      remarks?.({
        severity: "warning",
        text: `${repeated} of ${this.count} calibration feeds repeat earlier ones`,
        where: { file },
        fix: "make a new tensor for each feed, and list each sample once",
      });
    if (this.#samples < FEW)
      remarks?.({
        severity: "warning",
        text: `${this.#samples} calibration sample${this.#samples === 1 ? " is" : "s are"} few: ranges may be too narrow for what comes later`,
        where: { file },
        fix: "give some hundred samples that are typical of the model's use",
      });
  }
}

/** Sum of the hashes of disjoint sets of feeds: the hash of their union. */
export const hashOfUnion = (hashes: readonly string[]): string =>
  BigInt.asUintN(
    256,
    hashes.reduce((sum, h) => sum + BigInt(`0x${h}`), 0n),
  )
    .toString(16)
    .padStart(64, "0");

/** SHA-256 over names, types, dims and bytes of a feed, names in order. */
export function feedHash(feed: Feeds): string {
  const h = createHash("sha256");
  for (const name of Object.keys(feed).sort()) {
    const t = feed[name] as TensorLike;
    h.update(`${JSON.stringify(name)} ${t.type}[${t.dims.join(",")}]\n`);
    if (ArrayBuffer.isView(t.data)) h.update(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength));
    else for (const s of t.data as readonly string[]) h.update(`${s.length}:${s}`);
  }
  return h.digest("hex");
}

/**
 * Feeds of a source, checked, in its order. A feed of an iterable is taken as it is. Files:
 *
 * - An `.npz` holds one array for each input, by name (others are left out); an `.npy`, or an `.npz` of one array without a name of its own
 *   (`arr_0`), serves a graph with one input. Arrays with one dim more than their input
 *   are stacks of feeds. Otherwise the first dim is cut: into pieces of the input's own size where that is fixed (an array of exactly that
 *   size is one feed), of `batch` rows where it is open. Arrays that fit a wholly fixed input serve every feed.
 * - A folder of `.npz` or `.npy`: a file that fits the inputs as it stands is one feed; other files are cut as above. `.npy` files whose
 *   names are those of several inputs are together one `.npz`. Files are taken in the order of their names.
 * - A folder of images: see `Preprocessing`.
 *
 * Throws P1602 and P1603 for a feed that is wrong, P1605 for a file or folder that does not serve, P1606 and P1607 for images, P1110.
 */
export async function* feedsOf(source: FeedSource, ports: readonly FeedPort[], options: FeedOptions = {}): AsyncGenerator<Feeds> {
  let feed = 0;
  if (Array.isArray(source)) options.onTotal?.(source.length);
  let last = performance.now();
  for await (const raw of typeof source === "string" ? fromPath(source, ports, options) : source) {
    // Files and plain generators wait for nothing: without a turn of the event loop no signal would be heard.
    if (performance.now() - last > TURN_MS) {
      await new Promise((resolve) => setImmediate(resolve));
      last = performance.now();
    }
    options.signal?.throwIfAborted();
    yield checkedFeed(raw, ports, feed++, typeof source === "string" ? source : undefined);
  }
}

/** A feed by the inputs' own names. Throws P1602, P1603. */
function checkedFeed(raw: Feeds, ports: readonly FeedPort[], feed: number, file: string | undefined): Feeds {
  if (raw === null || typeof raw !== "object")
    throw badFeed({ feed, what: "it is not an object of tensors", fix: "give tensors by input name" }, { file });
  const given = new Map<string, TensorLike>();
  const names = ports.map((p) => p.name);
  for (const [name, t] of Object.entries(raw)) {
    const known = names.includes(name) ? name : names.includes(`${name}:0`) ? `${name}:0` : undefined;
    if (known === undefined) {
      const near = didYouMean(name, names);
      throw badFeed(
        {
          feed,
          what: `the graph has no input '${name}'`,
          fix: near === undefined ? `the inputs are ${names.map((n) => `'${n}'`).join(", ")}` : `did you mean '${near}'?`,
        },
        { file, value: name },
      );
    }
    given.set(known, t);
  }
  return Object.fromEntries(
    ports.map((port) => {
      const t = given.get(port.name);
      if (t === undefined)
        throw badFeed({ feed, what: `input '${port.name}' is missing`, fix: "give every input in every feed" }, { file, value: port.name });
      return [port.name, checkedTensor(t, port, feed, file)] as const;
    }),
  );
}

function checkedTensor(t: TensorLike, port: FeedPort, feed: number, file: string | undefined): TensorLike {
  const where = { file, value: port.name };
  const wanted = `${port.type}${port.dims === undefined ? "" : `[${port.dims.join(", ")}]`}`;
  if (t === null || typeof t !== "object" || !Array.isArray(t.dims) || typeof t.data?.length !== "number")
    throw badFeed({ feed, what: `it is no tensor, the graph takes ${wanted}`, fix: "give a Tensor" }, where);
  const found = `${t.type}[${t.dims.join(", ")}]`;
  const count = t.dims.reduce((a, d) => a * d, 1);
  if (t.data.length !== count)
    throw badFeed(
      { feed, what: `${found} has ${t.data.length} elements`, fix: "make dims and data agree; a buffer that was transferred is empty" },
      where,
    );
  if (t.type !== port.type)
    throw badFeed(
      { feed, what: `it is ${found}, the graph takes ${wanted}`, fix: "convert it before: nothing is converted silently" },
      where,
    );
  if (!fits(t.dims, port.dims))
    throw badFeed({ feed, what: `it is ${found}, the graph takes ${wanted}`, fix: "feed tensors of those dims" }, where);
  if (count === 0) throw badFeed({ feed, what: `it is ${found}: empty`, fix: "leave empty feeds out" }, where);
  const { data } = new Tensor(t.type as NumericDType, t.data as never, t.dims);
  const infinite = port.infinite === true;
  if (t.type === "float32" || t.type === "float64")
    demandFinite(data as Float32Array, infinite ? Number.isNaN : (x) => x - x !== 0, feed, where);
  else if (t.type === "float16") demandFinite(data as Uint16Array, (x) => (x & 0x7fff) >= (infinite ? 0x7c01 : 0x7c00), feed, where);
  // Arrays of files are their feed's own. Whoever makes feeds may fill an array again while this one waits for its run.
  return file === undefined ? { type: t.type, data: ArrayBuffer.isView(data) ? copyOf(data) : [...data], dims: [...t.dims] } : t;
}

function demandFinite(
  data: Float32Array | Uint16Array,
  wrong: (x: number) => boolean,
  feed: number,
  where: { readonly file?: string | undefined; readonly value: string },
): void {
  if (data instanceof Float32Array) {
    // One sum over everything is NaN if anything is not finite; it seldom is, and this loop is the one that always runs.
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += (data[i] as number) * 0;
    if (sum === 0) return;
  }
  let count = 0;
  let first = -1;
  for (let i = 0; i < data.length; i++)
    if (wrong(data[i] as number)) {
      count++;
      if (first < 0) first = i;
    }
  if (count === 0) return;
  const bits = data[first] as number;
  const value = !(data instanceof Uint16Array) ? bits : (bits & 0x3ff) !== 0 ? Number.NaN : bits & 0x8000 ? -Infinity : Infinity;
  throw notFinite({ feed, count, of: data.length, first, value }, where);
}

const fits = (dims: readonly number[], port: FeedPort["dims"]): boolean =>
  port === undefined || (dims.length === port.length && port.every((p, i) => typeof p !== "number" || p === dims[i]));

async function* fromPath(path: string, ports: readonly FeedPort[], options: FeedOptions): AsyncGenerator<Feeds> {
  const announced = ({ count, feeds }: Cut, files = 1): Iterable<Feeds> => {
    options.onTotal?.(count * files);
    return feeds;
  };
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw badSource({ what: "there is no such file or folder", fix: "check the path" }, { file: path });
  if (!stat.isDirectory()) {
    yield* announced(cut(readArrays(path, ports), ports, options, path, false));
    return;
  }
  const names = readdirSync(path)
    .filter((n) => !n.startsWith("."))
    .sort();
  const kind = (...extensions: readonly string[]): string[] => names.filter((n) => extensions.includes(extname(n).toLowerCase()));
  const arrays = kind(".npz", ".npy");
  const images = kind(...IMAGE_EXTENSIONS);
  if (arrays.length > 0 && images.length > 0)
    throw badSource(
      { what: `it holds ${arrays.length} NumPy files and ${images.length} images`, fix: "keep them in two folders" },
      { file: path },
    );
  if (images.length > 0) {
    options.onTotal?.(images.length);
    yield* imageFeeds(
      images.map((n) => join(path, n)),
      ports,
      options.preprocessing,
    );
  } else if (arrays.length === 0)
    throw badSource(
      { what: `it holds no .npz, .npy or image (${IMAGE_EXTENSIONS.join(", ")})`, fix: "give a folder of feeds, or an .npz" },
      { file: path },
    );
  else if (ports.length > 1 && arrays.every((n) => ports.some((p) => `${p.name}.npy` === n)))
    yield* announced(cut(new Map(arrays.map((n) => [n.slice(0, -4), readNpy(join(path, n))])), ports, options, path, false));
  else
    for (const [i, n] of arrays.entries()) {
      options.signal?.throwIfAborted();
      const pieces = cut(readArrays(join(path, n), ports), ports, options, join(path, n), true);
      yield* i === 0 ? announced(pieces, arrays.length) : pieces.feeds;
    }
}

function readArrays(file: string, ports: readonly FeedPort[]): Map<string, Tensor> {
  switch (extname(file).toLowerCase()) {
    case ".npz": {
      // An archive may hold more than feeds (labels); what an input is named after counts.
      const all = readNpz(file);
      const used = new Map([...all].filter(([name]) => ports.some((p) => p.name === name || p.name === `${name}:0`)));
      if (used.size > 0) return used;
      // The name that NumPy gives an array without one; any other says that it is something else.
      const only = all.get("arr_0");
      const [port] = ports;
      if (ports.length === 1 && port !== undefined && all.size === 1 && only !== undefined) return new Map([[port.name, only]]);
      throw badSource(
        {
          what: `no array is named after an input: its arrays are ${[...all.keys()].map((n) => `'${n}'`).join(", ") || "none"}, the inputs ${ports.map((p) => `'${p.name}'`).join(", ")}`,
          fix: `name the arrays after the inputs: np.savez(file, **{${JSON.stringify(port?.name ?? "input")}: array})`,
        },
        { file },
      );
    }
    case ".npy": {
      const [only] = ports;
      if (ports.length !== 1 || only === undefined)
        throw badSource({ what: `an .npy feeds a graph with one input; this one has ${ports.length}`, fix: "use an .npz" }, { file });
      return new Map([[only.name, readNpy(file)]]);
    }
    default:
      throw badSource({ what: "it is neither an .npz nor an .npy nor a folder", fix: "give one of those" }, { file });
  }
}

interface Cut {
  readonly count: number;
  readonly feeds: Iterable<Feeds>;
}
/** Cuts arrays into feeds; `whole`: arrays that fit as they stand are one feed even where the first dim is open. */
function cut(arrays: ReadonlyMap<string, Tensor>, ports: readonly FeedPort[], options: FeedOptions, file: string, whole: boolean): Cut {
  const portOf = (name: string): FeedPort | undefined => ports.find((p) => p.name === name || p.name === `${name}:0`);
  const open = (port: FeedPort | undefined): boolean => typeof port?.dims?.[0] !== "number";
  const list = [...arrays].map(([name, t]) => ({ name, t, port: portOf(name), fits: fits(t.dims, portOf(name)?.dims) }));
  const asIs = (): Feeds => Object.fromEntries(list.map(({ name, t }) => [name, t]));
  const stacked = list.filter(({ t, port }) => port?.dims !== undefined && t.dims.length === port.dims.length + 1);
  const rows = list.filter((e) => !stacked.includes(e) && (open(e.port) ? (e.port?.dims?.length ?? e.t.dims.length) > 0 : !e.fits));
  if (list.every((e) => e.fits) && (whole || rows.length === 0)) return { count: 1, feeds: [asIs()] };
  const pieces = stacked.length > 0 ? stacked : rows;
  const step = (e: (typeof list)[number]): number =>
    stacked.length > 0 ? 1 : open(e.port) ? Math.max(1, options.batch ?? 1) : (e.port?.dims?.[0] as number);
  const counts = pieces.map((e) => ({ e, n: (e.t.dims[0] ?? 0) / step(e) }));
  const [first] = counts;
  if (first === undefined) return { count: 1, feeds: [asIs()] };
  const total = Math.ceil(first.n);
  for (const { e, n } of counts)
    if (Math.ceil(n) !== total || (!open(e.port) && stacked.length === 0 && !Number.isInteger(n)))
      throw badSource(
        {
          what: `array '${e.name}' [${e.t.dims.join(", ")}] makes ${n} feeds${e === first.e ? "" : `, '${first.e.name}' [${first.e.t.dims.join(", ")}] makes ${first.n}`}`,
          fix: "give whole feeds, the same number in every array",
        },
        { file },
      );
  function* feeds(): Generator<Feeds> {
    for (let i = 0; i < total; i++)
      yield Object.fromEntries(
        list.map((e) => [e.name, pieces.includes(e) ? part(e.t, i * step(e), step(e), stacked.length > 0) : e.t] as const),
      );
  }
  return { count: total, feeds: feeds() };
}

/** Rows [from, from + n) of a tensor, in memory of their own; without the first dim when `drop`. */
function part(t: Tensor, from: number, n: number, drop: boolean): Tensor {
  const [rows = 0, ...rest] = t.dims;
  const size = rest.reduce((a, d) => a * d, 1);
  const to = Math.min(rows, from + n);
  const data = t.data.slice(from * size, to * size);
  return new Tensor(t.type, data as never, drop ? rest : [to - from, ...rest]);
}

/** A tensor of a type over bytes, which become its own. */
export const tensorOver = (type: string, bytes: ArrayBuffer, dims: readonly number[]): Tensor => {
  if (!isTensorDType(type) || type === "string") throw new Error(`no tensor of ${type} lies in bytes`);
  const Wanted = typedArrayOf(type as NumericDType);
  return new Tensor(type, new Wanted(bytes) as never, dims);
};
