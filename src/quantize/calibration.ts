/**
 * The calibration file, `partita.calibration/1`: what observation saw of every tensor, keyed by the model, the data, its preprocessing and
 * the way of counting. JSON; counts are base64 of LEB128 numbers, a 0 followed by how many zeros there are. Tensors stand in the order of
 * their names, so that merging shards in any order writes the same bytes.
 */
import { readFileSync } from "node:fs";
import { replaceFile } from "../atomic.js";
import { defineError, type Where } from "../diagnostics.js";
import { graphHash } from "../ir/hash.js";
import type { Graph } from "../ir/types.js";
import { hashOfUnion } from "./feeds.js";
import { BINS, type ChannelStatistics, LEAST_EXPONENT, mergeObservations, type Observation, type Observations } from "./histogram.js";

/** Hash of the graph whose tensors are observed: what a calibration's key `model` holds. */
export const modelKey = (g: Graph): string => graphHash(g, `calibration ${COUNTING}`);

const SCHEMA = "partita.calibration/1";
/** Bump when the same tensors would be counted differently. */
export const COUNTING = "1";

export const cannotWrite = defineError<{ why: string }>("P1609", "a calibration file cannot be written", ({ why }) => ({
  what: `it cannot be written: ${why}`,
  fix: "check the folder and its permissions; a file that was there before is as it was",
}));
export const damaged = defineError<{ what: string }>("P1610", "a calibration file cannot be read", ({ what }) => ({
  what,
  fix: "calibrate again: `partita calibrate MODEL --data DATA`",
}));
export const stale = defineError<{ key: keyof CalibrationKeys; found: string; wanted: string }>(
  "P1611",
  "a calibration file is stale",
  ({ key, found, wanted }) => ({
    what: `its ${WORDS[key]} is ${found}, here it is ${wanted}`,
    why: "ranges hold for the model, the data, the preprocessing and the way of counting they were taken with",
    fix:
      key === "model"
        ? "calibrate this model: `partita calibrate MODEL --data DATA`"
        : "calibrate again, or go back to what it was made with",
  }),
);
const WORDS = { model: "model", data: "data", preprocessing: "preprocessing", version: "way of counting" } as const;
export const cannotMerge = defineError<{ what: string; fix: string }>("P1612", "calibration files cannot be merged", ({ what, fix }) => ({
  what,
  fix,
}));
export const lacksTensors = defineError<{ names: readonly string[]; of: number }>(
  "P1613",
  "a calibration file lacks tensors",
  ({ names, of }) => ({
    what: `${names.length} of the ${of} tensors to quantize are not in it, the first is '${names[0]}'`,
    why: "it was made for another model, or with other options",
    fix: "calibrate again with the options you compile with",
  }),
);

export interface CalibrationKeys {
  /** Hash of the graph whose tensors were observed. */
  readonly model: string;
  /** Hash over the feeds, whatever their order. */
  readonly data: string;
  /** How feeds were made of files; "" when they were taken as they stood. */
  readonly preprocessing: string;
  /** How tensors were counted. */
  readonly version: string;
}
export interface Calibration {
  readonly keys: CalibrationKeys;
  /** Number of feeds. */
  readonly feeds: number;
  /** Which shards of how many it holds, from 1; absent when it is whole. */
  readonly shards?: { readonly of: number; readonly have: readonly number[] } | undefined;
  readonly observations: Observations;
}

/** The file's text. */
export function calibrationText(c: Calibration): string {
  const tensors = [...c.observations]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, o]) => ({
      name,
      min: o.min,
      max: o.max,
      count: o.count,
      zeros: o.zeros,
      nonFinite: o.nonFinite,
      exponent: o.histogram.exponent,
      counts: packed(o.histogram.counts),
      ...(o.channels === undefined ? {} : { channels: channelsText(o.channels) }),
    }));
  const { model, data, preprocessing, version } = c.keys;
  const head = {
    schema: SCHEMA,
    keys: { model, data, preprocessing, version },
    feeds: c.feeds,
    ...(c.shards === undefined ? {} : { shards: { of: c.shards.of, have: [...c.shards.have].sort((a, b) => a - b) } }),
  };
  // A line a tensor: people compare such files.
  return `${JSON.stringify(head).slice(0, -1)},"tensors":[\n${tensors.map((t) => JSON.stringify(t)).join(",\n")}\n]}\n`;
}

