/**
 * Whether a compiled model computes what the untouched one does. Where it does not: the first segment that gives wrong values for right ones, and the
 * first node in it, found by letting the segment's engine give its inner values too.
 */
import type { Artifact, BuildContext, Engine } from "../engines/engine.js";
import { displayName, originOf, producersOf, valueAt } from "../ir/graph.js";
import type { Graph } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { errorOf, type FaultyNode, feedsOf, type ModelValues, Search, type ValueError } from "./bisect.js";
import { measure } from "./measure.js";
import type { Feeds, Plan, Step } from "./ports.js";
import { isReturned, runGraph, type Untouched } from "./untouched.js";

/** What was compiled, as far as verification needs it. */
export interface Verifiable {
  readonly plan: Plan;
  readonly artifacts: readonly Artifact[];
  readonly engines: (name: EngineName) => Engine;
  /** A segment as its engine got it, and how it was built; undefined where neither is known any more. */
  readonly segment: (index: number) => { readonly graph: Graph; readonly context: BuildContext } | undefined;
}

export interface SegmentValue extends ValueError {
  /**
   * What it was compared with: the model's value of that name; that of the node of the model that it comes from; or, for values that the model does not
   * have, what ONNX Runtime makes of the segment as it was compiled.
   */
  readonly against: "model" | "origin" | "segment";
}
export interface SegmentCheck {
  readonly segment: string;
  readonly engine: EngineName;
  readonly ok: boolean;
  readonly outputs: readonly SegmentValue[];
}
/** The first place where a wrong output comes from. */
export interface Fault {
  readonly segment: string;
  readonly engine: EngineName;
  /**
   * "engine": the engine computes the node wrongly. "fusion": only when it sees it together with the nodes before it. "rewriting": the engine does what the
   * compiled graph says, and that differs from the model (passes, quantizers). "accumulated": every segment is right for right inputs, and the errors add up.
   */
  readonly cause: "engine" | "fusion" | "rewriting" | "accumulated";
  /** Absent where the segment's graph is not known. */
  readonly node?: FaultyNode | undefined;
}
export interface Verification {
  readonly schema: "partita.verify/2";
  readonly ok: boolean;
  readonly tolerance: number;
  readonly outputs: readonly ValueError[];
  readonly segments: readonly SegmentCheck[];
  readonly fault?: Fault | undefined;
}

export interface VerifyOptions {
  /** Allowed error as a share of the largest magnitude expected of a tensor. */
  readonly tolerance: number;
  readonly onProgress?: ((stage: string, fraction: number) => void) | undefined;
}

/** `outputs` are the compiled model's own, from a session. Throws what the engines throw. */
export async function verifyProgram(
  compiled: Verifiable,
  model: Untouched,
  feeds: Feeds,
  outputs: Readonly<Record<string, Tensor>>,
  { tolerance, onProgress = () => {} }: VerifyOptions,
): Promise<Verification> {
  const { plan } = compiled;
  const wanted = plan.outputs.map((p) => p.name);
  const known = new Map(model.graph.values.flatMap((v) => (v !== undefined && isReturned(v.type) ? [[v.name, v.id] as const] : [])));
  const boundary = [...new Set(plan.steps.flatMap((s) => s.outputs))];
  const origins = new Map(compiled.plan.steps.flatMap((_, i) => originNames(compiled.segment(i)?.graph, model.graph)));
  const names = [...boundary, ...boundary.flatMap((name) => origins.get(name) ?? [])].filter((name) => known.has(name));
  onProgress("the model on ONNX Runtime", 0);
  const expected = await model.values(feeds, [...new Set(names)]);
  const checker = new Checker(compiled, expected, origins, feeds, tolerance);
  const segments: SegmentCheck[] = [];
  for (const [i, step] of plan.steps.entries()) {
    onProgress(`segment ${step.segment}`, (i + 1) / (plan.steps.length + 2));
    segments.push(await checker.segment(i, step));
  }
  const rows = wanted.flatMap((name) => {
    const e = expected.get(name);
    return e === undefined ? [] : [errorOf(name, outputs[name], e)];
  });
  const ok = rows.every((r) => r.relative <= tolerance);
  const result = { schema: "partita.verify/2" as const, ok, tolerance, outputs: rows, segments };
  const wrong = segments.findIndex((s) => !s.ok);
  if (ok && wrong < 0) return result;
  onProgress("the first wrong node", 0.9);
  const values: ModelValues = (inner) =>
    model.values(
      feeds,
      inner.filter((name) => known.has(name)),
    );
  const fault = wrong >= 0 ? await checker.fault(wrong) : ((await checker.rewriting(rows, values)) ?? (await checker.accumulated(rows)));
  return { ...result, ok: false, ...(fault === undefined ? {} : { fault }) };
}

