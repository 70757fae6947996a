/** Mutated bundles: damaged ones, which loading must refuse or survive, and forged ones, whose hashes were made to fit again. */
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { run as commandLine } from "../../src/cli/program.js";
import { compile, load } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { manifestHash } from "../../src/runtime/bundle.js";
import { randomFeeds } from "../../src/runtime/measure.js";
import type { TensorLike } from "../../src/tensor.js";
import { ownBases } from "./bases.js";
import { mutate, type Random } from "./mutate.js";
import { describeDifference, referenceOf } from "./reference.js";
import type { Outcome } from "./types.js";

interface BaseBundle {
  readonly name: string;
  readonly path: string;
  readonly feeds: Readonly<Record<string, TensorLike>>;
  readonly expected: Readonly<Record<string, TensorLike>>;
}
export interface BundleMutant {
  readonly path: string;
  readonly base: string;
  readonly how: string;
  /** Hashes were made to fit: then only crashes, hangs and escapes count, and, where the model alone changed, its result. */
  readonly forged: boolean;
  /** Whether nothing but a model file was changed. */
  readonly modelOnly: boolean;
  readonly bundle: BaseBundle;
}

const below = (next: Random, n: number): number => Math.floor(next() * n);
const pick = <T>(next: Random, list: readonly T[]): T => list[below(next, list.length)] as T;

/** A few small programs, saved; `root` holds a file outside that none of them may reach. */
export async function prepareBundles(folder: string, root: string): Promise<BaseBundle[]> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(root, "outside.onnx"), Buffer.alloc(4096, 42));
  const bundles: BaseBundle[] = [];
  for (const { name, bytes } of ownBases()) {
    if (!["mlp", "conv-net", "control-flow", "quantized", "strings", "functions"].includes(name)) continue;
    const path = join(folder, `${name}.partita`);
    const program = await compile(bytes);
    await program.save(path);
    const feeds = randomFeeds(program.inputs, 2, 7);
    const session = await program.createSession({ threads: 1 });
    const expected = await session.run(feeds);
    await session.dispose();
    bundles.push({ name, path, feeds, expected });
  }
  return bundles;
}

const filesOf = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? filesOf(join(folder, e.name)) : [join(folder, e.name)]));

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
interface Place {
  readonly owner: Json[] | { [key: string]: Json };
  readonly key: string | number;
}
function placesOf(value: Json, found: Place[] = [], depth = 0): Place[] {
  if (depth > 50) return found;
  if (Array.isArray(value))
    value.forEach((x, i) => {
      found.push({ owner: value, key: i });
      placesOf(x, found, depth + 1);
    });
  else if (value !== null && typeof value === "object")
    for (const [key, x] of Object.entries(value)) {
      found.push({ owner: value, key });
      placesOf(x, found, depth + 1);
    }
  return found;
}
const get = (p: Place): Json => (p.owner as Record<string | number, Json>)[p.key] as Json;
const set = (p: Place, value: Json): void => void ((p.owner as Record<string | number, Json>)[p.key] = value);

const PATHS = [
  "../outside.onnx",
  "../../outside.onnx",
  "/etc/passwd",
  "host/../../outside.onnx",
  "host//model.onnx",
  "",
  ".",
  "..",
  "a\0b",
  "/dev/zero",
  "/proc/self/mem",
  "x".repeat(10_000),
  "host",
  "report.json",
  "manifest.json",
  "C:\\x",
  "host\\model.onnx",
  "link.onnx",
];
const SCALARS: readonly Json[] = [
  null,
  true,
  "",
  "x",
  "__proto__",
  -1,
  0,
  1,
  2 ** 31,
  2 ** 53,
  1e308,
  [],
  {},
  "partita.bundle/2",
  "partita.bundle/1",
  "cuda",
  "tensorrt",
  "host",
  "int64",
  "float32",
];
const DEEP = (): Json => {
  let v: Json = [];
  for (let i = 0; i < 800; i++) v = [v];
  return v;
};