/** Writes whole or not at all. Throws P1609. */
export function writeCalibration(path: string, c: Calibration): void {
  try {
    replaceFile(path, calibrationText(c));
  } catch (cause) {
    throw cannotWrite({ why: cause instanceof Error ? cause.message : String(cause) }, { file: path }, cause);
  }
}

/** Throws P1610. */
export function readCalibration(path: string): Calibration {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw damaged({ what: `it cannot be read: ${cause instanceof Error ? cause.message : cause}` }, { file: path }, cause);
  }
  return parseCalibration(text, path);
}

/** Throws P1610. */
export function parseCalibration(text: string, file?: string): Calibration {
  const where: Where = { file };
  const fail = (what: string, cause?: unknown): never => {
    throw damaged({ what }, where, cause);
  };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    return fail(`it is not JSON: ${cause instanceof Error ? cause.message : cause}`, cause);
  }
  const root = objectOf(json) ?? fail("it is no calibration file");
  if (root["schema"] !== SCHEMA)
    fail(root["schema"] === undefined ? "it is no calibration file" : `its schema is '${root["schema"]}', this version reads ${SCHEMA}`);
  const keys = objectOf(root["keys"]) ?? fail("it has no keys");
  const key = (name: keyof CalibrationKeys): string => {
    const value = keys[name];
    return typeof value === "string" && (name !== "data" || /^[0-9a-f]{64}$/.test(value)) ? value : fail(`its key '${name}' is not legal`);
  };
  if (!Array.isArray(root["tensors"])) fail("it has no tensors");
  const observations = new Map<string, Observation>();
  for (const entry of root["tensors"] as readonly unknown[]) {
    const t = objectOf(entry) ?? fail("a tensor is not an object");
    const name = typeof t["name"] === "string" ? t["name"] : fail("a tensor has no name");
    if (observations.has(name)) fail(`tensor '${name}' is there twice`);
    const o = observationOf(t);
    observations.set(name, typeof o === "string" ? fail(`tensor '${name}': ${o}`) : o);
  }
  const feeds = whole(root["feeds"]) ?? fail("its number of feeds is not legal");
  const shards = root["shards"] === undefined ? undefined : shardsOf(objectOf(root["shards"]), fail);
  return {
    keys: { model: key("model"), data: key("data"), preprocessing: key("preprocessing"), version: key("version") },
    feeds,
    ...(shards === undefined ? {} : { shards }),
    observations,
  };
}

const objectOf = (x: unknown): Record<string, unknown> | undefined =>
  typeof x === "object" && x !== null && !Array.isArray(x) ? (x as Record<string, unknown>) : undefined;
const whole = (x: unknown): number | undefined => (typeof x === "number" && Number.isSafeInteger(x) && x >= 0 ? x : undefined);

function shardsOf(s: Record<string, unknown> | undefined, fail: (what: string) => never): { of: number; have: number[] } {
  const of = whole(s?.["of"]);
  const have = Array.isArray(s?.["have"]) ? (s["have"] as unknown[]).map(whole) : [];
  if (
    of === undefined ||
    have.length === 0 ||
    new Set(have).size !== have.length ||
    !have.every((i) => i !== undefined && i >= 1 && i <= of)
  )
    return fail("its shards are not legal");
  return { of, have: have as number[] };
}

