/**
 * Operators that ONNX Runtime's optimiser fused (com.microsoft), as the operators of ai.onnx they stand for: an engine that makes its own fusions takes
 * those. Forms that inference does not use, or whose meaning depends on the kernel, stay as they are.
 */
import { onnxNumber } from "../ir/dtypes.js";
import type { Attr, Dim, DType, Node, ValueId } from "../ir/types.js";
import { dimsOf } from "./match.js";
import type { Speller, Spelling } from "./spelling.js";

const int = (value: number): Attr => ({ kind: "int", value });
const real = (value: number): Attr => ({ kind: "float", value });
const ints = (...value: readonly number[]): Attr => ({ kind: "ints", value });
const cast = (s: Speller, x: ValueId, dtype: DType): ValueId => s.emit("Cast", [x], { to: int(onnxNumber(dtype)) });
const lacks = (n: Node, ...outs: readonly number[]): boolean => outs.every((i) => n.outs[i] === undefined);
/** Sum of what is there; the first is. */
const sum = (s: Speller, first: ValueId, ...more: readonly (ValueId | undefined)[]): ValueId =>
  more.reduce<ValueId>((at, v) => (v === undefined ? at : s.emit("Add", [at, v])), first);

/** What is normalised; it keeps its name where the node gives it out. */
const skipSum = (n: Node, s: Speller, x: ValueId, skip: ValueId, bias: ValueId | undefined): ValueId =>
  s.emit("Add", [x, bias === undefined ? skip : s.emit("Add", [skip, bias])], {}, n.outs[3]);
const skipLayerNormalization: Spelling = (n, s) => {
  const [x, skip, gamma, beta, bias] = n.ins;
  if (x === undefined || skip === undefined || gamma === undefined || !lacks(n, 1, 2)) return undefined;
  const attrs = { axis: int(-1), epsilon: real(s.float("epsilon", 1e-12)) };
  return {
    op: "LayerNormalization",
    ins: [skipSum(n, s, x, skip, bias), gamma, ...(beta === undefined ? [] : [beta])],
    attrs,
    outs: [n.outs[0]],
  };
};
const skipRmsNormalization: Spelling = (n, s) => {
  const [x, skip, gamma, bias] = n.ins;
  if (x === undefined || skip === undefined || gamma === undefined || !lacks(n, 1, 2)) return undefined;
  const attrs = { axis: int(-1), epsilon: real(s.float("epsilon", 1e-12)) };
  return { op: "RMSNormalization", ins: [skipSum(n, s, x, skip, bias), gamma], attrs, outs: [n.outs[0]] };
};

/** Sum of the embeddings, normalised. The lengths of the mask's rows have another meaning for each kernel that reads them: they stay. */
const embedLayerNormalization: Spelling = (n, s) => {
  const [ids, segments, words, positionTable, segmentTable, gamma, beta, , positions] = n.ins;
  if (ids === undefined || words === undefined || positionTable === undefined || gamma === undefined || beta === undefined)
    return undefined;
  if (s.used(n.outs[1])) return undefined;
  const length = dimsOf(s.draft, ids)?.[1];
  if (positions === undefined && typeof length !== "number") return undefined;
  const place =
    positions === undefined
      ? s.emit("Slice", [positionTable, s.ints([0]), s.ints([length as number]), s.ints([0])])
      : s.emit("Gather", [positionTable, positions]);
  const segment = segmentTable === undefined || segments === undefined ? undefined : s.emit("Gather", [segmentTable, segments]);
  const word = s.emit("Gather", [words, ids]);
  const total = s.emit("Add", [segment === undefined ? word : s.emit("Add", [word, segment]), place], {}, n.outs[2]);
  return {
    op: "LayerNormalization",
    ins: [total, gamma, beta],
    attrs: { axis: int(-1), epsilon: real(s.float("epsilon", 1e-12)) },
    outs: [n.outs[0]],
  };
};

const gelu =
  (approximate: "none" | "tanh"): Spelling =>
  (n, s) => {
    const [x, bias] = n.ins;
    return x === undefined
      ? undefined
      : { op: "Gelu", ins: [sum(s, x, bias)], attrs: { approximate: { kind: "string", value: approximate } } };
  };
const quickGelu: Spelling = (n, s) => ({ op: "Swish", ins: n.ins, attrs: { alpha: real(s.float("alpha", 1.702)) } });

