/**
 * The CUDA engine: a segment becomes CUDA C++, cubins and one blob of weights, and runs as one CUDA graph. Building needs a compiler and no
 * GPU. Kernels are for one set of dims: a segment whose dims are open is built by shape (engines/by-shape.ts).
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { no, type Verdict, yes } from "../../diagnostics.js";
import { displayName, qualifiedOp, valueAt } from "../../ir/graph.js";
import { graphHash } from "../../ir/hash.js";
import type { Graph, NodeId } from "../../ir/types.js";
import { typedArrayOf } from "../../tensor.js";
import { byShape } from "../by-shape.js";
import type { Artifact, ArtifactFile, BuildContext, Engine, Executable, OpenContext } from "../engine.js";
import { hostEngine } from "../host/index.js";
import { stored } from "../stored.js";
import { portType } from "./check.js";
import { compilerInfo, compileSource, demandArch } from "./compiler.js";
import { firstPlace, gpuVerdict, openDevice } from "./device.js";
import { brokenArtifact, notEmitted, otherArch } from "./errors.js";
import { openPlan } from "./executable.js";
import { emits, type Lowered, type LowerOptions, lower, NotEmitted, refusals } from "./lower.js";
import { canOverlap, inTurn, overlapped } from "./overlap.js";
import type { KernelPlan } from "./plan.js";
import { a100, h200 } from "./templates/index.js";
import { fasterOf, tune } from "./tune.js";

/** Bump when emitted code or the artifact's layout changes: caches hold artifacts by key. */
const VERSION = "cuda/3";

/** For segments of fixed dims. Throws P2114 for others. */
const fixedEngine: Engine = {
  name: "cuda",
  serves: "dims",
  // Kernels are kept one by one, and tactics as well: what is left to save is the emission, not worth writing large weights for.
  async storage({ tune: level = "none" }) {
    // Without a compiler nothing is built, and the build says why.
    const compiler = await compilerInfo().catch(() => undefined);
    if (compiler === undefined) return undefined;
    const { kind, version } = compiler;
    const timed = level === "none" || !gpuVerdict().ok ? "" : openDevice().properties.name;
    return { identity: `${VERSION} ${kind} ${version} ${timed}`, maxBytes: 64 << 20 };
  },
  ready: ({ device }) => openDevice(device).properties.sm,
  keeps: (_, n) => emits(n),
  async available(): Promise<Verdict> {
    const gpu = gpuVerdict();
    if (!gpu.ok) return gpu;
    try {
      await compilerInfo();
      return yes;
    } catch (error) {
      return no(firstPlace(error instanceof Error ? error.message : String(error)));
    }
  },
  async build(segment, context) {
    const options = optionsFor(context.target.precision, context.target.sm);
    const names = (ids: readonly number[]): string[] => ids.map((v) => valueAt(segment, v as never).name);
    const key = graphHash(segment, `${VERSION} ${options.precision} ${options.device.arch}`);
    const files = await filesOf(await fastest(segment, await tuned(segment, options, context), context), context);
    return {
      engine: "cuda",
      key: createHash("sha256").update(key).digest("hex"),
      inputs: names(segment.inputs),
      outputs: names(segment.outputs),
      settings: { precision: options.precision, sm: String(context.target.sm) },
      files,
    };
  },
  open,
  memory(artifact) {
    const plan = planOf(artifact);
    const ports = plan.buffers.reduce((n, b) => n + (b.kind === "input" || b.kind === "output" ? b.bytes : 0), 0);
    return { sharedBytes: plan.weightsBytes, streamBytes: plan.arenaBytes + ports };
  },
};
const anyDims = byShape(stored(fixedEngine), () => hostEngine);
export const cudaEngine: Engine = {
  ...anyDims,
  // Asked here, for kernels are emitted for 8.0 at least, and a segment of open dims may have none yet. Without a compiler the build says so.
  async build(segment, context) {
    const compiler = await compilerInfo().catch(() => undefined);
    if (compiler !== undefined) demandArch(compiler, `sm_${context.target.sm}`);
    return await anyDims.build(segment, context);
  },
};

/** Nodes that the engine's rules refuse at their dims, with the reason: what the operators' own verdicts cannot know. */
export function cudaRefusals(g: Graph, precision: LowerOptions["precision"], sm: number): ReadonlyMap<NodeId, Verdict> {
  const found = new Map<NodeId, Verdict>();
  for (const [id, r] of refusals(g, optionsFor(precision, sm))) found.set(id, no(r.why, r.fix));
  return found;
}

/** Most shared memory of a block with opt-in, bytes (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"). */
function sharedOf(sm: number): number {
  if (sm === 80 || sm === 87) return 163 * 1024;
  return sm >= 90 && sm < 120 ? 227 * 1024 : 99 * 1024;
}
function optionsFor(precision: LowerOptions["precision"], sm: number): LowerOptions {
  const built = Math.max(sm, 80);
  return { precision, device: built === 90 ? h200 : { ...a100, arch: `sm_${built}`, sharedPerBlock: sharedOf(built) } };
}

/** Whether there is a GPU of the architecture asked for, and leave to time kernels on it. */
const timeable = (options: LowerOptions, context: BuildContext): boolean =>
  (context.tune ?? "none") !== "none" && gpuVerdict().ok && `sm_${openDevice().properties.sm}` === options.device.arch.replace(/a$/, "");

