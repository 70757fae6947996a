/** Flags of the command line as options of compilation. What is in them is checked with the options. */
import { readFileSync } from "node:fs";
import { badOption, type CompileOptions, type ProgressEvent } from "../options.js";
import { parseBind, parseBucket, parseCalibration, parseNumber, parseShape, parseTensorRt } from "./syntax.js";
import type { Terminal } from "./terminal.js";

/** Flags that every command has that compiles. */
export interface ModelFlags {
  readonly target?: string;
  readonly precision?: string;
  readonly calibration?: string;
  readonly quantizeExclude?: readonly string[];
  readonly maxDrop?: string;
  readonly maxSlowdown?: string;
  readonly searchBudget?: string;
  readonly search?: boolean;
  readonly trials?: string;
  readonly minSegmentSize?: string;
  readonly tune?: string;
  readonly shape?: readonly string[];
  readonly bind?: readonly string[];
  readonly dynamic?: string | boolean;
  readonly bucket?: readonly string[];
  readonly masked?: string;
  readonly padding?: boolean;
  readonly maxCachedEngines?: string;
  readonly maxWorkspace?: string;
  readonly inputs?: string;
  readonly computeCapability?: string;
  readonly trt?: readonly string[];
  readonly outputs?: string;
  readonly signature?: string;
  readonly pin?: readonly string[];
  readonly whatIf?: readonly string[];
  readonly times?: string;
  readonly strict?: boolean;
  readonly json?: boolean;
}

/** For a flag that may be repeated. */
export const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value];

function calibrationOf(flags: ModelFlags): Pick<CompileOptions, "calibration"> {
  const exclude = flags.quantizeExclude ?? [];
  const drop = flags.maxDrop === undefined ? {} : { maxDrop: parseNumber("--max-drop", flags.maxDrop, { least: 0, whole: false }) };
  const slowdown =
    flags.maxSlowdown === undefined ? {} : { maxSlowdown: parseNumber("--max-slowdown", flags.maxSlowdown, { least: 1, whole: false }) };
  const budget =
    flags.searchBudget === undefined
      ? {}
      : { budgetSeconds: parseNumber("--search-budget", flags.searchBudget, { least: 0, whole: false }) };
  const search = {
    ...drop,
    ...slowdown,
    ...budget,
    ...(flags.search === false ? { search: "none" as const } : {}),
    ...(flags.trials === undefined ? {} : { trials: flags.trials }),
  };
  if (flags.calibration !== undefined)
    return { calibration: { ...parseCalibration(flags.calibration), ...(exclude.length === 0 ? {} : { exclude }), ...search } };
  const [stray] = Object.keys(search);
  if (stray !== undefined)
    throw badOption({
      name: "calibration",
      what: `is missing, and '${stray}' is of the search that it feeds`,
      fix: "give --calibration too",
    });
  if (exclude.length === 0) return {};
  throw badOption({ name: "--quantize-exclude", what: "has no calibration to exclude from", fix: "give --calibration too" });
}

/** What a repeated flag says by name. Throws P1001 where it says two things of one. */
export function once<T>(flag: string, entries: readonly (readonly [name: string, value: T])[]): Record<string, T> {
  const twice = entries.find(([name], i) => entries.findIndex(([other]) => other === name) < i);
  if (twice !== undefined) throw badOption({ name: flag, what: `is given twice for '${twice[0]}'`, fix: "give it once" });
  return Object.fromEntries(entries);
}

/** `a, b`: the names in a list. */
export const namesOf = (list: string | undefined): readonly string[] | undefined => list?.split(",").map((s) => s.trim());

export function compileOptions(flags: ModelFlags, terminal: Terminal): CompileOptions {
  const targets = namesOf(flags.target) ?? ["auto"];
  const halves =
    (flag: string, form: string) =>
    (text: string): readonly [string, "host"] => {
      const at = text.lastIndexOf("=");
      if (at <= 0)
        throw badOption({ name: flag, what: `'${text}' is not ${form}`, fix: "write it as NAME=host, NAME=cuda or NAME=tensorrt" });
      return [text.slice(0, at), text.slice(at + 1) as "host"];
    };
  const pins = (flags.pin ?? []).map(halves("--pin", "MATCH=ENGINE")).map(([match, to]) => ({ match, to }));
  const options: Record<string, unknown> = {
    target: targets.length === 1 ? targets[0] : targets,
    precision: flags.precision,
    ...calibrationOf(flags),
    minimumSegmentSize: parseNumber("--min-segment-size", flags.minSegmentSize ?? "3", { least: 1, whole: true }),
    shapes: once("--shape", (flags.shape ?? []).map(parseShape)),
    bind: once("--bind", (flags.bind ?? []).map(parseBind)),
    dynamic: dynamicOf(flags),
    maximumCachedEngines: countOf("--max-cached-engines", flags.maxCachedEngines, 1),
    maxWorkspaceSizeBytes: countOf("--max-workspace", flags.maxWorkspace, 0),
    inputs: namesOf(flags.inputs),
    computeCapability: flags.computeCapability,
    tensorrt: Object.fromEntries((flags.trt ?? []).map(parseTensorRt)),
    outputs: namesOf(flags.outputs),
    signature: flags.signature,
    tune: flags.tune,
    pin: pins,
    whatIf: Object.fromEntries((flags.whatIf ?? []).map(halves("--what-if", "OP=ENGINE"))),
    times: flags.times === undefined ? undefined : readJson("--times", flags.times),
    strict: flags.strict ?? false,
    onProgress: ({ stage, fraction, detail }: ProgressEvent) => terminal.progress(stage, fraction, detail),
    onRemark: (remark: { severity: string; text: string }) => terminal.remark(remark.severity, remark.text),
  };
  return options as CompileOptions;
}

const countOf = (flag: string, text: string | undefined, least: number): number | undefined =>
  text === undefined ? undefined : parseNumber(flag, text, { least, whole: true });
/** Any of the flags of dynamic shapes asks for them. */
function dynamicOf({ dynamic, bucket = [], masked, padding }: ModelFlags): CompileOptions["dynamic"] {
  if (dynamic === undefined && bucket.length === 0 && masked === undefined && padding === undefined) return undefined;
  return {
    ...(typeof dynamic === "string" ? { onMiss: dynamic as "build" } : {}),
    buckets: once("--bucket", bucket.map(parseBucket)),
    ...(masked === undefined ? {} : { masked: namesOf(masked) }),
    padding: padding ?? false,
  };
}

/** A JSON file that a flag names; what is in it is checked with the options. */
function readJson(flag: string, path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : String(cause);
    throw badOption({ name: flag, what: `names a file that cannot be read as JSON: ${what}`, fix: "check the path and the file" });
  }
}
