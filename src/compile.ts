/**
 * The pipeline, read from top to bottom: bytes -> import -> IR -> passes -> partition -> engines -> program. Each stage is a function from
 * values to values; none calls the next.
 */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import type { Remark, Verdict } from "./diagnostics.js";
import { cudaEngine, cudaRefusals } from "./engines/cuda/index.js";
import { type Artifact, type Engine, tensorrtAbsent } from "./engines/engine.js";
import { evaluate, hostEngine } from "./engines/host/index.js";
import { cut, valueNamed } from "./import/cut.js";
import { importModel } from "./import/index.js";
import { demandReadable } from "./import/tf/unreadable.js";
import { valueAt } from "./ir/graph.js";
import { canonicalOrder } from "./ir/order.js";
import type { Graph, NodeId } from "./ir/types.js";
import type { EngineName, Target } from "./ops/define.js";
import { type Inferred, inferGraph } from "./ops/infer.js";
import { badOption, type CompileOptions, type Settings, settle } from "./options.js";
import { bindingsOf, type Partition, type PartitionOptions, solve } from "./partition/assign.js";
import { extractSegment } from "./partition/extract.js";
import { problemOf } from "./partition/problem.js";
import { assume, judge, type Verdicts } from "./partition/verdicts.js";
import { gainsOf } from "./partition/what-if.js";
import { type Keep, keepAccepted, keepAll, lower } from "./passes/lower.js";
import { type PassRecord, runPasses } from "./passes/pass.js";
import { pipeline } from "./passes/pipeline.js";
import { buildReport, type Report } from "./report/report.js";
import { loadBundle } from "./runtime/bundle.js";
import { planOf } from "./runtime/plan.js";
import { Program } from "./runtime/program.js";

/** A path, a file URL, the bytes of a model, or a graph. */
export type ModelInput = string | URL | Uint8Array | Graph;

/** Everything up to the engines: what a report needs, with nothing built. */
export interface Planned {
  readonly original: Graph;
  readonly inferred: Inferred;
  readonly verdicts: Verdicts;
  readonly partition: Partition;
  readonly passes: readonly PassRecord[];
  readonly report: Report;
  readonly settings: Settings;
}

/** Compiles a model into a program. Throws a coded `PartitaError`; docs/errors.md lists the codes. */
export async function compile(model: ModelInput, options: CompileOptions = {}): Promise<Program> {
  if (Object.keys(options.whatIf ?? {}).length > 0)
    throw badOption({ name: "whatIf", what: "is for reports: what is only assumed cannot be built", fix: "leave it out, or call report" });
  const planned = await plan(model, options);
  demandReadable(planned.original);
  const { settings, partition: parts, inferred } = planned;
  const artifacts: Artifact[] = [];
  for (const [i, segment] of parts.segments.entries()) {
    settings.signal?.throwIfAborted();
    settings.onProgress({ stage: `build ${segment.name}`, fraction: 0.6 + (0.4 * i) / parts.segments.length });
    const engine = engineNamed(segment.engine);
    const part = lower(extractSegment(inferred.graph, segment), engine.keeps ?? keepAll);
    artifacts.push(
      await engine.build(part, {
        target: targetOf(settings),
        signal: settings.signal,
        tune: settings.tune,
        onTune: (done, total) =>
          settings.onProgress({ stage: `tune ${segment.name}`, fraction: 0.6 + (0.4 * (i + done / total)) / parts.segments.length }),
      }),
    );
  }
  settings.onProgress({ stage: "done", fraction: 1 });
  const sources = new Map(parts.segments.map((s, i) => [s.name, emitted(artifacts[i])] as const).filter(([, text]) => text !== ""));
  return new Program({
    plan: planOf(inferred.graph, parts.segments),
    artifacts,
    engines: engineNamed,
    report: planned.report.withSources(sources),
  });
}

/** The CUDA text among an artifact's files, for the report. */
const emitted = (artifact: Artifact | undefined): string =>
  (artifact?.files ?? [])
    .flatMap((f) => (f.name.endsWith(".cu") && "bytes" in f ? [`// ${f.name}\n${Buffer.from(f.bytes).toString("utf8")}`] : []))
    .join("\n");

/** The partition report of a model; nothing is built, and no engine need be there. */
export async function report(model: ModelInput, options: CompileOptions = {}): Promise<Report> {
  return (await plan(model, options)).report;
}

/** Opens a bundle that `program.save` wrote. Throws P3001 to P3004. */
export async function load(path: string): Promise<Program> {
  const { plan: loaded, artifacts, report: stored } = await loadBundle(path);
  return new Program({ plan: loaded, artifacts, engines: engineNamed, report: stored });
}