/** With the fastest tactics. */
async function tuned(segment: Graph, options: LowerOptions, context: BuildContext): Promise<LowerOptions> {
  const level = context.tune ?? "none";
  if (level === "none" || !timeable(options, context)) return options;
  try {
    return { ...options, picks: await tune(segment, options, level, context.onTune) };
  } catch (error) {
    if (!(error instanceof NotEmitted)) throw error;
    return options;
  }
}

/** The plan as it is or with overlapping launches, whichever runs faster. Untimed, launches overlap: it is the better guess. */
async function fastest(segment: Graph, options: LowerOptions, context: BuildContext): Promise<Lowered> {
  const made = emit(segment, options);
  if (!canOverlap(made.plan.arch)) return made;
  const early = { ...made, plan: overlapped(made.plan) };
  if (!timeable(options, context)) return early;
  const run = async (plan: KernelPlan): Promise<number> => {
    const executable = await openPlan(plan, await cubinsOf(plan, context.signal), made.weights);
    try {
      // Zeros: indices of 0 exist whatever they count.
      const inputs = plan.inputs.map((p) => ({
        type: p.dtype,
        dims: p.dims,
        data: new (typedArrayOf(portType(p)))(p.dims.reduce((a, d) => a * d, 1)),
      }));
      return (await executable.timeGraph({ inputs, samples: 20 })).median;
    } finally {
      await executable.dispose();
    }
  };
  return (await fasterOf([made.plan, early.plan], run)) === 0 ? made : early;
}

/** Throws P2114. */
function emit(segment: Graph, options: LowerOptions): Lowered {
  try {
    return lower(segment, options);
  } catch (error) {
    if (!(error instanceof NotEmitted)) throw error;
    const { node } = error;
    throw notEmitted({ why: error.why }, { file: segment.extra?.file, node: displayName(segment, node), op: qualifiedOp(node) }, error);
  }
}

async function cubinsOf(plan: KernelPlan, signal?: AbortSignal): Promise<readonly Uint8Array[]> {
  const made = await Promise.all(
    plan.sources.map((s) =>
      compileSource(s.source, plan.arch, { name: s.kernels[0] ?? "kernels", ...(signal === undefined ? {} : { signal }) }),
    ),
  );
  return made.map((m) => m.cubin);
}

async function filesOf({ plan, weights }: Lowered, context: Pick<BuildContext, "signal">): Promise<readonly ArtifactFile[]> {
  const cubins = await cubinsOf(plan, context.signal);
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  return [
    // The sources lie beside the plan as files that a person can open.
    { name: "plan.json", bytes: text(`${JSON.stringify({ ...plan, sources: plan.sources.map((s) => s.kernels) }, null, 1)}\n`) },
    ...plan.sources.map((s, i) => ({ name: `unit_${i}.cu`, bytes: text(s.source) })),
    ...cubins.map((c, i) => ({ name: `unit_${i}.${plan.arch}.cubin`, bytes: c })),
    { name: "weights.bin", bytes: weights },
  ];
}

function read(artifact: Artifact, name: string): Uint8Array {
  const f = artifact.files.find((file) => file.name === name);
  if (f === undefined) throw brokenArtifact({ what: `it has no '${name}'` });
  return "bytes" in f ? f.bytes : readFileSync(f.path);
}
type StoredPlan = Omit<KernelPlan, "sources"> & { readonly sources: readonly (readonly string[])[] };
function planOf(artifact: Artifact): StoredPlan {
  const raw = JSON.parse(Buffer.from(read(artifact, "plan.json")).toString("utf8")) as StoredPlan;
  if (!Array.isArray(raw.sources)) throw brokenArtifact({ what: "its plan names no sources" });
  return raw;
}

async function open(artifact: Artifact, context: OpenContext): Promise<Executable> {
  const raw = planOf(artifact);
  const sources = raw.sources.map((kernels, i) => ({ kernels, source: Buffer.from(read(artifact, `unit_${i}.cu`)).toString("utf8") }));
  const plan: KernelPlan = { ...raw, sources };
  const present = openDevice(context.device).properties.sm;
  const fits = plan.arch === `sm_${present}a` || plan.arch === `sm_${present}`;
  const weights = read(artifact, "weights.bin");
  const options = { streams: context.streams, device: context.device };
  if (fits)
    return await openPlan(
      plan,
      sources.map((_, i) => read(artifact, `unit_${i}.${plan.arch}.cubin`)),
      weights,
      options,
    );
  // A bundle from another architecture brings its sources: they are compiled for this one, where it has what they use.
  const arch = present === 90 ? "sm_90a" : `sm_${present}`;
  const here: KernelPlan = { ...(canOverlap(arch) ? plan : inTurn(plan)), arch };
  if (!runsOn(plan, present)) throw otherArch({ built: plan.arch, device: here.arch });
  const cubins = await cubinsOf(here);
  context.onRemark?.({
    severity: "note",
    text: `kernels of ${artifact.outputs.join(", ")} were compiled for ${plan.arch}; this GPU is ${here.arch}, for which they were compiled again`,
    fix: "save the program on this machine, or compile with its computeCapability",
  });
  return await openPlan(here, cubins, weights, options);
}

/** Whether an architecture has what the kernels of a plan use: matrix products of warpgroups are Hopper's alone, clusters and tensor maps came with it. */
function runsOn(plan: KernelPlan, sm: number): boolean {
  if (plan.sources.some((s) => s.source.includes("wgmma.mma_async"))) return sm === 90;
  const newer = plan.operations.some(
    (o) => o.kind === "launch" && (o.launch.cluster !== undefined || o.launch.args.some((a) => a.kind === "tensorMap")),
  );
  return !newer || sm >= 90;
}
