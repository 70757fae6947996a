/**
 * From a plan to artifacts: every segment built by its engine. What TensorRT refuses is planned again without it, with the reason; where two
 * engines can take a segment and a GPU can time both, both are built, and the faster one keeps it.
 */
import { no, PartitaError, type Verdict } from "./diagnostics.js";
import type { Artifact, BuildContext, DimRanges, DynamicShapes, Engine, Executable, LayerFacts } from "./engines/engine.js";
import { substitute } from "./ir/dims.js";
import { displayName, originOf, valueAt } from "./ir/graph.js";
import type { Graph, NodeId } from "./ir/types.js";
import type { EngineName, Target } from "./ops/define.js";
import type { Settings } from "./options.js";
import type { Partition, Segment } from "./partition/assign.js";
import { extractSegment } from "./partition/extract.js";
import type { Verdicts } from "./partition/verdicts.js";
import { keepAll, lower } from "./passes/lower.js";
import { type Agreement, agreementOf } from "./runtime/agreement.js";
import { randomFeeds } from "./runtime/measure.js";
import { portOf } from "./runtime/ports.js";
import type { TensorLike } from "./tensor.js";

/** What an engine turned out not to take, or to take more slowly than another: by node, then by engine. */
export type Refusals = ReadonlyMap<NodeId, ReadonlyMap<EngineName, Verdict>>;

/** What a plan must say for its segments to be built. */
export interface Buildable {
  readonly graph: Graph;
  readonly verdicts: Verdicts;
  readonly partition: Partition;
  readonly settings: Settings;
  readonly target: Target;
  readonly ranges: DimRanges;
  readonly dynamic: DynamicShapes;
}
/** What was measured of a segment on this machine's GPU. */
export interface Measurement {
  /** Microseconds of one run on the device by engine, the fastest first. */
  readonly times: readonly { readonly engine: EngineName; readonly us: number }[];
  readonly layers?: readonly LayerFacts[] | undefined;
  readonly inspection?: unknown;
  /** TensorRT's INT8 against the reference arithmetic. */
  readonly int8?: Agreement | undefined;
}
export interface Built<P extends Buildable> {
  /** The plan that was built in the end. */
  readonly planned: P;
  /** One per segment. */
  readonly artifacts: readonly Artifact[];
  /** By segment name. */
  readonly measured: ReadonlyMap<string, Measurement>;
}
export interface BuildHooks<P> {
  readonly engine: (name: EngineName) => Engine;
  /** The plan as it is when these verdicts hold too. */
  readonly replan: (refusals: Refusals) => P;
  /** Compute capability of this machine's GPU times ten; undefined without one. */
  readonly gpu: () => number | undefined;
}

/** Plans that are made anew before one must hold; each refuses at least one more node, and most models need none. */
const MAX_ROUNDS = 32;

/** Throws what the engines throw, except where a segment can go elsewhere. */
export async function buildSegments<P extends Buildable>(first: P, hooks: BuildHooks<P>): Promise<Built<P>> {
  const made = new Map<string, Artifact>();
  const measured = new Map<string, Measurement>();
  const refusals = new Map<NodeId, Map<EngineName, Verdict>>();
  let planned = first;
  for (let round = 0; ; ) {
    const refused = await pass(planned, hooks, made, measured, round >= MAX_ROUNDS);
    if (refused === undefined) break;
    // A rival's loss moves nothing: it is told, and costs no round.
    if (!refused.rival) round++;
    for (const id of refused.nodes) {
      const known = refusals.get(id) ?? new Map<EngineName, Verdict>();
      refusals.set(id, known.set(refused.engine, refused.verdict));
    }
    planned = hooks.replan(refusals);
  }
  const { segments } = planned.partition;
  return {
    planned,
    artifacts: segments.map((s) => made.get(keyOf(s)) as Artifact),
    measured: new Map(
      segments.flatMap((s) => {
        const m = measured.get(nodesKey(s));
        return m === undefined ? [] : [[s.name, m] as const];
      }),
    ),
  };
}

const nodesKey = (s: Segment): string => s.nodes.join();
const keyOf = (s: Segment): string => `${s.engine} ${nodesKey(s)}`;

interface Refused {
  readonly rival?: boolean | undefined;
  readonly engine: EngineName;
  readonly nodes: readonly NodeId[];
  readonly verdict: Verdict;
}

