/**
 * Normalisations that exporters spell out: LayerNorm, RMSNorm, InstanceNorm, GroupNorm, L2 normalisation, global average pooling.
 *
 * The statistics decide what it is: a mean over the last dims is a LayerNorm, over all dims behind the channel an InstanceNorm.
 */
import { isStatic, sameDim } from "../../ir/dims.js";
import { originOf } from "../../ir/graph.js";
import { elementCount, makeConstant } from "../../ir/payload.js";
import type { Attr, Constant, Dim, DType, ValueId } from "../../ir/types.js";
import { any, constant, dimsOf, either, type Match, numbersOf, op, type Pattern, scalar, type Where } from "../match.js";
import { type Draft, type Replacement, type Rule, rewritePass } from "../rewrite.js";

const mul = (a: Pattern, b: Pattern): Pattern => op("Mul", [a, b]);
const add = (a: Pattern, b: Pattern): Pattern => op("Add", [a, b]);
const cast = (p: Pattern): Pattern => op("Cast", [p]);
const maybeCast = (p: Pattern): Pattern => either(p, cast(p));
const squared = (p: Pattern): Pattern => either(mul(p, p), op("Pow", [p, scalar(2)]));
const keepsDims = {
  where: (n: { readonly attrs: Readonly<Record<string, Attr>> }) =>
    n.attrs["keepdims"]?.kind !== "int" || Number(n.attrs["keepdims"].value) === 1,
};
const meanOf = (p: Pattern, axes: string): Pattern => op("ReduceMean", [p, constant(axes)], keepsDims);
const sumOf = (p: Pattern, axes: string): Pattern => op("ReduceSum", [p, constant(axes)], keepsDims);
const epsilon = scalar((x) => x >= 0 && x < 1, "epsilon");
/** p / sqrt(q), as exporters write it. */
const overRoot = (p: Pattern, q: Pattern): Pattern => {
  const root = either(op("Sqrt", [q]), op("Pow", [q, scalar(0.5)]));
  const inverse = either(op("Reciprocal", [root]), op("Div", [scalar(1), root]), op("Pow", [q, scalar(-0.5)]));
  return either(op("Div", [p, maybeCast(root)]), mul(p, maybeCast(inverse)));
};
/** A scale or bias is a weight: a constant, or a vector. Anything of more dims is the operand of something else. */
const parameter: Where = (v, subject) => {
  const dims = dimsOf(subject, v);
  return dims !== undefined && (subject.constant(v) !== undefined || dims.length === 1);
};
const scale = any("scale", parameter);
const bias = any("bias", parameter);
/** p, p * scale, p + bias, p * scale + bias; the largest first. */
const affine = (p: Pattern): Pattern => either(add(mul(p, scale), bias), mul(p, scale), add(p, bias), p);

// ---- statistics with a mean -----------------------------------------------------------------------------------------------------------

const centred = (x: Pattern): Pattern => op("Sub", [x, meanOf(x, "axes")]);
const varianceOf = (x: Pattern): Pattern => meanOf(squared(maybeCast(centred(x))), "axes2");
const standardised = (x: Pattern): Pattern => overRoot(maybeCast(centred(x)), add(varianceOf(x), epsilon));
/** x m + (bias - mean m) with m = scale / sqrt(var + epsilon), as TensorFlow's batch_normalization and Keras' LayerNormalization have it. */
const tfStandardised = (x: Pattern): Pattern => {
  const inverse = op("Reciprocal", [op("Sqrt", [add(varianceOf(x), epsilon)])]);
  const factor = either(mul(inverse, scale), inverse);
  const mean = meanOf(x, "axes");
  const shift = mul(mean, factor);
  const negative = either(mul(op("Neg", [mean]), factor), op("Neg", [shift]));
  return either(
    add(mul(x, factor), either(op("Sub", [bias, shift]), add(negative, bias), negative)),
    op("Sub", [mul(x, factor), shift]),
    add(either(add(mul(x, factor), negative), op("Sub", [mul(x, factor), shift])), bias),
  );
};
const x = any("x");
/** x is widened (float16 to float32) for the statistics and narrowed before scale and bias: what stash_type says. */
const wide = cast(x);

