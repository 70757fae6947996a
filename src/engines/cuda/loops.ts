/**
 * Kernels that are loops: one element per thread (map), many elements into one (reduce), whole rows (row). Each takes element expressions,
 * chooses which thread does what from the dims and the strides of what is read, and gives the text and the launch.
 */
import type { DType } from "../../ir/types.js";
import { Block } from "./block.js";
import { add, constantIndex, delinear, type Index, linear, product, scale, text, variable } from "./indexing.js";
import type { Reduction } from "./reduction.js";
import type { RowProgram } from "./rows.js";
import type { Element, Known, Low, Scope } from "./scope.js";
import { type Register, storage } from "./storage.js";
import type { BufferName, View } from "./view.js";

export interface Kernel {
  readonly name: string;
  readonly text: string;
  readonly grid: readonly [number, number, number];
  readonly block: readonly [number, number, number];
  readonly shared: number;
  /** Buffers in the order of the parameters, the result last. */
  readonly parameters: readonly BufferName[];
}
/** What happens to a heavy operator's result before it is stored: where it goes and what it has become. */
export type Tail = (scope: Block, index: readonly Index[], value: string) => { readonly index: readonly Index[]; readonly value: string };
export const noTail: Tail = (_, index, value) => ({ index, value });

/** Parameters of one kernel, in the order in which its text first needs them. */
export class ParameterList {
  readonly #names = new Map<BufferName, string>();
  readonly #declared: string[] = [];
  readonly #views: View[] = [];

