/** Every compile option: type, default, validation. Shared by the API and the command line. */
import { fileURLToPath } from "node:url";
import * as v from "valibot";
import { defineError, didYouMean, type Remark } from "./diagnostics.js";
import { DEFAULT_DYNAMIC } from "./engines/by-shape.js";
import type { DynamicShapes, TensorRtOptions } from "./engines/engine.js";
import type { OnMiss } from "./engines/shape-cache.js";
import type { BindValue } from "./ir/bound.js";
import { symbol, symbolsOf } from "./ir/dims.js";
import type { Dim, Shape } from "./ir/types.js";
import type { Operator } from "./ops/javascript.js";
import type { Times } from "./partition/times.js";
import type { Pin } from "./partition/verdicts.js";
import type { ChooseOptions } from "./quantize/choose.js";
import type { FeedSource } from "./quantize/feeds.js";
import type { Preprocessing } from "./quantize/images.js";
import { RANGE_METHODS } from "./quantize/scales.js";
import type { RangeMethod } from "./quantize/types.js";

export const badOption = defineError<{ name: string; what: string; fix: string }>(
  "P1001",
  "an option has an illegal value",
  ({ name, what, fix }) => ({ what: `option '${name}' ${what}`, fix }),
  2,
);
export const unknownOption = defineError<{ name: string; near: string | undefined; known: readonly string[] }>(
  "P1002",
  "an option does not exist",
  ({ name, near, known }) => ({
    what: `there is no option '${name}'`,
    fix: near === undefined ? `the options are ${known.join(", ")}` : `did you mean '${near}'?`,
  }),
  2,
);

export type TargetName = "auto" | "host" | "cuda" | "tensorrt";
export type Precision = "fp32" | "tf32" | "fp16" | "bf16" | "int8";
/** Dims of an input, or a range of them. */
export type ShapeOption =
  | readonly number[]
  | { readonly min: readonly number[]; readonly opt: readonly number[]; readonly max: readonly number[] };
export interface ProgressEvent {
  /** What is being done: import, a pass's name, partition, build, ... */
  readonly stage: string;
  /** 0 to 1 over the whole compilation. */
  readonly fraction: number;
  /** How far a long stage is, in words: which feed, which trial and the best one so far. */
  readonly detail?: string | undefined;
}

/** Where the ranges of activations come from, for precision "int8". One of `data`, `file` and `table`. */
export interface CalibrationOptions extends ChooseOptions {
  /** Feeds that are typical of the model's use, some hundred: an iterable of them, or the path of an .npz, an .npy, a folder of these or of images. */
  readonly data?: FeedSource | undefined;
  /** A calibration file that `partita calibrate` wrote. */
  readonly file?: string | undefined;
  /** A calibration table of TensorRT. */
  readonly table?: string | undefined;
  /** How a range is taken from what was seen. "auto" (default) chooses for each tensor. */
  readonly method?: RangeMethod | "auto" | undefined;
  /** Nodes that stay float: names, operators, patterns with `*`, regions `a..b`, as in `pin`. */
  readonly exclude?: readonly (string | RegExp)[] | undefined;
  /**
   * "auto" (default) tries range methods, equalization, bias correction and float layers on feeds held out of `data`, and takes what measures
   * best; "none" takes `method` as it is.
   */
  readonly search?: "auto" | "none" | undefined;
  /** Rows of one feed where an array is cut into feeds. Default 1. */
  readonly batch?: number | undefined;
  /** For folders of images. */
  readonly preprocessing?: Preprocessing | undefined;
}

/** Engines by shape, for segments whose dims are open; docs/dynamic-shapes.md. `true` is all defaults. */
export interface DynamicOptions {
  /**
   * What a run does whose shapes no engine serves: waits until one is built ("build", the default), runs on the host while one is built
   * ("background"), or runs on the host, and none is built ("host").
   */
  readonly onMiss?: OnMiss | undefined;
  /** Sizes that a dim is rounded up to, by the dim's name in the model, or `input[axis]`. Their engines are built when the model is compiled. */
  readonly buckets?: Readonly<Record<string, readonly number[]>> | undefined;
  /** Dims that the model masks itself (an attention mask is among the inputs): padding is zeros, and need not be proved to change nothing. */
  readonly masked?: readonly string[] | undefined;
  /** Feeds are padded also for engines that take a range of dims. Default false: only for engines of fixed dims, those of cuda. */
  readonly padding?: boolean | undefined;
}