// ---- statistics without one -----------------------------------------------------------------------------------------------------------

const rootMeanSquare = (p: Pattern): Pattern => overRoot(p, add(meanOf(squared(p), "axes"), epsilon));

/** x (r scale), with r = 1 / sqrt(mean(x^2) + epsilon). */
const scaledRootMeanSquare = (p: Pattern): Pattern => {
  const inverse = op("Reciprocal", [op("Sqrt", [add(meanOf(squared(p), "axes"), epsilon)])]);
  return either(mul(p, mul(inverse, scale)), mul(mul(p, scale), inverse));
};

// ---- what they become -------------------------------------------------------------------------------------------------------------------

const intAttr = (value: number): Attr => ({ kind: "int", value });
const floatAttr = (value: number): Attr => ({ kind: "float", value });

/** Whether the result has the input's dims: nothing but scale and bias, whose dims are looked at elsewhere, may broadcast. */
function keepsShape(found: Match, draft: Draft): boolean {
  const [before, after] = [dimsOf(draft, found.value("x")), dimsOf(draft, found.root.outs[0])];
  if (before?.length !== after?.length) return false;
  if (before?.every((d, i) => sameDim(d, after?.[i] ?? "?") === true) === true) return true;
  const known = [found.maybe("scale"), found.maybe("bias")];
  const single = (v: ValueId | undefined): boolean => {
    const c = draft.constant(v);
    return c === undefined || known.includes(v) || elementCount(c.dims) === 1;
  };
  return found.nodes.every((n) => n.op.startsWith("Reduce") || (n.op !== "Expand" && n.ins.every(single)));
}

/** Axes as natural numbers in order, when they are constants and the rank is known. */
function axesOf(found: Match, name: string, rank: number): readonly number[] | undefined {
  return found
    .numbers(name)
    ?.map((a) => (a < 0 ? a + rank : a))
    .sort((a, b) => a - b);
}
/** float64 is none of them: the operators keep their statistics in float32. */
const dtypeOf = (draft: Draft, v: ValueId): DType | undefined => {
  const t = draft.type(v);
  return t.kind === "tensor" && (t.dtype === "float32" || t.dtype === "float16" || t.dtype === "bfloat16") ? t.dtype : undefined;
};
/** `count` numbers from `from` on. */
const run = (axes: readonly number[], from: number, count: number): boolean =>
  axes.length === count && axes.every((a, i) => a === from + i);

/** A parameter in the dims the operator wants: as it is, or a constant under other dims (the bytes are shared), or one element repeated. */
function shaped(draft: Draft, v: ValueId, wanted: readonly Dim[], fits: (dims: readonly Dim[]) => boolean): ValueId | undefined {
  const dims = dimsOf(draft, v);
  if (dims === undefined) return undefined;
  if (dims.length === wanted.length && dims.every((d, i) => sameDim(d, wanted[i] ?? "?") === true)) return v;
  const c = draft.constant(v);
  if (c === undefined || !wanted.every(isStatic)) return undefined;
  const [has, needs] = [elementCount(c.dims), elementCount(wanted)];
  if (has === needs && fits(dims)) return draft.edit.addConstant(`${draft.value(v).name}/reshaped`, { ...c, dims: wanted });
  const [only] = numbersOf(c) ?? [];
  if (has !== 1 || only === undefined || needs === undefined || needs > 1 << 16) return undefined;
  return draft.edit.addConstant(`${draft.value(v).name}/repeated`, filled(c.dtype, wanted, only));
}
const filled = (dtype: DType, dims: readonly number[], x: number): Constant =>
  makeConstant(dtype as Exclude<DType, "string">, dims, new Array<number>(elementCount(dims) ?? 0).fill(x));

