/**
 * A converted graph with TF-TRT's engine cache: an engine serves feeds whose batch is at most its own and whose other dims agree, the smallest such
 * engine is taken, a new one is built where none fits, the least recently used goes when there are too many, and what no engine serves runs as
 * it was, on the host. Engines here are whole programs; the cache is that of engines/shape-cache.ts.
 */
import { compile, type ModelInput, plan } from "../compile.js";
import { PartitaError, type Remark } from "../diagnostics.js";
import { cannotPad } from "../engines/by-shape.js";
import { type CacheCounters, ShapeCache, type ShapeRange, type Shapes } from "../engines/shape-cache.js";
import { valueAt } from "../ir/graph.js";
import type { CompileOptions } from "../options.js";
import type { Report } from "../report/report.js";
import { type Feeds, type Port, portOf, type SessionRunOptions } from "../runtime/ports.js";
import type { Program } from "../runtime/program.js";
import { disposedError } from "../runtime/queue.js";
import type { Session } from "../runtime/session.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { badParameter } from "./parameters.js";
import { summaryText } from "./summary.js";

type Dims = readonly number[];
/** The shapes that an engine serves, by input. */
export type EngineShapes = ShapeRange;
export type InferenceGraphCounters = CacheCounters;
interface Opened {
  readonly program: Program;
  readonly session: Session;
}
interface Parts {
  readonly model: ModelInput;
  /** How an engine is compiled; shapes come on top. */
  readonly options: CompileOptions;
  readonly maximumCachedEngines: number;
  /** Whether a miss builds an engine. */
  readonly buildAtRuntime: boolean;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
}

