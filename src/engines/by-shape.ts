/**
 * Segments of open dims on engines that are built for dims: the artifact keeps the segment's graph, engines are built from it for the shapes that
 * come (or were named beforehand), kept in a `ShapeCache`, and where an engine takes one set of dims alone, feeds are padded to it and results
 * cut back, if that is proved to be right. What no engine serves runs on the host.
 */
import { createHash } from "node:crypto";
import { defineError, PartitaError } from "../diagnostics.js";
import { encodeOnnx } from "../import/onnx/export.js";
import { importOnnx } from "../import/onnx/index.js";
import { isStatic, symbolsOf } from "../ir/dims.js";
import { valueAt } from "../ir/graph.js";
import { graphHash } from "../ir/hash.js";
import type { Dim, Graph } from "../ir/types.js";
import { shapeOf } from "../ops/define.js";
import { inferGraph } from "../ops/infer.js";
import { keepAll, lower } from "../passes/lower.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { isResident } from "./cuda/resident.js";
import type {
  Artifact,
  BuildContext,
  DeviceTensor,
  DimRanges,
  DynamicShapes,
  Engine,
  Executable,
  LayerFacts,
  MemoryPlan,
  OpenContext,
  RunOptions,
} from "./engine.js";
import { paddingRefusal } from "./padding.js";
import { type Fill, resized } from "./resize.js";
import { type CacheCounters, ShapeCache, type ShapeRange, type Shapes, textOf } from "./shape-cache.js";
import { boundDims, type OpenSegment, openSegment } from "./symbols.js";

export const cannotPad = defineError<{ dim: string; segment: string; why: string }>(
  "P3120",
  "a dim with buckets cannot be padded",
  ({ dim, segment, why }) => ({
    what: `feeds cannot be padded along '${dim}' in ${segment}`,
    why,
    fix: "leave its buckets out; if the graph masks what is padded (an attention mask), say so: dynamic: { masked: [name] } (--masked)",
  }),
);
const damaged = defineError<{ what: string }>("P3121", "an artifact of open dims is damaged", ({ what }) => ({
  what,
  fix: "compile the model again",
}));

/** What holds where the user says nothing of dynamic shapes. */
export const DEFAULT_DYNAMIC: DynamicShapes = {
  engines: [],
  onMiss: "build",
  capacity: 8,
  buckets: {},
  masked: [],
  padding: false,
  batch: [],
  strict: false,
};

/** Of an artifact of open dims, as its setting `dynamic`. */
interface Stored {
  readonly dynamic: DynamicShapes;
  readonly context: Pick<BuildContext, "target" | "workspaceBytes" | "tensorrt">;
  /** Engines built beforehand: their files are in the artifact under names that start with their place here. */
  readonly built: readonly { readonly range: ShapeRange; readonly artifact: Omit<Artifact, "files"> }[];
}

/**
 * The engine for segments of any dims. Those whose dims are fixed go to it as they are; so do open ones on an engine that serves ranges, unless
 * `context.dynamic` asks for engines by shape. `host` gives the engine that runs what is not built.
 */
export function byShape(engine: Engine, host: () => Engine): Engine {
  return {
    ...engine,
    async build(segment, context) {
      const dynamic = context.dynamic ?? DEFAULT_DYNAMIC;
      if ((engine.serves !== "dims" && !dynamic.engines.includes(engine.name)) || !isOpen(segment, engine))
        return await engine.build(segment, context);
      return await buildOpen(engine, segment, context, dynamic);
    },
    async open(artifact, context) {
      if (artifact.settings?.["dynamic"] === undefined) return await engine.open(artifact, context);
      return await OpenExecutable.open(engine, host(), artifact, context);
    },
    memory(artifact): MemoryPlan | undefined {
      if (artifact.settings?.["dynamic"] === undefined) return engine.memory?.(artifact);
      const engines = storedOf(artifact).built.flatMap(({ range }, i) => {
        const plan = engine.memory?.(builtArtifact(artifact, i));
        return plan === undefined ? [] : [{ shape: textOf(range), ...plan }];
      });
      if (engines.length === 0) return undefined;
      const sum = (key: "sharedBytes" | "streamBytes"): number => engines.reduce((n, p) => n + p[key], 0);
      return { sharedBytes: sum("sharedBytes"), streamBytes: sum("streamBytes"), byShape: engines };
    },
  };
}

