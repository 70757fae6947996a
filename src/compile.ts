/**
 * The pipeline, read from top to bottom: bytes -> import -> IR -> passes -> partition -> engines -> program. Each stage is a function from
 * values to values; none calls the next.
 */
import { basename } from "node:path";
import { machineTargets } from "./auto.js";
import { type Buildable, buildSegments, contextOf, type Refusals, segmentFor } from "./build.js";
import { no, type Remark, type Remarks, type Verdict } from "./diagnostics.js";
import { cudaEngine, cudaRefusals } from "./engines/cuda/index.js";
import type { Artifact, Engine, MemoryPlan } from "./engines/engine.js";
import { hostEngine } from "./engines/host/index.js";
import { withOperators } from "./engines/host/operators.js";
import { hostRunner } from "./engines/host/runner.js";
import { tensorrtEngine } from "./engines/tensorrt/index.js";
import { presentGpu } from "./engines/tensorrt/load.js";
import { libraryFor, parserRefusals, versionNumber } from "./engines/tensorrt/refine.js";
import { demandReadable } from "./import/tf/unreadable.js";
import { shapeOfType, valueAt } from "./ir/graph.js";
import type { Graph, Node, NodeId } from "./ir/types.js";
import { type EngineName, type Target, unknownType } from "./ops/define.js";
import { type InferOptions, type Inferred, inferGraph } from "./ops/infer.js";
import { type Operator, operatorOf } from "./ops/javascript.js";
import { badOption, type CompileOptions, dynamicShapes, type LoadOptions, pathOf, type Settings, settle, settleLoad } from "./options.js";
import { bindingsOf, type PartitionOptions, solve } from "./partition/assign.js";
import { ownSegments } from "./partition/own-segments.js";
import { problemOf } from "./partition/problem.js";
import { measuredTimes } from "./partition/times.js";
import { assume, judge } from "./partition/verdicts.js";
import { gainsOf } from "./partition/what-if.js";
import { swept } from "./passes/dead-code.js";
import { keepAccepted, keepAll, lower } from "./passes/lower.js";
import { partsOf } from "./passes/parts.js";
import type { PassRecord } from "./passes/pass.js";
import { staysQuantized } from "./passes/quantized.js";
import type { Keep } from "./passes/spelling.js";
import { unrollLoops } from "./passes/unroll-loops.js";
import { type ModelInput, prepare } from "./prepare.js";
import { checkCalibration, modelKey, readCalibration } from "./quantize/calibration.js";
import { einsumsAsProducts } from "./quantize/einsum.js";
import { portsOf } from "./quantize/feeds.js";
import { type Quantized, quantize } from "./quantize/index.js";
import { carriesQuantizers, quantizable } from "./quantize/place.js";
import { collectFeeds } from "./quantize/store.js";
import { readTable } from "./quantize/table.js";
import type { FeedPort } from "./quantize/types.js";
import { quantizationReport } from "./report/quantization.js";
import { buildReport, type Report } from "./report/report.js";
import { demandOperators, loadBundle } from "./runtime/bundle.js";
import { planOf } from "./runtime/plan.js";
import { Program } from "./runtime/program.js";
import type { Verifiable } from "./runtime/verify.js";

export type { ModelInput } from "./prepare.js";

/** Everything up to the engines: what a report needs, with nothing built. */
export interface Planned extends Buildable {
  readonly original: Graph;
  readonly inferred: Inferred;
  readonly passes: readonly PassRecord[];
  readonly report: Report;
  /** The same with what engines turned out not to take. */
  readonly replan: (refusals: Refusals) => Planned;
}

/** Compiles a model into a program. Throws a coded `PartitaError`; docs/errors.md lists the codes. */
export async function compile(model: ModelInput, options: CompileOptions = {}): Promise<Program> {
  return (await compileKept(model, options)).program;
}

