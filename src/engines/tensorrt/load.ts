/** The TensorRT of this process: found, chosen, opened once. */
import { no, PartitaError, type Verdict, yes } from "../../diagnostics.js";
import { type Device, gpuVerdict, openDevice } from "../cuda/device.js";
import type { Environment } from "../cuda/libraries.js";
import { noLibrary } from "./errors.js";
import { chooseLibrary, type Flavor, findLibraries, flavorNames, type LibraryFiles, mavenArchives, RTX_SM, smText } from "./library.js";
import type { TensorRt } from "./native.js";
import { openTensorRt } from "./open.js";
import { probeTensorRt } from "./probe.js";

export interface Loaded {
  readonly rt: TensorRt;
  readonly files: LibraryFiles;
  /** Why this one among those found. */
  readonly why: string;
}

const opened = new Map<string, TensorRt>();

/** This machine's GPU, where there is one that works. */
export function presentGpu(ordinal?: number): Device | undefined {
  return gpuVerdict().ok ? openDevice(ordinal) : undefined;
}

/**
 * Opens the library that serves; one that does not open makes room for the next. `sm`: what plans are built for, or run on. Throws P2201 when none is
 * there, or what the best one said.
 */
export async function loadLibrary(
  wanted: { readonly flavor?: Flavor | undefined; readonly sm: number },
  env: Environment = process.env,
): Promise<Loaded> {
  const found = findLibraries(env);
  const choice = chooseLibrary(found, { ...wanted, device: presentGpu()?.properties.sm });
  if (choice === undefined) throw missing(found, wanted.flavor, env);
  const others = found.filter((f) => f !== choice.files && f.parser !== undefined && (wanted.flavor ?? f.flavor) === f.flavor);
  let failure: unknown;
  for (const files of [choice.files, ...others]) {
    try {
      const rt = await openOnce(files);
      const why = failure instanceof PartitaError ? `'${choice.files.library}' does not serve: ${failure.what}` : choice.why;
      return { rt, files, why };
    } catch (error) {
      if (!(error instanceof PartitaError)) throw error;
      failure ??= error;
    }
  }
  throw failure;
}

/** Whether the TensorRT that would be taken was seen to build plans for this machine's GPU, and to load them. */
export async function servesThisGpu(env: Environment = process.env): Promise<Verdict> {
  const sm = presentGpu()?.properties.sm;
  if (sm === undefined) return no("there is no GPU");
  const choice = chooseLibrary(findLibraries(env), { sm, device: sm });
  if (choice === undefined) return no("there is no TensorRT");
  const { flavor, library, parser } = choice.files;
  if (flavor === "rtx" && !RTX_SM.has(sm)) return no(`TensorRT-RTX runs no plan on compute capability ${smText(sm)}`);
  try {
    const probe = await probeTensorRt({ library, ...(parser === undefined ? {} : { parser }) });
    if (!probe.builder.ok) return no(probe.builder.why);
    // What TensorRT-RTX was tried with is a plan for 8.9.
    return probe.runtime.ok || flavor === "rtx" ? yes : no(probe.runtime.why);
  } catch (error) {
    if (error instanceof PartitaError) return no(error.what);
    throw error;
  }
}

/** The first use of a library on a machine is in a child process (probe.ts): one that ends its process shall not end this one. */
async function openOnce(files: LibraryFiles): Promise<TensorRt> {
  const known = opened.get(files.library);
  if (known !== undefined) return known;
  const named = { library: files.library, ...(files.parser === undefined ? {} : { parser: files.parser }) };
  await probeTensorRt(named);
  // Somebody else may have opened it meanwhile.
  const rt = opened.get(files.library) ?? openTensorRt(named);
  opened.set(files.library, rt);
  return rt;
}

function missing(found: readonly LibraryFiles[], flavor: Flavor | undefined, env: Environment): PartitaError {
  const [first] = found;
  const archives = mavenArchives(env);
  if (first !== undefined)
    return noLibrary({
      why:
        flavor !== undefined && found.every((f) => f.flavor !== flavor)
          ? `${flavorNames[flavor]} was asked for, and only '${first.library}' is there`
          : `'${first.library}' has no ONNX parser beside it`,
      fix: "install the whole of TensorRT, and name its folder in PARTITA_TENSORRT_DIR",
    });
  const place = env["PARTITA_TENSORRT_DIR"] ?? "";
  // Where the folder was said, what lies packed elsewhere is not what is missing.
  const [archive] = place === "" ? archives : [];
  return noLibrary({
    why:
      place !== ""
        ? `PARTITA_TENSORRT_DIR is '${place}', which holds neither libnvinfer.so nor libtensorrt_rtx.so`
        : archive !== undefined
          ? `'${archive}' holds one, packed`
          : "neither libnvinfer.so nor libtensorrt_rtx.so lies in the loader's folders, in pip's site-packages or in JavaCPP's cache",
    fix:
      archive !== undefined
        ? "unpack the archive and name the folder in PARTITA_TENSORRT_DIR"
        : "install TensorRT 10 or 11, or pip install tensorrt-rtx-cu13-libs, or set PARTITA_TENSORRT_DIR to its folder",
  });
}