const fusedMatMul: Spelling = (n, s) => {
  const [a, b] = n.ins;
  const t = s.dtype(a);
  if (a === undefined || b === undefined || t === undefined || s.int("transBatchA", 0) !== 0 || s.int("transBatchB", 0) !== 0)
    return undefined;
  const turned = (v: ValueId, wanted: boolean): ValueId | undefined => {
    const rank = dimsOf(s.draft, v)?.length;
    if (!wanted || rank === 1) return v;
    if (rank === undefined) return undefined;
    const perm = Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i));
    return s.emit("Transpose", [v], { perm: ints(...perm) });
  };
  const [left, right] = [turned(a, s.int("transA", 0) !== 0), turned(b, s.int("transB", 0) !== 0)];
  if (left === undefined || right === undefined) return undefined;
  const alpha = s.float("alpha", 1);
  if (alpha === 1) return { op: "MatMul", ins: [left, right] };
  return { op: "Mul", ins: [s.emit("MatMul", [left, right]), s.scalar(t, alpha)] };
};

const activations: Readonly<Record<string, readonly string[]>> = {
  Relu: [],
  Tanh: [],
  Sigmoid: [],
  LeakyRelu: ["alpha"],
  HardSigmoid: ["alpha", "beta"],
};
const fusedConv: Spelling = (n, s) => {
  const [x, w, bias, z] = n.ins;
  const { activation, activation_params: given, ...attrs } = n.attrs;
  if (x === undefined || w === undefined) return undefined;
  const convolved = [x, w, ...(bias === undefined ? [] : [bias])];
  const parameters = given?.kind === "floats" ? given.value : [];
  const name = activation?.kind === "string" && typeof activation.value === "string" ? activation.value : undefined;
  if (name === undefined) {
    return z === undefined ? { op: "Conv", ins: convolved, attrs } : { op: "Add", ins: [s.emit("Conv", convolved, attrs), z] };
  }
  const names = Object.hasOwn(activations, name) ? activations[name] : undefined;
  if (names === undefined) return undefined;
  const own = Object.fromEntries(
    names.flatMap((key, i) => (parameters[i] === undefined ? [] : [[key, real(Number(parameters[i]))] as const])),
  );
  return { op: name, ins: [sum(s, s.emit("Conv", convolved, attrs), z)], attrs: own };
};

/** [batch, 1, queries, keys] to add to the scores: 0 where the mask's element is not 0. ONNX Runtime's kernel broadcasts no mask over the queries. */
function openKeys(s: Speller, mask: ValueId, t: DType, queries: number): ValueId {
  const filter = s.float("mask_filter_value", -10_000);
  const open = s.emit("Unsqueeze", [cast(s, mask, "bool"), s.ints([1, 2])]);
  const row = s.emit("Where", [open, s.scalar(t, 0), s.scalar(t, filter)]);
  return queries === 1 ? row : s.emit("Expand", [row, s.ints([1, 1, queries, 1])]);
}

/** A mask that speaks of every key; none where it has one column, which ONNX Runtime does not look at; "unknown" where that cannot be told. */
function maskOver(s: Speller, mask: ValueId, queries: Dim | undefined, past: Dim | undefined): ValueId | undefined | "unknown" {
  const columns = dimsOf(s.draft, mask)?.[1];
  if (columns === 1) return undefined;
  const keys = typeof queries === "number" && typeof past === "number" ? queries + past : undefined;
  return keys !== undefined && columns === keys ? mask : "unknown";
}