/** As `compile`, with what verification looks into. */
export async function compileKept(
  model: ModelInput,
  options: CompileOptions = {},
): Promise<{ readonly program: Program; readonly verifiable: Verifiable }> {
  const asked = settle(options);
  if (asked.whatIf.size > 0)
    throw badOption({ name: "whatIf", what: "is for reports: what is only assumed cannot be built", fix: "leave it out, or call report" });
  const first = await planSettled(model, asked);
  demandReadable(first.original, first.settings.operators);
  const engine = enginesWith(first.settings.operators);
  const { planned, artifacts, measured } = await buildSegments(first, { engine, replan: first.replan, gpu: presentSm });
  const { settings, partition: parts, inferred } = planned;
  settings.onProgress({ stage: "done", fraction: 1 });
  const sources = new Map(parts.segments.map((s, i) => [s.name, emitted(artifacts[i])] as const).filter(([, text]) => text !== ""));
  const memory = new Map(
    parts.segments.flatMap((s, i) => {
      const found = deviceMemory(s.engine, engine(s.engine).memory?.(artifacts[i] as Artifact), settings.maxWorkspaceSizeBytes);
      return found === undefined ? [] : [[s.name, found] as const];
    }),
  );
  const made = { plan: planOf(inferred.graph, parts.segments), artifacts, engines: engine };
  const program = new Program({ ...made, report: planned.report.withSources(sources).withDeviceMemory(memory).withMeasurements(measured) });
  const segment: Verifiable["segment"] = (i) => {
    const s = parts.segments[i];
    return s === undefined ? undefined : { graph: segmentFor(engine(s.engine), planned, s), context: contextOf(planned) };
  };
  return { program, verifiable: { ...made, segment } };
}

/** What a segment's engines take on the device, for the report: as far as the artifact tells, and TensorRT's scratch at most. */
function deviceMemory(engine: EngineName, plan: MemoryPlan | undefined, workspaceLimitBytes: number) {
  const limit = engine === "tensorrt" ? { workspaceLimitBytes } : {};
  if (plan === undefined) return engine === "tensorrt" ? [limit] : undefined;
  const figures = (p: Pick<MemoryPlan, "sharedBytes" | "streamBytes">) => ({
    weightsBytes: p.sharedBytes,
    streamBytes: p.streamBytes,
    ...limit,
  });
  return plan.byShape?.map(({ shape, ...p }) => ({ shape, ...figures(p) })) ?? [figures(plan)];
}

/** The CUDA text among an artifact's files, for the report. */
const emitted = (artifact: Artifact | undefined): string =>
  (artifact?.files ?? [])
    .flatMap((f) => (f.name.endsWith(".cu") && "bytes" in f ? [`// ${f.name}\n${Buffer.from(f.bytes).toString("utf8")}`] : []))
    .join("\n");

/** The partition report of a model; nothing is built, and no engine need be there. */
export async function report(model: ModelInput, options: CompileOptions = {}): Promise<Report> {
  return (await plan(model, options, { unbuilt: true })).report;
}

/** Opens a bundle that `program.save` wrote. Throws P1001, P1002, P3001 to P3004 and P3006. */
export async function load(bundle: string | URL, options: LoadOptions = {}): Promise<Program> {
  const operators = settleLoad(options);
  const path = pathOf(bundle, "path");
  const { plan: loaded, artifacts, report: stored } = await loadBundle(path);
  demandOperators(artifacts, operators, path);
  return new Program({ plan: loaded, artifacts, engines: enginesWith(operators), report: stored });
}

