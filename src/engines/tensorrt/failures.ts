/** The coded errors of the native half, P2210 to P2225, and how a failure of the addon becomes one. TensorRT's own text stays in each. */
import { defineError } from "../../diagnostics.js";
import type { LogMessage, ParserError, TensorRtFailure } from "./native.js";

const KNOWN = "TensorRT 10.x and 11.x, TensorRT-RTX 1.3 to 1.7";

/** TensorRT-RTX of a GPU that it does not know at all. */
const OTHER_GPU = /does not support this compute capability|Compute capability is invalid or not supported/;
const UNSERVED =
  "compile the segment with --target cuda or host, or with TensorRT itself in the place of TensorRT-RTX, which does not serve this GPU";

export const libraryFailed = defineError<{ library: string; why: string }>(
  "P2210",
  "a TensorRT library cannot be loaded",
  ({ library, why }) => ({
    what: `'${library}' cannot be loaded as TensorRT`,
    why,
    fix: "name the folder of a complete installation in PARTITA_TENSORRT_DIR",
  }),
  3,
);
export const unknownVersion = defineError<{ found: string; library: string }>(
  "P2211",
  "a version of TensorRT that is not known",
  ({ found, library }) => ({
    what: `'${library}' is ${found}, whose binary interface is not known`,
    fix: `install one of ${KNOWN}, or a newer Partita`,
  }),
  3,
);
export const probeDied = defineError<{ library: string; how: string }>(
  "P2212",
  "TensorRT does not survive its first use",
  ({ library, how }) => ({
    what: `a process that tried '${library}' died`,
    why: how,
    fix: "install TensorRT again, or another version; the process that runs models did not load it",
  }),
  3,
);
export const parserRefused = defineError<{ why: string }>("P2213", "TensorRT's ONNX parser refuses a segment", ({ why }) => ({
  what: "TensorRT's parser does not take the segment",
  why,
  fix: "pin the node to another engine, or use a newer TensorRT",
}));
export const buildFailed = defineError<{ why: string }>("P2214", "TensorRT cannot build an engine", ({ why }) => ({
  what: "TensorRT builds no engine of the segment",
  why,
  fix: OTHER_GPU.test(why)
    ? UNSERVED
    : "give a profile for every open dim, more workspace, or compile the segment with --target cuda or host",
}));
export const planRefused = defineError<{ why: string }>(
  "P2216",
  "TensorRT refuses a plan",
  ({ why }) => ({
    what: "TensorRT does not load the plan",
    why,
    fix: OTHER_GPU.test(why)
      ? UNSERVED
      : "compile again on the machine that runs it: a plan is of one version and one kind of GPU, unless it was built to be compatible",
  }),
  3,
);
export const badRun = defineError<{ what: string }>("P2217", "a run does not fit the TensorRT engine", ({ what }) => ({
  what,
  fix: "give every input and output of the engine, with dims inside one profile and memory that holds them",
}));
export const runFailed = defineError<{ why: string }>(
  "P2218",
  "a TensorRT engine failed while it ran",
  ({ why }) => ({
    what: "TensorRT failed in a run",
    why,
    fix: "dispose of the session; after a fault inside a kernel the process must start again",
  }),
  70,
);
export const unknownOption = defineError<{ option: string; version: string; fix: string }>(
  "P2219",
  "an option that this version of TensorRT does not have",
  ({ option, version, fix }) => ({ what: `${version} does not know ${option}`, fix }),
);
export const refitFailed = defineError<{ why: string }>("P2220", "TensorRT cannot exchange an engine's weights", ({ why }) => ({
  what: "the weights of the engine cannot be exchanged",
  why,
  fix: "build with refit, and give weights of the names, types and sizes that `refittable` names",
}));
export const tensorRtMemory = defineError<{ call: string; why: string }>(
  "P2221",
  "TensorRT is out of memory",
  ({ call, why }) => ({
    what: `${call} found no memory`,
    why,
    fix: "free memory on the GPU, lower the workspace limit, or use smaller profiles",
  }),
  3,
);
export const otherLoaded = defineError<{ library: string; loaded: string }>(
  "P2222",
  "two copies of one TensorRT library in a process",
  ({ library, loaded }) => ({
    what: `'${library}' cannot be loaded beside '${loaded}': the loader would mix their parts`,
    fix: "use one of them in a process",
  }),
  3,
);
export const noParser = defineError<Record<string, never>>(
  "P2223",
  "TensorRT's ONNX parser is missing",
  () => ({
    what: "there is no ONNX parser beside the TensorRT library",
    fix: "install libnvonnxparser or libtensorrt_onnxparser_rtx of the same version; plans run without it",
  }),
  3,
);
export const notCreated = defineError<{ call: string; why: string }>(
  "P2224",
  "TensorRT cannot start",
  ({ call, why }) => ({
    what: `${call} gave nothing`,
    why,
    fix: "install the driver and every library of this TensorRT, for this GPU; `partita doctor` says what was found",
  }),
  3,
);
export const disposedEngine = defineError<{ what: string }>("P2225", "a disposed TensorRT engine was used", ({ what }) => ({
  what: `this ${what} has been disposed of`,
  fix: "load the plan again",
}));

/** What the addon attaches to a rejection; a failure of the loader or of the driver has no log. */
interface NativeRejection extends TensorRtFailure {
  readonly native: string;
  /** TensorRT said that there was no memory. */
  readonly memory: boolean;
}
export const rejection = (error: unknown): NativeRejection | undefined => {
  if (!(error instanceof Error) || !("call" in error) || typeof error.call !== "string") return undefined;
  const { native = error.message, memory = false, log = [], parser = [] } = error as Partial<NativeRejection>;
  return Object.assign(error, {
    call: error.call,
    native,
    memory,
    log: log as readonly LogMessage[],
    parser: parser as readonly ParserError[],
  });
};

/** Its sentences end in full stops, or not; the error's own sentence goes on. */
export const sentence = (text: string): string => text.trim().replace(/\.+$/, "");

/** TensorRT's errors, joined; warnings where it logged no error; the addon's text where it logged nothing. */
export function nativeText(failure: TensorRtFailure): string {
  const of = (...severities: readonly string[]): string[] => [
    ...new Set(failure.log.filter((m) => severities.includes(m.severity)).map((m) => sentence(m.text))),
  ];
  const errors = of("internal", "error");
  const said = errors.length > 0 ? errors : of("warning");
  return said.length > 0 ? said.slice(0, 8).join("; ") : failure.message;
}
const OUT_OF_MEMORY = /out of memory|OutOfMemory|OUT_OF_MEMORY/;
export const isMemory = (failure: NativeRejection): boolean => failure.memory || OUT_OF_MEMORY.test(nativeText(failure));
