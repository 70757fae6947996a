/**
 * The first use of a TensorRT library on a machine happens in a child process: a library that is broken, or not what its name says, may end the
 * process that calls it. What came out is remembered on disk by the files, the addon, the driver and the GPU, so that later processes need not ask;
 * a library that ended its child is not remembered, and asked again.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { cacheFile } from "../../atomic.js";
import { cacheFolder } from "../disk-cache.js";
import { type Ability, inChild } from "./child.js";
import { libraryFailed, probeDied } from "./failures.js";
import { libraryIdentity } from "./identity.js";
import type { Family, LibraryVersion, OpenOptions } from "./native.js";
import { requireFamily, versionOf } from "./versions.js";

export interface Probe {
  readonly version: LibraryVersion;
  readonly family: Family;
  /** The parser reads a model. Not ok without a parser. */
  readonly parser: Ability;
  /** A plan for one operator can be built (by RTX for compute capability 8.9, by others for the GPU that is there). */
  readonly builder: Ability;
  /** The plan can be loaded on the GPU that is there. */
  readonly runtime: Ability;
}

export interface ProbeOptions extends OpenOptions {
  /** Milliseconds for everything. Default 180,000: builders of complete installations take long to start. */
  readonly timeoutMs?: number | undefined;
  /** Asks the library again, whatever is remembered. */
  readonly fresh?: boolean | undefined;
  /** Folder of what is remembered. */
  readonly folder?: string | undefined;
}

/** y = Relu(x) of one float32, opset 13. */
const MODEL = "CAg6PAoSCgF4EgF5GgRyZWx1IgRSZWx1EgRtYWluWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ==";
const ADA = 89;

/** The parent answers the version with a family. */
const CHILD = `
const [library, parser, model] = rest;
await say({ step: "load" });
let opened;
try {
  opened = tensorrt.open(library, parser === "" ? undefined : parser);
} catch (e) {
  return await say({ step: "load", ok: false, why: e.message });
}
const answer = new Promise((done) => process.once("message", done));
await say({ step: "load", ok: true, version: opened.version });
const { family, computeCapabilities } = await answer;
tensorrt.bind(opened.id, family);
const bytes = Buffer.from(model, "base64");
let built;
if (parser !== "" && (await attempt("parser", () => tensorrt.supports(opened.id, bytes))) !== undefined)
  built = await attempt("builder", () => tensorrt.build(opened.id, bytes, { stronglyTyped: true, computeCapabilities }, undefined).promise);
if (built !== undefined) await attempt("runtime", () => tensorrt.deserialize(opened.id, built.plan, undefined, false));
`;

const ability = v.variant("ok", [v.strictObject({ ok: v.literal(true) }), v.strictObject({ ok: v.literal(false), why: v.string() })]);
const remembered = v.strictObject({ version: v.number(), parser: ability, builder: ability, runtime: ability });
type Remembered = v.InferOutput<typeof remembered>;

/** What the library is and what of it works here. Throws P2102, P2210 (it does not load), P2211 (its version is not known), P2212 (it ends the process). */
export async function probeTensorRt(options: ProbeOptions): Promise<Probe> {
  const { library, parser, fresh = false, folder = join(cacheFolder(), "tensorrt") } = options;
  const file = join(folder, `${libraryIdentity({ library, parser })}.json`);
  const known = fresh ? undefined : recall(file);
  const found = known ?? (await ask(library, parser, options.timeoutMs ?? 180_000));
  // A folder that cannot be written costs a probe the next time.
  if (known === undefined) await cacheFile(file, JSON.stringify(found));
  const version = versionOf(found.version);
  return { version, family: requireFamily(version, library), parser: found.parser, builder: found.builder, runtime: found.runtime };
}

async function ask(library: string, parser: string | undefined, timeoutMs: number): Promise<Remembered> {
  let version: number | undefined;
  const { results, death } = await inChild({
    source: CHILD,
    arguments: [library, parser ?? "", MODEL],
    timeoutMs,
    steps: STEPS,
    onTold({ step, version: number }, answer) {
      if (step !== "load" || number === undefined) return;
      version = number;
      const read = versionOf(number);
      const family = requireFamily(read, library);
      answer({ family, ...(read.product === "TensorRT-RTX" ? { computeCapabilities: [ADA] } : {}) });
    },
  });
  const loaded = results.get("load");
  if (loaded !== undefined && !loaded.ok) throw libraryFailed({ library, why: loaded.why });
  if (death !== undefined || version === undefined) throw probeDied({ library, how: death ?? "it did not tell its version" });
  const skipped = (why: string): Ability => ({ ok: false, why });
  const parsed = results.get("parser") ?? skipped("there is no ONNX parser");
  return {
    version,
    parser: parsed,
    builder: results.get("builder") ?? skipped(parsed.ok ? "not tried" : parsed.why),
    runtime: results.get("runtime") ?? skipped("there is no plan to try"),
  };
}

const STEPS: Readonly<Record<string, string>> = {
  start: "before it loaded the library",
  load: "when it loaded the library",
  parser: "when it asked the parser",
  builder: "when it built a plan",
  runtime: "when it loaded a plan",
};

function recall(file: string): Remembered | undefined {
  try {
    if (!existsSync(file)) return undefined;
    const parsed = v.safeParse(remembered, JSON.parse(readFileSync(file, "utf8")));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
}
