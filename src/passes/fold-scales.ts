/** Folds products and sums with one constant per channel into the weights and bias of the Conv, ConvTranspose, Gemm or MatMul before them. */
import type { Editor } from "../ir/edit.js";
import { originOf } from "../ir/graph.js";
import { elementCount } from "../ir/payload.js";
import type { Constant, Graph, Node, ValueId } from "../ir/types.js";
import { dimsOf } from "./match.js";
import { deep, definePass, type PassContext } from "./pass.js";
import { type Draft, draftOf } from "./rewrite.js";
import { flagged, floats, floatsConstant, groupsOf, outputAxis, scaleAlong } from "./weights.js";

export const foldScales = definePass({
  name: "fold-scales",
  why: "The TensorFlow import and some exporters spell an inference BatchNormalization as a product and a sum per channel; in the weights they cost nothing, and INT8 calibration must see them there.",
  run: (g, context) => deep(g, (inner) => folded(inner, context)),
});

function folded(g: Graph, context: PassContext): Graph {
  const view = draftOf(g, context);
  const draft = view.edit;
  for (const { id } of g.nodes) {
    const n = draft.node(id);
    if (n === undefined || n.domain !== "") continue;
    if (n.op === "Mul") foldProduct(view, n);
    else if (n.op === "Add" || n.op === "Sub") foldSum(view, n);
  }
  return draft.finish();
}

interface Sides {
  readonly x: ValueId;
  /** A constant. */
  readonly by: ValueId;
  /** What makes x, if it does so for this node alone. */
  readonly source: Node | undefined;
}
/** The two operands, if one is a float32 constant; a Sub's must be the second. */
function sidesOf(draft: Editor, n: Node): Sides | undefined {
  const [a, b] = n.ins;
  if (a === undefined || b === undefined) return undefined;
  const sides = n.op === "Sub" ? [[a, b] as const] : [[a, b] as const, [b, a] as const];
  for (const [x, by] of sides) {
    if (draft.constant(by)?.dtype !== "float32" || draft.constant(x) !== undefined) continue;
    const source = draft.hasOneUser(x) ? draft.producer(x) : undefined;
    return { x, by, source: source?.domain === "" ? source : undefined };
  }
  return undefined;
}

interface Weighted {
  readonly weight: Constant;
  readonly weightIn: ValueId;
  readonly axis: number;
  readonly channels: number;
  /** Rank of the result, where it is certain; a MatMul's is at least 1. */
  readonly rank: number;
}
function weighted(view: Draft, n: Node): Weighted | undefined {
  const weightIn = n.ins[1];
  const weight = view.constant(weightIn);
  if (weightIn === undefined || weight === undefined || weight.dtype !== "float32") return undefined;
  const [first = 0, second = 0] = weight.dims;
  switch (n.op) {
    case "Conv":
      return { weight, weightIn, axis: 0, channels: first, rank: weight.dims.length };
    case "ConvTranspose":
      return { weight, weightIn, axis: 1, channels: second * groupsOf(n), rank: weight.dims.length };
    case "Gemm":
    case "MatMul": {
      if (weight.dims.length !== 2) return undefined;
      const channels = n.op === "Gemm" && flagged(n, "transB") ? first : second;
      const axis = outputAxis(n, weight, channels);
      const rank = n.op === "Gemm" ? 2 : (dimsOf(view, n.outs[0])?.length ?? 1);
      return axis === undefined ? undefined : { weight, weightIn, axis, channels, rank };
    }
    default:
      return undefined;
  }
}
/** One number per output channel, from a constant that broadcasts over the others without adding a dim. */
function perChannel(c: Constant | undefined, w: Weighted, n: Node): Float64Array | undefined {
  const values = floats(c);
  if (c === undefined || values === undefined || c.dims.length > w.rank) return undefined;
  const spatial = n.op === "Conv" || n.op === "ConvTranspose" ? w.rank - 2 : 0;
  if (elementCount(c.dims) === 1) return new Float64Array(w.channels).fill(values[0] as number);
  const at = c.dims.length - 1 - spatial;
  return at >= 0 && c.dims.every((d, i) => d === (i === at ? w.channels : 1)) ? Float64Array.from(values) : undefined;
}
/** The operator's own bias as numbers; zeros where it has none, undefined where it cannot be changed. */
function biasOf(draft: Editor, n: Node, channels: number): Float64Array | undefined {
  if (n.op === "MatMul") return undefined;
  const [, , old] = n.ins;
  // A factor of the bias is there also where there is no bias yet.
  if (n.attrs["beta"]?.kind === "float" && n.attrs["beta"].value !== 1) return undefined;
  if (old === undefined) return new Float64Array(channels);
  const values = floats(draft.constant(old));
  if (values === undefined) return undefined;
  return values.length === channels && draft.constant(old)?.dims.at(-1) === channels ? Float64Array.from(values) : undefined;
}
/** Dims under which one number per channel broadcasts over the operator's result. */
const channelDims = (n: Node, w: Weighted): readonly number[] =>
  n.op === "Conv" || n.op === "ConvTranspose" ? [w.channels, ...new Array<number>(w.rank - 2).fill(1)] : [w.channels];
