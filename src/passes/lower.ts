/**
 * Raised operators spelled out again, for engines that lack one or run it slower than its parts. The forms are those that ONNX Runtime's own
 * fusions recognise, so that a host segment loses nothing by having been raised. What an engine keeps is its own to say (`Keep`).
 */
import { isStatic, sameDim } from "../ir/dims.js";
import { onnxNumber } from "../ir/dtypes.js";
import { makeConstant } from "../ir/payload.js";
import type { Attr, Dim, DType, Graph, ValueId } from "../ir/types.js";
import type { EngineName, Fact, Target } from "../ops/define.js";
import { doneSite, inferGraph } from "../ops/infer.js";
import { fusedSpellings } from "./fused.js";
import { alwaysFinite, unguarded, withoutMark } from "./masks.js";
import { dimsOf } from "./match.js";
import { deep } from "./pass.js";
import { fusedQuantizedSpellings, quantizedSpellings } from "./quantized.js";
import { draftOf } from "./rewrite.js";
import { type Keep, type OnPart, Speller, type Spelling } from "./spelling.js";

export const keepAll: Keep = () => true;
/** Keeps what one of the engines takes as it is; keeps everything when there is none. */
export const keepAccepted =
  (engines: readonly EngineName[], target: Target): Keep =>
  (g, n, facts) =>
    engines.length === 0 ||
    engines.some((e) => {
      const done = doneSite(g, n, facts);
      const lowering = done?.def.on[e];
      return done !== undefined && lowering !== undefined && !("absent" in lowering) && lowering.supports(done.site, target).ok;
    });

/** Spells out every raised, fused or quantized operator that is not kept, in the graph and its bodies. What has no spelling here stays. */
export function lower(g: Graph, keep: Keep): Graph {
  return deep(g, (inner) => spelledOut(inner, keep));
}
/** As `lower`, of the graph alone, without its bodies; `onPart` is told what became of which node. */
export function spelledOut(g: Graph, keep: Keep, onPart?: OnPart): Graph {
  // What ONNX Runtime joined may hold operators that are spelled out in turn, once their types are known.
  return lowered(lowered(g, keep, "com.microsoft", contributed, onPart), keep, "", standard, onPart);
}

function lowered(g: Graph, keep: Keep, from: string, known: Readonly<Record<string, Spelling>>, onPart: OnPart | undefined): Graph {
  if (!g.nodes.some((n) => n.domain === from && Object.hasOwn(known, n.op))) return g;
  const draft = draftOf(g, { facts: (graph) => inferGraph(graph).facts });
  const fact = (v: ValueId): Fact => {
    const c = draft.constant(v);
    return c === undefined ? { type: draft.type(v) } : { type: draft.type(v), constant: c };
  };
  const scalars = new Map<string, ValueId>();
  for (const { id, domain, op } of g.nodes) {
    const spell = domain === from && Object.hasOwn(known, op) ? known[op] : undefined;
    // A first step may leave a node of the same operator that is then kept.
    for (let n = draft.edit.node(id); spell !== undefined && n?.op === op && n.domain === from && !keep(g, n, fact); ) {
      const made = spell(n, new Speller(draft, n, scalars, onPart));
      if (made === undefined) break;
      const { outs = n.outs, attrs = {} } = made;
      n = draft.edit.patch(n.id, { ...made, domain: "", attrs, outs, origin: n.origin ?? [n.name] });
    }
  }
  return draft.edit.finish();
}

const to = (dtype: DType): Readonly<Record<string, Attr>> => ({ to: { kind: "int", value: onnxNumber(dtype) } });

/** x (1 + erf(x / sqrt 2)) / 2, or the tanh form, bracketed as ONNX Runtime's fusions want them. */
const gelu: Spelling = (n, s) => {
  const [x] = n.ins;
  const t = s.dtype(x);
  if (x === undefined || t === undefined) return undefined;
  const approximate = n.attrs["approximate"];
  if (approximate?.kind === "string" && approximate.value === "tanh") {
    const cube = s.emit("Pow", [x, s.scalar(t, 3)]);
    const inner = s.emit("Add", [x, s.emit("Mul", [cube, s.scalar(t, 0.044715)])]);
    const tanh = s.emit("Tanh", [s.emit("Mul", [inner, s.scalar(t, Math.sqrt(2 / Math.PI))])]);
    return { op: "Mul", ins: [s.emit("Mul", [x, s.scalar(t, 0.5)]), s.emit("Add", [tanh, s.scalar(t, 1)])] };
  }
  const erf = s.emit("Erf", [s.emit("Div", [x, s.scalar(t, Math.SQRT2)])]);
  return { op: "Mul", ins: [s.emit("Mul", [x, s.emit("Add", [erf, s.scalar(t, 1)])]), s.scalar(t, 0.5)] };
};