/** Leading ones, then the wanted dims: how a weight broadcasts over trailing dims. */
const trailing =
  (wanted: readonly Dim[]) =>
  (dims: readonly Dim[]): boolean =>
    dims.length >= wanted.length &&
    dims.every((d, i) => {
      const k = i - (dims.length - wanted.length);
      return k < 0 ? d === 1 : d === wanted[k];
    });
/** [1,] C, 1, ... 1: how a weight broadcasts over channels in front of `spatial` dims. */
const perChannel =
  (channels: Dim, spatial: number) =>
  (dims: readonly Dim[]): boolean => {
    const at = dims.length - spatial - 1;
    return at >= 0 && at <= 1 && dims.every((d, i) => d === (i === at ? channels : 1));
  };

/** A parameter that is absent in the pattern: all ones, or all zeros. */
function neutral(draft: Draft, stem: ValueId, dtype: DType, dims: readonly Dim[], x: number): ValueId | undefined {
  if (!dims.every(isStatic) || (elementCount(dims) ?? Number.POSITIVE_INFINITY) > 1 << 16) return undefined;
  return draft.edit.addConstant(`${draft.value(stem).name}/${x === 1 ? "ones" : "zeros"}`, filled(dtype, dims, x));
}

/** InstanceNormalization or LayerNormalization, as axes and parameters say. `narrow`: x was widened inside the pattern. */
function centredNorm(found: Match, draft: Draft, narrow: boolean): Replacement | string | undefined {
  const [v, y] = [found.value("x"), found.root.outs[0]];
  const [dims, dtype] = [dimsOf(draft, v), dtypeOf(draft, v)];
  if (dtype === undefined || y === undefined) return undefined;
  if (dims === undefined) return "the rank of its input is not known";
  if (dtypeOf(draft, y) !== dtype || !keepsShape(found, draft)) return undefined;
  const [axes, axes2] = [axesOf(found, "axes", dims.length), axesOf(found, "axes2", dims.length)];
  const eps = found.number("epsilon");
  if (axes === undefined || eps === undefined || axes.length === 0) return undefined;
  if (axes2 === undefined || axes.join() !== axes2.join()) return "mean and variance are taken over different axes";
  const rank = dims.length;
  const instance = narrow || rank < 3 || !run(axes, 2, rank - 2) ? undefined : instanceNorm(found, draft, v, dtype, dims, eps);
  if (instance !== undefined) return instance;
  if (!run(axes, rank - axes.length, axes.length))
    return `its statistics are over axes ${axes.join(", ")} of ${rank}, which no normalisation operator has`;
  const [scaleIn, biasIn] = [found.maybe("scale"), found.maybe("bias")];
  const wanted = dims.slice(rank - axes.length);
  const w = scaleIn === undefined ? neutral(draft, v, dtype, wanted, 1) : shaped(draft, scaleIn, wanted, trailing(wanted));
  const b = biasIn === undefined ? undefined : shaped(draft, biasIn, wanted, trailing(wanted));
  if (w === undefined) return scaleIn === undefined ? "it has no scale, and its normalised dims are not known" : undefined;
  if (biasIn !== undefined && b === undefined) return undefined;
  return {
    op: "LayerNormalization",
    ins: b === undefined ? [v, w] : [v, w, b],
    attrs: { axis: intAttr(-axes.length), epsilon: floatAttr(eps), stash_type: intAttr(1) },
  };
}

/** Statistics over all dims behind the channels, with parameters per channel. In three dims it is a LayerNorm without such parameters. */
function instanceNorm(found: Match, draft: Draft, v: ValueId, dtype: DType, dims: readonly Dim[], eps: number): Replacement | undefined {
  const channels = dims[1] ?? "?";
  const [scaleIn, biasIn] = [found.maybe("scale"), found.maybe("bias")];
  const fits = perChannel(channels, dims.length - 2);
  if (dims.length === 3 && ![scaleIn, biasIn].some((p) => p !== undefined && fits(dimsOf(draft, p) ?? []))) return undefined;
  // A plain vector broadcasts over the last dim, not over the channels.
  if (
    [scaleIn, biasIn].some(
      (p) => p !== undefined && !fits(dimsOf(draft, p) ?? []) && draft.constant(p)?.dims.some((d) => d !== 1) !== false,
    )
  )
    return undefined;
  const w = scaleIn === undefined ? neutral(draft, v, dtype, [channels], 1) : shaped(draft, scaleIn, [channels], fits);
  const b = biasIn === undefined ? neutral(draft, v, dtype, [channels], 0) : shaped(draft, biasIn, [channels], fits);
  if (w === undefined || b === undefined) return undefined;
  return { op: "InstanceNormalization", ins: [v, w, b], attrs: { epsilon: floatAttr(eps) } };
}