const vector = (x: Float64Array): Constant => floatsConstant([x.length], Float32Array.from(x));

/** W x s, (W x + b) s, and MatMul(x, W) + b times s, as one operator with other weights. */
function foldProduct(view: Draft, n: Node): void {
  const draft = view.edit;
  const found = sidesOf(draft, n);
  const [y] = n.outs;
  if (found?.source === undefined || y === undefined) return;
  // A MatMul's bias is an Add of its own.
  let { source } = found;
  let sum: { readonly node: Node; readonly bias: ValueId } | undefined;
  if (source.op === "Add") {
    const inner = sidesOf(draft, source);
    if (inner?.source?.op !== "MatMul") return;
    sum = { node: source, bias: inner.by };
    source = inner.source;
  }
  const w = weighted(view, source);
  const factor = w === undefined ? undefined : perChannel(draft.constant(found.by), w, source);
  const values = w === undefined ? undefined : floats(w.weight);
  if (w === undefined || factor === undefined || values === undefined) return;
  const bias = sum === undefined ? biasOf(draft, source, w.channels) : perChannel(draft.constant(sum.bias), w, source);
  if (bias === undefined && (sum !== undefined || source.op !== "MatMul")) return;
  const stem = draft.value(w.weightIn).name;
  const scaled = draft.addConstant(
    `${stem}.scaled`,
    floatsConstant(w.weight.dims, scaleAlong(values, w.weight.dims, w.axis, factor, groupsOf(source))),
  );
  const ins: (ValueId | undefined)[] = [source.ins[0], scaled];
  const shifted = bias?.map((b, c) => b * (factor[c] ?? 1));
  if (sum === undefined && source.ins[2] !== undefined && shifted !== undefined)
    ins.push(draft.addConstant(`${stem}.bias.scaled`, vector(shifted)));
  draft.remove(n.id);
  if (sum === undefined) {
    draft.patch(source.id, { ins, outs: [y], origin: [...originOf(source), ...originOf(n)] });
    return;
  }
  draft.patch(source.id, { ins, origin: [...originOf(source), ...originOf(n)] });
  const [product] = source.outs;
  if (product === undefined || shifted === undefined) return;
  draft.patch(sum.node.id, {
    ins: [product, draft.addConstant(`${stem}.bias.scaled`, vector(shifted))],
    outs: [y],
    origin: [...originOf(sum.node), ...originOf(n)],
  });
}

/** W x + b as an operator with a bias; (x + a) + b with both constant as one sum. */
function foldSum(view: Draft, n: Node): void {
  const draft = view.edit;
  const found = sidesOf(draft, n);
  const [y] = n.outs;
  if (found?.source === undefined || y === undefined) return;
  const { source } = found;
  const sign = n.op === "Sub" ? -1 : 1;
  if (source.op === "Add") {
    const inner = sidesOf(draft, source);
    const [a, b] = [draft.constant(inner?.by), draft.constant(found.by)];
    if (inner === undefined || a === undefined || b === undefined) return;
    const { source: maker } = inner;
    const w = maker === undefined ? undefined : weighted(view, maker);
    const [p, q] = maker === undefined || w === undefined ? [floats(a), floats(b)] : [perChannel(a, w, maker), perChannel(b, w, maker)];
    if (p === undefined || q === undefined || (w === undefined && a.dims.join() !== b.dims.join())) return;
    const sum = Float32Array.from(p, (v, i) => v + sign * (q[i] ?? 0));
    const total = floatsConstant(maker === undefined || w === undefined ? a.dims : channelDims(maker, w), sum);
    draft.remove(n.id);
    draft.patch(source.id, {
      ins: [inner.x, draft.addConstant(`${draft.value(inner.by).name}.summed`, total)],
      outs: [y],
      origin: [...originOf(source), ...originOf(n)],
    });
    return;
  }
  const w = weighted(view, source);
  const shift = w === undefined ? undefined : perChannel(draft.constant(found.by), w, source);
  const bias = w === undefined ? undefined : biasOf(draft, source, w.channels);
  if (w === undefined || shift === undefined || bias === undefined) return;
  const total = draft.addConstant(`${draft.value(found.by).name}.bias`, vector(bias.map((b, c) => b + sign * (shift[c] ?? 0))));
  draft.remove(n.id);
  draft.patch(source.id, { ins: [source.ins[0], source.ins[1], total], outs: [y], origin: [...originOf(source), ...originOf(n)] });
}
