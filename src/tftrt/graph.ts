/**
 * A converted graph with TF-TRT's engine cache: an engine serves feeds whose batch is at most its own and whose other dims agree, the smallest such
 * engine is taken, a new one is built where none fits, the least recently used goes when there are too many, and what no engine serves runs as
 * it was, on the host.
 */
import { compile, type ModelInput, plan } from "../compile.js";
import type { Remark } from "../diagnostics.js";
import { valueAt } from "../ir/graph.js";
import type { CompileOptions, ShapeOption } from "../options.js";
import type { Report } from "../report/report.js";
import type { Program } from "../runtime/program.js";
import { disposedError } from "../runtime/queue.js";
import { type Feeds, type Port, portOf, type Session, type SessionRunOptions } from "../runtime/session.js";
import type { Tensor, TensorLike } from "../tensor.js";
import { badParameter } from "./parameters.js";
import { summaryText } from "./summary.js";

type Dims = readonly number[];
type Range = Readonly<Record<string, { readonly min: Dims; readonly opt: Dims; readonly max: Dims }>>;
/** The shapes that an engine serves, by input. */
export type EngineShapes = Range;
export interface InferenceGraphCounters {
  /** Runs that an engine served which was there. */
  readonly hits: number;
  /** Runs for which there was none. */
  readonly misses: number;
  readonly builds: number;
  readonly evictions: number;
  /** Runs of the original operators on the host. */
  readonly fallbacks: number;
}
interface Engine {
  readonly shapes: Range;
  readonly program: Promise<Program>;
  readonly session: Promise<Session>;
  used: number;
  /** Runs that it serves at this moment. */
  active: number;
  evicted: boolean;
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
  #engines: Engine[] = [];
  #host: { readonly program: Promise<Program>; readonly session: Promise<Session> } | undefined;
  readonly #counters = { hits: 0, misses: 0, builds: 0, evictions: 0, fallbacks: 0 };
  #clock = 0;
  #report: Promise<Report> | undefined;
  #disposed = false;

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.inputs = parts.inputs;
    this.outputs = parts.outputs;
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
    return this.#engines.map((e) => e.shapes);
  }
  get counters(): InferenceGraphCounters {
    return { ...this.#counters };
  }

  /** Runs feeds by input name on the engine that fits. Throws what compiling and running throw. */
  async run(feeds: Feeds, options: SessionRunOptions = {}): Promise<Record<string, Tensor>> {
    if (this.#disposed) throw disposedError({});
    const dims = this.#dimsOf(feeds);
    let engine = dims === undefined ? undefined : this.#find(dims);
    if (engine !== undefined) this.#counters.hits++;
    else {
      this.#counters.misses++;
      if (dims !== undefined && this.#parts.buildAtRuntime) engine = this.#add(this.#around(dims));
    }
    if (engine === undefined) {
      this.#counters.fallbacks++;
      return await (await this.#original().session).run(feeds, options);
    }
    engine.used = ++this.#clock;
    engine.active++;
    try {
      return await (await engine.session).run(feeds, options);
    } finally {
      engine.active--;
      retire(engine);
    }
  }

  /** Builds an engine for exactly these dims and smaller batches; nothing where one is there already. */
  async build(dims: Readonly<Record<string, Dims>>): Promise<void> {
    await (this.#find(dims) ?? this.#add(this.#around(dims))).session;
  }
  /** Builds an engine for a range. */
  async buildRange(shapes: EngineShapes): Promise<void> {
    await this.#add(shapes).session;
  }

  /** The partition report that engines are built by, at the shapes of the newest engine where there is one. */
  async report(): Promise<Report> {
    const newest = this.#engines.at(-1);
    if (newest !== undefined) return (await newest.program).report;
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
    const [only, ...more] = this.#engines;
    if (only === undefined) await (await this.#original().program).save(path);
    else if (more.length === 0) await (await only.program).save(path);
    else await (await compile(this.#parts.model, { ...this.#parts.options, shapes: covering(this.engines) })).save(path);
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    const all = [...this.#engines.splice(0), ...(this.#host === undefined ? [] : [this.#host])];
    await Promise.all(all.map(async (e) => await (await e.session).dispose()));
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Dims by an input's own name; undefined where the feeds are not those of the graph, which the session then says. */
  #dimsOf(feeds: Feeds): Readonly<Record<string, Dims>> | undefined {
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
  #find(dims: Readonly<Record<string, Dims>>): Engine | undefined {
    const fits = this.#engines.filter((e) =>
      Object.entries(dims).every(([name, d]) => {
        const range = e.shapes[name];
        return range?.max.length === d.length && d.every((n, i) => (range.min[i] ?? 0) <= n && n <= (range.max[i] ?? 0));
      }),
    );
    const [best] = fits.sort((a, b) => sizeOf(a.shapes) - sizeOf(b.shapes));
    return best;
  }
  /** Batches up to that of `dims`, where the graph leaves the batch open. */
  #around(dims: Readonly<Record<string, Dims>>): Range {
    return Object.fromEntries(
      this.inputs.map(({ name, dims: declared }) => {
        const max = dims[name] ?? [];
        const open = typeof declared?.[0] === "string" || declared === undefined;
        return [name, { min: max.map((d, i) => (i === 0 && open ? Math.min(1, d) : d)), opt: max, max }];
      }),
    );
  }
  #add(shapes: Range): Engine {
    this.#counters.builds++;
    const given: Record<string, ShapeOption> = { ...shapes };
    const program = compile(this.#parts.model, { ...this.#parts.options, shapes: given });
    const session = program.then((p) => p.createSession());
    const engine: Engine = { shapes, program, session, used: ++this.#clock, active: 0, evicted: false };
    this.#engines.push(engine);
    // One that cannot be built serves nobody; who asked for it hears why.
    session.catch(() => void (this.#engines = this.#engines.filter((e) => e !== engine)));
    while (this.#engines.length > this.#parts.maximumCachedEngines) {
      const oldest = this.#engines.reduce((a, b) => (b.used < a.used ? b : a));
      this.#engines = this.#engines.filter((e) => e !== oldest);
      this.#counters.evictions++;
      oldest.evicted = true;
      retire(oldest);
    }
    return engine;
  }
  /** The graph as it was, on the host. */
  #original(): { readonly program: Promise<Program>; readonly session: Promise<Session> } {
    if (this.#host === undefined) {
      const { calibration: _, ...options } = this.#parts.options;
      const program = compile(this.#parts.model, { ...options, target: "host", precision: "fp32" });
      this.#host = { program, session: program.then((p) => p.createSession()) };
    }
    return this.#host;
  }
}

/** Releases an engine that has gone, once no run is on it. */
function retire(engine: Engine): void {
  if (!engine.evicted || engine.active > 0) return;
  engine.evicted = false;
  // One that was never built has nothing to release.
  engine.session.then((s) => s.dispose()).catch(() => {});
}

/** Elements at the largest dims: of engines that fit, the one that wastes least. */
const sizeOf = (shapes: Range): number => Object.values(shapes).reduce((sum, s) => sum + s.max.reduce((a, d) => a * d, 1), 0);

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
