/** The CUDA engine's coded errors, P2102 to P2112, and what becomes of an error of the driver. */
import { defineError, type PartitaError } from "../../diagnostics.js";

export const noAddon = defineError<{ why: string }>(
  "P2102",
  "the native addon cannot be loaded",
  ({ why }) => ({
    what: "the native part of the CUDA engine cannot be loaded",
    why,
    fix: "build it in a checkout with `npm run build:native` (cmake and a C++17 compiler), or compile with --target host",
  }),
  3,
);
export const noGpu = defineError<{ why: string; fix: string }>(
  "P2103",
  "there is no usable NVIDIA GPU",
  ({ why, fix }) => ({ what: "there is no usable NVIDIA GPU", why, fix }),
  3,
);
export const gpuMemory = defineError<{ what: string; bytes: number; free: number | undefined }>(
  "P2104",
  "the GPU is out of memory",
  ({ what, bytes, free }) => ({
    what: `${what} needs ${mebibytes(bytes)}${free === undefined ? ", which the GPU cannot give" : `, the GPU has ${mebibytes(free)} free`}`,
    fix: "free memory on the GPU, use a smaller batch, or open fewer streams",
  }),
  3,
);
export const gpuFailed = defineError<{ what: string; native: string }>(
  "P2105",
  "a call to the GPU failed",
  ({ what, native }) => ({
    what: `${what} failed`,
    why: native,
    fix: "dispose of the session; after a fault inside a kernel the process must start again. Run under compute-sanitizer to find the kernel",
  }),
  70,
);
export const compileFailed = defineError<{ name: string; arch: string; log: string }>(
  "P2106",
  "a kernel does not compile",
  ({ name, arch, log }) => ({
    what: `the source of '${name}' does not compile for ${arch}`,
    why: log.trim() === "" ? "the compiler said nothing" : log.trim(),
    fix: "report it with the source, which the bundle holds",
  }),
  70,
);
export const noCompiler = defineError<{ why: string }>(
  "P2107",
  "no CUDA compiler was found",
  ({ why }) => ({
    what: "neither NVRTC nor nvcc was found",
    why,
    fix: "pip install nvidia-cuda-nvrtc, install the CUDA toolkit, or set PARTITA_NVRTC_DIR to the folder of libnvrtc",
  }),
  3,
);
export const badPlan = defineError<{ what: string }>("P2108", "a kernel plan is not sound", ({ what }) => ({
  what: `the kernel plan is not sound: ${what}`,
  fix: "compile the model again",
}));
export const badCubin = defineError<{ what: string; native?: string | undefined }>(
  "P2109",
  "a compiled kernel is damaged",
  ({ what, native }) => ({
    what,
    why: native,
    fix: "compile the model again, or delete the cached kernels",
  }),
);
export const otherArch = defineError<{ built: string; device: string }>(
  "P2110",
  "a kernel was compiled for another GPU",
  ({ built, device }) => ({
    what: `the kernels were compiled for ${built}, this GPU is ${device}`,
    fix: `compile the model for ${device} (computeCapability)`,
  }),
  3,
);
export const badFeed = defineError<{ what: string }>("P2111", "an input does not fit the kernels", ({ what }) => ({
  what,
  fix: "give inputs of the type and dims that the plan was made for",
}));
export const disposed = defineError<Record<string, never>>("P2112", "a disposed executable was used", () => ({
  what: "this executable has been disposed of",
  fix: "open it again",
}));
export const unknownArch = defineError<{ arch: string; compiler: string; known: string }>(
  "P2113",
  "the CUDA compiler does not know an architecture",
  ({ arch, compiler, known }) => ({
    what: `${compiler} cannot compile for '${arch}'`,
    fix: `use one of ${known}, or install another version of the CUDA toolkit`,
  }),
  3,
);

const mebibytes = (bytes: number): string => (bytes < 1 << 20 ? `${bytes} bytes` : `${(bytes / 2 ** 20).toFixed(1)} MiB`);

/** What the addon attaches to an error of the driver or of NVRTC. */
export interface NativeFailure {
  readonly call: string;
  /** CUresult or nvrtcResult; -1 when a library or a function is missing. */
  readonly status: number;
  readonly native: string;
}
export const nativeFailure = (error: unknown): (Error & NativeFailure) | undefined =>
  error instanceof Error && "status" in error && typeof error.status === "number" ? (error as Error & NativeFailure) : undefined;

const OUT_OF_MEMORY = 2;
/** CUDA_ERROR_INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX_VERSION, INVALID_SOURCE, SHARED_OBJECT_*, NOT_FOUND. */
const BAD_IMAGE = new Set([200, 209, 218, 222, 300, 301, 302, 303, 500]);

/** ECC, illegal address, timeout, context destroyed, assert, illegal instruction, misaligned address and their kin: the context is lost. */
const FAULTS = new Set([214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721]);
/** Whether a failure was a fault inside a kernel, after which nothing on that GPU works in this process. */
export const isFault = (error: PartitaError): boolean => FAULTS.has(nativeFailure(error.cause)?.status ?? 0);

/** The coded error for a failed native call; `bytes` where memory was asked for. An error that is not the driver's comes back as it is. */
export function gpuError(
  error: unknown,
  what: string,
  memory?: { readonly bytes: number; readonly free: number | undefined },
): PartitaError | Error {
  const failure = nativeFailure(error);
  if (failure === undefined) return error instanceof Error ? error : new Error(String(error));
  if (failure.status === OUT_OF_MEMORY)
    return memory === undefined ? gpuFailed({ what, native: failure.message }, {}, error) : gpuMemory({ what, ...memory }, {}, error);
  if (BAD_IMAGE.has(failure.status)) return badCubin({ what: `${what} failed`, native: failure.message }, {}, error);
  return gpuFailed({ what, native: failure.message }, {}, error);
}
export const notEmitted = defineError<{ why: string }>("P2114", "a node of a CUDA segment has no kernel", ({ why }) => ({
  what: `no kernel can be emitted for it: ${why}`,
  fix: "pin the node to the host, or compile with the shapes it will run with",
}));
export const brokenArtifact = defineError<{ what: string }>("P2115", "a compiled CUDA segment is not complete", ({ what }) => ({
  what,
  fix: "compile the model again",
}));