function rmsNorm(found: Match, draft: Draft): Replacement | string | undefined {
  const [v, y] = [found.value("x"), found.root.outs[0]];
  const [dims, dtype] = [dimsOf(draft, v), dtypeOf(draft, v)];
  if (dtype === undefined || y === undefined) return undefined;
  if (dims === undefined) return "the rank of its input is not known";
  const axes = axesOf(found, "axes", dims.length);
  const eps = found.number("epsilon");
  if (axes === undefined || eps === undefined || axes.length === 0 || !keepsShape(found, draft)) return undefined;
  if (!run(axes, dims.length - axes.length, axes.length)) return "its mean is not over the last dims";
  const wanted = dims.slice(dims.length - axes.length);
  const scaleIn = found.maybe("scale");
  const w = scaleIn === undefined ? neutral(draft, v, dtype, wanted, 1) : shaped(draft, scaleIn, wanted, trailing(wanted));
  if (w === undefined) return scaleIn === undefined ? "it has no scale, and its normalised dims are not known" : undefined;
  // The operator gives the scale's element type.
  if (dtypeOf(draft, w) !== dtypeOf(draft, y)) return undefined;
  return { op: "RMSNormalization", ins: [v, w], attrs: { axis: intAttr(-axes.length), epsilon: floatAttr(eps), stash_type: intAttr(1) } };
}

// ---- groups, norms, pools ---------------------------------------------------------------------------------------------------------------

const grouped = op("Reshape", [
  op("InstanceNormalization", [op("Reshape", [x, any("split")]), constant("ones"), constant("zeros")], { name: "normed" }),
  any("back"),
]);
function groupNorm(found: Match, draft: Draft): Replacement | string | undefined {
  const v = found.value("x");
  const [dims, dtype, y] = [dimsOf(draft, v), dtypeOf(draft, v), dimsOf(draft, found.root.outs[0])];
  const normed = draft.producer(found.value("normed"));
  const inner = dimsOf(draft, normed?.ins[0]);
  const channels = dims?.[1];
  const groups = inner?.[1];
  if (dims === undefined || dtype === undefined || inner === undefined || dims.length < 3 || y?.length !== dims.length) return undefined;
  if (typeof channels !== "number" || typeof groups !== "number" || channels % groups !== 0) return undefined;
  // [N, C, ...] as [N, groups, rest] and back again.
  if (sameDim(dims[0] ?? "?", inner[0] ?? "?") !== true || !y.every((d, i) => sameDim(d, dims[i] ?? "?") === true)) return undefined;
  if (found.number("ones") !== 1 || found.number("zeros") !== 0) return "its groups have weights of their own";
  const fits = perChannel(channels, dims.length - 2);
  const [scaleIn, biasIn] = [found.maybe("scale"), found.maybe("bias")];
  const w = scaleIn === undefined ? neutral(draft, v, dtype, [channels], 1) : shaped(draft, scaleIn, [channels], fits);
  const b = biasIn === undefined ? neutral(draft, v, dtype, [channels], 0) : shaped(draft, biasIn, [channels], fits);
  if (w === undefined || b === undefined || [scaleIn, biasIn].some((p) => p !== undefined && (p === w || p === b))) return undefined;
  const e = normed?.attrs["epsilon"];
  return {
    op: "GroupNormalization",
    ins: [v, w, b],
    attrs: { num_groups: intAttr(groups), epsilon: floatAttr(e?.kind === "float" ? e.value : 1e-5), stash_type: intAttr(1) },
  };
}