/** Whether one build cannot serve the segment: some dim inside is open for engines of fixed dims, some input's for those of ranges. */
function isOpen(segment: Graph, engine: Engine): boolean {
  const { graph, facts } = inferGraph(segment);
  const values = engine.serves === "dims" ? graph.values.flatMap((v) => v?.id ?? []) : graph.inputs;
  return !values.every((v) => {
    const { type } = facts(v);
    return type.kind === "tensor" && type.shape?.every(isStatic) === true;
  });
}

/** Sets of dims whose outputs' dims are remembered. */
const KEPT_DIMS = 1024;

/** How a segment's engines are shaped: what is padded, what varies, what is exact. */
class Rules {
  readonly segment: OpenSegment;
  readonly #dynamic: DynamicShapes;
  /** Engines take one set of dims. */
  readonly fixed: boolean;
  readonly #refusals = new Map<string, string | undefined>();
  readonly #dims = new Map<string, readonly (readonly number[])[] | undefined>();

  constructor(graph: Graph, dynamic: DynamicShapes, engine: Engine) {
    this.segment = openSegment(graph);
    this.#dynamic = dynamic;
    this.fixed = engine.serves === "dims" || dynamic.padding;
  }

  bucketsOf(symbol: string): readonly number[] | undefined {
    return Object.hasOwn(this.#dynamic.buckets, symbol) ? this.#dynamic.buckets[symbol] : undefined;
  }
  masked(symbol: string): boolean {
    return this.#dynamic.masked.includes(symbol);
  }
  /** Why the dim cannot be padded; undefined where it can. */
  refusal(symbol: string): string | undefined {
    if (!this.#refusals.has(symbol)) this.#refusals.set(symbol, this.#prove(symbol));
    return this.#refusals.get(symbol);
  }
  #prove(symbol: string): string | undefined {
    const { graph, facts, symbols } = this.segment;
    if (this.masked(symbol)) {
      const sizes = new Map(symbols.map((s) => [s, this.bucketsOf(s)?.at(-1) ?? 8] as const));
      return this.outputDims(sizes) === undefined
        ? "its outputs' dims do not follow from those of its inputs, so that they cannot be cut back"
        : undefined;
    }
    const found = paddingRefusal(graph, facts, symbol);
    return found === undefined ? undefined : `${found.node === undefined ? "" : `node '${found.node}' (${found.op}): `}${found.why}`;
  }
  /** Dims of the outputs at these numbers; undefined where they do not follow from them. */
  outputDims(bindings: ReadonlyMap<string, number>): readonly (readonly number[])[] | undefined {
    const key = [...bindings].join(" ");
    if (this.#dims.has(key)) return this.#dims.get(key);
    const { graph, facts } = inferGraph(this.segment.graph, { shapes: this.#inputDims(bindings) });
    const dims = graph.outputs.map((v) => boundDims(shapeOf(facts(v)), bindings));
    const all = dims.every((d) => d !== undefined) ? dims : undefined;
    const [oldest] = this.#dims.keys();
    if (oldest !== undefined && this.#dims.size >= KEPT_DIMS) this.#dims.delete(oldest);
    this.#dims.set(key, all);
    return all;
  }
  #inputDims(bindings: ReadonlyMap<string, number>): Readonly<Record<string, readonly Dim[]>> {
    const { graph, facts } = this.segment;
    return Object.fromEntries(
      graph.inputs.map((v) => [valueAt(graph, v).name, (shapeOf(facts(v)) ?? []).map((d): Dim => boundDims([d], bindings)?.[0] ?? d)]),
    );
  }

  /** The range of the engine that is built for these numbers, by symbol. */
  wanted(bindings: ReadonlyMap<string, number>): ShapeRange {
    return Object.fromEntries(
      this.segment.symbols.map((s) => {
        const n = bindings.get(s) ?? 0;
        const buckets = this.bucketsOf(s);
        const bucket = buckets?.find((b) => b >= n);
        const varies = n > 0 && (!this.fixed || (this.refusal(s) === undefined && this.outputDims(bindings) !== undefined));
        if (buckets !== undefined && bucket !== undefined && varies) {
          const below = buckets[buckets.indexOf(bucket) - 1] ?? 0;
          return [s, one(below + 1, bucket)];
        }
        return [s, varies && buckets === undefined && this.#dynamic.batch.includes(s) ? one(1, n) : one(n, n)];
      }),
    );
  }
  /** Every combination of buckets, the smallest first; none where a symbol has no buckets. */
  named(most: number): readonly ShapeRange[] {
    let all: ReadonlyMap<string, number>[] = [new Map()];
    for (const s of this.segment.symbols) {
      const buckets = this.bucketsOf(s);
      if (buckets === undefined) return [];
      all = all.flatMap((known) => buckets.map((b) => new Map([...known, [s, b]])));
      if (all.length > 4096) return [];
    }
    const volume = (b: ReadonlyMap<string, number>): number => [...b.values()].reduce((p, n) => p * n, 1);
    if (this.segment.symbols.length === 0) return [];
    return all
      .sort((a, b) => volume(a) - volume(b))
      .slice(0, most)
      .map((b) => this.wanted(b));
  }
  /** The graph that an engine for a range is built from, and its ranges. */
  graphFor(range: ShapeRange): { readonly graph: Graph; readonly ranges: DimRanges } {
    const { graph, symbols } = this.segment;
    const at = (key: "min" | "opt" | "max") => new Map(symbols.map((s) => [s, range[s]?.[key][0] ?? 0] as const));
    const numbers = new Map([...at("max")].filter(([s, n]) => this.fixed || n === range[s]?.min[0]));
    return {
      graph: inferGraph(graph, { shapes: this.#inputDims(numbers) }).graph,
      ranges: { min: at("min"), opt: at("opt"), max: at("max") },
    };
  }
}
const one = (min: number, max: number) => ({ min: [min], opt: [max], max: [max] });

async function buildOpen(engine: Engine, segment: Graph, context: BuildContext, dynamic: DynamicShapes): Promise<Artifact> {
  const rules = new Rules(segment, dynamic, engine);
  const { graph, symbols } = rules.segment;
  for (const s of rules.fixed ? symbols.filter((x) => rules.bucketsOf(x) !== undefined) : []) {
    const why = rules.refusal(s);
    if (why !== undefined) throw cannotPad({ dim: s, segment: segment.name, why }, { file: segment.extra?.file });
  }
  const built: { range: ShapeRange; artifact: Artifact }[] = [];
  const known = new Map<string, Uint8Array>();
  for (const range of rules.named(dynamic.capacity)) {
    const { graph: fixed, ranges } = rules.graphFor(range);
    built.push({ range, artifact: shared(await engine.build(fixed, { ...context, ranges }), known) });
  }
  const { target, workspaceBytes, tensorrt } = context;
  const stored: Stored = {
    dynamic,
    context: { target, workspaceBytes, tensorrt },
    built: built.map(({ range, artifact: { files: _, ...artifact } }) => ({ range, artifact })),
  };
  const text = JSON.stringify(stored);
  return {
    engine: engine.name,
    key: createHash("sha256")
      .update(graphHash(graph, `open/1 ${engine.name} ${text}`))
      .digest("hex"),
    inputs: graph.inputs.map((v) => valueAt(graph, v).name),
    outputs: graph.outputs.map((v) => valueAt(graph, v).name),
    settings: { dynamic: text },
    files: [
      { name: "segment.onnx", bytes: encodeOnnx(graph) },
      ...built.flatMap(({ artifact }, i) => artifact.files.map((f) => ({ ...f, name: `${i}.${f.name}` }))),
    ],
  };
}

/** Engines of one segment hold the same weights: equal files are one array. */
function shared(artifact: Artifact, known: Map<string, Uint8Array>): Artifact {
  const files = artifact.files.map((f) => {
    if (!("bytes" in f) || f.bytes.length < 1 << 20) return f;
    const hash = createHash("sha256").update(f.bytes).digest("hex");
    const bytes = known.get(hash) ?? f.bytes;
    known.set(hash, bytes);
    return { ...f, bytes };
  });
  return { ...artifact, files };
}

function storedOf(artifact: Artifact): Stored {
  try {
    const raw = JSON.parse(artifact.settings?.["dynamic"] ?? "") as Stored;
    if (!Array.isArray(raw.built) || typeof raw.dynamic.capacity !== "number" || typeof raw.context.target.sm !== "number")
      throw new Error("a field is missing");
    return raw;
  } catch (cause) {
    throw damaged({ what: `what it says of its shapes cannot be read: ${cause instanceof Error ? cause.message : cause}` }, {}, cause);
  }
}
/** The engine in place `i`. */
function builtArtifact(artifact: Artifact, i: number): Artifact {
  const known = storedOf(artifact).built[i];
  if (known === undefined) throw damaged({ what: `it has no engine ${i}` });
  const start = `${i}.`;
  const files = artifact.files.flatMap((f) => (f.name.startsWith(start) ? [{ ...f, name: f.name.slice(start.length) }] : []));
  return { ...known.artifact, files };
}

/** Tensors of a run, some of them perhaps on the device. */
type Values = readonly (TensorLike | DeviceTensor)[];

class OpenExecutable implements Executable {
  readonly #rules: Rules;
  readonly #engine: Engine;
  readonly #host: Engine;
  readonly #stored: Stored;
  readonly #context: OpenContext;
  readonly #cache: ShapeCache<Executable>;
  #onHost: Promise<Executable> | undefined;
  #ended: Promise<void> | undefined;
  readonly runResident?: NonNullable<Executable["runResident"]>;

  static async open(engine: Engine, host: Engine, artifact: Artifact, context: OpenContext): Promise<OpenExecutable> {
    const sm = engine.ready?.(context);
    const asBuilt = storedOf(artifact);
    // What is built from here on is for this machine.
    const target = { ...asBuilt.context.target, sm: sm ?? asBuilt.context.target.sm };
    const stored = { ...asBuilt, context: { ...asBuilt.context, target } };
    const opened = await Promise.allSettled(stored.built.map((_, i) => engine.open(builtArtifact(artifact, i), context)));
    const engines = opened.flatMap((o) => (o.status === "fulfilled" ? [o.value] : []));
    try {
      for (const o of opened) if (o.status === "rejected") throw o.reason;
      return new OpenExecutable({ engine, host, artifact, context, stored }, engines);
    } catch (error) {
      await Promise.all(engines.map((e) => e.dispose()));
      throw error;
    }
  }

  private constructor(
    parts: {
      readonly engine: Engine;
      readonly host: Engine;
      readonly artifact: Artifact;
      readonly context: OpenContext;
      readonly stored: Stored;
    },
    engines: readonly Executable[],
  ) {
    const { engine, host, artifact, context, stored } = parts;
    const file = artifact.files.find((f) => f.name === "segment.onnx");
    if (file === undefined) throw damaged({ what: "it has no 'segment.onnx'" });
    const graph = importOnnx("bytes" in file ? file.bytes : file.path);
    this.#rules = new Rules(graph, stored.dynamic, engine);
    this.#engine = engine;
    this.#host = host;
    this.#stored = stored;
    this.#context = context;
    this.#cache = new ShapeCache({
      segment: graph.name,
      content: artifact.key,
      capacity: stored.dynamic.capacity,
      onMiss: stored.dynamic.onMiss,
      build: (range) => this.#build(range),
      dispose: (e) => e.dispose(),
      refused: (error, range) => this.#refused(error, range, graph.name),
    });
    engines.forEach((e, i) => this.#cache.put(stored.built[i]?.range ?? {}, e));
    if (engine.name !== "host") this.runResident = (inputs, keep, options) => this.#serve(inputs, keep, options ?? {});
  }

  async run(inputs: readonly TensorLike[], options: RunOptions = {}): Promise<readonly Tensor[]> {
    return (await this.#serve(inputs, [], options)) as readonly Tensor[];
  }
  cache(): CacheCounters {
    return this.#cache.counters;
  }
  dispose(): Promise<void> {
    this.#ended ??= Promise.all([this.#cache.dispose(), this.#onHost?.then((e) => e.dispose()).catch(() => undefined)]).then(
      () => undefined,
    );
    return this.#ended;
  }

  async #serve(inputs: Values, keep: readonly boolean[], options: RunOptions): Promise<readonly (Tensor | DeviceTensor)[]> {
    return await this.#with<readonly (Tensor | DeviceTensor)[]>(inputs, {
      engine: (engine, range, bindings) => this.#on(engine, range, bindings, inputs, keep, options),
      host: async (host) => await host.run(await fetched(inputs), { signal: options.signal, phases: options.phases }),
    });
  }

  /** Layers of whatever serves these dims. */
  async layers(inputs: readonly TensorLike[]): Promise<readonly LayerFacts[]> {
    return await this.#with<readonly LayerFacts[]>(inputs, {
      engine: async (engine, range, bindings) => (await engine.layers?.(this.#padded(inputs, this.#toPad(range, bindings), range))) ?? [],
      host: async (host) => (await host.layers?.(inputs)) ?? [],
    });
  }
  async timeUs(inputs: readonly TensorLike[]): Promise<number | undefined> {
    return await this.#with<number | undefined>(inputs, {
      engine: async (engine, range, bindings) => await engine.timeUs?.(this.#padded(inputs, this.#toPad(range, bindings), range)),
      host: async () => undefined,
    });
  }

  async #with<R>(
    inputs: Values,
    work: {
      readonly engine: (engine: Executable, range: ShapeRange, bindings: ReadonlyMap<string, number>) => Promise<R>;
      readonly host: (host: Executable) => Promise<R>;
    },
  ): Promise<R> {
    const bindings = this.#rules.segment.bind(inputs.map((t) => t.dims));
    const shapes: Shapes | undefined = bindings === undefined ? undefined : Object.fromEntries([...bindings].map(([s, n]) => [s, [n]]));
    return await this.#cache.serve<R>(shapes, {
      wanted: bindings === undefined ? undefined : this.#rules.wanted(bindings),
      work: (engine, range) => work.engine(engine, range, bindings ?? new Map()),
      host: async () => await work.host(await this.#original()),
    });
  }

