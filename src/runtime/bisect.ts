/**
 * The search for the first wrong node of a segment: its engine gives its inner values too, or the segment is cut in halves, and ONNX Runtime says what is right.
 */
import { PartitaError } from "../diagnostics.js";
import type { BuildContext, Engine } from "../engines/engine.js";
import { cut } from "../import/cut.js";
import { byteLength } from "../ir/dtypes.js";
import { displayName, originOf, producersOf, qualifiedOp, readsOf, valueAt } from "../ir/graph.js";
import { elementCount } from "../ir/payload.js";
import type { Graph, Node, ValueId } from "../ir/types.js";
import { inferGraph } from "../ops/infer.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { type Measured, measure } from "./measure.js";
import type { Feeds } from "./ports.js";
import { isReturned, runGraph } from "./untouched.js";

export interface ValueError extends Measured {
  readonly name: string;
  /** Where the worst element lies. */
  readonly place: readonly number[];
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

export function errorOf(name: string, actual: TensorLike | undefined, expected: TensorLike): ValueError {
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

/** The model's values of these names, of those that it has. */
export type ModelValues = (names: readonly string[]) => Promise<ReadonlyMap<string, Tensor>>;

export const feedsOf = (g: Graph, inputs: readonly TensorLike[]): Feeds =>
  Object.fromEntries(g.inputs.map((v, k) => [valueAt(g, v).name, inputs[k] as TensorLike]));

/** Bytes of inner values that one build gives as outputs. */
const EXPOSED_BYTES = 1 << 28;
/** For a value of unknown dims. */
const UNKNOWN_BYTES = 1 << 20;

/** The search inside one segment, always on the same inputs. */
export class Search {
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
    // What is built here runs once.
    this.#context = { ...context, tune: "none" };
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
   * The first node that gives, on ONNX Runtime, something else than the model's value of that name, and the inputs that are not the model's, where the
   * difference reaches an output: values that passes scale on purpose, and scale back before an output, are no fault.
   */
  async rewritten(values: ModelValues): Promise<{ readonly node: FaultyNode | undefined; readonly inputs: readonly string[] }> {
    const errors = new Map<string, ValueError>();
    const inputs = this.#graph.inputs.map((v) => valueAt(this.#graph, v).name);
    const outside = await values(inputs);
    for (const [k, name] of inputs.entries()) {
      const e = outside.get(name);
      if (e !== undefined) errors.set(name, errorOf(name, this.#inputs[k], e));
    }
    for (const group of this.#groups()) {
      const model = await values(group);
      const actual = await runGraph(this.#with(group), feedsOf(this.#graph, this.#inputs));
      for (const name of group) {
        const e = model.get(name);
        if (e !== undefined) errors.set(name, errorOf(name, actual.get(name), e));
      }
    }
    const nameOf = (v: ValueId): string => valueAt(this.#graph, v).name;
    const right = (v: ValueId): boolean => (errors.get(nameOf(v))?.relative ?? Number.NaN) <= this.#tolerance;
    const suspect = new Set<ValueId>(this.#graph.outputs.filter((v) => !right(v)));
    for (const n of this.#graph.nodes.toReversed())
      if (n.outs.some((v) => v !== undefined && suspect.has(v))) for (const v of readsOf(n)) if (!right(v)) suspect.add(v);
    const from = this.#graph.inputs.filter((v) => suspect.has(v)).map(nameOf);
    for (const n of this.#graph.nodes)
      for (const v of n.outs) {
        const error = v !== undefined && suspect.has(v) ? errors.get(nameOf(v)) : undefined;
        if (error !== undefined) return { node: await this.#describe(error.name, error, false), inputs: from };
      }
    return { node: undefined, inputs: from };
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