/** Guards against a zero norm; so small that no norm but zero meets them. Those of its square are as small as their squares. */
const SMALL = 1e-10;
const tiny = scalar((e) => e >= 0 && e <= SMALL, "guard");
const tinySquare = scalar((e) => e >= 0 && e <= SMALL * SMALL, "guard");
const sumOfSquares = either(sumOf(squared(x), "axes"), op("ReduceSumSquare", [x, constant("axes")], keepsDims));
const norm = either(op("ReduceL2", [x, constant("axes")], keepsDims), op("Sqrt", [sumOfSquares]));
const guarded = either(norm, op("Clip", [norm, tiny]), op("Clip", [norm, tiny, undefined]), op("Max", [norm, tiny]));
const l2 = either(
  op("Div", [x, either(guarded, op("Expand", [guarded, any()]))]),
  mul(x, op("Reciprocal", [op("Sqrt", [either(op("Max", [sumOfSquares, tinySquare]), sumOfSquares)])])),
);
function l2Norm(found: Match, draft: Draft): Replacement | undefined {
  const v = found.value("x");
  const dims = dimsOf(draft, v);
  const axes = dims === undefined ? undefined : axesOf(found, "axes", dims.length);
  const [axis] = axes ?? [];
  if (axis === undefined || axes?.length !== 1 || !keepsShape(found, draft) || dtypeOf(draft, v) === undefined) return undefined;
  return { op: "LpNormalization", ins: [v], attrs: { axis: intAttr(axis), p: intAttr(2) } };
}

/** A mean over all dims behind the channel is a global pool; of rank 3 it is as likely a mean over features, and stays. */
function globalPool(found: Match, draft: Draft): Replacement | undefined {
  const v = found.value("x");
  const dims = dimsOf(draft, v);
  const axes = dims === undefined ? undefined : axesOf(found, "axes", dims.length);
  const dtype = dtypeOf(draft, v);
  if (dims === undefined || axes === undefined || dims.length < 4 || !run(axes, 2, dims.length - 2)) return undefined;
  if (dtype !== "float32" && dtype !== "float16") return undefined;
  const keeps = found.root.attrs["keepdims"];
  if (keeps?.kind !== "int" || Number(keeps.value) === 1) return { op: "GlobalAveragePool", ins: [v] };
  const { name } = found.root;
  const pooled = draft.edit.declare(`${name === "" ? "pool" : name}/pooled`);
  draft.edit.add({ op: "GlobalAveragePool", ins: [v], outs: [pooled], name: `${name}/pooled`, origin: originOf(found.root) });
  return { op: "Flatten", ins: [pooled], attrs: { axis: intAttr(1) } };
}

const rules: readonly Rule[] = [
  { name: "LayerNorm", pattern: affine(standardised(x)), replace: (found, draft) => centredNorm(found, draft, false) },
  { name: "LayerNorm", pattern: tfStandardised(x), replace: (found, draft) => centredNorm(found, draft, false) },
  { name: "LayerNorm", pattern: affine(cast(standardised(wide))), replace: (found, draft) => centredNorm(found, draft, true) },
  { name: "RMSNorm", pattern: either(mul(rootMeanSquare(x), scale), scaledRootMeanSquare(x), rootMeanSquare(x)), replace: rmsNorm },
  { name: "RMSNorm", pattern: mul(cast(rootMeanSquare(wide)), scale), replace: rmsNorm },
  { name: "GroupNorm", pattern: affine(grouped), replace: groupNorm },
  { name: "L2 normalisation", pattern: l2, replace: l2Norm },
  { name: "global average pool", pattern: op("ReduceMean", [x, constant("axes")]), replace: globalPool },
];

export const raiseNormalizations = rewritePass({
  name: "raise-normalizations",
  why: "Statistics, division, scale and shift over the same elements are one pass over memory as one operator, six to nine passes spelt out.",
  rules,
});
