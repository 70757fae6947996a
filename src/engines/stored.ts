/** Artifacts of engines that take long to build, kept on disk by content: built once over all processes of a machine, by one of them. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { publishCache } from "../channels.js";
import { displayName, valueAt } from "../ir/graph.js";
import { graphHash } from "../ir/hash.js";
import type { Graph } from "../ir/types.js";
import { cacheFolder, DiskCache, type Pieces } from "./disk-cache.js";
import type { Artifact, BuildContext, Engine } from "./engine.js";

/** Bytes of all artifacts on disk. */
const LIMIT = 4 * 2 ** 30;

/** The engine, which looks for what it is asked to build on disk first, and leaves there what it built. */
export function stored(engine: Engine): Engine {
  return {
    ...engine,
    async build(segment, context) {
      const storage = await engine.storage?.(context);
      const code = storage === undefined ? undefined : codeHash();
      if (storage === undefined || code === undefined) return await engine.build(segment, context);
      const key = keyOf(engine, segment, context, `${code} ${storage.identity}`);
      const start = performance.now();
      let built: Artifact | undefined;
      const { pieces, found } = await new DiskCache(join(cacheFolder(), "engines"), { limit: LIMIT }).once(
        key,
        async () => {
          built = await engine.build(segment, context);
          return encode(built, storage.maxBytes);
        },
        context.signal,
      );
      if (built !== undefined) return built;
      const artifact = found ? decode(pieces) : undefined;
      if (artifact === undefined) return await engine.build(segment, context);
      const dims = Object.fromEntries(
        segment.inputs.map((v) => {
          const { name, type } = valueAt(segment, v);
          return [name, type.kind === "tensor" ? (type.shape ?? []).map((d) => (typeof d === "number" ? d : -1)) : []];
        }),
      );
      publishCache(() => ({ event: "disk-hit", segment: segment.name, key: artifact.key, dims, ms: performance.now() - start }));
      return artifact;
    },
  };
}

/** By all that the artifact depends on, names of nodes among it: engines tell of layers by them. */
function keyOf(engine: Engine, segment: Graph, context: BuildContext, identity: string): string {
  const { target, ranges, workspaceBytes, tensorrt, tune } = context;
  const numbers = ranges === undefined ? [] : [ranges.min, ranges.opt, ranges.max].map((m) => [...m].sort());
  const names = segment.nodes.map((n) => displayName(segment, n));
  const asked = JSON.stringify([engine.name, identity, target, numbers, workspaceBytes, tensorrt, tune, segment.name, names]);
  return createHash("sha256").update(graphHash(segment, asked)).digest("hex");
}

/** No pieces: it is too large to be kept, and everybody builds it. */
function encode({ files, ...head }: Artifact, maxBytes: number): Pieces {
  if (!files.every((f) => "bytes" in f) || files.reduce((n, f) => n + f.bytes.length, 0) > maxBytes) return [];
  return [Buffer.from(JSON.stringify({ ...head, names: files.map((f) => f.name) })), ...files.map((f) => f.bytes)];
}
function decode([head, ...bytes]: Pieces): Artifact | undefined {
  if (head === undefined) return undefined;
  const { names, ...artifact } = JSON.parse(Buffer.from(head).toString("utf8")) as Omit<Artifact, "files"> & {
    readonly names: readonly string[];
  };
  return { ...artifact, files: names.map((name, i) => ({ name, bytes: bytes[i] ?? new Uint8Array() })) };
}

let known: { readonly hash: string | undefined } | undefined;
/** Of this package's own code: other code may build other artifacts. undefined where it does not lie in files of its own. */
function codeHash(): string | undefined {
  known ??= { hash: hashOfCode() };
  return known.hash;
}
function hashOfCode(): string | undefined {
  const file = fileURLToPath(import.meta.url);
  const root = dirname(dirname(file));
  const hash = createHash("sha256");
  try {
    if (!/^stored\.(ts|js)$/.test(file.slice(join(root, "engines").length + 1))) return undefined;
    for (const folder of [root, join(root, "../kernels")])
      for (const name of readdirSync(folder, { recursive: true }).map(String).sort())
        if (/\.(ts|js|mjs|cu)$/.test(name) && !name.endsWith(".d.ts")) hash.update(`${name}\0`).update(readFileSync(join(folder, name)));
  } catch {
    return undefined;
  }
  return hash.digest("hex");
}