const swish: Spelling = (n, s) => {
  const [x] = n.ins;
  const [t, alpha] = [s.dtype(x), s.float("alpha", 1)];
  if (x === undefined || t === undefined) return undefined;
  return { op: "Mul", ins: [x, s.emit("Sigmoid", [alpha === 1 ? x : s.emit("Mul", [x, s.scalar(t, alpha)])])] };
};

/** x / sqrt(mean(x^2) + epsilon) * scale, the statistics in float32 where stash_type says so. */
const rmsNormalization: Spelling = (n, s) => {
  const [x, scale] = n.ins;
  const [t, rank, axis] = [s.dtype(x), dimsOf(s.draft, x)?.length, s.int("axis", -1)];
  const count = axis < 0 ? -axis : rank === undefined ? undefined : rank - axis;
  if (x === undefined || scale === undefined || t === undefined || s.int("stash_type", 1) !== 1) return undefined;
  // Tensors have few dims; where the rank is not known the axis may be anything.
  if (count === undefined || count < 1 || count > 64) return undefined;
  const wide = t === "float32" ? x : s.emit("Cast", [x], to("float32"));
  const axes = s.ints(Array.from({ length: count }, (_, i) => i - count));
  const mean = s.emit("ReduceMean", [s.emit("Pow", [wide, s.scalar("float32", 2)]), axes]);
  const root = s.emit("Sqrt", [s.emit("Add", [mean, s.scalar("float32", s.float("epsilon", 1e-5))])]);
  const normal = s.emit("Div", [wide, root]);
  const narrow = s.dtype(scale) === "float32" ? normal : s.emit("Cast", [normal], to(s.dtype(scale) ?? t));
  return { op: "Mul", ins: [narrow, scale] };
};

/** InstanceNormalization of [N, groups, rest], then scale and shift per channel. */
const groupNormalization: Spelling = (n, s) => {
  const [x, scale, bias] = n.ins;
  const [t, dims, groups] = [s.dtype(x), dimsOf(s.draft, x), s.int("num_groups", 0)];
  if (x === undefined || scale === undefined || bias === undefined || t === undefined || dims === undefined) return undefined;
  if (groups < 1 || groups > 65_536) return undefined;
  const split = s.emit("Reshape", [x, s.ints([0, groups, -1])]);
  const vector = (value: number): ValueId =>
    s.once(`${t} ${value} ${groups}`, () =>
      s.draft.edit.addConstant(
        `lowered/${value}x${groups}`,
        makeConstant(t as Exclude<DType, "string">, [groups], new Array<number>(groups).fill(value)),
      ),
    );
  const normal = s.emit("InstanceNormalization", [split, vector(1), vector(0)], {
    epsilon: { kind: "float", value: s.float("epsilon", 1e-5) },
  });
  const shape = dims.every(isStatic) ? s.ints(dims) : s.emit("Shape", [x]);
  const back = s.emit("Reshape", [normal, shape]);
  const axes = s.ints(Array.from({ length: dims.length - 2 }, (_, i) => i + 1));
  const column = (v: ValueId): ValueId => {
    const c = s.draft.constant(v);
    if (c === undefined) return s.emit("Unsqueeze", [v, axes]);
    return s.draft.edit.addConstant(`${s.draft.value(v).name}/column`, { ...c, dims: [...c.dims, ...dims.slice(2).map(() => 1)] });
  };
  return { op: "Add", ins: [s.emit("Mul", [back, column(scale)]), column(bias)] };
};