  pointer(view: View): string {
    let name = this.#names.get(view.buffer);
    if (name === undefined) {
      name = `p${this.#names.size}`;
      this.#names.set(view.buffer, name);
      this.#views.push(view);
      this.#declared.push(`const ${storage(view.dtype).type}* __restrict__ ${name}`);
    }
    return name;
  }
  declarations(): readonly string[] {
    return this.#declared;
  }
  buffers(): readonly BufferName[] {
    return [...this.#names.keys()];
  }
  /** A view of each buffer, in the same order. */
  views(): readonly View[] {
    return this.#views;
  }
}

const MULTIPROCESSORS = 132;
const WARP = 32;
const ceil = (a: number, b: number): number => Math.ceil(a / b);

/** Dims of a dense view from slowest to fastest in memory. */
export const physicalOrder = (v: View): readonly number[] =>
  v.dims
    .map((_, i) => i)
    .filter((i) => v.dims[i] !== 1)
    .sort((a, b) => (v.strides[b] as number) - (v.strides[a] as number) || a - b);

/** Index of the element at `position` of a dense view's memory. */
function indexAt(v: View, order: readonly number[], position: Index): readonly Index[] {
  const parts = delinear(
    position,
    order.map((i) => v.dims[i] as number),
  );
  return v.dims.map((_, i) => (order.includes(i) ? (parts[order.indexOf(i)] as Index) : constantIndex(0)));
}

/** Elements a thread takes side by side: at most 16 bytes, as long as enough threads are left to fill the device. */
function lanesFor(bytes: number, fastest: number, total: number): number {
  let lanes = 16 / bytes;
  while (lanes > 1 && (fastest % lanes !== 0 || total / lanes < MULTIPROCESSORS * 512)) lanes /= 2;
  return lanes;
}

function assemble(
  name: string,
  parameters: ParameterList,
  out: View,
  body: readonly string[],
  threads: number,
): Pick<Kernel, "text" | "parameters"> {
  const list = [...parameters.declarations(), `${storage(out.dtype).type}* __restrict__ out`];
  return {
    text: [`extern "C" __global__ void __launch_bounds__(${threads}) ${name}(${list.join(", ")}) {`, ...body, "}"].join("\n"),
    parameters: [...parameters.buffers(), out.buffer],
  };
}

/** Stores values at indices, neighbours together where memory and alignment allow. */
export function store(b: Block, out: View, at: readonly (readonly Index[])[], values: readonly string[], pointer = "out"): void {
  const { narrow, bytes } = storage(out.dtype);
  const addresses = at.map((index) => linear(index, out.strides, out.offset));
  const [first] = addresses;
  if (first === undefined) return;
  const n = values.length;
  const base = text({ constant: 0, terms: first.terms });
  const neighbours = addresses.every((a, i) => a.constant === first.constant + i && text({ constant: 0, terms: a.terms }) === base);
  const aligned = first.constant % n === 0 && first.terms.every((t) => t.factor % n === 0);
  if (n > 1 && neighbours && aligned && n * bytes <= 16 && (n & (n - 1)) === 0) {
    b.line(storePack(b, out.dtype, `${pointer} + ${b.index(first)}`, values));
    return;
  }
  addresses.forEach((a, i) => {
    b.line(`${pointer}[${b.index(a)}] = ${narrow(values[i] as string)};`);
  });
}

/** Stores neighbours at an address that is aligned to them all. */
export function storePack(b: Block, dtype: DType, at: string, values: readonly string[]): string {
  const { type, narrow } = storage(dtype);
  const n = values.length;
  if ((dtype !== "int8" && dtype !== "uint8") || n % 4 !== 0)
    return `store_pack<${type}, ${n}>(${at}, {{${values.map(narrow).join(", ")}}});`;
  const packed = Array.from({ length: n / 4 }, (_, i) => {
    const four = values.slice(4 * i, 4 * i + 4);
    const lows = four.map((v) => b.lowBytes.get(v) ?? { word: v });
    const { low, high } = lows[0]?.held ?? {};
    if (low !== undefined && lows.every((l) => l.held?.low === low && l.held.high === high))
      return `held_bytes<${low}, ${high}>(${lows.map((l) => l.word).join(", ")})`;
    return `low_bytes(${lows.map((l, k) => (l.held === undefined ? l.word : four[k])).join(", ")})`;
  });
  return `store_pack<u32, ${n / 4}>(reinterpret_cast<u32*>(${at}), {{${packed.join(", ")}}});`;
}

// ---- map ------------------------------------------------------------------------------------------------------------------------------

/** One element of a dense view per lane. */
export function mapKernel(name: string, out: View, element: Element): Kernel {
  const total = product(out.dims);
  const order = physicalOrder(out);
  const fastest = order.length === 0 ? 1 : (out.dims[order.at(-1) as number] as number);
  const lanes = lanesFor(storage(out.dtype).bytes, fastest, total);
  const threads = ceil(total, lanes) >= 256 ? 256 : WARP * ceil(ceil(total, lanes), WARP);
  const count = total / lanes;
  const parameters = new ParameterList();
  const b = new Block(parameters);
  b.line(`const int i = blockIdx.x * ${threads} + threadIdx.x;`);
  if (count % threads !== 0) b.line(`if (i >= ${count}) return;`);
  const i = variable("i", count - 1);
  const at = Array.from({ length: lanes }, (_, k) => indexAt(out, order, add(scale(i, lanes), k)));
  const values = at.map((index) => b.let(storage(out.dtype).register, element(b, index)));
  store(b, out, at, values);
  return {
    name,
    ...assemble(name, parameters, out, b.render(), threads),
    grid: [ceil(count, threads), 1, 1],
    block: [threads, 1, 1],
    shared: 0,
  };
}

// ---- reduce ---------------------------------------------------------------------------------------------------------------------------

/** What a reduction's loads look like: how far apart the elements of neighbouring steps and of neighbouring results are. */
class Strides implements Scope {
  readonly overrides: ReadonlyMap<number, string> = new Map();
  readonly numbers = new Map<string, Known>();
  readonly lowBytes = new Map<string, Low>();
  /** Bytes of the views read with neighbouring elements along the reduction, and along the results. */
  along = 0;
  across = 0;
  readonly #step: string;
  readonly #neighbour: string;
  #count = 0;