/** The model's values that boundary values come from, where passes gave these new names: the last output among their origins. */
function originNames(segment: Graph | undefined, model: Graph): readonly (readonly [string, string])[] {
  if (segment === undefined) return [];
  const made = producersOf(segment);
  return segment.outputs.flatMap((v) => {
    const from = new Set(originOf(made[v] ?? ({ name: "", origin: [] } as never)));
    const last = model.nodes.findLast((n) => from.has(n.name) || from.has(displayName(model, n)));
    const out = last?.outs.find((o) => o !== undefined);
    return out === undefined ? [] : [[valueAt(segment, v).name, valueAt(model, out).name] as const];
  });
}

class Checker {
  readonly #compiled: Verifiable;
  /** The model's values by name. */
  readonly #expected: ReadonlyMap<string, Tensor>;
  readonly #origins: ReadonlyMap<string, string>;
  readonly #tolerance: number;
  /** What every segment is fed: the model's values, or the compiled model's where the model has none. */
  readonly #values: Map<string, TensorLike>;
  /** As compiled, from segment to segment. */
  readonly #own: Map<string, TensorLike>;
  /** Values that are what the compiled graph says, and not what the model does. */
  readonly #rewritten = new Set<string>();

  constructor(
    compiled: Verifiable,
    expected: ReadonlyMap<string, Tensor>,
    origins: ReadonlyMap<string, string>,
    feeds: Feeds,
    tolerance: number,
  ) {
    this.#compiled = compiled;
    this.#expected = expected;
    this.#origins = origins;
    this.#tolerance = tolerance;
    const inputs = compiled.plan.inputs.map(({ name }) => [name, (feeds[name] ?? feeds[name.replace(/:0$/, "")]) as TensorLike] as const);
    this.#values = new Map(inputs);
    this.#own = new Map(inputs);
  }

