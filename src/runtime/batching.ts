/**
 * Dynamic batching: runs whose dims agree but for the first are joined along it, run as one, and cut apart again. A joined run that fails is run
 * again one by one, so that an error reaches the run whose it is.
 */
import { defineError } from "../diagnostics.js";
import { isResident } from "../engines/cuda/resident.js";
import { symbolsOf } from "../ir/dims.js";
import { Tensor, type TensorDType, type TensorLike, typedArrayOf } from "../tensor.js";
import { isSymbol, type Values } from "./feeds.js";
import type { Plan } from "./ports.js";
import type { Choice, Ticket } from "./queue.js";

export const notBatchable = defineError<{ what: string }>("P3108", "a graph's runs cannot be joined", ({ what }) => ({
  what,
  why: "runs are joined along dim 0 of all inputs and cut apart along dim 0 of all outputs: it must be one open dim, whose places nothing mixes",
  fix: "leave batching out, or compile the graph with such a first dim on all its inputs and outputs",
}));

export interface Batching {
  /** Most items (sum of the runs' first dims) in one joined run. */
  readonly maxBatch: number;
  /** Milliseconds that a run waits for others to fill a batch, even with an engine free. Default 0: those that came by then are joined. */
  readonly maxDelayMs?: number | undefined;
}

/** The symbol that is dim 0 of all inputs and outputs, or why there is none. */
export function batchSymbol(plan: Plan): string | { readonly port: string; readonly why: string } {
  let symbol: string | undefined;
  let of = "";
  const ports = [...plan.inputs.map((p) => ["input", p] as const), ...plan.outputs.map((p) => ["output", p] as const)];
  for (const [what, port] of ports) {
    const refused = (why: string): { readonly port: string; readonly why: string } => ({
      port: port.name,
      why: `${what} '${port.name}' ${why}`,
    });
    const direct = what === "output" && Object.hasOwn(plan.direct, port.name) ? plan.direct[port.name] : undefined;
    if (direct !== undefined && "constant" in direct) return refused("is a constant");
    if (port.dims === undefined) return refused("is of unknown rank");
    const [first] = port.dims;
    if (first === undefined) return refused("has no dims");
    if (typeof first === "number") return refused(`has ${first} for its first dim, not an open one`);
    if (!isSymbol(first)) return refused(`has '${first}' for its first dim, which is no plain symbol`);
    if (symbol !== undefined && symbol !== first) return refused(`has '${first}' for its first dim, ${of} has '${symbol}'`);
    symbol = first;
    of = `${what} '${port.name}'`;
    if (port.dims.some((d, i) => i > 0 && typeof d === "string" && symbolsOf(d).includes(first)))
      return refused(`has '${first}' in another dim as well`);
  }
  return plan.inputs.length === 0 || symbol === undefined ? { port: "", why: "the graph has no inputs" } : symbol;
}
/** Throws P3108 unless runs may be joined. */
export function checkBatchable(plan: Plan): void {
  const symbol = batchSymbol(plan);
  if (typeof symbol !== "string") throw notBatchable({ what: symbol.why }, { value: symbol.port });
  if (plan.joins !== "") throw notBatchable({ what: plan.joins ?? "the program was compiled before runs could be joined" });
}

/** What batching must know of a run. */
export interface Joinable {
  readonly values: Values;
  /** Runs with the same key may be joined; one without a key runs alone. */
  readonly key: string | undefined;
  readonly items: number;
}

/** The key and the items of a run. */
export function joining(plan: Plan, values: Values): Pick<Joinable, "key" | "items"> {
  let items: number | undefined;
  let key = "";
  for (const { name } of plan.inputs) {
    const t = values.get(name);
    const [first] = t?.dims ?? [];
    if (t === undefined || isResident(t) || first === undefined || first === 0) return { key: undefined, items: 0 };
    items ??= first;
    for (let i = 1; i < t.dims.length; i++) key += `${t.dims[i]}x`;
    key += " ";
  }
  return { key, items: items ?? 0 };
}

/**
 * Chooses the batch of the run that came first, once that has waited long enough; before, one that is full. `spread`: engines that are free share what
 * there is, as each has processors of its own.
 */
