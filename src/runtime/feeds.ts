/** What a graph takes and gives, by name: checks feeds against it, finds the outputs that are asked for, and picks results. */
import { defineError, didYouMean } from "../diagnostics.js";
import { isResident } from "../engines/cuda/resident.js";
import type { DeviceTensor } from "../engines/engine.js";
import { isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import type { Plan, Port, SessionFeeds } from "./session.js";

const missingFeed = defineError<{ name: string; known: readonly string[] }>("P3102", "an input was not fed", ({ name, known }) => ({
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

/** Values of a run by name: feeds, what segments made of them, on the host or on a device. */
export type Values = Map<string, TensorLike | DeviceTensor>;

/** Whether a dim's name stands for one size throughout; anything else is an expression, which is not checked. */
export const isSymbol = (dim: string): boolean => /^[A-Za-z_][\w.]*$/.test(dim);

/** Whether a tensor's data is of the kind of array that its type asks for; Float16Array and clamped bytes hold the same bits. */
function holds(t: TensorLike): boolean {
  if (t instanceof Tensor) return true;
  if (t.type === "string") return Array.isArray(t.data);
  if (!isTensorDType(t.type)) return true;
  const wanted = typedArrayOf(t.type as NumericDType).name;
  const found = t.data.constructor.name;
  return found === wanted || (t.type === "float16" && found === "Float16Array") || (t.type === "uint8" && found === "Uint8ClampedArray");
}
const dimsText = (dims: readonly (number | string)[]): string => `[${dims.join(", ")}]`;

export class Interface {
  readonly #plan: Plan;
  readonly #inputs: readonly string[];
  readonly #outputs: readonly string[];

  readonly #known: ReadonlySet<string>;
  readonly #checks: readonly Check[];
  /** Symbols of the inputs' dims, and the size of each in the feeds that are being checked. */
  readonly #symbols: readonly string[];
  readonly #hasDirect: boolean;

  constructor(plan: Plan) {
    this.#plan = plan;
    this.#inputs = plan.inputs.map((p) => p.name);
    this.#outputs = plan.outputs.map((p) => p.name);
    this.#known = new Set(this.#inputs);
    this.#symbols = [
      ...new Set(plan.inputs.flatMap((p) => (p.dims ?? []).filter((d) => typeof d === "string" && isSymbol(d)) as string[])),
    ];
    this.#checks = plan.inputs.map((port) => ({
      port,
      dims: port.dims?.map((d) => (typeof d === "number" ? d : isSymbol(d) ? -1 - this.#symbols.indexOf(d) : undefined)),
    }));
    this.#hasDirect = Object.keys(plan.direct).length > 0;
  }

  /** The outputs asked for, all when undefined. Throws P3103. */
  wanted(outputs: readonly string[] | undefined): readonly string[] {
    return outputs === undefined ? this.#outputs : outputs.map((name) => this.output(name));
  }
  /** An input's own name. Throws P3103. */
  input(name: string): string {
    return this.#known.has(name) ? name : this.#named(name, this.#inputs);
  }
  /** An output's own name. Throws P3103. */
  output(name: string): string {
    return this.#named(name, this.#outputs);
  }

  /** Feeds by the inputs' own names; `have` are inputs that need none. Throws P3102 to P3104. */
  checked(feeds: SessionFeeds, have?: Values): Values {
    const values: Values = new Map(have);
    if (feeds === null || typeof feeds !== "object") throw missingFeed({ name: this.#inputs[0] ?? "", known: this.#inputs });
    for (const name of Object.keys(feeds)) values.set(this.input(name), feeds[name] as TensorLike);
    const sizes: (number | undefined)[] = [];
    for (const check of this.#checks) {
      const { port } = check;
      const t = values.get(port.name);
      if (t === undefined) throw missingFeed({ name: port.name, known: this.#inputs }, { value: port.name });
      if (!fits(check, t, sizes)) this.#explain(values);
    }
    return values;
  }
  /** Feeds in the order of the inputs, where they go by the inputs' own names and fit; undefined for others, of which `checked` tells. */
  inOrder(feeds: SessionFeeds): readonly TensorLike[] | undefined {
    if (feeds === null || typeof feeds !== "object") return undefined;
    const inputs: TensorLike[] = [];
    const sizes: (number | undefined)[] = [];
    for (const check of this.#checks) {
      const { name } = check.port;
      const t = Object.hasOwn(feeds, name) ? feeds[name] : undefined;
      if (t === undefined || isResident(t) || !fits(check, t, sizes)) return undefined;
      inputs.push(t);
    }
    return Object.keys(feeds).length === inputs.length ? inputs : undefined;
  }
  /** Throws P3104 for what does not fit. */
  #explain(values: Values): never {
    const symbols = new Map<string, { readonly size: number; readonly name: string }>();
    for (const port of this.#plan.inputs) demandFit(port, values.get(port.name) as TensorLike, symbols);
    throw new Error("feeds that do not fit do");
  }

  /** The value of an output, which a segment made, or which is an input or a constant. */
  valueOf(output: string, values: Values): TensorLike | DeviceTensor | undefined {
    // Any name may be a tensor's, "toString" and "__proto__" among them.
    const direct = this.#hasDirect && Object.hasOwn(this.#plan.direct, output) ? this.#plan.direct[output] : undefined;
    return direct === undefined ? values.get(output) : "input" in direct ? values.get(direct.input) : direct.constant;
  }
  /** Tensors on the host; what is on the device is fetched. */
  results(wanted: readonly string[], values: Values): Record<string, Tensor> | Promise<Record<string, Tensor>> {
    const results: Record<string, Tensor> = {};
    const fetching: Promise<void>[] = [];
    for (const name of wanted) {
      const found = this.valueOf(name, values);
      if (found === undefined) continue;
      if (isResident(found)) fetching.push(found.fetch().then((t) => put(results, name, t)));
      else put(results, name, found instanceof Tensor ? found : new Tensor(found.type as never, found.data as never, found.dims));
    }
    return fetching.length === 0 ? results : Promise.all(fetching).then(() => results);
  }

  /** The name itself, port 0 of the node it names, or what it is another name of. */
  #named(name: string, known: readonly string[]): string {
    for (const said of [name, `${name}:0`]) {
      if (known.includes(said)) return said;
      const alias = Object.hasOwn(this.#plan.aliases ?? {}, said) ? this.#plan.aliases?.[said] : undefined;
      if (alias !== undefined && known.includes(alias)) return alias;
    }
    throw unknownFeed({ name, near: didYouMean(name, known), known }, { value: name });
  }
}

/** Any name may be a tensor's. */
export function put<T>(into: Record<string, T>, name: string, value: T): void {
  if (name === "__proto__") Object.defineProperty(into, name, { value, enumerable: true, configurable: true, writable: true });
  else into[name] = value;
}

/** An input, and by dim: its size, -1 and less for a symbol by its place, or undefined for an expression, which is not checked. */
interface Check {
  readonly port: Port;
  readonly dims: readonly (number | undefined)[] | undefined;
}
/** What `demandFit` demands, without saying what is wrong; `sizes` of symbols are filled in. */
function fits({ port, dims }: Check, t: TensorLike | DeviceTensor, sizes: (number | undefined)[]): boolean {
  if (t === null || typeof t !== "object" || !Array.isArray(t.dims)) return false;
  const found: readonly number[] = t.dims;
  if (isResident(t)) {
    if (t.type !== port.type || t.released === true) return false;
  } else {
    if (t.type !== port.type || typeof t.data?.length !== "number") return false;
    let count = 1;
    for (const d of found) count *= Number.isInteger(d) && d >= 0 ? d : Number.NaN;
    if (t.data.length !== count || !holds(t)) return false;
  }
  if (dims === undefined) return true;
  if (found.length !== dims.length) return false;
  for (let i = 0; i < dims.length; i++) {
    const d = dims[i];
    if (d === undefined) continue;
    const size = found[i] as number;
    if (d >= 0) {
      if (d !== size) return false;
    } else {
      const before = sizes[-1 - d];
      if (before !== undefined && before !== size) return false;
      sizes[-1 - d] = size;
    }
  }
  return true;
}
function demandFit(port: Port, t: TensorLike | DeviceTensor, symbols: Map<string, { readonly size: number; readonly name: string }>): void {
  const wrong = (found: string): never => {
    throw wrongFeed({ expected: `${port.type}${port.dims === undefined ? "" : dimsText(port.dims)}`, found }, { value: port.name });
  };
  if (t === null || typeof t !== "object" || !Array.isArray(t.dims)) wrong("no tensor");
  const found = `${t.type}${dimsText(t.dims)}`;
  if (isResident(t)) {
    if (t.released === true) wrong(`${found} on a GPU, and was released`);
    if (t.type !== port.type) wrong(found);
  } else {
    if (typeof t.data?.length !== "number") wrong("no tensor");
    if (t.type !== port.type) wrong(found);
    if (!t.dims.every((d) => Number.isInteger(d) && d >= 0)) wrong(found);
    const count = t.dims.reduce((a, d) => a * d, 1);
    if (t.data.length !== count)
      wrong(`${found} of ${t.data.length} elements${t.data.length === 0 ? " (its buffer was transferred, or is empty)" : ""}`);
    if (!holds(t)) wrong(`${t.type} in a ${t.data.constructor.name}`);
  }
  if (port.dims === undefined) return;
  if (t.dims.length !== port.dims.length) wrong(found);
  port.dims.forEach((d, i) => {
    const size = t.dims[i] as number;
    if (typeof d === "number") {
      if (d !== size) wrong(found);
    } else if (isSymbol(d)) {
      const before = symbols.get(d);
      if (before !== undefined && before.size !== size) wrong(`${found}, but ${d} is ${before.size} in input '${before.name}'`);
      symbols.set(d, { size, name: port.name });
    }
  });
}