/** One product for Q, K and V, split into heads; the past [2, batch, heads, length, size] is taken apart and put together again. */
const packedAttention: Spelling = (n, s) => {
  const [x, weights, bias, mask, past, scores, pastLength] = n.ins;
  const [y, present] = n.outs;
  const heads = s.int("num_heads", 0);
  const [t, w] = [s.dtype(x), dimsOf(s.draft, weights)];
  const columns = w?.[1];
  if (x === undefined || weights === undefined || y === undefined || t === undefined || scores !== undefined || pastLength !== undefined)
    return undefined;
  if (s.int("do_rotary", 0) !== 0 || s.int("past_present_share_buffer", 0) !== 0 || typeof columns !== "number" || heads < 1)
    return undefined;
  const sizes = n.attrs["qkv_hidden_sizes"];
  const parts = sizes?.kind === "ints" ? sizes.value.map(Number) : [columns / 3, columns / 3, columns / 3];
  if (
    parts.length !== 3 ||
    parts.some((p) => !Number.isInteger(p) || p % heads !== 0) ||
    (mask !== undefined && dimsOf(s.draft, mask)?.length !== 2)
  )
    return undefined;
  const queries = dimsOf(s.draft, x)?.[1];
  if (present !== undefined && past === undefined) return undefined;
  const seen = mask === undefined ? undefined : maskOver(s, mask, queries, past === undefined ? 0 : dimsOf(s.draft, past)?.[3]);
  if (seen === "unknown") return undefined;
  const all = sum(s, s.emit("MatMul", [x, weights]), bias);
  const [q, k, v] = s
    .split(all, parts, -1)
    .map((part) => s.emit("Transpose", [s.emit("Reshape", [part, s.ints([0, 0, heads, -1])])], { perm: ints(0, 2, 1, 3) }));
  const attrs: Record<string, Attr> = { is_causal: int(s.int("unidirectional", 0)) };
  const scale = n.attrs["scale"];
  if (scale?.kind === "float") attrs["scale"] = scale;
  const ins: (ValueId | undefined)[] = [q, k, v];
  if (seen !== undefined || past !== undefined) ins.push(seen === undefined ? undefined : openKeys(s, seen, t, Number(queries)));
  const outs: ValueId[] = [s.fresh("heads")];
  if (past !== undefined) {
    for (const at of [0, 1])
      ins.push(s.emit("Squeeze", [s.emit("Slice", [past, s.ints([at]), s.ints([at + 1]), s.ints([0])]), s.ints([0])]));
    outs.push(s.fresh("keys"), s.fresh("values"));
  }
  s.emitAll("Attention", ins, attrs, outs);
  const [mixed, keys, values] = outs;
  if (present !== undefined && keys !== undefined && values !== undefined)
    s.emit(
      "Concat",
      [keys, values].map((c) => s.emit("Unsqueeze", [c, s.ints([0])])),
      { axis: int(0) },
      present,
    );
  return { op: "Reshape", ins: [s.emit("Transpose", [mixed], { perm: ints(0, 2, 1, 3) }), s.ints([0, 0, -1])], outs: [y] };
};

/** Q, K and V that are projected already. */
const multiHeadAttention: Spelling = (n, s) => {
  const [q, k, v, bias, padding, scores, pastKey, pastValue, pastLength, indirection] = n.ins;
  const [y, presentKey, presentValue, qk] = n.outs;
  const heads = s.int("num_heads", 0);
  const t = s.dtype(q);
  const dims = [q, k, v].map((x): readonly Dim[] | undefined => dimsOf(s.draft, x));
  if (q === undefined || k === undefined || v === undefined || y === undefined || t === undefined || heads < 1) return undefined;
  if ([bias, scores, pastLength, indirection, qk].some((x) => x !== undefined) || dims.some((d) => d?.length !== 3)) return undefined;
  const queries = dims[0]?.[1];
  if (padding !== undefined && (dimsOf(s.draft, padding)?.length !== 2 || typeof queries !== "number")) return undefined;
  if ((pastKey === undefined) !== (pastValue === undefined) || (pastKey === undefined && (presentKey ?? presentValue) !== undefined))
    return undefined;
  const split = [q, k, v].map((x) => s.emit("Transpose", [s.emit("Reshape", [x, s.ints([0, 0, heads, -1])])], { perm: ints(0, 2, 1, 3) }));
  const attrs: Record<string, Attr> = { is_causal: int(s.int("unidirectional", 0)) };
  const scale = n.attrs["scale"];
  if (scale?.kind === "float") attrs["scale"] = scale;
  const ins: (ValueId | undefined)[] = [...split];
  if (padding !== undefined || pastKey !== undefined)
    ins.push(padding === undefined ? undefined : openKeys(s, padding, t, Number(queries)));
  const mixed = s.fresh("heads");
  const outs: ValueId[] = [mixed];
  if (pastKey !== undefined) {
    ins.push(pastKey, pastValue);
    outs.push(presentKey ?? s.fresh("keys"), presentValue ?? s.fresh("values"));
  }
  s.emitAll("Attention", ins, attrs, outs);
  return { op: "Reshape", ins: [s.emit("Transpose", [mixed], { perm: ints(0, 2, 1, 3) }), s.ints([0, 0, -1])], outs: [y] };
};

/** By the name in com.microsoft. */
export const fusedSpellings: Readonly<Record<string, Spelling>> = {
  SkipLayerNormalization: skipLayerNormalization,
  SkipSimplifiedLayerNormalization: skipRmsNormalization,
  EmbedLayerNormalization: embedLayerNormalization,
  Gelu: gelu("none"),
  BiasGelu: gelu("none"),
  FastGelu: gelu("tanh"),
  QuickGelu: quickGelu,
  FusedMatMul: fusedMatMul,
  FusedConv: fusedConv,
  Attention: packedAttention,
  MultiHeadAttention: multiHeadAttention,
};