export function chooseBatch<J extends Joinable, R>({ maxBatch, maxDelayMs = 0 }: Batching, spread: boolean): Choice<J, R> {
  return (waiting, now, free) => {
    const most = spread ? Math.max(1, Math.ceil(waiting.size / Math.max(1, free))) : waiting.size;
    const [head] = waiting;
    if (head === undefined) return [];
    const left = head.since + maxDelayMs - now;
    const groups = new Map<string, { readonly members: Ticket<J, R>[]; items: number }>();
    for (const t of waiting) {
      const { key, items } = t.job;
      if (left <= 0 && key !== head.job.key) continue;
      if (key === undefined || items >= maxBatch) {
        if (left > 0 || t === head) return [t];
        break;
      }
      const group = groups.get(key) ?? { members: [], items: 0 };
      groups.set(key, group);
      // In the order they came: a small run does not overtake a large one of its kind.
      if (group.items + items <= maxBatch) {
        group.members.push(t);
        group.items += items;
        if (group.items < maxBatch && group.members.length < most) continue;
      }
      if (left <= 0 || group.items === maxBatch) return group.members;
    }
    if (left > 0) return Math.max(1, left);
    return groups.get(head.job.key ?? "")?.members ?? [head];
  };
}

/** Buffers that are kept for the next batch of the same size, and bytes of the largest. */
const KEPT = 4;
const MOST_BYTES = 4 << 20;

/** Memory of joined inputs whose run is over: batches under load are of one size, and new memory for each costs as much as filling it. */
export class Scratch {
  readonly #free: ArrayBuffer[] = [];

  take(bytes: number): ArrayBuffer {
    const at = this.#free.findIndex((b) => b.byteLength === bytes);
    return (at < 0 ? undefined : this.#free.splice(at, 1)[0]) ?? new ArrayBuffer(bytes);
  }
  /** The joined inputs among these are nobody's any more, but those that a result lies in; what has moved to another thread is empty. */
  give(plan: Plan, values: Values): void {
    const results = new Set(plan.outputs.map(({ name }) => bufferOf(values, name)));
    for (const { name } of plan.inputs) {
      const buffer = bufferOf(values, name);
      if (buffer === undefined || results.has(buffer) || buffer.byteLength === 0 || buffer.byteLength > MOST_BYTES) continue;
      if (this.#free.push(buffer) > KEPT) this.#free.shift();
    }
  }
}
function bufferOf(values: Values, name: string): ArrayBuffer | undefined {
  const t = values.get(name);
  if (t === undefined || isResident(t) || !ArrayBuffer.isView(t.data)) return undefined;
  return t.data.buffer instanceof ArrayBuffer ? t.data.buffer : undefined;
}

/** Inputs of several runs in one array each, in the order of the runs. */
export function join(plan: Plan, runs: readonly Joinable[], scratch: Scratch): Values {
  const items = runs.reduce((n, r) => n + r.items, 0);
  const joined: Values = new Map();
  for (const { name } of plan.inputs) {
    const parts = runs.map((r) => r.values.get(name) as TensorLike);
    const [first] = parts;
    if (first === undefined) continue;
    const type = first.type as TensorDType;
    const dims = [items, ...first.dims.slice(1)];
    if (type === "string") {
      joined.set(
        name,
        new Tensor(
          "string",
          parts.flatMap((p) => p.data as readonly string[]),
          dims,
        ),
      );
      continue;
    }
    const Kind = typedArrayOf(type) as Float32ArrayConstructor;
    // The tensor's own constructor gives arrays of other kinds the kind of the type.
    const arrays = parts.map((p) => (p.data instanceof Kind ? p.data : (new Tensor(type, p.data as never, p.dims).data as Float32Array)));
    const length = arrays.reduce((n, a) => n + a.length, 0);
    const data = new Kind(scratch.take(length * Kind.BYTES_PER_ELEMENT), 0, length);
    let at = 0;
    for (const a of arrays) {
      data.set(a, at);
      at += a.length;
    }
    joined.set(name, new Tensor(type, data as never, dims));
  }
  return joined;
}

/** The rows `from` to `from + items` of a result, over the same memory. Undefined when the result is not of so many rows in all. */
export function cut(t: TensorLike, from: number, items: number, all: number): Tensor | undefined {
  if (t.dims[0] !== all) return undefined;
  const [, ...rest] = t.dims;
  let inner = 1;
  for (const d of rest) inner *= d;
  const data = t.data as Float32Array | readonly string[];
  const part = Array.isArray(data)
    ? data.slice(from * inner, (from + items) * inner)
    : (data as Float32Array).subarray(from * inner, (from + items) * inner);
  return new Tensor(t.type as TensorDType, part as never, [items, ...rest]);
}
