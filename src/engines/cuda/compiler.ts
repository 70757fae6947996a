/**
 * CUDA C++ to cubin: NVRTC in this process, off the event loop, or nvcc where there is no NVRTC. Results are kept on disk by content.
 * Neither needs a GPU.
 */
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { PartitaError } from "../../diagnostics.js";
import { type Compiled, KernelCache } from "./cache.js";
import { inspectCubin } from "./cubin.js";
import { badPlan, compileFailed, noCompiler, unknownArch } from "./errors.js";
import { includesFile } from "./includes.js";
import { type Environment, nvrtcCandidates } from "./libraries.js";
import { type NativeAddon, native } from "./native.js";

export interface CompileOptions {
  /** What error messages call the source. */
  readonly name?: string | undefined;
  /** Line numbers in the cubin, for profilers and compute-sanitizer. */
  readonly lineInfo?: boolean | undefined;
  /** `false` neither reads nor writes the disk. */
  readonly cache?: KernelCache | false | undefined;
  readonly signal?: AbortSignal | undefined;
}
export interface CompileResult extends Compiled {
  /** It came from the disk. */
  readonly cached: boolean;
}
export interface CompilerInfo {
  readonly kind: "nvrtc" | "nvcc";
  /** "13.0". */
  readonly version: string;
  readonly path: string;
  /** Compute capabilities it compiles for, 90 for 9.0; empty when it does not say. */
  readonly archs: readonly number[];
}

/** Bump when the options below or the cache's use of them change. */
const VERSION = "1";
const MAX_SOURCE = 16 << 20;
const ARCH = /^sm_(\d{2,3})[af]?$/;
const optionsFor = (arch: string, lineInfo: boolean): readonly string[] => [
  `--gpu-architecture=${arch}`,
  "--std=c++17",
  ...(lineInfo ? ["-lineinfo"] : []),
];

interface Compiler extends CompilerInfo {
  /** Tells apart builds of one version. */
  readonly identity: string;
  compile(source: string, name: string, options: readonly string[]): Promise<Compiled>;
}

let chosen: Compiler | undefined;
function compiler(): Compiler {
  // A failure is not kept: the next call may find what was missing.
  chosen ??= findCompiler();
  return chosen;
}

/** The compiler of this process. Throws P2107 when there is none. */
export async function compilerInfo(): Promise<CompilerInfo> {
  return probeCompiler();
}
/** The same at once; it loads NVRTC. */
export function probeCompiler(): CompilerInfo {
  const { kind, version, path, archs } = compiler();
  return { kind, version, path, archs };
}
/** "13.0" of NVRTC, or of nvcc in its place; part of the key of every timing. Throws P2107. */
export const nvrtcVersion = async (): Promise<string> => compiler().version;

interface Pending {
  readonly work: Promise<Compiled>;
  /** Callers that still want it. */
  wanted: number;
}
const pending = new Map<string, Pending>();
let running = 0;
const waiting: (() => void)[] = [];
/** A compilation takes a thread of libuv's pool (four by default); one is left for files and for runs. */
const slots = (): number => Math.max(1, Math.min(availableParallelism(), Number(process.env["UV_THREADPOOL_SIZE"] ?? 4) - 1));

/**
 * Compiles one translation unit (no #include) for `arch` ("sm_80", "sm_90a"). Equal calls share one compilation. No fast-math: contraction to FMA
 * is the only freedom. Throws P2106 with the compiler's log, P2107 without a compiler, P2113 for an architecture it does not know.
 */
export async function compileSource(source: string, arch: string, options: CompileOptions = {}): Promise<CompileResult> {
  const { name = "kernels", lineInfo = false, cache = defaultCache(), signal } = options;
  signal?.throwIfAborted();
  checkSource(source, arch, name);
  const c = compiler();
  demandArch(c, arch);
  const flags = optionsFor(arch, lineInfo);
  const key = createHash("sha256")
    .update(JSON.stringify([VERSION, c.kind, c.version, c.identity, flags, source]))
    .digest("hex");
  const kept = cache === false ? undefined : await cache.get(key);
  if (kept !== undefined) return { ...kept, cached: true };
  let entry = pending.get(key);
  if (entry === undefined) {
    const make = async (): Promise<Compiled> => {
      try {
        const compiled = async (): Promise<Compiled> => {
          const made = await c.compile(source, name, flags);
          inspectCubin(made.cubin);
          return made;
        };
        return cache === false ? await compiled() : await cache.once(key, compiled);
      } catch (error) {
        throw error instanceof PartitaError ? error : compileFailed({ name, arch, log: logOf(error) }, {}, error);
      }
    };
    entry = { wanted: 0, work: queued(make, () => (entry?.wanted ?? 1) > 0) };
    entry.work.finally(() => pending.delete(key)).catch(() => undefined);
    pending.set(key, entry);
  }
  entry.wanted++;
  return { ...(await wanting(entry, signal)), cached: false };
}

