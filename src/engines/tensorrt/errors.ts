/** The TensorRT engine's own coded errors, P2201 to P2209 and P2230 to P2249; those of the native half stand in failures.ts. */
import { defineError } from "../../diagnostics.js";

export const noLibrary = defineError<{ why: string; fix: string }>(
  "P2201",
  "there is no TensorRT here",
  ({ why, fix }) => ({ what: "there is no TensorRT to build or run with", why, fix }),
  3,
);
export const builtElsewhere = defineError<{ built: string; here: string }>(
  "P2202",
  "a TensorRT plan was built for another version or GPU",
  ({ built, here }) => ({
    what: `the plan was built by ${built}, this machine has ${here}`,
    why: "a plan loads in the version and on the kind of GPU that it was built for, unless it was built to be compatible",
    fix: "compile again here, or compile with --trt versionCompatible=true or --trt hardwareCompatibility=ampere-plus",
  }),
  3,
);
export const planIncomplete = defineError<{ what: string }>("P2203", "a TensorRT segment is not complete", ({ what }) => ({
  what,
  fix: "compile the model again",
}));
export const badInput = defineError<{ what: string; fix: string }>(
  "P2204",
  "an input does not fit a TensorRT segment",
  ({ what, fix }) => ({
    what,
    fix,
  }),
);
export const sessionEnded = defineError<Record<never, never>>("P2205", "a disposed TensorRT executable was used", () => ({
  what: "this executable has been disposed of",
  fix: "open it again",
}));
export const noGpuToRun = defineError<{ why: string; fix: string }>(
  "P2206",
  "a TensorRT segment needs a GPU to run",
  ({ why, fix }) => ({ what: "a TensorRT segment cannot be opened here", why, fix }),
  3,
);
export const openDim = defineError<{ input: string; dim: string }>(
  "P2230",
  "a TensorRT segment has an open dim without a range",
  ({ input, dim }) => ({
    what: `dim '${dim}' of '${input}' has no range, and TensorRT builds for ranges`,
    fix: "give the model's inputs shapes: --shape name=min:opt:max, or one shape to fix it",
  }),
);
export const openElements = defineError<{ input: string }>(
  "P2231",
  "a TensorRT segment takes a shape whose range is not known",
  ({ input }) => ({
    what: `'${input}' is read as a shape, comes from outside the segment, and nothing is known of its elements`,
    fix: "pin the nodes that compute it to tensorrt too, or those that read it to the host",
  }),
);
export const otherGpu = defineError<{ asked: string; here: string }>(
  "P2232",
  "TensorRT cannot build for a GPU that is not here",
  ({ asked, here }) => ({
    what: `a plan for compute capability ${asked} was asked for, ${here}`,
    why: "TensorRT times its kernels on the GPU it builds for; TensorRT-RTX builds for others too",
    fix: "install TensorRT-RTX (pip install tensorrt-rtx-cu13-libs), or compile on a machine with that GPU",
  }),
  3,
);
export const notExported = defineError<{ segment: string; engine: string; format: string; fix: string }>(
  "P2240",
  "a bundle cannot be exported in this form",
  ({ segment, engine, format, fix }) => ({ what: `segment '${segment}' is of the ${engine} engine, which ${format} cannot hold`, fix }),
);
export const badName = defineError<{ name: string; format: string; fix: string }>(
  "P2241",
  "a name does not fit the form of an export",
  ({ name, format, fix }) => ({ what: `'${name}' is no name that ${format} takes`, fix }),
);
export const noInputs = defineError<{ format: string }>(
  "P2242",
  "a model without inputs cannot be exported in this form",
  ({ format }) => ({
    what: `the model has no inputs, and ${format} serves models that have some`,
    fix: "run the bundle as it is: its outputs never change",
  }),
);