/** First the cache in front of K and V; then softmax(cap(scale Q K') + mask) V. Local windows and the like stay as they are. */
const attention: Spelling = (n, s) => {
  const [q, k, v, mask, pastKey, pastValue, lengths] = n.ins;
  const [y, presentKey, presentValue, scores] = n.outs;
  const [t, dims] = [s.dtype(q), dimsOf(s.draft, q)];
  if (q === undefined || k === undefined || v === undefined || y === undefined || t === undefined || dims?.length !== 4) return undefined;
  if (lengths !== undefined || scores !== undefined) return undefined;
  const cap = s.float("softcap", 0);
  if (!(cap >= 0)) return undefined;
  const causal = s.int("is_causal", 0) !== 0;
  const length = dims[2];
  // With a cache, or with keys of another number, which keys come later is the operator's to say.
  if (causal && (pastKey !== undefined || typeof length !== "number" || length > 4096 || dimsOf(s.draft, k)?.[2] !== length))
    return undefined;
  if (pastKey !== undefined && pastValue !== undefined) {
    const axis = { axis: { kind: "int", value: 2 } } as const;
    const [key, value] = [cached(s, pastKey, k, presentKey), cached(s, pastValue, v, presentValue)];
    s.emit("Concat", [pastKey, k], axis, key);
    s.emit("Concat", [pastValue, v], axis, value);
    return { op: n.op, ins: mask === undefined ? [q, key, value] : [q, key, value, mask], attrs: n.attrs, outs: [y] };
  }
  const size = dims[3];
  const scale = s.float("scale", typeof size === "number" ? 1 / Math.sqrt(size) : Number.NaN);
  if (presentKey !== undefined || presentValue !== undefined || Number.isNaN(scale)) return undefined;
  // The causal mask is written out; one of more keys than this would be larger than most models.
  if (causal && typeof length === "number" && length > 8192) return undefined;
  // A mask of another width is padded by the operator; a sum would broadcast it, or fail.
  if (mask !== undefined && sameDim(dimsOf(s.draft, k)?.at(2) ?? "?", dimsOf(s.draft, mask)?.at(-1) ?? "?") === false) return undefined;
  const [key, value] = [repeated(s, k, dims[1] ?? "?"), repeated(s, v, dims[1] ?? "?")];
  if (key === undefined || value === undefined) return undefined;
  let at = s.emit("MatMul", [q, s.emit("Transpose", [key], { perm: { kind: "ints", value: [0, 1, 3, 2] } })]);
  if (scale !== 1) at = s.emit("Div", [at, s.scalar(t, 1 / scale)]);
  if (cap > 0) at = s.emit("Mul", [s.emit("Tanh", [s.emit("Div", [at, s.scalar(t, cap)])]), s.scalar(t, cap)]);
  if (causal && typeof length === "number") at = s.emit("Add", [at, s.once(`causal ${t} ${length}`, () => laterKeys(s, t, length))]);
  let guard = false;
  if (mask !== undefined) {
    guard = !unguarded(n) && (causal || !alwaysFinite(s.draft, mask));
    const added =
      s.dtype(mask) === "bool"
        ? s.once(`mask ${mask}`, () => s.emit("Where", [mask, s.scalar(t, 0), s.scalar(t, Number.NEGATIVE_INFINITY)]))
        : mask;
    at = s.emit("Add", [at, added]);
  }
  const wide = s.int("softmax_precision", 0) === 1 && t !== "float32";
  if (wide) at = s.emit("Cast", [at], to("float32"));
  at = s.emit("Softmax", [at], { axis: { kind: "int", value: -1 } });
  if (guard) at = s.emit("Where", [s.emit("IsNaN", [at]), s.scalar(wide ? "float32" : t, 0), at]);
  if (wide) at = s.emit("Cast", [at], to(t));
  return { op: "MatMul", ins: [at, value], outs: [y], extra: withoutMark(n) };
};
/** [length, length]: 0 where the key is not later than the query, -inf elsewhere. */
function laterKeys(s: Speller, t: DType, length: number): ValueId {
  const values = new Array<number>(length * length).fill(0);
  for (let i = 0; i < length; i++) values.fill(Number.NEGATIVE_INFINITY, i * length + i + 1, (i + 1) * length);
  return s.draft.edit.addConstant(`lowered/causal${length}`, makeConstant(t as Exclude<DType, "string">, [length, length], values));
}
/** The value that past and new entries make together; the operator's present output where somebody reads that. */
function cached(s: Speller, past: ValueId, now: ValueId, present: ValueId | undefined): ValueId {
  if (present !== undefined) return present;
  const [a, b] = [dimsOf(s.draft, past), dimsOf(s.draft, now)];
  const [before, after] = [a?.[2], b?.[2]];
  const length: Dim = typeof before === "number" && typeof after === "number" ? before + after : "?";
  return s.draft.edit.declare(`${s.draft.value(now).name}/cached`, {
    kind: "tensor",
    dtype: s.dtype(now) ?? "float32",
    shape: b?.map((d, i) => (i === 2 ? length : d)),
  });
}
/** Keys or values with every head repeated for its group of queries; as they are where the heads agree or one serves all. */
function repeated(s: Speller, v: ValueId, heads: Dim): ValueId | undefined {
  const dims = dimsOf(s.draft, v);
  const [, own, , size] = dims ?? [];
  if (dims?.length !== 4) return undefined;
  if (own === heads || own === 1) return v;
  if (typeof own !== "number" || typeof heads !== "number" || typeof size !== "number" || heads % own !== 0) return undefined;
  const wide = s.emit("Expand", [s.emit("Unsqueeze", [v, s.ints([2])]), s.ints([1, 1, heads / own, 1, 1])]);
  return s.emit("Reshape", [wide, s.ints([0, heads, -1, size])]);
}

const spellings: Readonly<Record<string, Spelling>> = {
  Gelu: gelu,
  Swish: swish,
  RMSNormalization: rmsNormalization,
  GroupNormalization: groupNormalization,
  Attention: attention,
};
const standard: Readonly<Record<string, Spelling>> = { ...spellings, ...quantizedSpellings };
const contributed: Readonly<Record<string, Spelling>> = { ...fusedSpellings, ...fusedQuantizedSpellings };
/** Keeps what the engine has a form of at all, on whatever conditions. */
export const keepKnown =
  (engine: EngineName): Keep =>
  (g, n, facts) => {
    const lowering = doneSite(g, n, facts)?.def.on[engine];
    return lowering !== undefined && !("absent" in lowering);
  };
/** The raised operators that `lower` can spell out. */
export const lowerable: readonly string[] = Object.keys(spellings);