let sharedCache: KernelCache | undefined;
const defaultCache = (): KernelCache => (sharedCache ??= new KernelCache());

/** Throws P2113 for an architecture ("sm_80", "sm_90a") that the compiler says it does not know. */
export function demandArch({ kind, version, archs }: CompilerInfo, arch: string): void {
  const [, sm] = ARCH.exec(arch) ?? [];
  if (archs.length === 0 || archs.includes(Number(sm))) return;
  const compiler = `${kind === "nvrtc" ? "NVRTC" : "nvcc"} ${version}`;
  throw unknownArch({ arch, compiler, known: archs.map((a) => `sm_${a}`).join(", ") });
}

function checkSource(source: string, arch: string, name: string): void {
  if (!ARCH.test(arch)) throw badPlan({ what: `'${arch}' is no architecture such as sm_80 or sm_90a` });
  if (source.length > MAX_SOURCE) throw badPlan({ what: `the source of '${name}' has ${source.length} characters` });
  if (source.includes("\0")) throw badPlan({ what: `the source of '${name}' has a NUL character` });
  if (includesFile(source)) throw badPlan({ what: `the source of '${name}' includes a file` });
}

async function queued<T>(work: () => Promise<T>, wanted: () => boolean): Promise<T> {
  if (running >= slots()) await new Promise<void>((go) => waiting.push(go));
  else running++;
  try {
    if (!wanted()) throw new DOMException("nobody waits for this compilation any more", "AbortError");
    return await work();
  } finally {
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

/** A compilation under way cannot be stopped, but its caller can; one that nobody waits for any more does not begin. */
function wanting(p: Pending, signal: AbortSignal | undefined): Promise<Compiled> {
  if (signal === undefined) return p.work;
  // A signal of its own: many compilations may hang on one, which would warn of a leak.
  const mine = AbortSignal.any([signal]);
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      p.wanted--;
      reject(signal.reason);
    };
    mine.addEventListener("abort", stop, { once: true });
    p.work.then(resolve, reject).finally(() => mine.removeEventListener("abort", stop));
  });
}

const logOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  const { log, stderr } = error as { log?: unknown; stderr?: unknown };
  return [log, stderr].find((t): t is string => typeof t === "string" && t !== "") ?? error.message;
};

function findCompiler(env: Environment = process.env): Compiler {
  const reasons: string[] = [];
  try {
    return nvrtcCompiler(native().addon, env);
  } catch (error) {
    reasons.push(error instanceof Error ? error.message : String(error));
  }
  try {
    return nvccCompiler(env);
  } catch (error) {
    reasons.push(error instanceof Error ? error.message : String(error));
  }
  throw noCompiler({ why: reasons.join("; ") });
}

/** NVRTC through the addon: the first candidate that loads. */
function nvrtcCompiler(addon: NativeAddon, env: Environment): Compiler {
  const reasons: string[] = [];
  for (const { builtins, library } of nvrtcCandidates(env)) {
    try {
      const opened = addon.nvrtcOpen(builtins, [library]);
      const file = existsSync(opened.library) ? statSync(opened.library) : undefined;
      return {
        kind: "nvrtc",
        version: opened.version.join("."),
        path: opened.library,
        archs: opened.archs,
        identity: file === undefined ? "" : String(file.size),
        async compile(source, name, options) {
          const { cubin, log } = await addon.nvrtcCompile(source, `${name}.cu`, options);
          return { cubin: new Uint8Array(cubin), log };
        },
      };
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new Error(`NVRTC: ${reasons.join("; ") || `${env["PARTITA_NVRTC_DIR"]} holds no libnvrtc.so.12 or later`}`);
}

const execute = promisify(execFile);

function nvccCompiler(env: Environment): Compiler {
  const homes = [env["CUDA_HOME"], env["CUDA_PATH"], "/usr/local/cuda"].flatMap((h) =>
    h === undefined || h === "" ? [] : [join(h, "bin")],
  );
  const path = [...(env["PATH"] ?? "").split(delimiter), ...homes]
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, "nvcc"))
    .find(existsSync);
  if (path === undefined) throw new Error("nvcc is not on the PATH");
  const stdout = execFileSync(path, ["--version"], { encoding: "utf8" });
  const version = /release (\d+\.\d+)/.exec(stdout)?.[1];
  if (version === undefined) throw new Error(`${path} --version names no release`);
  return {
    kind: "nvcc",
    version,
    path,
    archs: [],
    identity: /V([\d.]+)/.exec(stdout)?.[1] ?? "",
    async compile(source, name, options) {
      const folder = await mkdtemp(join(tmpdir(), "partita-nvcc-"));
      try {
        const file = join(folder, "kernels.cu");
        const out = join(folder, "kernels.cubin");
        await writeFile(file, source);
        const { stderr } = await execute(path, ["-cubin", ...options, "-o", out, file], { cwd: folder, maxBuffer: 64 << 20 });
        return { cubin: new Uint8Array(await readFile(out)), log: stderr.replaceAll(file, `${name}.cu`) };
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  };
}