/** Changes the manifest or the report somewhere. */
function changeJson(path: string, next: Random): string {
  const value = JSON.parse(readFileSync(path, "utf8")) as Json;
  const places = placesOf(value);
  const p = pick(next, places);
  const kind = below(next, 8);
  let how = "";
  if (kind === 0 && !Array.isArray(p.owner)) {
    delete p.owner[p.key];
    how = `drop '${p.key}'`;
  } else if (kind === 1) {
    set(p, pick(next, SCALARS));
    how = `set '${p.key}' to a strange value`;
  } else if (kind === 2) {
    const q = pick(next, places);
    const [a, b] = [JSON.stringify(get(p)) ?? "0", JSON.stringify(get(q)) ?? "0"];
    // One may lie inside the other: copies, and not of whole trees, or the file grows without end.
    if (a.length + b.length < 20_000) {
      set(p, JSON.parse(b) as Json);
      set(q, JSON.parse(a) as Json);
    }
    how = `swap '${p.key}' and '${q.key}'`;
  } else if (kind === 3) {
    const named = places.filter((x) => x.key === "path" || x.key === "name");
    if (named.length > 0) set(pick(next, named), pick(next, PATHS));
    how = "a strange path";
  } else if (kind === 4) {
    if (Array.isArray(p.owner)) p.owner.push(structuredClone(get(p)));
    else p.owner[`${p.key}!`] = get(p);
    how = `repeat '${p.key}'`;
  } else if (kind === 5) {
    set(p, DEEP());
    how = `deep list at '${p.key}'`;
  } else if (kind === 6) {
    const texts = places.filter((x) => typeof get(x) === "string");
    const [a, b] = [pick(next, texts), pick(next, texts)];
    set(a, get(b));
    how = `'${a.key}' takes the text of '${b.key}'`;
  } else {
    const numbers = places.filter((x) => typeof get(x) === "number");
    if (numbers.length > 0) set(pick(next, numbers), pick(next, [-1, 0, 1, 7, 2 ** 31, 2 ** 40, 1e300, 0.5]));
    how = "a strange number";
  }
  writeFileSync(path, JSON.stringify(value, null, 1));
  return `${relative(join(path, ".."), path)}: ${how}`;
}

/** Makes sizes and hashes of a bundle fit its files again. False where it cannot be done. */
function forge(folder: string): boolean {
  try {
    const path = join(folder, "manifest.json");
    // A link may lead to a device without end.
    if (!lstatSync(path).isFile() || !lstatSync(join(folder, "report.json")).isFile()) return false;
    const m = JSON.parse(readFileSync(path, "utf8")) as {
      artifacts: { files: { path: string; bytes: number; sha256: string }[] }[];
      report: { sha256: string };
      sha256: string;
    };
    const hash = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");
    for (const a of m.artifacts)
      for (const f of a.files) {
        const file = join(folder, f.path);
        if (!file.startsWith(folder) || !existsSync(file) || !statSync(file).isFile()) continue;
        f.bytes = statSync(file).size;
        f.sha256 = hash(file);
      }
    m.report.sha256 = hash(join(folder, "report.json"));
    m.sha256 = manifestHash(m as never);
    writeFileSync(path, JSON.stringify(m));
    return true;
  } catch {
    return false;
  }
}

