/**
 * Where TensorRT may lie, and which one is taken. Only file names are looked at here: system folders, pip's site-packages, the cache that
 * JavaCPP unpacks Maven artifacts into, and PARTITA_TENSORRT_DIR, which overrides them all. What a library really is it says itself.
 */
import { realpathSync } from "node:fs";
import { join } from "node:path";
import { type Environment, filesMatching, libraryFolders, list, pipFolders } from "../cuda/libraries.js";

/** TensorRT proper builds on the GPU it is to run on; TensorRT-RTX builds for named GPUs without one, and runs on consumer GPUs. */
export type Flavor = "tensorrt" | "rtx";
export const flavorNames: Readonly<Record<Flavor, string>> = { tensorrt: "TensorRT", rtx: "TensorRT-RTX" };

export interface LibraryFiles {
  readonly flavor: Flavor;
  /** Major version by the file's name: 10, 11; 1 for RTX. */
  readonly major: number;
  /** The version as far as file names tell it, "11.2.1" or "10". */
  readonly named: string;
  readonly library: string;
  /** The ONNX parser; undefined when none lies near. */
  readonly parser: string | undefined;
  /** The plugin library, where there is one. */
  readonly plugins: string | undefined;
  /** How it was found. */
  readonly source: "PARTITA_TENSORRT_DIR" | "system" | "pip" | "maven";
}

const CORE = /^lib(nvinfer|tensorrt_rtx)\.so\.(\d+)$/;
const LAYOUT = process.arch === "arm64" ? "linux-arm64" : "linux-x86_64";
const set = (value: string | undefined): value is string => value !== undefined && value !== "";

/** Folders that may hold the libraries of an installation whose top folder is named. */
const inside = (folder: string): readonly string[] => [
  folder,
  join(folder, "lib"),
  join(folder, "lib64"),
  join(folder, "tensorrt_libs"),
  join(folder, "tensorrt_rtx_libs"),
  join(folder, `targets/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu/lib`),
  join(folder, `org/bytedeco/tensorrt/${LAYOUT}`),
];

/** JavaCPP unpacks `tensorrt-<version>-<platform>-redist.jar` into a folder of that name. */
function mavenFolders(env: Environment): readonly string[] {
  const home = env["HOME"];
  const caches = [env["JAVACPP_CACHEDIR"], set(home) ? join(home, ".javacpp/cache") : undefined].filter(set);
  const found: string[] = [];
  for (const cache of caches)
    for (const jar of list(cache).filter((n) => n.startsWith("tensorrt-")))
      found.push(join(cache, jar, "org/bytedeco/tensorrt", LAYOUT), join(cache, jar));
  return found;
}

/** Archives of a Maven repository that nothing has unpacked: they are told of, not opened. */
export function mavenArchives(env: Environment = process.env): readonly string[] {
  const home = env["HOME"];
  if (!set(home)) return [];
  const repository = join(home, ".m2/repository/org/bytedeco/tensorrt");
  return list(repository).flatMap((version) =>
    list(join(repository, version))
      .filter((n) => n.endsWith(`${LAYOUT}-redist.jar`))
      .map((n) => join(repository, version, n)),
  );
}

/**
 * Every TensorRT that lies where one may lie, in the order in which they are tried: PARTITA_TENSORRT_DIR alone when it is set; otherwise the
 * newest TensorRT first, TensorRT-RTX behind it. One installation that two paths lead to is listed once.
 */
export function findLibraries(env: Environment = process.env): readonly LibraryFiles[] {
  const only = env["PARTITA_TENSORRT_DIR"];
  const places: readonly (readonly [LibraryFiles["source"], readonly string[]])[] = set(only)
    ? [["PARTITA_TENSORRT_DIR", inside(only)]]
    : [
        ["system", libraryFolders(env)],
        ["pip", pipFolders(env, "tensorrt_libs", "tensorrt_rtx_libs", "tensorrt")],
        ["maven", mavenFolders(env)],
      ];
  const found: LibraryFiles[] = [];
  const seen = new Set<string>();
  for (const [source, folders] of places)
    for (const library of filesMatching([...new Set(folders)], CORE)) {
      const real = realOf(library);
      if (seen.has(real)) continue;
      seen.add(real);
      found.push(describe(library, real, source));
    }
  const rank = (f: LibraryFiles): number => (f.flavor === "rtx" ? 0 : f.major);
  return found.sort((a, b) => rank(b) - rank(a) || compareVersions(b.named, a.named));
}