  constructor(step: string, neighbour: string) {
    this.#step = step;
    this.#neighbour = neighbour;
  }
  let(_: Register | "bool", expression: string): string {
    return expression;
  }
  index(x: Index): string {
    return text(x);
  }
  fresh(prefix: string): string {
    return `${prefix}${this.#count++}`;
  }
  guarded<T>(_: string, body: () => T): T {
    return body();
  }
  load(view: View, index: readonly Index[]): string {
    const address = linear(index, view.strides, view.offset);
    const factor = (name: string): number => address.terms.find((t) => t.atom.key === name)?.factor ?? 0;
    const bytes = product(view.dims) * storage(view.dtype).bytes;
    if (factor(this.#step) === 1) this.along += bytes;
    if (factor(this.#neighbour) === 1) this.across += bytes;
    return this.fresh("x");
  }
}

/** `dims`: those of the reduction's own result; `tail` takes it to `out`. */
export function reduceKernel(name: string, dims: readonly number[], r: Reduction, out: View, tail: Tail, rowsOf?: View): Kernel {
  const shape: View = rowsOf ?? { ...out, dims, strides: denseStrides(dims) };
  const order = physicalOrder(shape);
  const steps = product(r.over);
  const fastest = order.at(-1);
  const probe = new Strides("s", "i");
  const probed = dims.map((d, i) => (i === fastest ? variable("i", d - 1) : variable(`o${i}`, d - 1)));
  const walked = r.over.map((d, i) => variable(i === r.over.length - 1 ? "s" : `r${i}`, d - 1));
  r.element(probe, probed, walked);
  return steps >= WARP && probe.along > probe.across
    ? reduceRows(name, shape, order, r, out, tail)
    : reduceColumns(name, shape, order, r, out, tail);
}
const denseStrides = (dims: readonly number[]): readonly number[] => {
  const strides = new Array<number>(dims.length).fill(1);
  for (let i = dims.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] as number) * (dims[i + 1] as number);
  return strides;
};

/** Neighbouring threads make neighbouring results; several threads may share one result's steps. */
function reduceColumns(name: string, shape: View, order: readonly number[], r: Reduction, out: View, tail: Tail): Kernel {
  const total = product(shape.dims);
  const steps = product(r.over);
  const fastest = order.length === 0 ? 1 : (shape.dims[order.at(-1) as number] as number);
  let shares = 1;
  while (shares < 32 && steps / (shares * 2) >= 4 && (total * shares) / 1 < MULTIPROCESSORS * 1024) shares *= 2;
  const lanes = shares > 1 ? 1 : Math.min(lanesFor(storage(out.dtype).bytes, fastest, total), r.accumulators.length > 1 ? 4 : 8);
  const count = total / lanes;
  const width = shares > 1 ? WARP : Math.min(256, WARP * ceil(count, WARP));
  const parameters = new ParameterList();
  const b = new Block(parameters);
  b.line(`const int i = ${count <= width ? "threadIdx.x" : `blockIdx.x * ${width} + threadIdx.x`};`);
  if (shares === 1 && count % width !== 0) b.line(`if (i >= ${count}) return;`);
  const bounded = shares > 1 && count % width !== 0;
  if (bounded) b.line(`const int j = min(i, ${count - 1});`);
  const i = variable(bounded ? "j" : "i", count - 1);
  const at = Array.from({ length: lanes }, (_, k) => indexAt(shape, order, add(scale(i, lanes), k)));
  const totals = at.map((_, k) => r.accumulators.map((a, n) => ({ ...a, name: `t${k}_${n}` })));
  for (const lane of totals) for (const a of lane) b.line(`${a.type} ${a.name} = ${a.start};`);

  const step = (body: Block, s: readonly Index[]): void => {
    at.forEach((index, k) => {
      const lane = totals[k] as (typeof totals)[number];
      const combined = r.combine(
        lane.map((a) => a.name),
        r.element(body, index, s),
      );
      assign(body, lane, combined);
    });
  };
  if (steps * lanes <= 32 && shares === 1) {
    for (let n = 0; n < steps; n++) step(b, delinear(constantIndex(n), r.over));
  } else if (shares === 1) {
    // Nested loops: no quotients inside.
    let body = b;
    const closing: Block[] = [];
    const walked = r.over.map((d, n): Index => {
      if (d === 1) return constantIndex(0);
      body.line(`for (int s${n} = 0; s${n} < ${d}; s${n}++) {`);
      closing.push(body);
      body = body.inner();
      return variable(`s${n}`, d - 1);
    });
    step(body, walked);
    for (const outer of closing.reverse()) {
      for (const l of body.render()) outer.line(l.trimStart());
      outer.line("}");
      body = outer;
    }
  } else {
    const body = b.inner();
    step(body, delinear(variable("s", steps - 1), r.over));
    b.line(`for (int s = threadIdx.y; s < ${steps}; s += ${shares}) {`);
    for (const l of body.render()) b.line(l.trimStart());
    b.line("}");
    const lane = totals[0] as (typeof totals)[number];
    for (const [n, a] of lane.entries())
      b.line(`__shared__ ${a.type} shared${n}[${shares}][${WARP}]; shared${n}[threadIdx.y][threadIdx.x] = ${a.name};`);
    b.line("__syncthreads();");
    b.line(`if (threadIdx.y != 0${bounded ? ` || i >= ${count}` : ""}) return;`);
    b.line(`for (int y = 1; y < ${shares}; y++) {`);
    const merge = b.inner();
    assign(
      merge,
      lane,
      r.combine(
        lane.map((a) => a.name),
        lane.map((_, n) => `shared${n}[y][threadIdx.x]`),
      ),
    );
    for (const l of merge.render()) b.line(l.trimStart());
    b.line("}");
  }
  finishAndStore(
    b,
    at,
    totals.map((lane) => lane.map((a) => a.name)),
    r,
    out,
    tail,
  );
  return {
    name,
    ...assemble(name, parameters, out, b.render(), width * shares),
    grid: [ceil(count, width), 1, 1],
    block: [width, shares, 1],
    shared: 0,
  };
}

function assign(b: Block, lane: readonly { readonly type: Register; readonly name: string }[], values: readonly string[]): void {
  if (lane.length === 1) {
    b.line(`${lane[0]?.name} = ${values[0]};`);
    return;
  }
  // All new values are computed before any old one is overwritten.
  const fresh = lane.map((a, n) => {
    const name = b.fresh("u");
    b.line(`const ${a.type} ${name} = ${values[n]};`);
    return name;
  });
  lane.forEach((a, n) => {
    b.line(`${a.name} = ${fresh[n]};`);
  });
}

function finishAndStore(
  b: Block,
  at: readonly (readonly Index[])[],
  totals: readonly (readonly string[])[],
  r: Reduction,
  out: View,
  tail: Tail,
): void {
  const { register } = storage(out.dtype);
  const done = at.map((index, k) => {
    const value = r.finish(b, totals[k] as readonly string[], index);
    return tail(b, index, b.let(r.accumulators[0]?.type === "float" && register === "float" ? "float" : finishType(r, register), value));
  });
  store(
    b,
    out,
    done.map((d) => d.index),
    done.map((d) => d.value),
  );
}
/** Positions come out of ArgMax as integers though the first accumulator is a float. */
const finishType = (r: Reduction, register: Register): Register =>
  r.accumulators.length > 1 && register !== "float" ? register : (r.accumulators[0]?.type ?? "float");

/** A warp or a whole block per result, its threads reading neighbouring steps. */
function reduceRows(name: string, shape: View, order: readonly number[], r: Reduction, out: View, tail: Tail): Kernel {
  const total = product(shape.dims);
  const steps = product(r.over);
  const last = r.over.at(-1) as number;
  let lanes = 4;
  while (lanes > 1 && (last % lanes !== 0 || steps / lanes < WARP)) lanes /= 2;
  const threads = steps / lanes <= 512 || total >= MULTIPROCESSORS * 64 ? WARP : steps / lanes <= 4096 ? 256 : 512;
  const rows = threads === WARP ? Math.min(8, total) : 1;
  const parameters = new ParameterList();
  const b = new Block(parameters);
  b.line(`const int i = blockIdx.x * ${rows} + threadIdx.y;`);
  // A whole warp leaves together, so the shuffles below see all their lanes.
  if (total % rows !== 0) b.line(`if (i >= ${total}) return;`);
  const index = indexAt(shape, order, variable("i", total - 1));
  const lane = r.accumulators.map((a, n) => ({ ...a, name: `t${n}` }));
  for (const a of lane) b.line(`${a.type} ${a.name} = ${a.start};`);
  const body = b.inner();
  const s = variable("s", steps / lanes - 1);
  for (let k = 0; k < lanes; k++) {
    assign(
      body,
      lane,
      r.combine(
        lane.map((a) => a.name),
        r.element(body, index, delinear(add(scale(s, lanes), k), r.over)),
      ),
    );
  }
  b.line(`for (int s = threadIdx.x; s < ${steps / lanes}; s += ${threads}) {`);
  for (const l of body.render()) b.line(l.trimStart());
  b.line("}");
  acrossThreads(b, threads, lane, (x, y) => r.combine(x, y));
  b.line("if (threadIdx.x != 0) return;");
  finishAndStore(b, [index], [lane.map((a) => a.name)], r, out, tail);
  return {
    name,
    ...assemble(name, parameters, out, b.render(), threads * rows),
    grid: [ceil(total, rows), 1, 1],
    block: [threads, rows, 1],
    shared: 0,
  };
}

/** Combines registers over the threads of a row; every thread has the result. */
function acrossThreads(
  b: Block,
  threads: number,
  lane: readonly { readonly type: Register; readonly name: string; readonly start: string }[],
  combine: (a: readonly string[], b: readonly string[]) => readonly string[],
): void {
  b.line("#pragma unroll");
  b.line("for (int m = 16; m > 0; m >>= 1) {");
  const shuffle = b.inner();
  const others = lane.map((a) => {
    const name = shuffle.fresh("w");
    shuffle.line(`const ${a.type} ${name} = __shfl_xor_sync(0xffffffffu, ${a.name}, m);`);
    return name;
  });
  assign(
    shuffle,
    lane,
    combine(
      lane.map((a) => a.name),
      others,
    ),
  );
  for (const l of shuffle.render()) b.line(l.trimStart());
  b.line("}");
  if (threads === WARP) return;
  const warps = threads / WARP;
  const names = lane.map((a) => {
    const name = b.fresh("row");
    b.line(`__shared__ ${a.type} ${name}[${warps}]; if (threadIdx.x % 32 == 0) ${name}[threadIdx.x / 32] = ${a.name};`);
    return name;
  });
  b.line("__syncthreads();");
  lane.forEach((a, n) => {
    b.line(`${a.name} = ${names[n]}[0];`);
  });
  b.line(`for (int y = 1; y < ${warps}; y++) {`);
  const merge = b.inner();
  assign(
    merge,
    lane,
    combine(
      lane.map((a) => a.name),
      names.map((n) => `${n}[y]`),
    ),
  );
  for (const l of merge.render()) b.line(l.trimStart());
  b.line("}");
}

// ---- rows -----------------------------------------------------------------------------------------------------------------------------

/** A row per warp or block. Rows short enough stay in registers between the passes. */
export function rowKernel(name: string, p: RowProgram, out: View, tail: Tail): Kernel {
  const [rows, length] = [product(p.outer), product(p.inner)];
  const fastest = p.inner.at(-1) as number;
  let lanes = 16 / storage(out.dtype).bytes;
  while (lanes > 1 && (fastest % lanes !== 0 || length / lanes < WARP)) lanes /= 2;
  const wide = length / lanes;
  const threads = wide <= 128 ? WARP : wide <= 1024 ? 128 : wide <= 4096 ? 256 : 1024;
  const perBlock = threads === WARP ? Math.min(4, rows) : 1;
  const rounds = ceil(wide, threads);
  const kept = rounds * lanes <= 32;
  const whole = wide % threads === 0;
  const parameters = new ParameterList();
  const b = new Block(parameters);
  b.line(`const int i = blockIdx.x * ${perBlock} + threadIdx.y;`);
  if (rows % perBlock !== 0) b.line(`if (i >= ${rows}) return;`);
  const outer = delinear(variable("i", rows - 1), p.outer);
  const position = (k: number): Index =>
    add(add(scale(variable("e", rounds - 1), threads * lanes), scale(variable("t", threads - 1), lanes)), k);
  b.line("const int t = threadIdx.x;");
  if (kept) b.line(`float x[${rounds * lanes}];`);

  /** One pass over the row's elements; `use` gets each element's register. */
  const pass = (load: boolean, use: (body: Block, x: string, k: number) => void, after?: (body: Block) => void): void => {
    if (rounds > 1) {
      if (kept) b.line("#pragma unroll");
      b.line(`for (int e = 0; e < ${rounds}; e++) {`);
    } else b.line("{ const int e = 0;");
    const body = b.inner();
    if (!whole) body.line(`if (e * ${threads} + t < ${wide}) {`);
    const inside = whole ? body : body.inner();
    for (let k = 0; k < lanes; k++) {
      const index = p.place(outer, delinear(position(k), p.inner));
      const register = `x[e * ${lanes} + ${k}]`;
      let x = register;
      if (!kept || load) {
        x = inside.let("float", p.x.at(inside, index));
        if (kept) inside.line(`${register} = ${x};`);
      }
      use(inside, x, k);
    }
    after?.(inside);
    if (!whole) {
      for (const l of inside.render()) body.line(l.trimStart());
      body.line("}");
    }
    for (const l of body.render()) b.line(l.trimStart());
    b.line("}");
  };

  const statistics: string[] = [];
  for (const [n, s] of p.statistics.entries()) {
    const totals = `t${n}`;
    b.line(`float ${totals} = ${s.start};`);
    pass(n === 0, (body, x) => body.line(`${totals} = ${s.combine(totals, s.element(x, statistics))};`));
    acrossThreads(b, threads, [{ type: "float", name: totals, start: s.start }], ([x = ""], [y = ""]) => [s.combine(x, y)]);
    b.line(`const float s${n} = ${s.finish(totals)};`);
    statistics.push(`s${n}`);
  }
  const done: { index: readonly Index[]; value: string }[] = [];
  pass(
    p.statistics.length === 0,
    (body, x, k) => {
      const index = p.place(outer, delinear(position(k), p.inner));
      done.push(tail(body, index, p.result(body, body.let("float", x), statistics, index)));
    },
    (body) =>
      store(
        body,
        out,
        done.map((d) => d.index),
        done.map((d) => d.value),
      ),
  );
  return {
    name,
    ...assemble(name, parameters, out, b.render(), threads * perBlock),
    grid: [ceil(rows, perBlock), 1, 1],
    block: [threads, perBlock, 1],
    shared: 0,
  };
}
