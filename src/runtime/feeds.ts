/** What a graph takes and gives, by name: checks feeds against it, finds the outputs that are asked for, and picks results. */
import { defineError, didYouMean } from "../diagnostics.js";
import { isResident } from "../engines/cuda/resident.js";
import type { DeviceTensor } from "../engines/engine.js";
import { arrayKind, isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import type { Plan, Port, SessionFeeds } from "./ports.js";

const missingFeed = defineError<{ name: string; known: readonly string[] }>("P3102", "an input was not fed", ({ name, known }) => ({
  what: `input '${name}' is missing`,
  fix: `feed all of ${known.map((k) => `'${k}'`).join(", ")} (--input NAME=FILE)`,
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
  if (t.type === "string") return Array.isArray(t.data) && isText(t.data);
  if (!isTensorDType(t.type)) return true;
  const found = arrayKind(t.data);
  return (
    found === typedArrayOf(t.type as NumericDType).name ||
    (t.type === "float16" && found === "Float16Array") ||
    (t.type === "uint8" && found === "Uint8ClampedArray")
  );
}
function isText(list: readonly unknown[]): boolean {
  // Methods of lists pass over what is missing.
  for (let i = 0; i < list.length; i++) if (typeof list[i] !== "string") return false;
  return true;
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
      const wrong = misfit(check, t, sizes);
      if (wrong !== undefined) this.#refuse(check, t, sizes, wrong);
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
      if (t === undefined || isResident(t) || misfit(check, t, sizes) !== undefined) return undefined;
      inputs.push(t);
    }
    return Object.keys(feeds).length === inputs.length ? inputs : undefined;
  }
  /** Of what `inOrder` has given. */
  named(inputs: readonly TensorLike[]): Values {
    const values: Values = new Map();
    for (let i = 0; i < inputs.length; i++) values.set(this.#inputs[i] as string, inputs[i] as TensorLike);
    return values;
  }
  /** Throws P3104. */
  #refuse(check: Check, t: TensorLike | DeviceTensor, sizes: readonly (number | undefined)[], wrong: NonNullable<Misfit>): never {
    const { port } = check;
    const found = wrong === "none" ? "no tensor" : `${t.type}${dimsText(t.dims)}`;
    let told = found;
    if (wrong === "released") told = `${found} on a GPU, and was released`;
    if (wrong === "count" && "data" in t)
      told = `${found} of ${t.data.length} elements${t.data.length === 0 ? " (its buffer was transferred, or is empty)" : ""}`;
    if (wrong === "array" && "data" in t)
      told = t.type === "string" && Array.isArray(t.data) ? "string with what is no text" : `${t.type} in a ${t.data.constructor?.name}`;
    if (typeof wrong === "number")
      told = `${found}, but ${this.#symbols[wrong]} is ${sizes[wrong]} in input '${this.#saidBy(check, t, wrong, sizes[wrong])}'`;
    throw wrongFeed({ expected: `${port.type}${port.dims === undefined ? "" : dimsText(port.dims)}`, found: told }, { value: port.name });
  }
  /** The input that gave a symbol its size last: an earlier dim of the one at fault, or an input before it. */
  #saidBy(check: Check, t: TensorLike | DeviceTensor, symbol: number, size: number | undefined): string {
    const has = (d: number | undefined): boolean => d === -1 - symbol;
    const fault = check.dims?.findIndex((d, i) => has(d) && t.dims[i] !== size) ?? 0;
    const itself = check.dims?.slice(0, fault).some(has) === true;
    const before = this.#checks.slice(0, this.#checks.indexOf(check)).findLast((c) => c.dims?.some(has));
    return (itself ? check : (before ?? check)).port.name;
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
    if (typeof name !== "string") throw unknownFeed({ name: String(name), near: undefined, known });
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
/**
 * What does not fit of a feed: it is no tensor, is on a GPU no more, is of another type or other dims, has another number of elements, is in
 * another kind of array, or gives the symbol of that place another size than before; undefined where it fits.
 */
type Misfit = "none" | "released" | "other" | "count" | "array" | number | undefined;

/** The `sizes` of symbols are filled in. */
function misfit({ port, dims }: Check, t: TensorLike | DeviceTensor, sizes: (number | undefined)[]): Misfit {
  if (t === null || typeof t !== "object" || !Array.isArray(t.dims)) return "none";
  const found: readonly number[] = t.dims;
  if (isResident(t)) {
    if (t.released === true) return "released";
    if (t.type !== port.type) return "other";
  } else {
    if (typeof t.data?.length !== "number") return "none";
    if (t.type !== port.type) return "other";
    let count = 1;
    for (const d of found) {
      if (!Number.isInteger(d) || d < 0) return "other";
      count *= d;
    }
    if (t.data.length !== count) return "count";
    if (!holds(t)) return "array";
  }
  if (dims === undefined) return undefined;
  if (found.length !== dims.length) return "other";
  for (let i = 0; i < dims.length; i++) {
    const d = dims[i];
    if (d === undefined) continue;
    const size = found[i] as number;
    if (d >= 0) {
      if (d !== size) return "other";
    } else {
      const symbol = -1 - d;
      const before = sizes[symbol];
      if (before !== undefined && before !== size) return symbol;
      sizes[symbol] = size;
    }
  }
  return undefined;
}
