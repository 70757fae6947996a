/**
 * The first use of a TensorRT library on a machine happens in a child process: a library that is broken, or not what its name says, may end the
 * process that calls it. What came out is remembered on disk by the files, the addon, the driver and the GPU, so that later processes need not ask;
 * a library that ended its child is not remembered, and asked again.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import { cacheFile } from "../../atomic.js";
import { gpuVerdict, openDevice } from "../cuda/device.js";
import { list } from "../cuda/libraries.js";
import { native } from "../cuda/native.js";
import { cacheFolder } from "../disk-cache.js";
import { libraryFailed, probeDied, sentence } from "./failures.js";
import type { Family, LibraryVersion, OpenOptions } from "./native.js";
import { requireFamily, versionOf } from "./versions.js";

/** Whether a part of the library works here; `why` in its own words. */
export type Ability = { readonly ok: true } | { readonly ok: false; readonly why: string };
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

/** Runs in the child: it says what it is about to do, and what became of it. The parent answers the version with a family. */
const CHILD = `
const [addon, library, parser, model] = process.argv.slice(1);
const { tensorrt } = require(addon);
const say = (m) => new Promise((done) => process.send(m, done));
const attempt = async (step, work) => {
  await say({ step });
  try {
    const value = await work();
    await say({ step, ok: true });
    return value;
  } catch (e) {
    const errors = (e.log ?? []).filter((l) => l.severity === "error" || l.severity === "internal").map((l) => l.text);
    await say({ step, ok: false, why: errors.length > 0 ? errors.join("; ") : e.message });
  }
};
(async () => {
  await say({ step: "load" });
  let opened;
  try {
    opened = tensorrt.open(library, parser === "" ? undefined : parser);
  } catch (e) {
    await say({ step: "load", ok: false, why: e.message });
    process.exit(0);
  }
  await say({ step: "load", ok: true, version: opened.version });
  process.once("message", async ({ family, computeCapabilities }) => {
    tensorrt.bind(opened.id, family);
    const bytes = Buffer.from(model, "base64");
    let built;
    if (parser !== "" && (await attempt("parser", () => tensorrt.supports(opened.id, bytes))) !== undefined)
      built = await attempt("builder", () => tensorrt.build(opened.id, bytes, { stronglyTyped: true, computeCapabilities }, undefined).promise);
    if (built !== undefined) await attempt("runtime", () => tensorrt.deserialize(opened.id, built.plan, undefined, false));
    await say({ step: "end" });
    process.exit(0);
  });
})();
`;

const ability = v.variant("ok", [v.strictObject({ ok: v.literal(true) }), v.strictObject({ ok: v.literal(false), why: v.string() })]);
const remembered = v.strictObject({ version: v.number(), parser: ability, builder: ability, runtime: ability });
type Remembered = v.InferOutput<typeof remembered>;
const message = v.object({ step: v.string(), ok: v.optional(v.boolean()), why: v.optional(v.string()), version: v.optional(v.number()) });

/** What the library is and what of it works here. Throws P2102, P2210 (it does not load), P2211 (its version is not known), P2212 (it ends the process). */
export async function probeTensorRt(options: ProbeOptions): Promise<Probe> {
  const { library, parser, fresh = false, folder = join(cacheFolder(), "tensorrt") } = options;
  const file = join(folder, `${key(library, parser)}.json`);
  const known = fresh ? undefined : recall(file);
  const found = known ?? (await ask(library, parser, options.timeoutMs ?? 180_000));
  // A folder that cannot be written costs a probe the next time.
  if (known === undefined) await cacheFile(file, JSON.stringify(found));
  const version = versionOf(found.version);
  return { version, family: requireFamily(version, library), parser: found.parser, builder: found.builder, runtime: found.runtime };
}

async function ask(library: string, parser: string | undefined, timeoutMs: number): Promise<Remembered> {
  const { path } = native();
  const arguments_ = ["-e", CHILD, path, library, parser ?? "", MODEL];
  const child = spawn(process.execPath, arguments_, { stdio: ["ignore", "ignore", "pipe", "ipc"] });
  let step = "start";
  let stderr = "";
  let slow = false;
  let version: number | undefined;
  let refused: unknown;
  const results = new Map<string, Ability>();
  child.stderr?.on("data", (data: Buffer) => {
    stderr = `${stderr}${data.toString()}`.slice(-2000);
  });
  child.on("message", (raw) => {
    const parsed = v.safeParse(message, raw);
    if (!parsed.success) return;
    const { ok, why = "", version: number } = parsed.output;
    step = parsed.output.step;
    if (ok !== undefined) results.set(step, ok ? { ok } : { ok, why: sentence(why) });
    if (step !== "load" || number === undefined) return;
    version = number;
    try {
      const read = versionOf(number);
      const family = requireFamily(read, library);
      child.send({ family, ...(read.product === "TensorRT-RTX" ? { computeCapabilities: [ADA] } : {}) });
    } catch (error) {
      refused = error;
      child.kill("SIGKILL");
    }
  });
  const timer = setTimeout(() => {
    slow = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const { code, signal } = await new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal }));
  }).finally(() => clearTimeout(timer));
  if (refused !== undefined) throw refused;
  const loaded = results.get("load");
  if (loaded !== undefined && !loaded.ok) throw libraryFailed({ library, why: loaded.why });
  if (step !== "end" || version === undefined) {
    const end = slow
      ? `it gave no answer in ${timeoutMs} ms`
      : signal === null
        ? `it ended with exit code ${code}`
        : `it ended by ${signal}`;
    const said = stderr.trim().split("\n").slice(-3).join("; ");
    throw probeDied({ library, how: `${end}, ${STEPS[step] ?? step}${said === "" ? "" : `: ${sentence(said)}`}` });
  }
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

/** By what a change of would change the answer. */
function key(library: string, parser: string | undefined): string {
  const hash = createHash("sha256").update(native().addon.sourceHash);
  // What the builder opens besides: a folder that was copied in part, or a loader's path that lacked it, are found right once they are.
  const beside = library.includes("/") ? list(dirname(library)).filter((n) => n.includes("builder_resource")) : [];
  const resources = beside.sort().map((n) => join(dirname(library), n));
  for (const path of [library, parser ?? "", ...resources, "/proc/driver/nvidia/version"]) {
    hash.update(`\0${path}\0`);
    try {
      const { size, mtimeMs } = statSync(path);
      hash.update(path.startsWith("/proc/") ? readFileSync(path) : `${size} ${mtimeMs}`);
    } catch {
      // A name for the loader, or no driver.
    }
  }
  const { name, sm } = gpuVerdict().ok ? openDevice().properties : { name: "", sm: 0 };
  for (const variable of ["CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"]) hash.update(`\0${process.env[variable] ?? ""}`);
  return hash.update(`\0${name} ${sm}`).digest("hex").slice(0, 32);
}

function recall(file: string): Remembered | undefined {
  try {
    if (!existsSync(file)) return undefined;
    const parsed = v.safeParse(remembered, JSON.parse(readFileSync(file, "utf8")));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
}
