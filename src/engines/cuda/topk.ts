/**
 * TopK: every element counts the elements of its row that come before it, and those with fewer than k before them store themselves at that place. Exact and
 * deterministic for any length; equal elements keep their order, NaN counts as the largest.
 */
import type { ValueId } from "../../ir/types.js";
import { Block } from "./block.js";
import type { Emission } from "./emission.js";
import type { Fused } from "./fusion.js";
import { delinear, type Index, linear, product, variable } from "./indexing.js";
import { ParameterList } from "./loops.js";
import { axis, numbers, type Operand, operand, Refused, type Site } from "./site.js";
import { storage } from "./storage.js";
import { naturalOrder } from "./view.js";

/** Comparisons beyond which counting takes longer than the host's sort. */
const MOST_STEPS = 2 ** 38;
const THREADS = 256;

/** Throws `Refused`. */
export function topKShape(s: Site): { readonly axis: number; readonly k: number } {
  const x = operand(s, 0);
  const a = axis(s.attrs.axis, x.dims.length);
  const size = x.dims[a] as number;
  if (product(x.dims) * size > MOST_STEPS) throw new Refused(`rows of ${size} elements take too long to sort`, "let the host sort them");
  return { axis: a, k: numbers(s, 1)[0] ?? 0 };
}

export function emitTopK(e: Emission, s: Site, f: Fused, nodes: readonly string[]): void {
  const { axis: a, k } = topKShape(s);
  const x = s.ins[0] as Operand;
  const size = x.dims[a] as number;
  const view = e.view(x.id) ?? e.inMemory(x.id, e.stored(x.dtype), naturalOrder(x.dims.length), () => true);
  const register = storage(view.dtype).register;
  const float = register === "float";
  const wanted = new Set<ValueId>([f.root, ...f.also]);
  const results = [0, 1].flatMap((port) => {
    const v = s.node.outs[port];
    const to = v !== undefined && wanted.has(v) ? e.written.get(v) : undefined;
    return to === undefined ? [] : [{ port, to }];
  });
  const total = product(x.dims);
  const parameters = new ParameterList();
  const b = new Block(parameters);
  b.line(`const int i = blockIdx.x * ${THREADS} + threadIdx.x;`);
  if (total % THREADS !== 0) b.line(`if (i >= ${total}) return;`);
  // Neighbouring threads take neighbouring rows where the sorted dim is not the fastest.
  const order = [...x.dims.keys()].sort((p, q) => (view.strides[q] as number) - (view.strides[p] as number) || p - q);
  const parts = delinear(
    variable("i", total - 1),
    order.map((d) => x.dims[d] as number),
  );
  const own: readonly Index[] = x.dims.map((_, d) => parts[order.indexOf(d)] as Index);
  const position = b.let("int", b.index(own[a] as Index));
  const value = b.load(view, own);
  b.line("int rank = 0;");
  b.line(`for (int j = 0; j < ${size}; j++) {`);
  const body = b.inner();
  const other = body.load(
    view,
    own.map((d, i) => (i === a ? variable("j", size - 1) : d)),
  );
  const operator = s.attrs.largest ? ">" : "<";
  const earlier = `(${other} == ${value} && j < ${position})`;
  if (!float) body.line(`rank += ${other} ${operator} ${value} || ${earlier};`);
  else {
    const [higher, lower] = s.attrs.largest ? [other, value] : [value, other];
    body.line(
      `const bool first = ${other} != ${other} && ${value} != ${value} ? j < ${position} : ${higher} != ${higher} && ${lower} == ${lower};`,
    );
    body.line(`rank += first || ${other} ${operator} ${value} || ${earlier};`);
  }
  for (const l of body.render()) b.line(l.trimStart());
  b.line("}");
  b.line(`if (rank >= ${k}) return;`);
  const declarations: string[] = [];
  for (const { port, to } of results) {
    const { type, narrow } = storage(to.dtype);
    declarations.push(`${type}* __restrict__ out${port}`);
    const at = linear(
      own.map((d, i) => (i === a ? variable("rank", Math.max(k - 1, 1)) : d)),
      to.strides,
      to.offset,
    );
    b.line(`out${port}[${b.index(at)}] = ${narrow(port === 0 ? value : `(long long)${position}`)};`);
  }
  const name = e.name("TopK");
  const text = [
    `extern "C" __global__ void __launch_bounds__(${THREADS}) ${name}(${[...parameters.declarations(), ...declarations].join(", ")}) {`,
    ...b.render(),
    "}",
  ].join("\n");
  e.steps.push({
    writes: results.map((r) => r.to.buffer),
    reads: parameters.buffers(),
    scratch: [],
    kernel: { name, grid: [Math.ceil(total / THREADS), 1, 1], block: [THREADS, 1, 1], shared: 0 },
    args: [...parameters.buffers(), ...results.map((r) => r.to.buffer)],
    source: { kind: "loop", text },
    nodes,
  });
}
