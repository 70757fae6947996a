/**
 * The first load of a plan on a machine happens in a child process: TensorRT dies of some plans that it did not write, instead of refusing them. That
 * a plan loads, or was built here, is remembered on disk by its hash, the library and the GPU. A plan that ended its child is not remembered, and
 * tried again; what the library refuses in words it refuses again in the calling process, where that becomes an error with its log.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Device } from "../cuda/device.js";
import { cacheFolder, DiskCache } from "../disk-cache.js";
import { inChild } from "./child.js";
import { planRefused } from "./failures.js";
import { libraryIdentity } from "./identity.js";
import type { TensorRt } from "./native.js";

/** What loads a plan. */
export interface Loader {
  readonly rt: Pick<TensorRt, "library" | "parser" | "family">;
  readonly device: Device;
}
export interface TrialOptions {
  /** As in `DeserializeOptions`. */
  readonly allowHostCode?: boolean | undefined;
  /** The plan holds no weights: until they are put in there is no execution context to try. */
  readonly stripped?: boolean | undefined;
  /** Milliseconds for the child. Default 120,000: large plans bring gigabytes to the GPU. */
  readonly timeoutMs?: number | undefined;
}

/** Bytes of what is remembered on disk: some 4,500 plans of 44 bytes, the least recently used of which go. */
const LIMIT = 200_000;
/** Bytes that are hashed before the event loop has its turn. */
const PIECE = 8 * 2 ** 20;

const CHILD = `
const [library, family, driver, ordinal, size, allowHostCode, stripped] = rest;
await say({ step: "load" });
const plan = Buffer.allocUnsafeSlow(Number(size));
let at = 0;
for await (const piece of process.stdin) at += piece.copy(plan, at);
addon.open([driver]);
const context = addon.contextCreate(Number(ordinal));
const { id } = tensorrt.open(library, undefined);
tensorrt.bind(id, family);
const engine = await attempt("plan", () => tensorrt.deserialize(id, plan, context, allowHostCode === "true"));
if (engine !== undefined && stripped !== "true")
  await attempt("context", () => {
    for (const { name, input } of engine.io) if (input) tensorrt.range(engine.handle, name, 0);
    return tensorrt.contextCreate(engine.handle, 0);
  });
`;
/** What the child does with the plan; before that it says nothing of it. */
const STEPS: Readonly<Record<string, string>> = { plan: "when it loaded the plan", context: "when it made an execution context" };

let cache: DiskCache | undefined;
/** Of the cache folder as it is set now. */
function remembered(): DiskCache {
  const folder = join(cacheFolder(), "tensorrt", "plans");
  if (cache?.folder !== folder) cache = new DiskCache(folder, { limit: LIMIT });
  return cache;
}
/** Paths of entries, which need not be there: a folder that cannot be written is no reason to try a plan twice in a process. */
const known = new Set<string>();
const trials = new Map<string, Promise<void>>();

async function keyOf(plan: Uint8Array, { rt, device }: Loader): Promise<string> {
  const hash = createHash("sha256").update(libraryIdentity(rt, device));
  for (let at = 0; at < plan.length; at += PIECE) {
    if (at > 0) await setImmediate();
    hash.update(plan.subarray(at, at + PIECE));
  }
  return hash.digest("hex");
}

/** Tells that a plan loads: it came out of the builder here. */
export async function rememberPlan(plan: Uint8Array, loader: Loader): Promise<void> {
  await remember(remembered(), await keyOf(plan, loader));
}
async function remember(cache: DiskCache, key: string): Promise<void> {
  known.add(cache.path(key));
  await cache.put(key, []);
}

/** What `load` makes of the plan, in this process, once a child has survived it. Throws P2216 where the child did not, and what `load` throws. */
export async function loadTried<T>(plan: Uint8Array, loader: Loader, options: TrialOptions, load: () => Promise<T>): Promise<T> {
  const cache = remembered();
  const key = await keyOf(plan, loader);
  const path = cache.path(key);
  if (known.has(path) || (await cache.get(key)) !== undefined) return await load();
  // Sessions of one plan that open at once have one trial.
  const trial = trials.get(path) ?? tryPlan(plan, loader, options).finally(() => trials.delete(path));
  trials.set(path, trial);
  await trial;
  const loaded = await load();
  await remember(cache, key);
  return loaded;
}

/** Throws P2216 where the plan ended the child. */
async function tryPlan(plan: Uint8Array, { rt, device }: Loader, options: TrialOptions): Promise<void> {
  const { allowHostCode = false, stripped = false, timeoutMs = 120_000 } = options;
  const facts = [rt.library, rt.family, device.driver.library, device.ordinal, plan.length, allowHostCode, stripped];
  const work = { source: CHILD, arguments: facts.map(String), input: plan, timeoutMs, steps: STEPS };
  // Where no child can be started, or use the GPU beside this process, this process finds out what the plan is.
  const { death, step } = await inChild(work).catch(() => ({ death: undefined, step: "start" }));
  if (death !== undefined && step in STEPS) throw planRefused({ why: `a process that tried it first died: ${death}` });
}
