/**
 * Bundles on disk: manifest.json, report.json, and a folder of files per artifact, named by content. Saving writes a folder beside and
 * renames it; loading verifies the schema and every hash, and leaves the folder for nothing.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  createReadStream,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as v from "valibot";
import { isRunning, temporariesOf, temporaryFor } from "../atomic.js";
import { defineError, PartitaError } from "../diagnostics.js";
import type { Artifact } from "../engines/engine.js";
import { operatorCalled, operatorNeeded } from "../engines/host/operators.js";
import { decodeOnnx } from "../import/onnx/index.js";
import type { Operator } from "../ops/javascript.js";
import { type Report, reportFromJSON } from "../report/report.js";
import { decodePlan, encodePlan } from "./plan.js";
import type { Plan } from "./ports.js";

export const SCHEMA = "partita.bundle/1";
export const notABundle = defineError<{ what: string }>("P3001", "a folder is not a bundle", ({ what }) => ({
  what,
  fix: "give a folder that program.save or `partita compile -o` wrote",
}));
export const bundleDamaged = defineError<{ what: string }>("P3002", "a bundle is damaged", ({ what }) => ({
  what,
  fix: "compile the model again; do not edit bundles by hand",
}));
export const bundleEscape = defineError<{ path: string }>("P3003", "a bundle refers to a file outside itself", ({ path }) => ({
  what: `'${path}' is not a plain path inside the bundle`,
  fix: "do not load bundles from sources you do not trust",
}));
export const bundleVersion = defineError<{ found: string }>("P3004", "a bundle was written by another version", ({ found }) => ({
  what: `its schema is '${found}', this version reads '${SCHEMA}'`,
  fix: "compile the model again with this version",
}));
export const cannotSave = defineError<{ what: string; fix?: string }>("P3005", "a bundle cannot be written", ({ what, fix }) => ({
  what,
  fix: fix ?? "check the folder, its permissions and the room on the disk",
}));

export const missingOperator = defineError<{ called: string }>("P3006", "a bundle needs a JavaScript operator", ({ called }) => ({
  what: `it was compiled with the JavaScript operator '${called}', which is not given`,
  why: "a bundle names such operators and does not hold their code",
  fix: "give it: load(path, { operators: [...] })",
}));

/** Throws P3006 for the first operator that artifacts need and nobody gives. */
export function demandOperators(artifacts: readonly Artifact[], operators: readonly Operator[], file: string): void {
  for (const a of artifacts) {
    const called = operatorNeeded(a);
    if (called !== undefined && operatorCalled(operators, called) === undefined) throw missingOperator({ called }, { file, op: called });
  }
}

/** A manifest is small; a larger one is no manifest. */
const MAX_MANIFEST = 64 * 2 ** 20;
const hash = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const manifestSchema = v.strictObject({
  schema: v.literal(SCHEMA),
  plan: v.unknown(),
  artifacts: v.array(
    v.strictObject({
      engine: v.picklist(["host", "cuda", "tensorrt"]),
      key: hash,
      inputs: v.array(v.string()),
      outputs: v.array(v.string()),
      settings: v.record(v.string(), v.string()),
      files: v.array(
        v.strictObject({ name: v.string(), path: v.string(), bytes: v.pipe(v.number(), v.safeInteger(), v.minValue(0)), sha256: hash }),
      ),
    }),
  ),
  report: v.strictObject({ path: v.literal("report.json"), sha256: hash }),
  /** Of the manifest itself, this field left out. */
  sha256: hash,
});

/** Content hash of a manifest: of its JSON in the order of its keys, its own hash left out. */
export function manifestHash(manifest: Readonly<Record<string, unknown>>): string {
  const { sha256: _, ...rest } = manifest;
  return createHash("sha256").update(JSON.stringify(rest)).digest("hex");
}

export interface BundleContent {
  readonly plan: Plan;
  readonly artifacts: readonly Artifact[];
  readonly report: Report;
}