/** Import, passes, partition and report. `unbuilt`: int8 without ranges is planned all the same, with a remark. */
export async function plan(model: ModelInput, options: CompileOptions = {}, how: { readonly unbuilt?: boolean } = {}): Promise<Planned> {
  return await planSettled(model, settle(options), how);
}
async function planSettled(
  model: ModelInput,
  asGiven: Settings,
  { unbuilt = false }: { readonly unbuilt?: boolean } = {},
): Promise<Planned> {
  const step = (stage: string, fraction: number): void => {
    asGiven.signal?.throwIfAborted();
    asGiven.onProgress({ stage, fraction });
  };
  const noted: Remark[] = [];
  const remarks = (remark: Remark): void => {
    noted.push(remark);
    asGiven.onRemark(remark);
  };
  const settings = asGiven.auto
    ? { ...asGiven, targets: await machineTargets((remark) => noted.push(remark), asGiven.tune !== "none") }
    : asGiven;
  demandTargets(settings);
  if (settings.precision !== "int8" && settings.calibration !== undefined)
    remarks({
      severity: "warning",
      text: `calibration is given and nothing is quantized: the precision is ${settings.precision}`,
      fix: 'ask for precision "int8" (--precision int8)',
    });
  const { original, typed, graph, passes: log, shapes, own, bound } = await prepare(model, settings, remarks);
  const quantized = settings.precision === "int8" ? await calibrated(graph, settings, { shapes, remarks, unbuilt }) : undefined;
  step("partition", 0.5);
  const engines = settings.targets.filter((t) => t !== "host");
  // What no engine asked for takes as one operator, it may take in parts.
  const sm = smOf(settings, engines);
  const tensorrt = engines.includes("tensorrt") ? await libraryFor(settings.tensorrt, sm) : undefined;
  const target: Target = { sm, tensorrt: versionNumber(tensorrt), precision: settings.precision };
  const joined = staysQuantized(engines);
  const keep: Keep = (g, n, facts) => {
    const emitting = engines.filter((e) => e !== "cuda" || cudaEngine.keeps?.(g, n, facts) !== false);
    const accepted = (): boolean => emitting.length > 0 && keepAccepted(emitting, target)(g, n, facts);
    return engines.length === 0 || joined(g, n, facts) || accepted();
  };
  const whole = quantized?.graph ?? graph;
  const emitted = (n: Node): boolean => cudaEngine.keeps?.(whole, n, () => ({ type: unknownType })) !== false;
  // What spelling out leaves that nobody reads (a loop's condition) would be a segment without results.
  const spelled = swept(lower(engines.includes("cuda") ? unrollLoops(whole, emitted) : whole, keep));
  const inferred = inferGraph(spelled, { shapes });
  // What another engine takes whole, TensorRT may take in parts.
  const inParts = engines.includes("tensorrt") ? partsOf(inferred.graph, tensorrtEngine.keeps ?? keepAll, { shapes }) : undefined;
  const asked = { engines, target, pins: settings.pin, facts: inferred.facts, parts: { tensorrt: inParts } };
  const dims = (at: "min" | "opt" | "max") => Object.fromEntries(Object.entries(settings.shapes).map(([name, s]) => [own(name), s[at]]));
  const optimal = dims("opt");
  const bindings = bindingsOf(typed, optimal);
  const ranges = { min: bindingsOf(typed, dims("min")), opt: bindings, max: bindingsOf(typed, dims("max")) };
  const dynamic = dynamicShapes(
    settings,
    inferred.graph.inputs.map((v) => ({ name: valueAt(inferred.graph, v).name, dims: shapeOfType(valueAt(inferred.graph, v).type) })),
  );
  const problem = problemOf(inferred.graph, inferred.facts, bindings);
  const how: PartitionOptions = {
    minimumSegmentSize: settings.minimumSegmentSize,
    strict: settings.strict,
    facts: inferred.facts,
    bindings,
    precision: settings.precision,
    measured: measuredTimes(inferred.graph, settings.times, remarks),
    objective: settings.auto || settings.targets.includes("host") ? "time-or-host" : engines.length > 1 ? "time" : "order",
  };
  // Operators answer for themselves; the emitter has the last word on what it can write at these dims, TensorRT's parser on what it reads.
  const tables = judge(inferred.graph, asked);
  const unwritten = engines.includes("cuda") ? cudaRefusals(inferred.graph, settings.precision, target.sm) : new Map<NodeId, Verdict>();
  const parsed =
    tensorrt === undefined
      ? new Map<NodeId, Verdict>()
      : await parserRefusals({ graph: inferred.graph, parts: inParts }, (id) => tables.of(id, "tensorrt").ok, tensorrt);
  const supplied = new Map(
    inferred.graph.nodes.flatMap((n) => (operatorOf(settings.operators, n) === undefined ? [] : [[n.id, SUPPLIED]])),
  );
  const plain = assume(tables, (node, engine) =>
    supplied.has(node) && engine !== "host"
      ? SUPPLIED
      : tables.of(node, engine).ok
        ? (engine === "cuda" ? unwritten : engine === "tensorrt" ? parsed : undefined)?.get(node)
        : undefined,
  );
  const supposing = settings.whatIf.size > 0;
  const judged = supposing ? judge(inferred.graph, { ...asked, whatIf: settings.whatIf }) : plain;
  const replan = (refusals: Refusals): Planned => {
    const verdicts = assume(judged, (node, engine) => refusals.get(node)?.get(engine));
    const parts = ownSegments(solve(problem, verdicts, how), inferred.graph, (n) => supplied.has(n.id));
    const written = buildReport({
      original,
      graph: inferred.graph,
      partition: parts,
      verdicts,
      facts: inferred.facts,
      bindings,
      gains: gainsOf(problem, verdicts, parts, how),
      measured: how.measured,
      quantization: quantized === undefined ? undefined : quantizationReport(quantized.summary),
      ...(supposing
        ? { whatIf: { assumed: Object.fromEntries(settings.whatIf), before: solve(problem, plain, { ...how, strict: false }).quality } }
        : {}),
      passes: log,
      remarks: noted,
      modelName: nameOf(model, original),
      options: {
        precision: settings.precision,
        minimumSegmentSize: settings.minimumSegmentSize,
        strict: settings.strict,
        shapes: optimal,
        bound,
      },
    });
    const graphs = { original, inferred, graph: inferred.graph };
    return { ...graphs, verdicts, partition: parts, passes: log, report: written, settings, target, ranges, dynamic, replan };
  };
  return replan(new Map());
}