  /** Symbols along which feeds must grow: of an engine that takes one set of dims alone, where those are others. */
  #toPad(range: ShapeRange, bindings: ReadonlyMap<string, number>): readonly string[] {
    return this.#rules.fixed ? this.#rules.segment.symbols.filter((s) => range[s]?.max[0] !== bindings.get(s)) : [];
  }
  /** Feeds at an engine's dims. */
  #padded(inputs: readonly TensorLike[], padded: readonly string[], range: ShapeRange): readonly TensorLike[] {
    if (padded.length === 0) return inputs;
    const { graph, facts, symbols } = this.#rules.segment;
    const larger = new Map(symbols.map((s) => [s, range[s]?.max[0] ?? 0]));
    return inputs.map((t, i) => {
      const declared = shapeOf(facts(graph.inputs[i] as never)) ?? [];
      const fill = (axis: number): Fill => (padded.some((s) => this.#rules.masked(s) && mentions(declared[axis], s)) ? "zero" : "last");
      return resized(t, boundDims(declared, larger) ?? t.dims, fill);
    });
  }

  /** On an engine: as it is, or padded to its dims where it takes those alone. */
  async #on(
    engine: Executable,
    range: ShapeRange,
    bindings: ReadonlyMap<string, number>,
    inputs: Values,
    keep: readonly boolean[],
    options: RunOptions,
  ): Promise<readonly (Tensor | DeviceTensor)[]> {
    const padded = this.#toPad(range, bindings);
    if (padded.length === 0) {
      if (engine.runResident !== undefined && (keep.includes(true) || inputs.some(isResident)))
        return await engine.runResident(inputs, keep, options);
      return await engine.run(await fetched(inputs), options);
    }
    const feeds = this.#padded(await fetched(inputs), padded, range);
    const results = await engine.run(feeds, { signal: options.signal, phases: options.phases });
    const dims = this.#rules.outputDims(bindings);
    return results.map((t, i) => resized(t, dims?.[i] ?? t.dims) as Tensor);
  }

  async #build(range: ShapeRange): Promise<Executable> {
    const { graph, ranges } = this.#rules.graphFor(range);
    // Nothing is tuned while runs wait.
    const artifact = await this.#engine.build(graph, { ...this.#stored.context, ranges, tune: "none", onRemark: this.#context.onRemark });
    return await this.#engine.open(artifact, this.#context);
  }
  #refused(error: unknown, range: ShapeRange, segment: string): boolean {
    const falls = error instanceof PartitaError && !this.#stored.dynamic.strict;
    if (falls)
      this.#context.onRemark?.({
        severity: "warning",
        text: `${segment}: no ${this.#engine.name} engine for ${textOf(range)}, the host runs these shapes: ${error.message}`,
        fix: error.fix,
      });
    return falls;
  }
  /** The segment's operators on the host, for any dims. */
  #original(): Promise<Executable> {
    if (this.#onHost !== undefined) return this.#onHost;
    const opening = (async () => {
      const artifact = await this.#host.build(lower(this.#rules.segment.graph, this.#host.keeps ?? keepAll), this.#stored.context);
      return await this.#host.open(artifact, this.#context);
    })();
    this.#onHost = opening;
    // What failed once (a thread that could not start) may succeed the next time.
    opening.catch(() => {
      this.#onHost = undefined;
    });
    return opening;
  }
}

const mentions = (d: Dim | undefined, symbol: string): boolean => d !== undefined && symbolsOf(d).includes(symbol);
const fetched = async (inputs: Values): Promise<readonly TensorLike[]> =>
  await Promise.all(inputs.map((t) => (isResident(t) ? t.fetch() : t)));