/** Throws P3005; whatever stood at `path` is untouched then. */
export async function saveBundle(folder: string | URL, content: BundleContent): Promise<void> {
  const path = folder instanceof URL && folder.protocol === "file:" ? fileURLToPath(folder) : folder;
  if (typeof path !== "string" || path === "")
    throw cannotSave({ what: path === "" ? "the path is empty" : `'${path}' is no path`, fix: "give a path or a file: URL" });
  const target = resolve(path);
  const staging = temporaryFor(target);
  try {
    recoverBundle(target);
    if (existsSync(target) && !existsSync(join(target, "manifest.json")))
      throw cannotSave(
        { what: "something that is not a bundle is in the way", fix: "choose another name; only a bundle is replaced" },
        { file: path },
      );
    mkdirSync(staging, { recursive: false });
    const artifacts = [];
    for (const a of content.artifacts) {
      const folder = a.engine === "host" ? "host" : `engines/${a.key}`;
      mkdirSync(join(staging, folder), { recursive: true });
      const files = [];
      for (const f of a.files) {
        // ONNX external data is found by name beside the model: each host segment has a folder of its own.
        const relative = a.engine === "host" ? `host/${a.key.slice(0, 16)}/${f.name}` : `${folder}/${f.name}`;
        mkdirSync(dirname(join(staging, relative)), { recursive: true });
        if ("bytes" in f) writeFileSync(join(staging, relative), f.bytes);
        else copyFileSync(f.path, join(staging, relative));
        sync(join(staging, relative));
        const bytes = lstatSync(join(staging, relative)).size;
        files.push({ name: f.name, path: relative, bytes, sha256: await fileHash(join(staging, relative)) });
      }
      artifacts.push({ engine: a.engine, key: a.key, inputs: a.inputs, outputs: a.outputs, settings: a.settings ?? {}, files });
    }
    const report = `${JSON.stringify(content.report.toJSON(), null, 1)}\n`;
    writeFileSync(join(staging, "report.json"), report);
    const manifest = {
      schema: SCHEMA,
      plan: encodePlan(content.plan),
      artifacts,
      report: { path: "report.json", sha256: createHash("sha256").update(report).digest("hex") },
    };
    writeFileSync(join(staging, "manifest.json"), `${JSON.stringify({ ...manifest, sha256: manifestHash(manifest) }, null, 1)}\n`);
    sync(join(staging, "report.json"));
    sync(join(staging, "manifest.json"));
    swap(staging, target);
  } catch (cause) {
    try {
      discard(staging);
    } catch {
      // Where no folder could be made there is none to remove; the first failure is the one to tell.
    }
    if (isFileFailure(cause)) throw cannotSave({ what: cause.message }, { file: path }, cause);
    throw cause;
  }
}

/** Somebody else saves to the same place at the same moment when these come; one of the two is last. */
const RACE: ReadonlySet<unknown> = new Set(["ENOENT", "ENOTEMPTY", "EEXIST"]);
/** What Node.js says of a file, or of a path that no file can have. */
const isFileFailure = (error: unknown): error is Error => error instanceof Error && !(error instanceof PartitaError) && "code" in error;
const codeOf = (error: unknown): unknown => (error instanceof Error && "code" in error ? error.code : undefined);

/** Puts the new folder in the old one's place; the old one steps aside first, as a rename does not replace a full folder. */
function swap(staging: string, target: string): void {
  for (let attempt = 0; ; attempt++) {
    const aside = temporaryFor(target);
    let old = false;
    try {
      if (existsSync(target)) {
        renameSync(target, aside);
        old = true;
      }
      renameSync(staging, target);
      if (old) discard(aside);
      return;
    } catch (error) {
      if (old) {
        try {
          renameSync(aside, target);
        } catch (cause) {
          // Another save has taken the place: what stood there before is of no use.
          if (!RACE.has(codeOf(cause))) throw cause;
          discard(aside);
        }
      }
      // A reader that took this process for dead has put the bundle in its place.
      if (!existsSync(staging) && existsSync(join(target, "manifest.json"))) return;
      if (!existsSync(staging) || attempt >= 100 || !RACE.has(codeOf(error))) throw error;
    }
  }
}

/** Its manifest goes first: what is left when this is cut short must not be taken for a whole bundle. */
function discard(folder: string): void {
  rmSync(join(folder, "manifest.json"), { force: true });
  rmSync(folder, { recursive: true, force: true });
}

function sync(path: string): void {
  const file = openSync(path, "r+");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

async function fileHash(path: string): Promise<string> {
  const h = createHash("sha256");
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) h.update(piece as Buffer);
  return h.digest("hex");
}

/** A folder that a dead process left is removed after so long: it may be at work on another machine. */
const LITTER_MS = 3_600_000;

/**
 * A full folder cannot be replaced in one step: a save that is killed between its two leaves the whole new bundle beside the place, and the old one
 * under another name. Puts the newer of them there; removes what older saves left.
 */
export function recoverBundle(path: string): void {
  const target = resolve(path);
  try {
    const left = temporariesOf(target).filter((t) => !isRunning(t.pid));
    if (existsSync(target)) {
      for (const t of left) if (Date.now() - lstatSync(t.path).mtimeMs > LITTER_MS) discard(t.path);
      return;
    }
    // Earlier killed saves may have left whole bundles too: the last one written is the state to go on from.
    const whole = left.filter((t) => isWhole(t.path)).map((t) => ({ ...t, written: lstatSync(join(t.path, "manifest.json")).mtimeMs }));
    const [newest] = whole.sort((a, b) => b.written - a.written);
    if (newest !== undefined) renameSync(newest.path, target);
  } catch {
    // No such folder, or another process was faster: whoever needs the bundle says what is wrong with it.
  }
}
/** The manifest is written last. */
function isWhole(folder: string): boolean {
  try {
    const raw = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as Record<string, unknown>;
    return raw["sha256"] === manifestHash(raw);
  } catch {
    return false;
  }
}
/** Between the two steps of another process's save there is no bundle for a moment. */
async function awaitSwap(path: string): Promise<void> {
  recoverBundle(path);
  for (let i = 0; i < 40 && !existsSync(path); i++) {
    const parent = dirname(resolve(path));
    if (!existsSync(parent) || temporariesOf(resolve(path)).length === 0) return;
    await sleep(5);
  }
}