export interface CompileOptions {
  /** Where the graph should run; a list is an order of preference. "auto" takes the best engine this machine has. Default "auto". */
  readonly target?: TargetName | readonly Exclude<TargetName, "auto">[] | undefined;
  /** Default "fp32". "int8" needs `calibration`, or a model that carries QuantizeLinear and DequantizeLinear. */
  readonly precision?: Precision | undefined;
  /** For precision "int8": the data that ranges are taken from. */
  readonly calibration?: CalibrationOptions | undefined;
  /** Engine candidates with fewer compute nodes stay on the host. Default 3. */
  readonly minimumSegmentSize?: number | undefined;
  /** Shapes of inputs, by name: fixed, or a range. */
  readonly shapes?: Readonly<Record<string, ShapeOption>> | undefined;
  /** Inputs that are bound to a value, by name: they become constants and are inputs no more, and what they decide is decided. At most 4096 elements each. */
  readonly bind?: Readonly<Record<string, BindValue>> | undefined;
  /** Cut the graph: these values become its inputs, what computes them is dropped. By value name. */
  readonly inputs?: readonly string[] | undefined;
  /** Cut the graph: only these outputs, by value name. */
  readonly outputs?: readonly string[] | undefined;
  /** SavedModel signature. Default "serving_default". */
  readonly signature?: string | undefined;
  /** The user's own operators, as JavaScript functions; they take precedence over what the importers know. */
  readonly operators?: readonly Operator[] | undefined;
  /** Scratch memory an engine may take, bytes. Default 1 GiB. */
  readonly maxWorkspaceSizeBytes?: number | undefined;
  /** Engines kept per segment with dynamic shapes, those used last. Default 8, or as many as there are combinations of buckets, up to 64. */
  readonly maximumCachedEngines?: number | undefined;
  /** Engines by shape where dims are open. The cuda engine works so by itself; TensorRT takes the ranges of `shapes` otherwise, and the host any dims. */
  readonly dynamic?: boolean | DynamicOptions | undefined;
  /** How long the CUDA engine looks for the fastest kernels, on the GPU of this machine. Default "quick"; without a GPU nothing is timed. */
  readonly tune?: "none" | "quick" | "full" | undefined;
  /** The GPU to compile for, 8.9 or "8.9". Default: this machine's, or 9.0 where there is none. TensorRT-RTX and the CUDA engine need no GPU for it. */
  readonly computeCapability?: number | string | undefined;
  /** What the TensorRT engine is asked for besides. */
  readonly tensorrt?: TensorRtOptions | undefined;
  /** Sends nodes to an engine by name, operator or pattern. */
  readonly pin?: readonly Pin[] | undefined;
  /** For reports: operators taken as if an engine supported them, or ("host") as if none did, e.g. `{ NonMaxSuppression: "cuda" }`. */
  readonly whatIf?: Readonly<Record<string, "host" | "cuda" | "tensorrt">> | undefined;
  /** Measured microseconds of one run by node name and engine. Where there are any, they replace the estimate that the assignment is by. */
  readonly times?: Times | undefined;
  /** Fail rather than run something elsewhere than asked. Default false. */
  readonly strict?: boolean | undefined;
  /** Check the graph after every pass. Default false. */
  readonly verify?: boolean | undefined;
  readonly onProgress?: ((event: ProgressEvent) => void) | undefined;
  readonly onRemark?: ((remark: Remark) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}
export interface Settings {
  readonly targets: readonly Exclude<TargetName, "auto">[];
  /** Whether the targets were chosen by "auto": then an engine that is missing is no error. */
  readonly auto: boolean;
  readonly precision: Precision;
  readonly calibration: CalibrationOptions | undefined;
  readonly minimumSegmentSize: number;
  readonly shapes: Readonly<
    Record<string, { readonly min: readonly number[]; readonly opt: readonly number[]; readonly max: readonly number[] }>
  >;
  readonly bind: Readonly<Record<string, BindValue>>;
  readonly inputs: readonly string[] | undefined;
  readonly outputs: readonly string[] | undefined;
  readonly signature: string;
  readonly operators: readonly Operator[];
  readonly maxWorkspaceSizeBytes: number;
  readonly maximumCachedEngines: number;
  readonly dynamic: Pick<DynamicShapes, "onMiss" | "buckets" | "masked" | "padding"> | undefined;
  readonly tune: "none" | "quick" | "full";
  /** Compute capability times ten; undefined for this machine's. */
  readonly sm: number | undefined;
  readonly tensorrt: TensorRtOptions;
  readonly pin: readonly Pin[];
  readonly whatIf: ReadonlyMap<string, "host" | "cuda" | "tensorrt">;
  readonly times: Times;
  readonly strict: boolean;
  readonly verify: boolean;
  readonly onProgress: (event: ProgressEvent) => void;
  readonly onRemark: (remark: Remark) => void;
  readonly signal: AbortSignal | undefined;
}

const natural = (low: number) =>
  v.pipe(v.number("is not a number"), v.safeInteger("is not a whole number"), v.minValue(low, `is below ${low}`));
const dims = v.array(
  v.pipe(
    v.number("has a dim that is not a number"),
    v.safeInteger("has a dim that is not a whole number"),
    v.minValue(0, "has a negative dim"),
  ),
  "is not a list of dims",
);
const word = <const W extends readonly string[]>(words: W) =>
  v.picklist(words, (issue) => `is ${issue.received}; it takes ${words.join(", ")}${near(issue.input, words)}`);
const near = (found: unknown, words: readonly string[]): string => {
  const guess = typeof found === "string" ? didYouMean(found, words) : undefined;
  return guess === undefined ? "" : ` (did you mean '${guess}'?)`;
};
/** An object of no other fields than these; `instead` is what else the option may be. */
const fields = <E extends v.ObjectEntries>(entries: E, instead = "") =>
  v.strictObject(entries, (issue) => {
    const key = issue.path?.at(-1)?.key;
    return issue.expected === "never"
      ? `does not exist${near(key, Object.keys(entries))}`
      : `is ${issue.received}; it takes ${instead}{ ${Object.keys(entries).join(", ")} }`;
  });
const isScalar = (x: unknown): boolean => ["number", "bigint", "boolean", "string"].includes(typeof x);
const bindValue = v.custom<BindValue>(
  (x) =>
    isScalar(x) ||
    (Array.isArray(x) ? x.length > 0 && x.every(isScalar) : typeof x === "object" && x !== null && "dims" in x && "data" in x),
  "is neither a number, true, false, text, a list of these, nor a tensor",
);
const engines = ["host", "cuda", "tensorrt"] as const;
const capability = v.custom<number | string>(
  (x) =>
    typeof x === "string"
      ? /^[1-9]\d?\.\d$/.test(x)
      : typeof x === "number" && x >= 1 && x < 100 && Math.abs(10 * x - Math.round(10 * x)) < 1e-9,
  (issue) => `is ${issue.received}, which is not a compute capability such as 8.9`,
);
const tensorrt = fields({
  library: v.optional(word(["tensorrt", "rtx"])),
  optimizationLevel: v.optional(v.pipe(natural(0), v.maxValue(5, "is above 5"))),
  versionCompatible: v.optional(v.boolean("is not true or false")),
  hardwareCompatibility: v.optional(word(["none", "ampere-plus", "same-compute-capability"])),
  stripWeights: v.optional(v.boolean("is not true or false")),
  refit: v.optional(word(["none", "identical", "all"])),
  sparseWeights: v.optional(v.boolean("is not true or false")),
  tacticSources: v.optional(natural(0)),
  auxiliaryStreams: v.optional(natural(0)),
  timingCache: v.optional(v.union([v.boolean(), v.pipe(v.string(), v.minLength(1))], "is neither true, false nor a file's path")),
  inspection: v.optional(word(["none", "names", "detailed"])),
  log: v.optional(word(["error", "warning", "info", "verbose"])),
  cudaGraphs: v.optional(v.boolean("is not true or false")),
} satisfies Record<keyof TensorRtOptions, v.GenericSchema>);
export const tensorrtNames = Object.keys(tensorrt.entries) as readonly (keyof TensorRtOptions)[];
const path = v.pipe(v.string("is not a path"), v.minLength(1, "is empty"));
const calibration = fields({
  data: v.optional(
    v.custom<FeedSource>(
      (x) =>
        typeof x === "string" ? x !== "" : typeof x === "object" && x !== null && (Symbol.asyncIterator in x || Symbol.iterator in x),
      "is neither feeds to iterate over nor a path",
    ),
  ),
  file: v.optional(path),
  table: v.optional(path),
  method: v.optional(word(["auto", ...RANGE_METHODS])),
  exclude: v.optional(
    v.array(v.union([v.string(), v.instance(RegExp)], "has something that is neither text nor a RegExp"), "is not a list of matches"),
  ),
  search: v.optional(word(["auto", "none"])),
  maxDrop: v.optional(v.pipe(v.number("is not a number"), v.minValue(0, "is negative"))),
  maxFloatShare: v.optional(v.pipe(v.number("is not a number"), v.minValue(0, "is negative"), v.maxValue(1, "is more than 1"))),
  maxSlowdown: v.optional(v.pipe(v.number("is not a number"), v.minValue(1, "is below 1"))),
  budgetSeconds: v.optional(v.pipe(v.number("is not a number"), v.minValue(0, "is negative"))),
  trials: v.optional(path),
  batch: v.optional(natural(1)),
  preprocessing: v.optional(v.custom<Preprocessing>((x) => typeof x === "object" && x !== null, "is not an object")),
} satisfies Record<keyof CalibrationOptions, v.GenericSchema>);
const names = v.array(v.pipe(v.string("holds something that is no name"), v.minLength(1, "holds an empty name")), "is not a list of names");
const dynamic = fields(
  {
    onMiss: v.optional(word(["build", "background", "host"])),
    buckets: v.optional(
      v.record(
        v.string(),
        v.pipe(v.array(natural(1), "has buckets that are no list"), v.minLength(1, "has a dim without a bucket")),
        "has buckets that are no lists of sizes by dim",
      ),
    ),
    masked: v.optional(names),
    padding: v.optional(v.boolean("has a padding that is not true or false")),
  } satisfies Record<keyof DynamicOptions, v.GenericSchema>,
  "true, or ",
);
const callback = v.custom<(...args: never[]) => void>((x) => typeof x === "function", "is not a function");

const schemas = {
  target: v.lazy((given) =>
    Array.isArray(given)
      ? v.pipe(v.array(word(engines)), v.minLength(1, "is empty"))
      : v.picklist(
          ["auto", ...engines],
          (issue) =>
            `is ${issue.received}; it takes auto, ${engines.join(", ")}${near(issue.input, ["auto", ...engines])}, or a list of engines`,
        ),
  ),
  precision: word(["fp32", "tf32", "fp16", "bf16", "int8"]),
  calibration,
  minimumSegmentSize: natural(1),
  shapes: v.record(
    v.string(),
    v.union(
      [dims, v.strictObject({ min: dims, opt: dims, max: dims })],
      "has something that is neither a list of dims (whole, not negative) nor { min, opt, max }",
    ),
    "is not an object of shapes by input name",
  ),
  bind: v.record(v.string(), bindValue, "is not an object of values by input name"),
  inputs: v.pipe(v.array(v.string("holds something that is no name"), "is not a list of names"), v.minLength(1, "is empty")),
  outputs: v.pipe(v.array(v.string("holds something that is no name"), "is not a list of names"), v.minLength(1, "is empty")),
  signature: v.string("is not a name"),
  operators: v.array(
    v.looseObject(
      {
        name: v.pipe(v.string("has an operator whose name is not text"), v.minLength(1, "has an operator without a name")),
        domain: v.optional(v.string("has an operator whose domain is not text")),
        outputs: v.optional(v.array(v.string("has an operator with an output whose name is not text"))),
        run: callback,
        infer: v.optional(callback),
      },
      "has something that is no operator { name, run }",
    ),
    "is not a list of operators",
  ),
  maxWorkspaceSizeBytes: natural(0),
  maximumCachedEngines: natural(1),
  dynamic: v.lazy((given) => (typeof given === "boolean" ? v.boolean() : dynamic)),
  tune: word(["none", "quick", "full"]),
  computeCapability: capability,
  tensorrt,
  pin: v.array(
    v.strictObject(
      {
        match: v.union([v.string(), v.instance(RegExp)], "has a match that is neither text nor a RegExp"),
        to: word(engines),
      },
      "has something that is not { match, to }",
    ),
    "is not a list of { match, to }",
  ),
  whatIf: v.record(v.string(), word(engines), "is not an object of engines by operator"),
  times: v.record(
    v.string(),
    v.record(
      word(engines),
      v.pipe(v.number("has a time that is not a number"), v.finite("has a time that is not finite"), v.minValue(0, "has a negative time")),
      "has something that is not an object of times by engine",
    ),
    "is not an object of times by node",
  ),
  strict: v.boolean("is not true or false"),
  verify: v.boolean("is not true or false"),
  onProgress: callback,
  onRemark: callback,
  signal: v.instance(AbortSignal, "is not an AbortSignal"),
} satisfies Record<keyof CompileOptions, v.GenericSchema>;
export const optionNames = Object.keys(schemas) as readonly (keyof CompileOptions)[];

const combinations = (d: CompileOptions["dynamic"]): number =>
  typeof d === "object" ? Object.values(d.buckets ?? {}).reduce((n, list) => n * list.length, 1) : 1;
function settleDynamic(given: CompileOptions["dynamic"]): Settings["dynamic"] {
  if (given === undefined || given === false) return undefined;
  const { onMiss = "build", buckets = {}, masked = [], padding = false } = given === true ? {} : given;
  const ascending = ([dim, list]: readonly [string, readonly number[]]) => [dim, [...new Set(list)].sort((a, b) => a - b)] as const;
  return { onMiss, buckets: Object.fromEntries(Object.entries(buckets).map(ascending)), masked, padding };
}

const describe = (x: unknown): string =>
  x === null || x === undefined ? String(x) : Array.isArray(x) ? "a list" : `${typeof x === "object" ? "an" : "a"} ${typeof x}`;

/** Checks and completes options. Throws P1001 and P1002. */
export function settle(options: CompileOptions): Settings {
  demandKnown(options, optionNames);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const result = v.safeParse(schemas[name as keyof CompileOptions], value);
    if (!result.success) {
      const [issue] = result.issues;
      // The part of the option at fault: an input's name, a place in a list.
      const [part] = issue.path ?? [];
      const place = part === undefined ? name : `${name}.${String(part.key)}`;
      throw badOption({ name: place, what: issue.message, fix: "see docs/api.md for what it takes" });
    }
  }
  const given = (["data", "file", "table"] as const).filter((name) => options.calibration?.[name] !== undefined);
  if (options.calibration !== undefined && given.length !== 1)
    throw badOption({
      name: "calibration",
      what: given.length === 0 ? "names no data" : `has ${given.join(" and ")}`,
      fix: "give one of data, file and table",
    });
  const target = options.target ?? "auto";
  const shapes: Record<string, Settings["shapes"][string]> = {};
  for (const [name, shape] of Object.entries(options.shapes ?? {})) {
    const range = Array.isArray(shape)
      ? { min: shape as readonly number[], opt: shape as readonly number[], max: shape as readonly number[] }
      : (shape as Settings["shapes"][string]);
    const rank = range.opt.length;
    const ordered =
      range.min.length === rank &&
      range.max.length === rank &&
      range.opt.every((d, i) => (range.min[i] ?? 0) <= d && d <= (range.max[i] ?? 0));
    if (!ordered)
      throw badOption({
        name: `shapes.${name}`,
        what: `has min [${range.min}], opt [${range.opt}], max [${range.max}], which are not in order`,
        fix: "give the three one rank, and min <= opt <= max in every dim",
      });
    shapes[name] = range;
  }
  return {
    targets: target === "auto" ? ["host"] : typeof target === "string" ? [target] : target,
    auto: target === "auto",
    precision: options.precision ?? "fp32",
    calibration: options.calibration,
    minimumSegmentSize: options.minimumSegmentSize ?? 3,
    shapes,
    bind: options.bind ?? {},
    inputs: options.inputs,
    outputs: options.outputs,
    signature: options.signature ?? "serving_default",
    operators: options.operators ?? [],
    maxWorkspaceSizeBytes: options.maxWorkspaceSizeBytes ?? 2 ** 30,
    maximumCachedEngines: options.maximumCachedEngines ?? Math.max(8, Math.min(64, combinations(options.dynamic))),
    dynamic: settleDynamic(options.dynamic),
    tune: options.tune ?? "quick",
    sm: options.computeCapability === undefined ? undefined : Math.round(10 * Number(options.computeCapability)),
    tensorrt: options.tensorrt ?? {},
    pin: options.pin ?? [],
    whatIf: new Map(Object.entries(options.whatIf ?? {})),
    times: options.times ?? {},
    strict: options.strict ?? false,
    verify: options.verify ?? false,
    onProgress: options.onProgress ?? (() => {}),
    onRemark: options.onRemark ?? (() => {}),
    signal: options.signal,
  };
}