export class InferenceGraph {
  /** Inputs and outputs, with open dims by name. */
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #parts: Parts;
  readonly #cache: ShapeCache<Opened>;
  #host: Promise<Opened> | undefined;
  #report: Promise<Report> | undefined;
  #disposed = false;

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.inputs = parts.inputs;
    this.outputs = parts.outputs;
    this.#cache = new ShapeCache<Opened>({
      segment: "graph",
      content: "tftrt",
      capacity: parts.maximumCachedEngines,
      onMiss: "build",
      build: async (range) => await opened(this.#compiled(range)),
      dispose: ({ session }) => session.dispose(),
    });
  }

  /** Reads the model, for its inputs and outputs; builds nothing. */
  static async of(parts: Omit<Parts, "inputs" | "outputs">): Promise<InferenceGraph> {
    const { calibration: _, ...options } = parts.options;
    const { graph } = await plan(parts.model, { ...options, target: "host", precision: "fp32" });
    const ports = (ids: typeof graph.inputs): readonly Port[] => ids.map((v) => portOf(valueAt(graph, v).name, valueAt(graph, v).type));
    return new InferenceGraph({ ...parts, inputs: ports(graph.inputs), outputs: ports(graph.outputs) });
  }

  /** The shapes that engines are there for. */
  get engines(): readonly EngineShapes[] {
    return this.#cache.ranges;
  }
  get counters(): InferenceGraphCounters {
    return this.#cache.counters;
  }

  /** Runs feeds by input name on the engine that fits. Throws what compiling and running throw. */
  async run(feeds: Feeds, options: SessionRunOptions = {}): Promise<Record<string, Tensor>> {
    if (this.#disposed) throw disposedError({});
    const dims = this.#dimsOf(feeds);
    return await this.#cache.serve(dims, {
      wanted: dims !== undefined && this.#parts.buildAtRuntime ? this.#around(dims) : undefined,
      work: ({ session }) => session.run(feeds, options),
      host: async () => await (await this.#original()).session.run(feeds, options),
    });
  }

  /** Builds an engine for exactly these dims and smaller batches; nothing where one is there already. */
  async build(dims: Readonly<Record<string, Dims>>): Promise<void> {
    if (!(await this.#cache.has(dims))) await this.#cache.ensure(this.#around(dims));
  }
  /** Builds an engine for a range. */
  async buildRange(shapes: EngineShapes): Promise<void> {
    await this.#cache.ensure(shapes);
  }

  /** The partition report that engines are built by, at the shapes of the newest engine where there is one. */
  async report(): Promise<Report> {
    const newest = this.#cache.newest();
    if (newest !== undefined) return (await newest).program.report;
    const { calibration: _, ...options } = this.#parts.options;
    this.#report ??= plan(this.#parts.model, options, { unbuilt: true }).then((p) => p.report);
    return await this.#report;
  }

  /** What was converted, as text: each engine with its inputs, outputs and operators, and the share of operators that engines took. */
  async summary(options: { readonly detailed?: boolean | undefined; readonly lineLength?: number | undefined } = {}): Promise<string> {
    return summaryText(await this.report(), this.engines, options);
  }

  /** Saves one bundle that serves every shape that an engine is there for; where there is none, the original graph. Throws P30xx. */
  async save(path: string): Promise<void> {
    const [only, ...more] = this.#cache.all();
    if (only === undefined) await (await this.#original()).program.save(path);
    else if (more.length === 0) await (await only).program.save(path);
    else await (await this.#compiled(covering(this.engines))).save(path);
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    const host = this.#host?.then(({ session }) => session.dispose()).catch(() => undefined);
    await Promise.all([this.#cache.dispose(), host]);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Dims by an input's own name; undefined where the feeds are not those of the graph, which the session then says. */
  #dimsOf(feeds: Feeds): Shapes | undefined {
    const found: Record<string, Dims> = {};
    for (const { name, dims } of this.inputs) {
      const t: TensorLike | undefined = feeds[name] ?? feeds[name.replace(/:0$/, "")];
      if (t === undefined || !Array.isArray(t.dims)) return undefined;
      const fits = (d: number | string, i: number): boolean => typeof d === "string" || d === t.dims[i];
      if (dims !== undefined && !(dims.length === t.dims.length && dims.every(fits))) return undefined;
      found[name] = t.dims;
    }
    return found;
  }
  /** Batches up to that of `dims`, where the graph leaves the batch open. */
  #around(dims: Shapes): EngineShapes {
    return Object.fromEntries(
      this.inputs.map(({ name, dims: declared }) => {
        const max = dims[name] ?? [];
        const open = typeof declared?.[0] === "string" || declared === undefined;
        return [name, { min: max.map((d, i) => (i === 0 && open ? Math.min(1, d) : d)), opt: max, max }];
      }),
    );
  }
  /** A program for a range. Engines of fixed dims are built for its end, and feeds padded to that, where that is right; otherwise by shape. */
  async #compiled(shapes: EngineShapes): Promise<Program> {
    const options: CompileOptions = { ...this.#parts.options, shapes };
    const buckets = Object.fromEntries(
      Object.entries(shapes).flatMap(([name, { min, max }]) =>
        max.flatMap((d, i) => (min[i] === d ? [] : [[`${name}[${i}]`, [d]] as const])),
      ),
    );
    const fixed = Array.isArray(options.target) ? options.target.includes("cuda") : options.target === "cuda";
    if (!fixed || Object.keys(buckets).length === 0) return await compile(this.#parts.model, options);
    try {
      return await compile(this.#parts.model, { ...options, dynamic: { buckets } });
    } catch (error) {
      if (!(error instanceof PartitaError) || error.code !== CANNOT_PAD) throw error;
      return await compile(this.#parts.model, options);
    }
  }
  /** The graph as it was, on the host. */
  #original(): Promise<Opened> {
    const { calibration: _, ...options } = this.#parts.options;
    const host = (this.#host ??= opened(compile(this.#parts.model, { ...options, target: "host", precision: "fp32" })));
    // What failed once (a full disk, too many files) may succeed the next time.
    host.catch(() => {
      if (this.#host === host) this.#host = undefined;
    });
    return host;
  }
}
const CANNOT_PAD = cannotPad({ dim: "", segment: "", why: "" }).code;
const opened = async (compiling: Promise<Program>): Promise<Opened> => {
  const program = await compiling;
  return { program, session: await program.createSession() };
};

/** The smallest range that holds all of several. Throws P1008 when an input has several ranks among them. */
export function covering(all: readonly EngineShapes[]): EngineShapes {
  const [first] = all;
  if (first === undefined) return {};
  return Object.fromEntries(
    Object.keys(first).map((name) => {
      const ranges = all.map((s) => s[name]).filter((s) => s !== undefined);
      const rank = ranges[0]?.max.length ?? 0;
      if (ranges.some((s) => s.max.length !== rank))
        throw badParameter({ what: `input '${name}' has several ranks among the shapes that were given`, fix: "give feeds of one rank" });
      const over = (f: (...d: number[]) => number, key: "min" | "max"): Dims =>
        Array.from({ length: rank }, (_, i) => f(...ranges.map((s) => s[key][i] ?? 0)));
      const [min, max] = [over(Math.min, "min"), over(Math.max, "max")];
      return [name, { min, opt: ranges.at(-1)?.opt ?? max, max }];
    }),
  );
}

/** The remarks of a conversion go to the console as TF-TRT's went to its log, warnings alone. */
export const warnings = (remark: Remark): void => {
  if (remark.severity === "warning") process.emitWarning(remark.text, "PartitaWarning");
};