  async segment(i: number, step: Step): Promise<SegmentCheck> {
    const artifact = this.#compiled.artifacts[i] as Artifact;
    const engine = this.#compiled.engines(artifact.engine);
    const inputs = this.#inputs(step, this.#values);
    const own = this.#inputs(step, this.#own);
    const executable = await engine.open(artifact, { streams: 1, threads: 0 });
    let results: readonly TensorLike[];
    try {
      results = await executable.run(inputs);
      const mine = inputs.every((t, k) => t === own[k]) ? results : await executable.run(own);
      for (const [k, name] of step.outputs.entries()) this.#own.set(name, mine[k] as TensorLike);
    } finally {
      await executable.dispose();
    }
    const outputs: SegmentValue[] = [];
    let alone: ReadonlyMap<string, Tensor> | undefined;
    for (const [k, name] of step.outputs.entries()) {
      const found = results[k] as Tensor;
      const same = this.#expected.get(name);
      const first = same === undefined ? undefined : errorOf(name, found, same);
      this.#values.set(name, same ?? found);
      if (first !== undefined && first.relative <= this.#tolerance) {
        outputs.push({ ...first, against: "model" });
        continue;
      }
      const origin = same === undefined ? this.#origin(name) : undefined;
      if (origin !== undefined && measure(found, origin).relative <= this.#tolerance) {
        outputs.push({ ...errorOf(name, found, origin), against: "origin" });
        continue;
      }
      alone ??= await this.#oracle(i, inputs);
      const e = alone?.get(name);
      const asCompiled = e === undefined ? undefined : errorOf(name, found, e);
      if (e !== undefined && asCompiled !== undefined && (first === undefined || asCompiled.relative <= this.#tolerance)) {
        // The engine does as it was told. What follows was compiled for this value, not for the model's.
        outputs.push({ ...asCompiled, against: "segment" });
        this.#values.set(name, e);
        if (first !== undefined) this.#rewritten.add(name);
      } else if (first !== undefined) outputs.push({ ...first, against: "model" });
    }
    const ok = outputs.every((o) => o.relative <= this.#tolerance);
    return { segment: step.segment, engine: artifact.engine, ok, outputs };
  }

  #inputs(step: Step, values: ReadonlyMap<string, TensorLike>): readonly TensorLike[] {
    return step.inputs.map((name) => values.get(name) as TensorLike);
  }
  #origin(name: string): Tensor | undefined {
    const from = this.#origins.get(name);
    return from === undefined ? undefined : this.#expected.get(from);
  }
  async #oracle(i: number, inputs: readonly TensorLike[]): Promise<ReadonlyMap<string, Tensor> | undefined> {
    const graph = this.#compiled.segment(i)?.graph;
    return graph === undefined ? undefined : await runGraph(graph, feedsOf(graph, inputs));
  }

  #search(i: number): Search | undefined {
    const known = this.#compiled.segment(i);
    const [step, artifact] = [this.#compiled.plan.steps[i], this.#compiled.artifacts[i]];
    if (known === undefined || step === undefined || artifact === undefined) return undefined;
    return new Search(
      this.#compiled.engines(artifact.engine),
      known.graph,
      known.context,
      this.#inputs(step, this.#values),
      this.#tolerance,
    );
  }

  /** Why segment `i` is wrong for right inputs. */
  async fault(i: number): Promise<Fault> {
    const found = { segment: this.#compiled.plan.steps[i]?.segment ?? "", engine: (this.#compiled.artifacts[i] as Artifact).engine };
    const search = this.#search(i);
    const exposed = await search?.exposed();
    if (search === undefined || exposed !== undefined) return { ...found, cause: "engine", node: exposed };
    return { ...found, cause: "fusion", node: await search.fused() };
  }

  /** Where the compiled graph leaves the model: from the wrong outputs back, through segments whose wrong inputs they come from. */
  async rewriting(outputs: readonly ValueError[], values: ModelValues): Promise<Fault | undefined> {
    const { steps } = this.#compiled.plan;
    const suspect = new Set(outputs.filter((o) => !(o.relative <= this.#tolerance)).map((o) => o.name));
    let first: Fault | undefined;
    for (let i = steps.length - 1; i >= 0; i--) {
      const step = steps[i] as Step;
      if (!step.outputs.some((name) => suspect.has(name) && (this.#rewritten.has(name) || !this.#expected.has(name)))) continue;
      const found = await this.#search(i)?.rewritten(values);
      if (found === undefined) continue;
      for (const name of found.inputs) suspect.add(name);
      if (found.node === undefined) continue;
      first = { segment: step.segment, engine: (this.#compiled.artifacts[i] as Artifact).engine, cause: "rewriting", node: found.node };
    }
    return first;
  }

  /** The first segment whose own values, from the compiled model's own, leave the tolerance. */
  async accumulated(outputs: readonly ValueError[]): Promise<Fault | undefined> {
    if (outputs.every((o) => o.relative <= this.#tolerance)) return undefined;
    for (const [i, step] of this.#compiled.plan.steps.entries()) {
      const { engine } = this.#compiled.artifacts[i] as Artifact;
      for (const name of step.outputs) {
        const [mine, expected] = [this.#own.get(name), this.#expected.get(name) ?? this.#origin(name)];
        if (expected === undefined || measure(mine, expected).relative <= this.#tolerance) continue;
        return { segment: step.segment, engine, cause: "accumulated" };
      }
    }
    return undefined;
  }
}