/** An observation, or what is wrong with it. */
function observationOf(t: Record<string, unknown>): Observation | string {
  const [count, zeros, nonFinite] = [whole(t["count"]), whole(t["zeros"]), whole(t["nonFinite"])];
  const { min, max, exponent } = t;
  if (count === undefined || zeros === undefined || nonFinite === undefined || zeros > count) return "its counts are not legal";
  if (typeof min !== "number" || typeof max !== "number" || min > max || !Number.isFinite(max - min)) return "its range is not legal";
  if (typeof exponent !== "number" || !Number.isInteger(exponent) || exponent < LEAST_EXPONENT || exponent > 116)
    return "its exponent is not legal";
  if (Math.max(Math.abs(min), Math.abs(max)) >= BINS * 2 ** exponent) return "its range lies outside its histogram";
  const counts = typeof t["counts"] === "string" ? unpacked(t["counts"]) : undefined;
  if (counts === undefined) return "its histogram is damaged";
  if (counts.reduce((a, n) => a + n, 0) !== count) return "its histogram does not add up to its count";
  const channels = t["channels"] === undefined ? undefined : channelsOf(objectOf(t["channels"]));
  if (channels === null) return "its channels are damaged";
  return { min, max, count, zeros, nonFinite, histogram: { exponent, counts }, ...(channels === undefined ? {} : { channels }) };
}

/** Counts as LEB128; a 0 is followed by the number of zeros that it stands for. */
function packed(counts: Float64Array): string {
  const bytes: number[] = [];
  const push = (n: number): void => {
    let rest = n;
    for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
    bytes.push(rest);
  };
  for (let b = 0; b < counts.length; ) {
    const n = counts[b] as number;
    if (n > 0) {
      push(n);
      b++;
      continue;
    }
    let end = b;
    while (end < counts.length && counts[end] === 0) end++;
    push(0);
    push(end - b);
    b = end;
  }
  return Buffer.from(bytes).toString("base64");
}

function unpacked(text: string): Float64Array | undefined {
  const bytes = Buffer.from(text, "base64");
  const counts = new Float64Array(BINS);
  let at = 0;
  const next = (): number => {
    let [value, unit] = [0, 1];
    for (let i = 0; i < 8; i++) {
      const byte = bytes[at++];
      if (byte === undefined) return Number.NaN;
      value += (byte & 127) * unit;
      if (byte < 128) return value;
      unit *= 128;
    }
    return Number.NaN;
  };
  let b = 0;
  while (b < BINS) {
    const n = next();
    const run = n === 0 ? next() : 1;
    if (!(Number.isSafeInteger(n) && run >= 1 && b + run <= BINS)) return undefined;
    if (n > 0) counts[b] = n;
    b += run;
  }
  return at === bytes.length ? counts : undefined;
}

function channelsText(c: ChannelStatistics): Record<string, unknown> {
  const text = (a: Float32Array | Float64Array): string => Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString("base64");
  return { axis: c.axis, absmax: text(c.absmax), high: text(c.high), low: text(c.low), counts: text(c.counts) };
}
/** null when they are damaged. */
function channelsOf(c: Record<string, unknown> | undefined): ChannelStatistics | null {
  const bytesOf = (name: string, width: number): ArrayBuffer | undefined => {
    const text = c?.[name];
    const bytes = typeof text === "string" ? Uint8Array.from(Buffer.from(text, "base64")) : undefined;
    return bytes !== undefined && bytes.length % width === 0 ? bytes.buffer : undefined;
  };
  const axis = c?.["axis"];
  const [absmax, high, low, counts] = [bytesOf("absmax", 4), bytesOf("high", 8), bytesOf("low", 8), bytesOf("counts", 8)];
  if (typeof axis !== "number" || !Number.isInteger(axis) || !absmax || !high || !low || !counts) return null;
  const found = {
    axis,
    absmax: new Float32Array(absmax),
    high: new Float64Array(high),
    low: new Float64Array(low),
    counts: new Float64Array(counts),
  };
  const lists = [found.absmax, found.high, found.low, found.counts];
  return lists.every((a) => a.length === found.absmax.length && a.every(Number.isFinite)) ? found : null;
}