/** Import, passes, partition and report. */
export async function plan(model: ModelInput, options: CompileOptions = {}): Promise<Planned> {
  const settings = settle(options);
  const step = (stage: string, fraction: number): void => {
    settings.signal?.throwIfAborted();
    settings.onProgress({ stage, fraction });
  };
  const given = Object.fromEntries(Object.entries(settings.shapes).map(([name, s]) => [name, dynamicDims(s)]));
  step("import", 0);
  const imported =
    typeof model === "object" && "nodes" in model
      ? cut(model, settings.inputs, settings.outputs)
      : await importModel(model instanceof URL ? fileURLToPath(model) : model, {
          signature: settings.signature,
          inputs: settings.inputs,
          outputs: settings.outputs,
          shapes: given,
          remarks: settings.onRemark,
        });
  const original = canonicalOrder(imported);
  // Shapes may be given under a node's name or an alias; from here on they go by the value's own.
  const own = (name: string): string => valueAt(original, valueNamed(original, name)).name;
  const shapes = Object.fromEntries(Object.entries(given).map(([name, s]) => [own(name), s]));
  step("infer", 0.1);
  const noted: Remark[] = [];
  const remarks = (remark: Remark): void => {
    noted.push(remark);
    settings.onRemark(remark);
  };
  const typed = inferGraph(original, { shapes, remarks }).graph;
  const { graph, log } = await runPasses(typed, pipeline, {
    evaluate,
    remarks,
    shapes,
    verify: settings.verify,
    onPass: (pass) => step(pass, 0.2),
  });
  step("partition", 0.5);
  const engines = settings.targets.filter((t) => t !== "host");
  // What no engine asked for takes as one operator, it may take in parts.
  const target = targetOf(settings);
  const keep: Keep = (g, n, facts) => {
    const emitting = engines.filter((e) => e !== "cuda" || cudaEngine.keeps?.(g, n, facts) !== false);
    return engines.length === 0 || (emitting.length > 0 && keepAccepted(emitting, target)(g, n, facts));
  };
  const inferred = inferGraph(lower(graph, keep), { shapes });
  const asked = { engines, target: targetOf(settings), pins: settings.pin, facts: inferred.facts };
  const optimal = Object.fromEntries(Object.entries(settings.shapes).map(([name, s]) => [own(name), s.opt]));
  const bindings = bindingsOf(typed, optimal);
  const problem = problemOf(inferred.graph, inferred.facts, bindings);
  const how: PartitionOptions = {
    minimumSegmentSize: settings.minimumSegmentSize,
    strict: settings.strict,
    facts: inferred.facts,
    bindings,
    precision: settings.precision,
    objective: settings.auto || settings.targets.includes("host") ? "time-or-host" : engines.length > 1 ? "time" : "order",
  };
  // Operators answer for themselves; the emitter has the last word on what it can write at these dims.
  const refused = engines.includes("cuda")
    ? cudaRefusals(inferred.graph, settings.precision, targetOf(settings).sm)
    : new Map<NodeId, Verdict>();
  const asEmitted = (verdicts: Verdicts): Verdicts =>
    assume(verdicts, (node, engine) => (engine === "cuda" && verdicts.of(node, engine).ok ? refused.get(node) : undefined));
  const plain = asEmitted(judge(inferred.graph, asked));
  const supposing = settings.whatIf.size > 0;
  const verdicts = supposing ? judge(inferred.graph, { ...asked, whatIf: settings.whatIf }) : plain;
  const parts = solve(problem, verdicts, how);
  const written = buildReport({
    original,
    graph: inferred.graph,
    partition: parts,
    verdicts,
    facts: inferred.facts,
    bindings,
    gains: gainsOf(problem, verdicts, parts, how),
    ...(supposing
      ? { whatIf: { assumed: Object.fromEntries(settings.whatIf), before: solve(problem, plain, { ...how, strict: false }).quality } }
      : {}),
    passes: log,
    remarks: noted,
    modelName: nameOf(model, original),
    options: { precision: settings.precision, minimumSegmentSize: settings.minimumSegmentSize, strict: settings.strict, shapes: optimal },
  });
  return { original, inferred, verdicts, partition: parts, passes: log, report: written, settings };
}

/** Engines that can be built and run; the others have a plan alone, and say so. */
function engineNamed(name: EngineName): Engine {
  switch (name) {
    case "host":
      return hostEngine;
    case "cuda":
      return cudaEngine;
    case "tensorrt":
      throw tensorrtAbsent({ why: "this version plans TensorRT segments and does not build them" });
    default:
      return name satisfies never;
  }
}

const targetOf = (s: Settings): Target => ({ sm: 90, tensorrt: 110_200, precision: s.precision });

/** Dims of a range: those that do not vary are numbers, the others stay open. */
function dynamicDims(s: Settings["shapes"][string]): readonly (number | string)[] {
  return s.opt.map((d, i) => (s.min[i] === s.max[i] ? d : "?"));
}

function nameOf(model: ModelInput, g: Graph): string {
  if (typeof model === "string") return basename(model);
  if (model instanceof URL) return basename(model.pathname);
  return g.name === "" ? "graph" : g.name;
}
