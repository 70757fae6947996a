/**
 * The TensorRT engine: a segment becomes a serialized plan by way of ONNX, and runs through enqueueV3. TensorRT builds on the GPU that runs the
 * plan; TensorRT-RTX builds for any of its GPUs without one. Which library, and what it makes of a node, it says itself.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { no, PartitaError, type Verdict, yes } from "../../diagnostics.js";
import { valueAt } from "../../ir/graph.js";
import { graphHash } from "../../ir/hash.js";
import type { Graph } from "../../ir/types.js";
import { keepKnown } from "../../passes/lower.js";
import { byShape } from "../by-shape.js";
import type { Artifact, ArtifactFile, BuildContext, Engine, Executable, OpenContext, TensorRtOptions } from "../engine.js";
import { hostEngine } from "../host/index.js";
import { stored } from "../stored.js";
import { builtElsewhere, noGpuToRun, otherGpu, planIncomplete } from "./errors.js";
import { openEngine } from "./executable.js";
import { parserRefused } from "./failures.js";
import { type Flavor, smText } from "./library.js";
import { type Loaded, loadLibrary, presentGpu } from "./load.js";
import type { BuildOptions, LogMessage, TensorRtFailure } from "./native.js";
import { encodePorts } from "./ports.js";
import { type Prepared, prepareSegment } from "./prepare.js";
import { readTimingCache, timingCachePath, writeTimingCache } from "./timing-cache.js";
import { loadTried, rememberPlan } from "./trial.js";

/** Bump when segments are prepared another way or the artifact's layout changes: caches hold artifacts by key. */
const VERSION = "tensorrt/1";

const rangeEngine: Engine = {
  name: "tensorrt",
  serves: "range",
  keeps: keepKnown("tensorrt"),
  ready,
  async storage({ tensorrt, target }) {
    const { version, library } = (await loadLibrary({ flavor: tensorrt?.library, sm: target.sm })).rt;
    return {
      identity: `${VERSION} ${version.product} ${version.text} ${library} ${presentGpu()?.properties.name ?? ""}`,
      maxBytes: 2 ** 30,
    };
  },
  async available(): Promise<Verdict> {
    try {
      await loadLibrary({ sm: presentGpu()?.properties.sm ?? 0 });
      return yes;
    } catch (error) {
      if (error instanceof PartitaError) return no(error.why ?? error.what, error.fix);
      throw error;
    }
  },
  build,
  open,
};
export const tensorrtEngine: Engine = byShape(stored(rangeEngine), () => hostEngine);

/** Throws P2206. */
function ready(): number {
  const device = presentGpu();
  if (device === undefined)
    throw noGpuToRun({
      why: "its plans are built when shapes come, and there is no usable NVIDIA GPU",
      fix: "load the bundle on a machine with one, or compile with --target host",
    });
  return device.properties.sm;
}

async function build(segment: Graph, context: BuildContext): Promise<Artifact> {
  const { precision, sm } = context.target;
  const options = context.tensorrt ?? {};
  const loaded = await loadLibrary({ flavor: options.library, sm });
  const { version } = loaded.rt;
  const prepared = prepareSegment(segment, precision, context.ranges);
  const asked = buildOptions(options, context, loaded, prepared);
  const salt = [VERSION, version.product, version.text, sm, precision, JSON.stringify(options), JSON.stringify(prepared.profile)];
  const { plan, log } = await built(loaded, prepared, asked, context);
  tell(log, options, context);
  const device = presentGpu();
  if (device !== undefined) await rememberPlan(plan, { rt: loaded.rt, device });
  const names = (ids: readonly number[]): string[] => ids.map((v) => valueAt(prepared.graph, v as never).name);
  const weights = options.stripWeights === true || (options.refit ?? "none") !== "none";
  const files: ArtifactFile[] = [{ name: "engine.plan", bytes: plan }];
  // What a stripped plan lacks lies beside it; what may be exchanged is looked up there.
  if (weights) files.push({ name: "segment.onnx", bytes: prepared.onnx });
  return {
    engine: "tensorrt",
    key: createHash("sha256")
      .update(graphHash(prepared.graph, salt.join(" ")))
      .digest("hex"),
    inputs: names(prepared.graph.inputs),
    outputs: names(prepared.graph.outputs),
    settings: {
      product: version.product,
      version: version.text,
      sm: String(sm),
      precision,
      graphs: options.cudaGraphs === false ? "no" : "yes",
      versions: options.versionCompatible === true ? "compatible" : "exact",
      hardware: options.hardwareCompatibility ?? "none",
      weights: options.stripWeights === true ? "stripped" : "inside",
      ports: encodePorts(prepared.graph),
      ...(prepared.profile.length === 0 ? {} : { profile: JSON.stringify(prepared.profile) }),
    },
    files,
  };
}

