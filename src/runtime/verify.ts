/**
 * Whether a compiled model computes what the untouched one does. Where it does not: the first segment that gives wrong values for right ones, and the
 * first node in it, found by letting the segment's engine give its inner values too.
 */
import { PartitaError } from "../diagnostics.js";
import type { Artifact, BuildContext, Engine } from "../engines/engine.js";
import { cut } from "../import/cut.js";
import { byteLength } from "../ir/dtypes.js";
import { displayName, originOf, producersOf, qualifiedOp, readsOf, valueAt } from "../ir/graph.js";
import { elementCount } from "../ir/payload.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import type { EngineName } from "../ops/define.js";
import { inferGraph } from "../ops/infer.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { type Measured, measure } from "./measure.js";
import type { Feeds, Plan, Step } from "./session.js";
import { isReturned, runGraph, type Untouched } from "./untouched.js";

/** What was compiled, as far as verification needs it. */
export interface Verifiable {
  readonly plan: Plan;
  readonly artifacts: readonly Artifact[];
  readonly engines: (name: EngineName) => Engine;
  /** A segment as its engine got it, and how it was built; undefined where neither is known any more. */
  readonly segment: (index: number) => { readonly graph: Graph; readonly context: BuildContext } | undefined;
}

export interface ValueError extends Measured {
  readonly name: string;
  /** Where the worst element lies. */
  readonly place: readonly number[];
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
export interface FaultyNode {
  readonly name: string;
  readonly op: string;
  /** The nodes of the model that it comes from. */
  readonly origin: readonly string[];
  readonly inputs: readonly { readonly name: string; readonly type: string; readonly dims: readonly number[] }[];
  /** Its output, in the segment. */
  readonly output: ValueError;
  /** The same where the engine gets the node alone, with right inputs. Absent where it cannot be built so. */
  readonly alone?: ValueError | undefined;
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
  const failing = segments.findIndex((s) => !s.ok);
  if (ok && failing < 0) return result;
  const wrong = failing >= 0 ? failing : checker.rewritten(rows);
  onProgress("the first wrong node", 0.9);
  const fault =
    wrong >= 0
      ? await checker.fault(wrong, (inner) =>
          model.values(
            feeds,
            inner.filter((name) => known.has(name)),
          ),
        )
      : await checker.accumulated(rows);
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

function errorOf(name: string, actual: TensorLike | undefined, expected: TensorLike): ValueError {
  const m = measure(actual, expected);
  return { name, ...m, place: m.index < 0 ? [] : placeOf(m.index, expected.dims) };
}
function placeOf(index: number, dims: readonly number[]): readonly number[] {
  const place: number[] = [];
  for (let rest = index, i = dims.length - 1; i >= 0; i--) {
    const d = dims[i] ?? 1;
    place.unshift(rest % d);
    rest = Math.floor(rest / d);
  }
  return place;
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

  /** Why segment `i` is wrong for right inputs. */
  async fault(i: number, values: ModelValues): Promise<Fault> {
    const step = this.#compiled.plan.steps[i] as Step;
    const inputs = this.#inputs(step, this.#values);
    const { engine } = this.#compiled.artifacts[i] as Artifact;
    const known = this.#compiled.segment(i);
    const found: Omit<Fault, "cause"> = { segment: step.segment, engine };
    if (known === undefined) return { ...found, cause: "engine" };
    const search = new Search(this.#compiled.engines(engine), known.graph, known.context, inputs, this.#tolerance);
    const exposed = await search.exposed();
    if (exposed !== undefined) return { ...found, cause: "engine", node: exposed };
    const rewritten = await search.rewritten(values);
    if (rewritten !== undefined) return { ...found, cause: "rewriting", node: rewritten };
    return { ...found, cause: "fusion", node: await search.fused() };
  }

  /** The first segment that makes a rewritten value which a wrong output comes from, through such values alone. */
  rewritten(outputs: readonly ValueError[]): number {
    const { steps } = this.#compiled.plan;
    const suspect = new Set(outputs.filter((o) => !(o.relative <= this.#tolerance)).map((o) => o.name));
    let first = -1;
    for (let i = steps.length - 1; i >= 0; i--) {
      const made = steps[i]?.outputs.filter((name) => suspect.has(name)) ?? [];
      if (made.length === 0) continue;
      if (made.some((name) => this.#rewritten.has(name))) first = i;
      for (const name of steps[i]?.inputs ?? []) if (this.#rewritten.has(name) || !this.#expected.has(name)) suspect.add(name);
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

/** The model's values of these names, of those that it has. */
type ModelValues = (names: readonly string[]) => Promise<ReadonlyMap<string, Tensor>>;

const feedsOf = (g: Graph, inputs: readonly TensorLike[]): Feeds =>
  Object.fromEntries(g.inputs.map((v, k) => [valueAt(g, v).name, inputs[k] as TensorLike]));

/** Bytes of inner values that one build gives as outputs. */
const EXPOSED_BYTES = 1 << 28;
/** For a value of unknown dims. */
const UNKNOWN_BYTES = 1 << 20;

/** The search inside one segment, always on the same inputs. */
class Search {
  readonly #engine: Engine;
  readonly #graph: Graph;
  readonly #context: BuildContext;
  readonly #inputs: readonly TensorLike[];
  readonly #tolerance: number;
  readonly #made: readonly (Node | undefined)[];

  constructor(engine: Engine, graph: Graph, context: BuildContext, inputs: readonly TensorLike[], tolerance: number) {
    this.#engine = engine;
    // What the engine's spelling of a graph adds has no types yet.
    this.#graph = inferGraph(graph).graph;
    this.#context = context;
    this.#inputs = inputs;
    this.#tolerance = tolerance;
    this.#made = producersOf(this.#graph);
  }

  /** The first node whose output is wrong when the engine gives every inner value too. */
  async exposed(): Promise<FaultyNode | undefined> {
    for (const group of this.#groups()) {
      const expected = await runGraph(this.#with(group), feedsOf(this.#graph, this.#inputs));
      for await (const [names, actual] of this.#given(group))
        for (const name of names) {
          const e = expected.get(name);
          if (e === undefined) continue;
          const error = errorOf(name, actual.get(name), e);
          if (!(error.relative <= this.#tolerance)) return await this.#describe(name, error);
        }
    }
    return undefined;
  }

  /**
   * The first node that gives, on ONNX Runtime, something else than the model's value of that name, and whose difference reaches an output: values that
   * passes scale on purpose, and scale back before an output, are no fault.
   */
  async rewritten(values: ModelValues): Promise<FaultyNode | undefined> {
    const errors = new Map<string, ValueError>();
    for (const group of this.#groups()) {
      const model = await values(group);
      const actual = await runGraph(this.#with(group), feedsOf(this.#graph, this.#inputs));
      for (const name of group) {
        const e = model.get(name);
        if (e !== undefined) errors.set(name, errorOf(name, actual.get(name), e));
      }
    }
    const right = (v: ValueId): boolean => (errors.get(valueAt(this.#graph, v).name)?.relative ?? Number.NaN) <= this.#tolerance;
    const suspect = new Set<ValueId>(this.#graph.outputs.filter((v) => !right(v)));
    for (const n of this.#graph.nodes.toReversed())
      if (n.outs.some((v) => v !== undefined && suspect.has(v))) for (const v of readsOf(n)) if (!right(v)) suspect.add(v);
    for (const n of this.#graph.nodes)
      for (const v of n.outs) {
        const error = v !== undefined && suspect.has(v) ? errors.get(valueAt(this.#graph, v).name) : undefined;
        if (error !== undefined) return await this.#describe(error.name, error, false);
      }
    return undefined;
  }

  /** The first node whose output is wrong when the engine gets the segment up to it, by bisection over the nodes. */
  async fused(): Promise<FaultyNode | undefined> {
    const { nodes } = this.#graph;
    let [right, wrong] = [0, nodes.length];
    let last: { readonly name: string; readonly error: ValueError } | undefined;
    while (right < wrong) {
      const middle = (right + wrong) >> 1;
      const found = await this.#prefix(middle + 1);
      if (found === undefined) right = middle + 1;
      else {
        wrong = middle;
        last = found;
      }
    }
    return last === undefined ? undefined : await this.#describe(last.name, last.error);
  }

  /** The worst wrong value at the end of the first `count` nodes. */
  async #prefix(count: number): Promise<{ readonly name: string; readonly error: ValueError } | undefined> {
    const before = new Set(this.#graph.nodes.slice(0, count).flatMap((n) => n.outs.flatMap((v) => v ?? [])));
    const later = new Set(this.#graph.nodes.slice(count).flatMap((n) => readsOf(n)));
    const ends = [...before].filter((v) => (later.has(v) || this.#graph.outputs.includes(v)) && isReturned(valueAt(this.#graph, v).type));
    if (ends.length === 0) return undefined;
    const names = ends.map((v) => valueAt(this.#graph, v).name);
    const part = cut(this.#graph, undefined, names);
    const feeds = feedsOf(this.#graph, this.#inputs);
    const expected = await runGraph(part, feeds);
    const actual = await this.#run(part, feeds);
    const errors = names.flatMap((name) => {
      const e = expected.get(name);
      return e === undefined ? [] : [{ name, error: errorOf(name, actual.get(name), e) }];
    });
    const worst = errors.reduce<(typeof errors)[number] | undefined>(
      (a, b) => (a === undefined || b.error.relative > a.error.relative ? b : a),
      undefined,
    );
    return worst !== undefined && !(worst.error.relative <= this.#tolerance) ? worst : undefined;
  }

  async #describe(name: string, output: ValueError, isolate = true): Promise<FaultyNode | undefined> {
    const g = this.#graph;
    const value = g.values.find((v) => v?.name === name);
    const node = value === undefined ? undefined : this.#made[value.id];
    if (node === undefined) return undefined;
    const read = [...new Set(readsOf(node))].filter((v) => !g.constants.has(v) && isReturned(valueAt(g, v).type));
    const names = read.map((v) => valueAt(g, v).name);
    const fed = new Map(g.inputs.map((v, k) => [valueAt(g, v).name, this.#inputs[k] as TensorLike]));
    const inner = names.filter((n) => !fed.has(n));
    if (inner.length > 0) for (const [n, t] of await runGraph(cut(g, undefined, inner), feedsOf(g, this.#inputs))) fed.set(n, t);
    const inputs = names.flatMap((n) => {
      const t = fed.get(n);
      return t === undefined ? [] : [{ name: n, type: t.type, dims: t.dims }];
    });
    const alone = isolate ? await this.#alone(name, names, fed) : undefined;
    return {
      name: displayName(g, node),
      op: qualifiedOp(node),
      origin: originOf(node).filter((o) => o !== ""),
      inputs,
      output,
      ...(alone === undefined ? {} : { alone }),
    };
  }

  async #alone(output: string, inputs: readonly string[], values: ReadonlyMap<string, TensorLike>): Promise<ValueError | undefined> {
    const part = cut(this.#graph, inputs, [output]);
    const feeds = Object.fromEntries(values);
    const expected = (await runGraph(part, feeds)).get(output);
    if (expected === undefined) return undefined;
    try {
      return errorOf(output, (await this.#run(part, feeds)).get(output), expected);
    } catch (error) {
      // A node may be one that the engine takes only together with others.
      if (error instanceof PartitaError) return undefined;
      throw error;
    }
  }

  /** Names of inner values and outputs in topological order, in groups that fit into memory. */
  #groups(): readonly (readonly string[])[] {
    const groups: string[][] = [];
    let room = 0;
    for (const n of this.#graph.nodes)
      for (const v of n.outs) {
        if (v === undefined) continue;
        const { name, type } = valueAt(this.#graph, v);
        if (!isReturned(type)) continue;
        const count =
          type.kind === "tensor" && type.shape?.every((d) => typeof d === "number") ? elementCount(type.shape as number[]) : undefined;
        const bytes = type.kind === "tensor" && count !== undefined ? byteLength(type.dtype, count) : UNKNOWN_BYTES;
        if (groups.length === 0 || bytes > room) {
          groups.push([]);
          room = EXPOSED_BYTES;
        }
        groups.at(-1)?.push(name);
        room -= bytes;
      }
    return groups;
  }

  /** The segment with more outputs, its own first. */
  #with(names: readonly string[]): Graph {
    const ids = new Map(this.#graph.values.flatMap((v) => (v === undefined ? [] : [[v.name, v.id] as const])));
    const more = names.flatMap((name) => ids.get(name) ?? []).filter((v) => !this.#graph.outputs.includes(v));
    return { ...this.#graph, outputs: [...this.#graph.outputs, ...more] as readonly ValueId[] };
  }

  /** What the engine gives for these names; it may refuse some of them as outputs, which are then asked for in smaller groups. */
  async *#given(group: readonly string[]): AsyncGenerator<readonly [readonly string[], ReadonlyMap<string, Tensor>]> {
    let actual: ReadonlyMap<string, Tensor>;
    try {
      actual = await this.#run(this.#with(group), feedsOf(this.#graph, this.#inputs));
    } catch (error) {
      if (!(error instanceof PartitaError)) throw error;
      if (group.length < 2) return;
      const half = group.length >> 1;
      yield* this.#given(group.slice(0, half));
      yield* this.#given(group.slice(half));
      return;
    }
    yield [group, actual];
  }

  async #run(g: Graph, feeds: Feeds): Promise<ReadonlyMap<string, Tensor>> {
    const artifact = await this.#engine.build(g, this.#context);
    const executable = await this.#engine.open(artifact, { streams: 1, threads: 0 });
    try {
      const results = await executable.run(artifact.inputs.map((name) => feeds[name] as TensorLike));
      return new Map(artifact.outputs.map((name, i) => [name, results[i] as Tensor]));
    } finally {
      await executable.dispose();
    }
  }
}
