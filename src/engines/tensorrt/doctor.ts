/** What `doctor` says of TensorRT: every library found, what it is, what it can do with this GPU or without one, and which one is taken. */
import { PartitaError } from "../../diagnostics.js";
import type { Environment } from "../cuda/libraries.js";
import { chooseLibrary, findLibraries, flavorNames, type LibraryFiles, mavenArchives, RTX_SM, smText } from "./library.js";
import type { LibraryVersion } from "./native.js";

export interface TensorRtFact {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly remedy?: string | undefined;
}

const SOURCES = {
  PARTITA_TENSORRT_DIR: "by PARTITA_TENSORRT_DIR",
  system: "in the system's folders",
  pip: "from pip",
  maven: "from JavaCPP's cache",
};

/**
 * `ask` opens a library where it cannot hurt and says its version, or throws a coded error; without it the file names must do. `gpu`: compute
 * capability times ten.
 */
export function tensorRtFacts(
  gpu: number | undefined,
  env: Environment,
  ask?: (files: LibraryFiles) => LibraryVersion,
): readonly TensorRtFact[] {
  const found = findLibraries(env);
  if (found.length === 0) return [nothing(env)];
  const choice = chooseLibrary(found, { sm: gpu ?? 0, device: gpu });
  return found.map((files) => {
    const taken = choice?.files === files && found.length > 1 ? `; this one is taken: ${choice.why}` : "";
    const where = `${files.library} ${SOURCES[files.source]}`;
    let version = files.named;
    try {
      if (ask !== undefined) version = ask(files).text;
    } catch (error) {
      if (!(error instanceof PartitaError)) throw error;
      return {
        name: flavorNames[files.flavor],
        ok: false,
        detail: `${version}, ${where}: ${error.what}${error.why === undefined ? "" : `: ${error.why}`}`,
        remedy: error.fix,
      };
    }
    const detail = `${version}, ${where}; ${ability(files, gpu)}${taken}`;
    if (files.parser === undefined)
      return {
        name: flavorNames[files.flavor],
        ok: false,
        detail: `${detail}; its ONNX parser is missing`,
        remedy: "install the parser of the same version beside it",
      };
    return { name: flavorNames[files.flavor], ok: true, detail };
  });
}

/** What such a library can do here. */
function ability({ flavor }: LibraryFiles, gpu: number | undefined): string {
  const here = gpu === undefined ? "" : `compute capability ${smText(gpu)}`;
  if (flavor === "tensorrt")
    return gpu === undefined ? "builds and runs nothing without a GPU" : `builds and runs plans on this GPU (${here})`;
  const known = [...RTX_SM].map(smText).join(", ");
  if (gpu === undefined) return `builds plans for compute capability ${known} without a GPU, and runs none here`;
  return RTX_SM.has(gpu)
    ? `builds plans for compute capability ${known}, and runs those for this GPU (${here})`
    : `builds plans for compute capability ${known}, and runs none on this GPU (${here})`;
}

function nothing(env: Environment): TensorRtFact {
  const place = env["PARTITA_TENSORRT_DIR"];
  const [archive] = mavenArchives(env);
  return {
    name: "TensorRT",
    ok: false,
    detail:
      place !== undefined && place !== ""
        ? `not found in '${place}' (PARTITA_TENSORRT_DIR)`
        : archive === undefined
          ? "not found"
          : `not found; '${archive}' holds one, packed`,
    remedy:
      archive === undefined
        ? "install TensorRT 10 or 11, or pip install tensorrt-rtx-cu13-libs, or set PARTITA_TENSORRT_DIR to its folder"
        : "unpack the archive, and set PARTITA_TENSORRT_DIR to its folder",
  };
}
