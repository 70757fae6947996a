/** Where NVIDIA's libraries may lie: the environment, the loader's path, toolkit and pip folders. */
import { readdirSync } from "node:fs";
import { join } from "node:path";

export type Environment = Readonly<Record<string, string | undefined>>;

const SYSTEM_FOLDERS = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
  "/usr/local/cuda/lib64",
  "/usr/local/nvidia/lib64",
  "/usr/lib/wsl/lib",
  "/usr/local/lib",
];

const set = (value: string | undefined): value is string => value !== undefined && value !== "";

/** Folders of the loader and of the usual installations, in the order a library is looked for. */
export const libraryFolders = (env: Environment): readonly string[] => [
  ...(env["LD_LIBRARY_PATH"] ?? "").split(":").filter(set),
  ...[env["CUDA_HOME"], env["CUDA_PATH"]].filter(set).map((home) => join(home, "lib64")),
  ...SYSTEM_FOLDERS,
];

/** Library folders of pip packages (`inside` site-packages) in the active, user and system environments. */
export function pipFolders(env: Environment, ...inside: readonly string[]): readonly string[] {
  const bases = [
    env["VIRTUAL_ENV"],
    env["CONDA_PREFIX"],
    set(env["HOME"]) ? join(env["HOME"], ".local") : undefined,
    "/usr/local",
    "/usr",
  ].filter(set);
  const found: string[] = [];
  for (const base of bases)
    for (const python of list(join(base, "lib")).filter((n) => /^python3/.test(n)))
      for (const packages of ["site-packages", "dist-packages"])
        for (const sub of inside) found.push(join(base, "lib", python, packages, sub));
  return found;
}

export function list(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Files of `folders` that match, in order, each once. */
export function filesMatching(folders: readonly string[], pattern: RegExp): readonly string[] {
  const found = new Set<string>();
  for (const folder of folders) for (const file of list(folder)) if (pattern.test(file)) found.add(join(folder, file));
  return [...found];
}

export interface NvrtcCandidate {
  readonly builtins: readonly string[];
  readonly library: string;
}

/**
 * NVRTC libraries worth trying, best first. PARTITA_NVRTC_DIR, when set, is the only place; otherwise pip packages, the loader's path and
 * toolkit folders. The builtins stand beside their library.
 */
export function nvrtcCandidates(env: Environment = process.env): readonly NvrtcCandidate[] {
  const only = env["PARTITA_NVRTC_DIR"];
  const folders = set(only)
    ? [only, join(only, "lib64"), join(only, "lib")]
    : [...pipFolders(env, "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"), ...libraryFolders(env)];
  const found: NvrtcCandidate[] = [];
  for (const folder of new Set(folders)) {
    const files = list(folder);
    const majors = files.map((f) => Number(/^libnvrtc\.so\.(\d+)$/.exec(f)?.[1])).filter((n) => n >= 12);
    for (const major of majors.sort((a, b) => b - a))
      found.push({
        library: join(folder, `libnvrtc.so.${major}`),
        builtins: files.filter((f) => new RegExp(`^libnvrtc-builtins\\.so\\.${major}(\\.\\d+)?$`).test(f)).map((f) => join(folder, f)),
      });
  }
  // What the loader finds by name.
  if (!set(only)) for (const major of [13, 12]) found.push({ library: `libnvrtc.so.${major}`, builtins: [] });
  return found;
}

/** libcuda by the names it goes by; PARTITA_CUDA_DRIVER names one outright. */
export const driverLibraries = (env: Environment = process.env): readonly string[] =>
  set(env["PARTITA_CUDA_DRIVER"])
    ? [env["PARTITA_CUDA_DRIVER"]]
    : ["libcuda.so.1", "libcuda.so", "/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"];