/** Reads and verifies a bundle. Throws P3001 to P3004. Nothing in it is executed. */
export async function loadBundle(path: string): Promise<BundleContent> {
  if (!existsSync(path)) await awaitSwap(path);
  const manifestPath = join(path, "manifest.json");
  let text: string;
  try {
    const stat = lstatSync(manifestPath);
    if (!stat.isFile()) throw bundleEscape({ path: "manifest.json" }, { file: path });
    if (stat.size > MAX_MANIFEST) throw bundleDamaged({ what: `its manifest has ${stat.size} bytes` }, { file: path });
    text = readFileSync(manifestPath, "utf8");
  } catch (cause) {
    if (isFileFailure(cause)) throw notABundle({ what: `it has no readable manifest.json: ${cause.message}` }, { file: path }, cause);
    throw cause;
  }
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw bundleDamaged({ what: "its manifest is not JSON" }, { file: manifestPath }, cause);
  }
  const schema = raw !== null && typeof raw === "object" && "schema" in raw ? String(raw.schema) : "missing";
  if (schema !== SCHEMA) throw bundleVersion({ found: schema }, { file: manifestPath });
  const parsed = v.safeParse(manifestSchema, raw);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw bundleDamaged({ what: `its manifest is not valid at '${v.getDotPath(issue) ?? ""}': ${issue.message}` }, { file: manifestPath });
  }
  if (manifestHash(raw as Record<string, unknown>) !== parsed.output.sha256)
    throw bundleDamaged({ what: "its manifest was changed after it was written" }, { file: manifestPath });
  const root = realpathSync(path);
  const inside = (relative: string): string => {
    if (!/^[\w.-]+(\/[\w.-]+)*$/.test(relative) || relative.split("/").includes(".."))
      throw bundleEscape({ path: relative }, { file: path });
    const full = join(root, relative);
    try {
      if (!lstatSync(full).isFile() || !realpathSync(full).startsWith(root + sep) || realpathSync(full) !== full)
        throw bundleEscape({ path: relative }, { file: path });
    } catch (cause) {
      if (cause instanceof Error && "syscall" in cause) throw bundleDamaged({ what: `'${relative}' is missing` }, { file: path }, cause);
      throw cause;
    }
    return full;
  };
  const artifacts: Artifact[] = [];
  for (const a of parsed.output.artifacts) {
    const files = [];
    for (const f of a.files) {
      const full = inside(f.path);
      const size = lstatSync(full).size;
      if (size !== f.bytes) throw bundleDamaged({ what: `'${f.path}' has ${size} bytes, the manifest says ${f.bytes}` }, { file: path });
      if ((await fileHash(full)) !== f.sha256)
        throw bundleDamaged({ what: `'${f.path}' does not have the content the manifest says` }, { file: path });
      // Names become file names again when a bundle is exported or saved.
      if (f.name !== f.path.split("/").pop()) throw bundleEscape({ path: f.name }, { file: path });
      files.push({ name: f.name, path: full });
    }
    // Hashes say that nothing was damaged, not that nobody meant harm: ONNX Runtime is not handed what the importer would refuse.
    if (a.engine === "host") for (const f of files) if (f.name.endsWith(".onnx")) decodeOnnx(f.path);
    artifacts.push({ engine: a.engine, key: a.key, inputs: a.inputs, outputs: a.outputs, settings: a.settings, files });
  }
  const reportText = readFileSync(inside("report.json"), "utf8");
  if (createHash("sha256").update(reportText).digest("hex") !== parsed.output.report.sha256)
    throw bundleDamaged({ what: "'report.json' does not have the content the manifest says" }, { file: path });
  const plan = decodePlan(parsed.output.plan, (what) => bundleDamaged({ what }, { file: manifestPath }));
  for (const s of plan.steps) if (!/^\w[\w.-]*$/.test(s.segment)) throw bundleEscape({ path: s.segment }, { file: manifestPath });
  if (plan.steps.length !== artifacts.length)
    throw bundleDamaged({ what: `its plan has ${plan.steps.length} steps and ${artifacts.length} artifacts` }, { file: manifestPath });
  return { plan, artifacts, report: reportOf(reportText, path) };
}

function reportOf(text: string, path: string): Report {
  try {
    return reportFromJSON(JSON.parse(text));
  } catch (cause) {
    throw bundleDamaged(
      { what: `its report.json is not a report: ${cause instanceof Error ? cause.message : cause}` },
      { file: path },
      cause,
    );
  }
}