/** What all of these saw together: shards of one set of feeds, or whole calibrations of disjoint ones; in any order. Throws P1612. */
export function mergeCalibrations(
  parts: readonly { readonly calibration: Calibration; readonly file?: string | undefined }[],
): Calibration {
  const [first, ...others] = parts;
  if (first === undefined) throw cannotMerge({ what: "there is nothing to merge", fix: "name the files" });
  const { keys, shards } = first.calibration;
  const held = new Map<string, string | undefined>();
  for (const { calibration: c, file } of parts) {
    const where = { file };
    for (const key of ["model", "preprocessing", "version"] as const)
      if (c.keys[key] !== keys[key])
        throw cannotMerge(
          {
            what: `its ${WORDS[key]} is ${c.keys[key] || "none"}, that of '${first.file ?? "the first"}' is ${keys[key] || "none"}`,
            fix: "merge shards of one calibration",
          },
          where,
        );
    if (c.shards?.of !== shards?.of)
      throw cannotMerge(
        {
          what: `it is ${c.shards === undefined ? "whole" : `of ${c.shards.of} shards`}, '${first.file ?? "the first"}' is ${shards === undefined ? "whole" : `of ${shards.of}`}`,
          fix: "merge shards of one division",
        },
        where,
      );
    for (const part of c.shards === undefined ? [`data ${c.keys.data}`] : c.shards.have.map((i) => `shard ${i}/${c.shards?.of}`)) {
      if (held.has(part))
        throw cannotMerge({ what: `${part} is in '${held.get(part) ?? "another file"}' too`, fix: "name every shard once" }, where);
      held.set(part, file);
    }
    const [a, b] = [first.calibration.observations, c.observations];
    const missing = [...a.keys()].find((name) => !b.has(name)) ?? [...b.keys()].find((name) => !a.has(name));
    if (missing !== undefined)
      throw cannotMerge(
        { what: `tensor '${missing}' is not in all of the files`, fix: "calibrate all shards with the same options" },
        where,
      );
  }
  const have = parts.flatMap((p) => p.calibration.shards?.have ?? []).sort((a, b) => a - b);
  const incomplete = shards !== undefined && have.length < shards.of;
  return {
    keys: { ...keys, data: hashOfUnion(parts.map((p) => p.calibration.keys.data)) },
    feeds: parts.reduce((n, p) => n + p.calibration.feeds, 0),
    ...(incomplete ? { shards: { of: shards.of, have } } : {}),
    observations: new Map(
      [...first.calibration.observations.keys()].map((name) => [
        name,
        mergeObservations([first, ...others].flatMap((p) => p.calibration.observations.get(name) ?? [])),
      ]),
    ),
  };
}

/**
 * Whether a calibration serves: the model, how tensors are counted, the tensors wanted, and the preprocessing and data where they are known.
 * Throws P1611, P1612 for one that lacks shards, P1613.
 */
export function checkCalibration(
  c: Calibration,
  wanted: { readonly model: string; readonly names: readonly string[]; readonly preprocessing?: string; readonly data?: string },
  file?: string,
): void {
  const where = { file };
  const keys = { version: COUNTING, model: wanted.model, preprocessing: wanted.preprocessing, data: wanted.data };
  for (const key of ["version", "model", "preprocessing", "data"] as const) {
    const value = keys[key];
    if (value !== undefined && c.keys[key] !== value) throw stale({ key, found: brief(c.keys[key]), wanted: brief(value) }, where);
  }
  if (c.shards !== undefined)
    throw cannotMerge(
      {
        what: `it holds shards ${c.shards.have.join(", ")} of ${c.shards.of} alone`,
        fix: "merge all shards first: `partita calibrate merge FILE... -o calibration.json`",
      },
      where,
    );
  const missing = wanted.names.filter((name) => !c.observations.has(name));
  if (missing.length > 0) throw lacksTensors({ names: missing, of: wanted.names.length }, where);
}

const brief = (text: string): string => (text === "" ? "none" : /^[0-9a-f]{64}$/.test(text) ? `${text.slice(0, 12)}...` : `'${text}'`);