export function bundleMutant(bundles: readonly BaseBundle[], next: Random, target: string): BundleMutant {
  const bundle = pick(next, bundles);
  rmSync(target, { recursive: true, force: true });
  cpSync(bundle.path, target, { recursive: true });
  const files = filesOf(target);
  const file = pick(next, files);
  const short = relative(target, file);
  let how = "";
  let modelOnly = false;
  const r = next();
  if (r < 0.1) {
    truncateSync(file, below(next, statSync(file).size));
    how = `truncate ${short}`;
  } else if (r < 0.2) {
    const bytes = readFileSync(file);
    for (let i = 1 + below(next, 4); i > 0; i--) {
      const at = below(next, bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << below(next, 8));
    }
    writeFileSync(file, bytes);
    how = `flip bits of ${short}`;
  } else if (r < 0.25) {
    rmSync(file);
    how = `delete ${short}`;
  } else if (r < 0.3) {
    rmSync(file);
    if (next() < 0.5) symlinkSync(pick(next, ["../outside.onnx", "/etc/passwd", "/dev/zero", "manifest.json", short]), file);
    else mkdirSync(file);
    how = `${short} becomes a link or a folder`;
  } else if (r < 0.35) {
    const folder = join(target, "host");
    renameSync(folder, join(target, "moved"));
    if (next() < 0.7) symlinkSync(pick(next, ["moved", "../bundles", "/tmp", "."]), folder);
    how = "the host folder becomes a link or goes";
  } else if (r < 0.65) {
    how = changeJson(join(target, "manifest.json"), next);
    while (next() < 0.3 && statSync(join(target, "manifest.json")).size < 200_000)
      how += ` + ${changeJson(join(target, "manifest.json"), next)}`;
  } else if (r < 0.75) how = changeJson(join(target, "report.json"), next);
  else {
    const models = files.filter((f) => f.endsWith(".onnx"));
    const model = pick(next, models);
    const base = readFileSync(model);
    const m = mutate(new Uint8Array(base), next, new Uint8Array(base));
    writeFileSync(model, m.bytes);
    how = `${relative(target, model)}: ${m.how}`;
    modelOnly = models.length === 1;
  }
  const forged = next() < (modelOnly ? 0.9 : 0.6) && forge(target);
  return { path: target, base: bundle.name, how: forged ? `${how} (hashes made to fit)` : how, forged, modelOnly, bundle };
}

export async function tryBundle(
  m: BundleMutant,
  root: string,
  mark: (step: string) => void,
): Promise<Omit<Outcome, "i" | "how" | "base" | "ms" | "peak">> {
  let phase = "load";
  let results: Record<string, TensorLike>;
  const before = filesOf(root)
    .filter((f) => !f.startsWith(m.path))
    .join("\n");
  try {
    mark("load");
    const program = await load(m.path);
    mark("report");
    program.report.toText();
    program.report.toHTML();
    phase = "open";
    mark("open");
    const session = await program.createSession({ threads: 1 });
    try {
      phase = "run";
      mark("run");
      results = await session.run(m.bundle.feeds, { signal: AbortSignal.timeout(6000) });
    } finally {
      await session.dispose();
    }
    phase = "save";
    mark("save");
    await program.save(`${m.path}.again.partita`);
    rmSync(`${m.path}.again.partita`, { recursive: true, force: true });
    phase = "export";
    mark("export");
    const silent = { write: () => {} };
    const code = await commandLine(["export", m.path, "onnx", "-o", `${m.path}.exported`], { stdout: silent, stderr: silent, env: {} });
    rmSync(`${m.path}.exported`, { recursive: true, force: true });
    if (code === 70) return { kind: "FAIL", phase, what: "export failed without a code" };
  } catch (error) {
    if (error instanceof PartitaError && error.exit !== 70)
      return { kind: `${error.code} at ${phase}`, phase, what: error.message.slice(0, 300) };
    return {
      kind: "FAIL",
      phase,
      what: `not a coded refusal: ${error instanceof Error ? (error.stack ?? error.message).slice(0, 1500) : String(error)}`,
    };
  }
  const after = filesOf(root)
    .filter((f) => !f.startsWith(m.path))
    .join("\n");
  if (after !== before) return { kind: "FAIL", phase, what: "a file was written outside the target" };
  const difference = describeDifference(results, m.bundle.expected);
  if (difference === undefined) return { kind: "equal", phase, what: "" };
  if (!m.forged) return { kind: "FAIL", phase, what: `damage went unnoticed: ${difference}` };
  if (!m.modelOnly) return { kind: "another program, consistently forged", phase, what: difference };
  mark("reference");
  const model = filesOf(m.path).find((f) => f.endsWith(".onnx")) as string;
  const theirs = await referenceOf(readFileSync(model), model, m.bundle.feeds, true);
  if ("error" in theirs) return { kind: "runs, ONNX Runtime refuses the file", phase, what: theirs.error };
  const wrong = describeDifference(results, theirs.results);
  return wrong === undefined
    ? { kind: "equal to ONNX Runtime on the changed model", phase, what: "" }
    : { kind: "FAIL", phase, what: `a wrong result: ${wrong}` };
}