/** What the dynamic option means for a graph's inputs: their dims by name. Throws P1001 for a dim that there is none of. */
export function dynamicShapes(settings: Settings, inputs: readonly { readonly name: string; readonly dims: Shape }[]): DynamicShapes {
  const { dynamic: asked, targets, strict, maximumCachedEngines: capacity } = settings;
  if (asked === undefined) return { ...DEFAULT_DYNAMIC, strict, capacity };
  const plain = (d: Dim | undefined): string | undefined => (typeof d === "string" && symbolsOf(d).join() === d ? d : undefined);
  const known = new Set(inputs.flatMap(({ dims }) => (dims ?? []).flatMap((d) => plain(d) ?? [])));
  const resolved = (said: string, option: string): string => {
    const [, input, axis] = /^(.*)\[(\d+)\]$/.exec(said) ?? [];
    const placed = plain(inputs.find((p) => p.name === input || p.name === `${input}:0`)?.dims?.[Number(axis)]);
    const named = String(symbol(said));
    if (placed !== undefined) return placed;
    if (known.has(named)) return named;
    const near = didYouMean(said, [...known]);
    throw badOption({
      name: option,
      what: `speaks of the dim '${said}', and no input has an open dim of that name`,
      fix:
        near !== undefined
          ? `did you mean '${near}'?`
          : known.size === 0
            ? "leave it out: the inputs' dims are fixed"
            : `the open dims are ${[...known].join(", ")}`,
    });
  };
  const engines = targets.filter((t) => t !== "host");
  return {
    engines: engines.length === 0 ? ["host"] : engines,
    onMiss: asked.onMiss,
    capacity,
    buckets: Object.fromEntries(Object.entries(asked.buckets).map(([dim, sizes]) => [resolved(dim, "dynamic.buckets"), sizes])),
    masked: asked.masked.map((dim) => resolved(dim, "dynamic.masked")),
    padding: asked.padding,
    batch: [...new Set(inputs.flatMap(({ dims }) => plain(dims?.[0]) ?? []))],
    strict,
  };
}

export interface LoadOptions {
  /** The JavaScript operators that the program was compiled with. */
  readonly operators?: readonly Operator[] | undefined;
}
/** Checks options for loading; gives the operators. Throws P1001 and P1002. */
export function settleLoad(options: LoadOptions): readonly Operator[] {
  demandKnown(options, ["operators"]);
  return settle(options).operators;
}
/** Throws P1001 for what is no object of options, P1002 for an option that does not exist. */
export function demandKnown(options: object, known: readonly string[]): void {
  if (options === null || typeof options !== "object" || Array.isArray(options))
    throw badOption({ name: "options", what: `is ${describe(options)}`, fix: "give an object of options, or leave it out" });
  for (const name of Object.keys(options)) if (!known.includes(name)) throw unknownOption({ name, near: didYouMean(name, known), known });
}
/** The path that a caller gave, a file: URL among them. Throws P1001. */
export function pathOf(given: string | URL, name: string): string {
  if (given instanceof URL && given.protocol === "file:") return fileURLToPath(given);
  if (typeof given === "string" && given !== "") return given;
  const what = given === "" ? "is empty" : `is ${given instanceof URL ? `'${given.href}'` : describe(given)}`;
  throw badOption({ name, what, fix: "give a path or a file: URL" });
}
