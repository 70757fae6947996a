/** What `doctor` says of TensorRT: every library found, what it is, what it can do with this GPU or without one, and which one is taken. */
import { dirname } from "node:path";
import { PartitaError } from "../../diagnostics.js";
import { type Environment, list } from "../cuda/libraries.js";
import { chooseLibrary, findLibraries, flavorNames, type LibraryFiles, mavenArchives, RTX_SM, smText } from "./library.js";
import type { Probe } from "./probe.js";

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

/** `ask` tries a library where it cannot hurt (probe.ts), or throws a coded error. `gpu`: compute capability times ten. */
export async function tensorRtFacts(
  gpu: number | undefined,
  env: Environment,
  ask: (files: LibraryFiles) => Promise<Probe>,
): Promise<readonly TensorRtFact[]> {
  const found = findLibraries(env);
  if (found.length === 0) return [nothing(env)];
  const choice = chooseLibrary(found, { sm: gpu ?? 0, device: gpu });
  return await Promise.all(
    found.map(async (files) => {
      const name = flavorNames[files.flavor];
      const taken = choice?.files === files && found.length > 1 ? `; this one is taken: ${choice.why}` : "";
      const where = `${files.library} ${SOURCES[files.source]}`;
      try {
        const probe = await ask(files);
        const found = `${probe.version.text}, ${where}`;
        const trouble = troubles(files, gpu, probe);
        if (trouble === undefined) return { name, ok: true, detail: `${found}; ${ability(files, gpu)}${taken}` };
        return {
          name,
          ok: false,
          detail: `${found}; ${trouble}${taken}`,
          remedy: remedyOf(files, trouble),
        };
      } catch (error) {
        if (!(error instanceof PartitaError)) throw error;
        const why = error.why === undefined ? "" : `: ${error.why}`;
        return { name, ok: false, detail: `${files.named}, ${where}: ${error.what}${why}`, remedy: error.fix };
      }
    }),
  );
}

/** The builder opens its kernels by bare name: where the loader does not look beside the library, LD_LIBRARY_PATH must have said so at the start. */
const NO_RESOURCE = /Unable to load library:? *lib\w*builder_resource/;

function remedyOf({ library }: LibraryFiles, trouble: string): string {
  if (!NO_RESOURCE.test(trouble)) return "install the whole of this TensorRT, and the driver it asks for";
  const folder = dirname(library);
  return list(folder).some((n) => n.includes("builder_resource"))
    ? `set LD_LIBRARY_PATH to '${folder}' before the process starts`
    : `put this TensorRT's libnvinfer_builder_resource library into '${folder}': the installation is not whole`;
}

/** What was tried, should have worked here, and did not. */
function troubles({ flavor, parser }: LibraryFiles, gpu: number | undefined, probe: Probe): string | undefined {
  if (parser === undefined) return "its ONNX parser is missing";
  // Without a GPU, TensorRT makes no builder, and without a builder there is nothing to parse into: its words are then the parser's too.
  const builds = flavor === "rtx" || gpu !== undefined;
  if (builds && !probe.builder.ok) return `it builds no plan here: ${probe.builder.why}`;
  if (builds && !probe.parser.ok) return `its ONNX parser does not work: ${probe.parser.why}`;
  // What RTX was tried with is a plan for 8.9, which loads on few other GPUs.
  if (!probe.runtime.ok && gpu !== undefined && (flavor === "tensorrt" || gpu === 89)) return `it loads no plan here: ${probe.runtime.why}`;
  return undefined;
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