/** Throws P2232 for a GPU that this library cannot build for from here. */
function buildOptions(options: TensorRtOptions, context: BuildContext, { rt }: Loaded, prepared: Prepared): BuildOptions {
  const { sm, precision } = context.target;
  const device = presentGpu();
  const rtx = rt.version.product === "TensorRT-RTX";
  if (!rtx && device?.properties.sm !== sm)
    throw otherGpu({
      asked: smText(sm),
      here: device === undefined ? "and there is no GPU here" : `and this GPU has ${smText(device.properties.sm)}`,
    });
  const given: BuildOptions = {
    profiles: prepared.profile.length === 0 ? undefined : [prepared.profile],
    workspaceBytes: context.workspaceBytes,
    optimizationLevel: options.optimizationLevel,
    computeCapabilities: rtx ? [sm] : undefined,
    versionCompatible: options.versionCompatible,
    hardwareCompatibility: options.hardwareCompatibility,
    stripPlan: options.stripWeights,
    refit: options.refit ?? (options.stripWeights === true ? "identical" : undefined),
    tf32: precision !== "fp32",
    sparseWeights: options.sparseWeights,
    tacticSources: options.tacticSources,
    maxAuxiliaryStreams: options.auxiliaryStreams,
    profilingVerbosity: options.inspection ?? "names",
    context: device?.context,
    logLevel: options.log ?? "warning",
    onProgress: ({ parent, step, steps }) => {
      if (parent === undefined && step !== undefined) context.onTune?.(step, steps);
    },
    signal: context.signal,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** Builds with what earlier builds measured, and keeps what this one measures. Throws P2213 with the user's node, P2214, P2219, P2221. */
async function built({ rt }: Loaded, prepared: Prepared, asked: BuildOptions, context: BuildContext) {
  const { timingCache = true } = context.tensorrt ?? {};
  const device = presentGpu();
  const gpu = `${device?.properties.name ?? "none"}-sm_${context.target.sm}`;
  const path = timingCache === false ? undefined : timingCache === true ? timingCachePath(rt.version, gpu) : timingCache;
  const before = path === undefined ? undefined : await readTimingCache(path);
  try {
    const result = await rt.build(prepared.onnx, { ...asked, ...(before === undefined ? {} : { timingCache: before }) });
    if (path !== undefined && result.timingCache !== undefined && !same(result.timingCache, before))
      await writeTimingCache(path, result.timingCache);
    return result;
  } catch (error) {
    throw atUsersNode(error, prepared);
  }
}

const same = (a: Uint8Array, b: Uint8Array | undefined): boolean =>
  b !== undefined && Buffer.from(a.buffer, a.byteOffset, a.length).equals(b);

/** The parser's error under the name that the user's model has for the node. */
function atUsersNode(error: unknown, prepared: Prepared): unknown {
  if (!(error instanceof PartitaError) || error.code !== parserRefused({ why: "" }).code) return error;
  const said = (error.cause as TensorRtFailure | undefined)?.parser.find((p) => p.node >= 0);
  const node = said === undefined ? undefined : prepared.nodes[said.node];
  if (said === undefined || node === undefined) return error;
  return parserRefused({ why: error.why ?? said.text }, { file: prepared.graph.extra?.file, node: node.name, op: node.op }, error.cause);
}

const GRAVITY: readonly LogMessage["severity"][] = ["internal", "error", "warning", "info", "verbose"];
/** cudaErrorInsufficientDriver, cudaErrorNoDevice: what the CUDA runtime says where there is no driver, or no GPU. */
const NO_DRIVER = /cudaError (?:35|100)\b/;
/** What TensorRT logged, as remarks, each once. */
function tell(log: readonly LogMessage[], options: TensorRtOptions, context: BuildContext): void {
  const level = GRAVITY.indexOf(options.log ?? "error");
  const said = new Set<string>();
  // A build that came out all the same did not need the driver that TensorRT-RTX looked for.
  const gpuless = presentGpu() === undefined;
  for (const m of log) {
    if (GRAVITY.indexOf(m.severity) > level || said.has(m.text) || (gpuless && NO_DRIVER.test(m.text))) continue;
    said.add(m.text);
    const grave = GRAVITY.indexOf(m.severity) <= GRAVITY.indexOf("warning");
    context.onRemark?.({ severity: grave ? "warning" : "note", text: `TensorRT: ${m.text.trim()}` });
  }
}

/** Throws P2103, P2201, P2202, P2203, P2206, P2216. */
async function open(artifact: Artifact, context: OpenContext): Promise<Executable> {
  const settings = artifact.settings ?? {};
  const flavor: Flavor = settings["product"] === "TensorRT-RTX" ? "rtx" : "tensorrt";
  const sm = Number(settings["sm"] ?? 0);
  const plan = fileOf(artifact, "engine.plan");
  if (plan === undefined) throw planIncomplete({ what: "it has no 'engine.plan'" });
  const device = presentGpu(context.device);
  if (device === undefined)
    throw noGpuToRun({
      why: `the plan is for compute capability ${smText(sm)}, and there is no usable NVIDIA GPU`,
      fix: "load the bundle on a machine with that GPU, or compile with --target host",
    });
  const loaded = await loadLibrary({ flavor, sm: device.properties.sm });
  const { version } = loaded.rt;
  const here = `${version.product} ${version.text} and compute capability ${smText(device.properties.sm)}`;
  const built = `${settings["product"]} ${settings["version"]} for compute capability ${smText(sm)}`;
  const versionFits = version.text === settings["version"] || settings["versions"] === "compatible";
  const gpuFits = sm === device.properties.sm || (settings["hardware"] ?? "none") !== "none";
  if (!versionFits || !gpuFits) throw builtElsewhere({ built, here });
  const { rt } = loaded;
  const options = context.allowHostCode === true ? { allowHostCode: true } : {};
  const load = () => rt.deserialize(plan, { context: device.context, ...options });
  const stripped = settings["weights"] === "stripped";
  const engine = await loadTried(plan, { rt, device }, { ...options, stripped }, load);
  try {
    if (stripped) {
      const onnx = fileOf(artifact, "segment.onnx");
      if (onnx === undefined) throw planIncomplete({ what: "its plan holds no weights, and it has no 'segment.onnx' to take them from" });
      await engine.refit(onnx);
    }
    return await openEngine(engine, {
      device,
      inputs: artifact.inputs,
      outputs: artifact.outputs,
      streams: context.streams,
      graphs: settings["graphs"] !== "no",
    });
  } catch (error) {
    await engine.dispose();
    throw error;
  }
}

function fileOf(artifact: Artifact, name: string): Uint8Array | undefined {
  const file = artifact.files.find((f) => f.name === name);
  if (file === undefined) return undefined;
  return "bytes" in file ? file.bytes : readFileSync(file.path);
}
