/**
 * Where the time of a run goes: by segment, then by layer or node of each. Segments run one after another here, on feeds of their own, so that their times
 * add up; each is asked by its own means: ONNX Runtime's profiler, CUDA events around every kernel, TensorRT's profiler.
 */
import { performance } from "node:perf_hooks";
import type { Executable, LayerFacts } from "../engines/engine.js";
import type { ReportData } from "../report/data.js";
import type { TensorLike } from "../tensor.js";
import type { Plan } from "./ports.js";

export interface LayerProfile {
  readonly name: string;
  /** The engine's operator or kernel. */
  readonly op?: string | undefined;
  readonly us?: number | undefined;
  /** Nodes of the compiled graph that it computes, and nodes of the user's model that these come from. */
  readonly nodes: readonly string[];
  readonly origin: readonly string[];
  /** The layer that it is a part of, and whose time holds its own: bodies of control flow. */
  readonly inside?: string | undefined;
}
export interface SegmentTimes {
  readonly segment: string;
  readonly engine: string;
  /** Microseconds of one run from the host, copies and waiting included: the mean. */
  readonly us: number;
  /** Of these, what the engine computes: the layers and what lies between them. */
  readonly computeUs: number;
  /** The rest: copies, threads that are woken, the event loop. Negative where the profiler itself slows the engine down by more. */
  readonly otherUs: number;
  /** In the order they run; their times (of those that are not inside another) and `betweenUs` add up to `computeUs`. */
  readonly layers: readonly LayerProfile[];
  /** Between layers. Negative where they overlap: kernels are timed one by one. */
  readonly betweenUs: number;
}
export interface Profile {
  readonly schema: "partita.profile/1";
  readonly runs: number;
  /** Sum over the segments. */
  readonly us: number;
  readonly segments: readonly SegmentTimes[];
}

/** The nodes of the user's model behind a node of the compiled graph. */
export type Origins = (node: string) => readonly string[];

/** Origins as a report has them. A node that an engine's spelling added goes by its node's name, a slash and more. */
export function originsOf({ nodes }: ReportData): Origins {
  const known = new Map(nodes.map((n) => [n.name, n.origin]));
  return (name) => {
    for (let end = name.length; end > 0; end = name.lastIndexOf("/", end - 1)) {
      const found = known.get(name.slice(0, end));
      if (found !== undefined) return found;
    }
    return [name];
  };
}

export interface Profiled {
  readonly plan: Plan;
  readonly executables: readonly Executable[];
  readonly engines: readonly string[];
  readonly origins: Origins;
}

/** `values`: the inputs. Throws what the engines throw. */
export async function profileSegments(
  { plan, executables, engines, origins }: Profiled,
  values: Map<string, TensorLike>,
  runs: number,
): Promise<Profile> {
  const segments: SegmentTimes[] = [];
  for (const [i, step] of plan.steps.entries()) {
    const executable = executables[i] as Executable;
    const feeds = step.inputs.map((name) => values.get(name) as TensorLike);
    const outs = await executable.run(feeds);
    const start = performance.now();
    for (let r = 0; r < runs; r++) await executable.run(feeds);
    const us = (1000 * (performance.now() - start)) / runs;
    const facts = (await executable.layers?.(feeds)) ?? [];
    segments.push({ segment: step.segment, engine: engines[i] ?? "host", us, ...(await inside(executable, feeds, facts, us, origins)) });
    step.outputs.forEach((name, k) => void values.set(name, outs[k] as TensorLike));
  }
  return { schema: "partita.profile/1", runs, us: segments.reduce((n, s) => n + s.us, 0), segments };
}

const BETWEEN = "between nodes";

async function inside(
  executable: Executable,
  feeds: readonly TensorLike[],
  facts: readonly LayerFacts[],
  us: number,
  origins: Origins,
): Promise<Omit<SegmentTimes, "segment" | "engine" | "us">> {
  const layers = facts
    .filter((l) => l.name !== BETWEEN)
    .map((l) => {
      const nodes = l.nodes ?? [];
      return { ...l, nodes, origin: [...new Set(nodes.flatMap(origins))] };
    });
  const sum = layers.reduce((n, l) => n + (l.inside === undefined ? (l.us ?? 0) : 0), 0);
  const told = facts.find((l) => l.name === BETWEEN)?.us;
  // An engine that tells nothing of its inside computes all the time that it takes.
  const computeUs = told !== undefined ? sum + told : ((await executable.timeUs?.(feeds)) ?? (facts.length > 0 ? sum : us));
  return { computeUs, otherUs: us - computeUs, layers, betweenUs: computeUs - sum };
}

/** For a terminal: the segments, and of each its slowest layers. */
export function profileText(p: Profile, rows: number): string {
  const percent = (us: number): string => `${((100 * us) / p.us).toFixed(1)} %`.padStart(8);
  const time = (us: number): string => `${us.toFixed(1)} us`.padStart(14);
  const lines = [`one run: ${p.us.toFixed(1)} us, the mean of ${p.runs}`];
  for (const s of p.segments) {
    lines.push(`${time(s.us)}${percent(s.us)}  ${s.segment} (${s.engine})`);
    const shown = s.layers.filter((l) => l.inside === undefined).sort((a, b) => (b.us ?? 0) - (a.us ?? 0));
    for (const l of shown.slice(0, rows)) {
      const all = l.origin.filter((o) => o !== l.name);
      const from = all.length > 4 ? [...all.slice(0, 3), `${all.length - 3} more`] : all;
      lines.push(
        `${time(l.us ?? 0)}${percent(l.us ?? 0)}    ${l.name}${l.op === undefined ? "" : ` (${l.op})`}${from.length === 0 ? "" : `, from ${from.join(", ")}`}`,
      );
    }
    if (shown.length > rows)
      lines.push(`${time(shown.slice(rows).reduce((n, l) => n + (l.us ?? 0), 0))}          ${shown.length - rows} more layers`);
    if (s.layers.length > 0) lines.push(`${time(s.betweenUs)}${percent(s.betweenUs)}    between layers`);
    lines.push(`${time(s.otherUs)}${percent(s.otherUs)}    copies, waiting, threads`);
  }
  return lines.join("\n");
}