/** Builds what is not built yet; stops at the first verdict that changes the plan. */
async function pass<P extends Buildable>(
  planned: P,
  hooks: BuildHooks<P>,
  made: Map<string, Artifact>,
  measured: Map<string, Measurement>,
  last: boolean,
): Promise<Refused | undefined> {
  const { settings, partition: parts } = planned;
  for (const [i, segment] of parts.segments.entries()) {
    if (made.has(keyOf(segment))) continue;
    settings.signal?.throwIfAborted();
    settings.onProgress({ stage: `build ${segment.name}`, fraction: 0.6 + (0.4 * i) / parts.segments.length });
    const build = async (name: EngineName): Promise<Artifact> => {
      const engine = hooks.engine(name);
      const onTune = (done: number, total: number): void =>
        settings.onProgress({
          stage: `${name === "cuda" ? "tune" : "build"} ${segment.name}`,
          fraction: 0.6 + (0.4 * (i + done / total)) / parts.segments.length,
        });
      return await engine.build(segmentFor(engine, planned, segment), { ...contextOf(planned), onTune });
    };
    let artifact: Artifact;
    try {
      artifact = await build(segment.engine);
    } catch (error) {
      const refused = last ? undefined : refusalOf(error, segment, planned);
      if (refused === undefined) throw error;
      return refused;
    }
    made.set(keyOf(segment), artifact);
    if (measured.has(nodesKey(segment))) continue;
    const outcome = await measure(planned, hooks, segment, artifact, build);
    if (outcome === undefined) continue;
    measured.set(nodesKey(segment), outcome.measurement);
    if (outcome.lost !== undefined && !last) return outcome.lost;
    if (outcome.rival === undefined || last) continue;
    const { engine, artifact: faster } = outcome.rival;
    made.set(`${engine} ${nodesKey(segment)}`, faster);
    const text = outcome.measurement.times.map((t) => `${t.engine} takes ${t.us.toFixed(1)} us`).join(", ");
    return {
      engine: segment.engine,
      nodes: segment.nodes,
      verdict: no(`it is slower here, measured: ${text}`, "pin the nodes, if it matters"),
    };
  }
  return undefined;
}

/** A segment as an engine gets it. */
export const segmentFor = (engine: Engine, planned: Buildable, segment: Segment): Graph =>
  lower(extractSegment(planned.graph, segment), engine.keeps ?? keepAll);
/** What segments are built with. */
export const contextOf = ({ target, ranges, dynamic, settings }: Buildable): BuildContext => ({
  target,
  ranges,
  dynamic,
  workspaceBytes: settings.maxWorkspaceSizeBytes,
  tensorrt: settings.tensorrt,
  signal: settings.signal,
  tune: settings.tune,
  onRemark: settings.onRemark,
});

/** What no other engine mends: a mistake in the options. */
const USAGE: ReadonlySet<string> = new Set(["P2219"]);
/** No library at all, where nothing else was asked for. */
const ABSENT = "P2201";

/** The nodes that must go elsewhere after TensorRT failed on their segment; undefined where the failure stands. */
function refusalOf(error: unknown, segment: Segment, planned: Buildable): Refused | undefined {
  const { settings, verdicts, graph } = planned;
  if (!(error instanceof PartitaError) || segment.engine !== "tensorrt" || settings.strict) return undefined;
  if (!/^P22|^P1151/.test(error.code) || USAGE.has(error.code)) return undefined;
  if (error.code === ABSENT && !settings.auto && settings.targets.every((t) => t === "tensorrt")) return undefined;
  const named = nodesNamed(error, segment, graph);
  const nodes = named.length > 0 ? named : segment.nodes;
  // Who pins a node to TensorRT wants to know that it cannot be.
  if (nodes.some((id) => verdicts.pinned.get(id) === "tensorrt")) return undefined;
  return {
    engine: "tensorrt",
    nodes,
    verdict: no(`${error.what}${error.why === undefined ? "" : `: ${error.why}`} (${error.code})`, error.fix),
  };
}

/** Nodes of a segment that an error speaks of, by their names or the user's. */
function nodesNamed(error: PartitaError, segment: Segment, g: Graph): readonly NodeId[] {
  const { node } = error.where;
  if (node === undefined) return [];
  const inside = new Set(segment.nodes);
  const own = g.nodes.filter((n) => inside.has(n.id));
  const exact = own.filter((n) => displayName(g, n) === node);
  // A node that was spelled out goes by its name, a slash and an operator.
  const found = exact.length > 0 ? exact : own.filter((n) => originOf(n).includes(node) || node.startsWith(`${displayName(g, n)}/`));
  return found.map((n) => n.id);
}

interface Outcome {
  readonly measurement: Measurement;
  /** The engine that is faster, with what it built. */
  readonly rival?: { readonly engine: EngineName; readonly artifact: Artifact } | undefined;
  /** The engine that could not build it, with its words: the plan is made again so that the report has them. */
  readonly lost?: Refused | undefined;
}

