/** Runs a compiled graph: checks feeds, executes the segments in order, independent ones at once, and hands back tensors by name. */
import { performance } from "node:perf_hooks";
import { defineError, didYouMean } from "../diagnostics.js";
import type { DeviceTensor, Executable } from "../engines/engine.js";
import type { ValueType } from "../ir/types.js";
import { isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";

export const missingFeed = defineError<{ name: string; known: readonly string[] }>("P3102", "an input was not fed", ({ name, known }) => ({
  what: `input '${name}' is missing`,
  fix: `feed all of ${known.map((k) => `'${k}'`).join(", ")}`,
}));
export const unknownFeed = defineError<{ name: string; near: string | undefined; known: readonly string[] }>(
  "P3103",
  "a feed or an output has an unknown name",
  ({ name, near, known }) => ({
    what: `there is nothing named '${name}'`,
    fix: near === undefined ? `the names are ${known.map((k) => `'${k}'`).join(", ")}` : `did you mean '${near}'?`,
  }),
);
export const wrongFeed = defineError<{ expected: string; found: string }>(
  "P3104",
  "a feed does not fit its input",
  ({ expected, found }) => ({
    what: `it is ${found}, the graph takes ${expected}`,
    fix: "feed a tensor of that type and those dims; nothing is converted silently",
  }),
);
export const disposedError = defineError<Record<never, never>>("P3105", "a session was used after it was disposed", () => ({
  what: "the session was disposed",
  fix: "create another with program.createSession()",
}));

/** A graph's input or output: name, element type, dims (numbers, or names of dynamic dims). */
export interface Port {
  readonly name: string;
  readonly type: string;
  readonly dims: readonly (number | string)[] | undefined;
}
export const portOf = (name: string, t: ValueType): Port => ({
  name,
  type: t.kind === "tensor" ? t.dtype : t.kind,
  dims: t.kind === "tensor" ? t.shape : undefined,
});

/** One segment of a plan, by names of values. */
export interface Step {
  readonly segment: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}
export interface Plan {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly steps: readonly Step[];
  /** Outputs that are inputs under another name, or constants: name to where the value comes from. */
  readonly direct: Readonly<Record<string, { readonly input: string } | { readonly constant: Tensor }>>;
  /** Other names of inputs and outputs. */
  readonly aliases?: Readonly<Record<string, string>> | undefined;
}
export type Feeds = Readonly<Record<string, TensorLike>>;
export interface SessionRunOptions {
  /** Only these outputs. */
  readonly outputs?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
  /** The feeds' buffers may be taken over: they are detached, and not copied. */
  readonly transfer?: boolean | undefined;
}
export interface SegmentProfile {
  readonly segment: string;
  readonly runs: number;
  /** Milliseconds over all runs. */
  readonly totalMs: number;
}

/** Whether a tensor's data is of the kind of array that its type asks for; Float16Array and clamped bytes hold the same bits. */
function holds(t: TensorLike): boolean {
  if (t instanceof Tensor) return true;
  if (t.type === "string") return Array.isArray(t.data);
  if (!isTensorDType(t.type)) return true;
  const wanted = typedArrayOf(t.type as NumericDType).name;
  const found = t.data.constructor.name;
  return found === wanted || (t.type === "float16" && found === "Float16Array") || (t.type === "uint8" && found === "Uint8ClampedArray");
}

const isResident = (t: object): t is DeviceTensor => "memory" in t && "release" in t;

/** Outputs that only steps on the device read; the session's own results are fetched. */
function residentOutputs(plan: Plan, executables: readonly Executable[]): readonly (readonly boolean[])[] {
  const onDevice = executables.map((e) => e.runResident !== undefined);
  const wanted = new Set(plan.outputs.map((p) => p.name));
  return plan.steps.map((step, i) =>
    step.outputs.map((name) => {
      const readers = plan.steps.flatMap((s, k) => (s.inputs.includes(name) ? [k] : []));
      return onDevice[i] === true && !wanted.has(name) && readers.length > 0 && readers.every((k) => onDevice[k] === true);
    }),
  );
}

/** A loaded program on this machine. Runs may overlap; `run` never blocks the event loop. */
export class Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #plan: Plan;
  readonly #executables: readonly Executable[];
  readonly #profile: { runs: number; totalMs: number }[];
  /** By step: which of its outputs may stay on the device, as all who read them take them there. */
  readonly #resident: readonly (readonly boolean[])[];
  readonly #names: ReadonlySet<string>;
  #active = 0;
  #disposed: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  /** `executables[i]` runs `plan.steps[i]`. */
  constructor(plan: Plan, executables: readonly Executable[]) {
    this.inputs = plan.inputs;
    this.outputs = plan.outputs;
    this.#plan = plan;
    this.#executables = executables;
    this.#profile = plan.steps.map(() => ({ runs: 0, totalMs: 0 }));
    this.#resident = residentOutputs(plan, executables);
    this.#names = new Set(plan.inputs.map((p) => p.name));
  }

  /** Runs the graph on feeds by input name; gives tensors by output name. Throws P3102 to P3105, P20xx, or the signal's reason. */
  async run(feeds: Feeds, options: SessionRunOptions = {}): Promise<Record<string, Tensor>> {
    if (this.#disposed !== undefined) throw disposedError({});
    options.signal?.throwIfAborted();
    const values = this.#checked(feeds);
    const wanted = this.#wanted(options.outputs);
    this.#active++;
    try {
      const [only] = this.#plan.steps;
      if (this.#plan.steps.length === 1 && only !== undefined) await this.#step(0, only, values, options);
      else await this.#steps(values, options);
    } finally {
      this.#active--;
      if (this.#active === 0) this.#idle?.();
    }
    const results: Record<string, Tensor> = {};
    for (const name of wanted) {
      // Any name may be a tensor's, "toString" and "__proto__" among them.
      const direct = Object.hasOwn(this.#plan.direct, name) ? this.#plan.direct[name] : undefined;
      const found = direct === undefined ? values.get(name) : "input" in direct ? values.get(direct.input) : direct.constant;
      if (found === undefined || isResident(found)) continue;
      const value = found instanceof Tensor ? found : new Tensor(found.type as never, found.data as never, found.dims);
      if (name === "__proto__") Object.defineProperty(results, name, { value, enumerable: true, configurable: true, writable: true });
      else results[name] = value;
    }
    return results;
  }

  /** Steps start as soon as their inputs are there. */
  async #steps(values: Map<string, TensorLike | DeviceTensor>, options: SessionRunOptions): Promise<void> {
    const waiting = new Map<string, Promise<void>>();
    const all = this.#plan.steps.map((step, i) => {
      const before = step.inputs.map((name) => waiting.get(name)).filter((p) => p !== undefined);
      const done = Promise.all(before).then(() => this.#step(i, step, values, { ...options, transfer: false }));
      for (const name of step.outputs) waiting.set(name, done);
      return done;
    });
    const settled = await Promise.allSettled(all);
    // Nobody reads them any more, whatever became of the run.
    for (const t of values.values()) if (isResident(t)) t.release();
    for (const s of settled) if (s.status === "rejected") throw s.reason;
  }

  async #step(i: number, step: Step, values: Map<string, TensorLike | DeviceTensor>, options: SessionRunOptions): Promise<void> {
    const executable = this.#executables[i];
    if (executable === undefined) throw new Error(`no executable for ${step.segment}`);
    const start = performance.now();
    const feeds = step.inputs.map((name) => values.get(name) as TensorLike | DeviceTensor);
    const keep = this.#resident[i] ?? [];
    const { signal, transfer } = options;
    const outs =
      executable.runResident !== undefined && (keep.includes(true) || feeds.some(isResident))
        ? await executable.runResident(feeds, keep, { signal })
        : await executable.run(feeds as readonly TensorLike[], { signal, transfer });
    const record = this.#profile[i];
    if (record !== undefined) {
      record.runs++;
      record.totalMs += performance.now() - start;
    }
    step.outputs.forEach((name, k) => {
      const t = outs[k];
      if (t !== undefined) values.set(name, t);
    });
  }

  #wanted(outputs: readonly string[] | undefined): readonly string[] {
    const known = this.outputs.map((p) => p.name);
    if (outputs === undefined) return known;
    return outputs.map((name) => {
      const found = this.#resolve(name, known);
      if (found === undefined) throw unknownFeed({ name, near: didYouMean(name, known), known }, { value: name });
      return found;
    });
  }

  /** The name itself, port 0 of the node it names, or what it is another name of. */
  #resolve(name: string, known: readonly string[]): string | undefined {
    for (const said of [name, `${name}:0`]) {
      if (known.includes(said)) return said;
      const alias = Object.hasOwn(this.#plan.aliases ?? {}, said) ? this.#plan.aliases?.[said] : undefined;
      if (alias !== undefined && known.includes(alias)) return alias;
    }
    return undefined;
  }

  #checked(feeds: Feeds): Map<string, TensorLike | DeviceTensor> {
    const values = new Map<string, TensorLike | DeviceTensor>();
    for (const [name, t] of Object.entries(feeds)) {
      const known = this.#resolve(name, [...this.#names]);
      if (known === undefined) {
        const names = [...this.#names];
        throw unknownFeed({ name, near: didYouMean(name, names), known: names }, { value: name });
      }
      values.set(known, t);
    }
    const symbols = new Map<string, { readonly size: number; readonly name: string }>();
    for (const port of this.inputs) {
      const t = values.get(port.name) as TensorLike | undefined;
      if (t === undefined) throw missingFeed({ name: port.name, known: [...this.#names] }, { value: port.name });
      this.#fits(port, t, symbols);
    }
    return values;
  }

  #fits(port: Port, t: TensorLike, symbols: Map<string, { readonly size: number; readonly name: string }>): void {
    const expected = (): string => `${port.type}${port.dims === undefined ? "" : `[${port.dims.join(", ")}]`}`;
    const wrong = (found: string): never => {
      throw wrongFeed({ expected: expected(), found }, { value: port.name });
    };
    if (t === null || typeof t !== "object" || !Array.isArray(t.dims) || typeof t.data?.length !== "number") wrong("no tensor");
    if (t.type !== port.type) wrong(`${t.type}[${t.dims.join(", ")}]`);
    const count = t.dims.reduce((a, d) => a * d, 1);
    if (t.data.length !== count)
      wrong(
        `${t.type}[${t.dims.join(", ")}] of ${t.data.length} elements${t.data.length === 0 ? " (its buffer was transferred, or is empty)" : ""}`,
      );
    if (!holds(t)) wrong(`${t.type} in a ${t.data.constructor.name}`);
    if (port.dims === undefined) return;
    if (t.dims.length !== port.dims.length) wrong(`${t.type}[${t.dims.join(", ")}]`);
    port.dims.forEach((d, i) => {
      const size = t.dims[i] as number;
      if (typeof d === "number") {
        if (d !== size) wrong(`${t.type}[${t.dims.join(", ")}]`);
      } else if (/^[A-Za-z_][\w.]*$/.test(d)) {
        const before = symbols.get(d);
        if (before !== undefined && before.size !== size)
          wrong(`${t.type}[${t.dims.join(", ")}], but ${d} is ${before.size} in input '${before.name}'`);
        symbols.set(d, { size, name: port.name });
      }
    });
  }

  /** Time by segment since the session was created. */
  profile(): readonly SegmentProfile[] {
    return this.#plan.steps.map((s, i) => ({
      segment: s.segment,
      runs: this.#profile[i]?.runs ?? 0,
      totalMs: this.#profile[i]?.totalMs ?? 0,
    }));
  }

  /** Waits for running calls, then releases everything. Further runs are refused with P3105. May be called twice. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      await this.#whenIdle();
      await Promise.all(this.#executables.map((e) => e.dispose()));
    })();
    return this.#disposed;
  }
  async #whenIdle(): Promise<void> {
    if (this.#active === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