/** Throws P1001 for what sends nodes to an engine that they cannot go to: it was not asked for. A pin may be for machines that have it. */
function demandTargets({ targets, auto, pin, whatIf }: Settings): void {
  const wanted = [
    ...(auto ? [] : pin.map(({ match, to }) => ({ name: "pin", said: String(match), engine: to }))),
    ...[...whatIf].map(([op, engine]) => ({ name: "whatIf", said: op, engine })),
  ];
  const stray = wanted.find(({ engine }) => engine !== "host" && !targets.includes(engine));
  if (stray !== undefined)
    throw badOption({
      name: stray.name,
      what: `sends '${stray.said}' to ${stray.engine}, and the target is ${targets.join(", ")}`,
      fix: `add ${stray.engine} to the target (--target ${[...new Set([...targets.filter((t) => t !== "host"), stray.engine])].join(",")})`,
    });
}

/** The graph with quantizers: the model's own, or placed by calibration. Throws P1630 where neither is there. */
async function calibrated(
  graph: Graph,
  settings: Settings,
  { unbuilt, ...context }: { readonly shapes: NonNullable<InferOptions["shapes"]>; readonly remarks: Remarks; readonly unbuilt: boolean },
): Promise<Quantized | undefined> {
  const { data, file, table, method, exclude, batch, preprocessing } = settings.calibration ?? {};
  const { search, maxDrop, maxFloatShare, maxSlowdown, budgetSeconds, trials } = settings.calibration ?? {};
  if (unbuilt && settings.calibration === undefined && !carriesQuantizers(graph)) {
    const text = "the report is of the float graph: int8 needs ranges, and there is no calibration";
    context.remarks({ severity: "warning", text, fix: "give calibration: { data } (--calibration)" });
    return undefined;
  }
  const { signal, strict } = settings;
  const own = carriesQuantizers(graph);
  const ports = (): readonly FeedPort[] => {
    const spelled = einsumsAsProducts(graph, context.shapes);
    return portsOf(graph, new Set(quantizable(spelled, inferGraph(spelled, { shapes: context.shapes }).facts)));
  };
  const feeds =
    data === undefined || own ? undefined : await collectFeeds(data, ports(), { batch, preprocessing, remarks: context.remarks, signal });
  const stored = file === undefined || own ? undefined : readCalibration(file);
  if (stored !== undefined) checkCalibration(stored, { model: modelKey(graph), names: [] }, file);
  const names = graph.values.flatMap((v) => v?.name ?? []);
  try {
    return await quantize(graph, {
      ...context,
      feeds,
      observations: stored?.observations,
      observed: stored?.feeds,
      ranges: table === undefined || own ? undefined : readTable(table, names, context.remarks).ranges,
      source: table === undefined ? "file" : "table",
      method,
      exclude,
      search: search === "none" ? undefined : { maxDrop, maxFloatShare, maxSlowdown, budgetSeconds, trials },
      engine: settings.targets[0],
      strict,
      signal,
      runner: hostRunner(),
      onProgress: (done, detail) => settings.onProgress({ stage: "calibrate", fraction: 0.25 + 0.25 * done, detail }),
    });
  } finally {
    await feeds?.dispose();
  }
}

/** Why no engine takes an operator that a user supplied. */
const SUPPLIED = no("it is a JavaScript function, which runs between segments");
/** The engines, the host's with the user's operators. */
export function enginesWith(operators: readonly Operator[]): (name: EngineName) => Engine {
  if (operators.length === 0) return engineNamed;
  const host = withOperators(hostEngine, operators);
  return (name) => (name === "host" ? host : engineNamed(name));
}

/** The engine of a name. */
function engineNamed(name: EngineName): Engine {
  switch (name) {
    case "host":
      return hostEngine;
    case "cuda":
      return cudaEngine;
    case "tensorrt":
      return tensorrtEngine;
    default:
      return name satisfies never;
  }
}

/** This machine's GPU: compute capability times ten, undefined without one. */
const presentSm = (): number | undefined => presentGpu()?.properties.sm;
/** Without a GPU here and none named, the one that the estimates are of. */
const DEFAULT_SM = 90;
const smOf = (s: Settings, engines: readonly EngineName[]): number =>
  s.sm ?? (engines.length === 0 ? undefined : presentSm()) ?? DEFAULT_SM;

function nameOf(model: ModelInput, g: Graph): string {
  if (typeof model === "string") return basename(model);
  if (model instanceof URL) return basename(model.pathname);
  return g.name === "" ? "graph" : g.name;
}