/** Times a segment of an engine on this machine's GPU, and the other engine beside it where that takes it too. */
async function measure<P extends Buildable>(
  planned: P,
  hooks: BuildHooks<P>,
  segment: Segment,
  artifact: Artifact,
  build: (engine: EngineName) => Promise<Artifact>,
): Promise<Outcome | undefined> {
  const { settings, verdicts, target } = planned;
  const rivals = (["tensorrt", "cuda"] as const).filter(
    (e) =>
      e !== segment.engine &&
      settings.targets.includes(e) &&
      segment.nodes.every((id) => verdicts.of(id, e).ok && !verdicts.pinned.has(id)),
  );
  const worth = segment.engine === "tensorrt" || (segment.engine === "cuda" && rivals.length > 0);
  if (!worth || settings.tune === "none" || hooks.gpu() !== target.sm) return undefined;
  const feeds = feedsOf(planned, segment);
  if (feeds === undefined) return undefined;
  /** TensorRT's results are looked at where it computed in INT8. */
  const looked = (engine: EngineName): boolean => settings.precision === "int8" && engine === "tensorrt";
  const own = await timed(hooks.engine(segment.engine), artifact, feeds, looked(segment.engine));
  if (own === undefined) return undefined;
  const times = [{ engine: segment.engine, us: own.us }];
  let int8 = own.found === undefined ? undefined : await agreement(planned, hooks, segment, { feeds, found: own.found });
  let lost: Refused | undefined;
  let best: { us: number; engine: EngineName; artifact: Artifact } | undefined;
  for (const engine of rivals) {
    let other: Artifact;
    try {
      other = await build(engine);
    } catch (error) {
      // A rival that cannot be built has lost; the segment has an engine already.
      if (!(error instanceof PartitaError)) throw error;
      const refused = refusalOf(error, { ...segment, engine }, planned);
      if (refused !== undefined) lost = { ...refused, nodes: segment.nodes, rival: true };
      continue;
    }
    const theirs = await timed(hooks.engine(engine), other, feeds, looked(engine));
    if (theirs === undefined) continue;
    times.push({ engine, us: theirs.us });
    if (theirs.found !== undefined) int8 = await agreement(planned, hooks, segment, { feeds, found: theirs.found });
    if (theirs.us < own.us) best = { us: theirs.us, engine, artifact: other };
  }
  times.sort((a, b) => a.us - b.us);
  return { measurement: { times, layers: own.layers, inspection: own.inspection, int8 }, rival: best, lost };
}

/** What an engine made of a segment beside what the host's integers make of it; undefined where the host cannot run it. */
async function agreement<P extends Buildable>(
  planned: P,
  hooks: BuildHooks<P>,
  segment: Segment,
  { feeds, found }: { readonly feeds: readonly TensorLike[]; readonly found: readonly TensorLike[] },
): Promise<Agreement | undefined> {
  const host = hooks.engine("host");
  const g = segmentFor(host, planned, segment);
  let executable: Executable | undefined;
  try {
    executable = await host.open(await host.build(g, contextOf(planned)), { streams: 1, threads: 0 });
    return agreementOf(g, found, await executable.run(feeds));
  } catch (error) {
    if (error instanceof PartitaError) return undefined;
    throw error;
  } finally {
    await executable?.dispose();
  }
}

interface Timed {
  readonly us: number;
  readonly layers: readonly LayerFacts[] | undefined;
  readonly inspection: unknown;
  /** Outputs of one run, where they were asked for. */
  readonly found: readonly TensorLike[] | undefined;
}
/** Undefined where the engine cannot run it here: then it says why when a session is made. */
async function timed(engine: Engine, artifact: Artifact, feeds: readonly TensorLike[], looked: boolean): Promise<Timed | undefined> {
  let executable: Executable | undefined;
  try {
    executable = await engine.open(artifact, { streams: 1, threads: 0 });
    const us = (await executable.timeUs?.(feeds)) ?? (await wallUs(executable, feeds));
    const found = looked ? await executable.run(feeds) : undefined;
    return { us, layers: await executable.layers?.(feeds), inspection: executable.inspect?.(), found };
  } catch (error) {
    if (error instanceof PartitaError) return undefined;
    throw error;
  } finally {
    await executable?.dispose();
  }
}

/** Median over runs from the host, copies included: where the device tells no time. */
async function wallUs(executable: Executable, feeds: readonly TensorLike[]): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 25; i++) {
    const start = performance.now();
    await executable.run(feeds);
    if (i >= 5) times.push(performance.now() - start);
  }
  return 1000 * (times.sort((a, b) => a - b)[times.length >> 1] as number);
}

/** Feeds for a segment at the dims it shall be fastest at; undefined where a dim has no number. */
function feedsOf({ graph, ranges }: Buildable, segment: Segment): readonly TensorLike[] | undefined {
  const ports = segment.inputs.map((id) => {
    const { name, type } = valueAt(graph, id);
    const port = portOf(name, type);
    return { ...port, dims: port.dims?.map((d) => substitute(d, ranges.opt)) };
  });
  if (ports.some((p) => p.dims === undefined || p.dims.some((d) => typeof d !== "number"))) return undefined;
  const feeds = randomFeeds(ports, 1);
  return ports.map((p) => feeds[p.name]).every((t) => t !== undefined) ? ports.map((p) => feeds[p.name] as TensorLike) : undefined;
}