function describe(library: string, real: string, source: LibraryFiles["source"]): LibraryFiles {
  const at = library.lastIndexOf("/");
  const folder = library.slice(0, at);
  const [, stem = "", digits = "0"] = CORE.exec(library.slice(at + 1)) ?? [];
  const flavor: Flavor = stem === "tensorrt_rtx" ? "rtx" : "tensorrt";
  const files = list(folder);
  const beside = (name: string): string | undefined => (files.includes(name) ? join(folder, name) : undefined);
  const parser = flavor === "rtx" ? `libtensorrt_onnxparser_rtx.so.${digits}` : `libnvonnxparser.so.${digits}`;
  return {
    flavor,
    major: Number(digits),
    named: fullVersion(real, files) ?? digits,
    library,
    parser: beside(parser),
    plugins: flavor === "tensorrt" ? beside(`libnvinfer_plugin.so.${digits}`) : undefined,
    source,
  };
}

/** The link's target, or a builder resource beside it, often carries the whole version. */
function fullVersion(real: string, files: readonly string[]): string | undefined {
  const full = /\.so\.(\d+\.\d+(?:\.\d+)*)$/;
  return full.exec(real)?.[1] ?? files.map((f) => (f.includes("builder_resource") ? full.exec(f)?.[1] : undefined)).find(set);
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function compareVersions(a: string, b: string): number {
  const [x, y] = [a, b].map((text) => text.split(".").map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(x.length, y.length); i++) if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) - (y[i] ?? 0);
  return 0;
}

/** What the choice among several depends on. */
export interface Wanted {
  /** Asked for by name; undefined leaves the choice. */
  readonly flavor?: Flavor | undefined;
  /** Compute capability times ten that plans are built for. */
  readonly sm: number;
  /** That of this machine's GPU; undefined without one. */
  readonly device: number | undefined;
}
export interface Choice {
  readonly files: LibraryFiles;
  /** Why this one, in a clause. */
  readonly why: string;
}

/** GPUs that TensorRT-RTX 1.7 builds plans for, tried one by one: Turing, Ampere, Ada and the desktop's Blackwell; not Hopper. */
export const RTX_SM: ReadonlySet<number> = new Set([75, 80, 86, 89, 120, 121]);

/** Which of the libraries found serves; undefined when none does. */
export function chooseLibrary(found: readonly LibraryFiles[], wanted: Wanted): Choice | undefined {
  const pick = (flavor: Flavor): LibraryFiles | undefined => found.find((f) => f.flavor === flavor && f.parser !== undefined);
  const [proper, rtx] = [pick("tensorrt"), pick("rtx")];
  const others = found.length > 1;
  if (wanted.flavor !== undefined) {
    const files = pick(wanted.flavor);
    return files === undefined ? undefined : { files, why: "it was asked for" };
  }
  if (proper === undefined || rtx === undefined) {
    const files = proper ?? rtx;
    return files === undefined
      ? undefined
      : { files, why: others ? "it is the newest that has its ONNX parser" : "it is the only one found" };
  }
  if (wanted.device === undefined)
    return { files: rtx, why: `there is no GPU here, and only TensorRT-RTX builds without one (TensorRT ${proper.named} was found too)` };
  if (wanted.device !== wanted.sm)
    return {
      files: rtx,
      why: `the plan is for compute capability ${smText(wanted.sm)}, this GPU has ${smText(wanted.device)}, and only TensorRT-RTX builds for another GPU`,
    };
  const unfit = RTX_SM.has(wanted.sm) ? "" : `, and TensorRT-RTX does not serve compute capability ${smText(wanted.sm)}`;
  return { files: proper, why: `TensorRT is preferred to TensorRT-RTX ${rtx.named} on the GPU it builds for${unfit}` };
}

/** 89 as "8.9". */
export const smText = (sm: number): string => `${Math.floor(sm / 10)}.${sm % 10}`;
