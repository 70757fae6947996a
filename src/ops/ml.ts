/** The classical-model operators of domain ai.onnx.ml: trees, linear models, support vectors, and the encoders around them. */
import { add, UNKNOWN } from "../ir/dims.js";
import type { Dim, DType, Shape } from "../ir/types.js";
import { hostOnly, NUMBERS } from "./answers.js";
import {
  type AttrSpecs,
  type AttrsOf,
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  int,
  optFloats,
  optInt,
  optInts,
  optStrings,
  optTensor,
  type Sample,
  type Site,
  type Slots,
  shapeOf,
  tensor,
  variadic,
  word,
} from "./define.js";
import { aFloat, aFloats, aInt, aInts, aText, fed, ints64, random } from "./samples.js";
import { fact, moves, perInput } from "./shapes.js";

const domain = "ai.onnx.ml";
const int8 = absent("the operator has no integer form");
const on = hostOnly("classical-model operators have no GPU kernels", "run them on the host; they are small");
const INPUT: readonly DType[] = ["float32", "float64", "int32", "int64"];

/** Operators over [rows, features] that share everything but their names and results. */
const rows = <const N extends string, const O extends Slots, const S extends AttrSpecs>(def: {
  readonly name: N;
  readonly doc: string;
  readonly since?: readonly number[];
  readonly out: O;
  readonly types?: readonly DType[];
  readonly attrs: S;
  readonly flops?: number;
  infer(at: Site<{ readonly x: ReturnType<typeof tensor> }, AttrsOf<S>>): readonly Fact[];
  samples(): Iterable<Sample>;
}) =>
  defineOp({
    name: def.name,
    domain,
    doc: def.doc,
    reads: { onnx: (def.since ?? [1]).map((since) => ({ since })) },
    in: { x: tensor("T") },
    out: def.out,
    types: { T: def.types ?? INPUT },
    attrs: def.attrs,
    role: "compute",
    infer: (at) => def.infer(at as never),
    cost: perInput(def.flops ?? 2),
    int8,
    on,
    samples: () => def.samples(),
  });

const rowCount = (f: Fact): Dim => {
  const s = shapeOf(f);
  return s === undefined ? UNKNOWN : s.length === 1 ? 1 : (s[0] ?? UNKNOWN);
};
const same = (at: { readonly in: { readonly x: Fact } }): readonly Fact[] => [fact(dtypeOf(at.in.x), shapeOf(at.in.x))];
const asFloat = (at: { readonly in: { readonly x: Fact } }): readonly Fact[] => [fact("float32", shapeOf(at.in.x))];
/** Labels [rows] and scores [rows, classes]. */
const labelled = (
  x: Fact,
  strings: readonly string[] | undefined,
  numbers: readonly number[] | undefined,
  scores: Dim | undefined,
): readonly Fact[] => [
  fact(strings !== undefined && strings.length > 0 ? "string" : "int64", [rowCount(x)]),
  fact("float32", [rowCount(x), scores ?? Math.max(strings?.length ?? 0, numbers?.length ?? 0)]),
];

export const arrayFeatureExtractor = defineOp({
  name: "ArrayFeatureExtractor",
  domain,
  doc: "Picks columns of the last axis by index.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("T"), indices: tensor("int64") },
  out: { y: tensor("T") },
  types: { T: [...INPUT, "string"] },
  attrs: {},
  role: "compute",
  infer: (at) => {
    const [s, i] = [shapeOf(at.in.x), shapeOf(at.in.indices)];
    const picked = i === undefined ? UNKNOWN : i.length === 0 ? 1 : i.length === 1 ? (i[0] ?? UNKNOWN) : UNKNOWN;
    return [fact(dtypeOf(at.in.x), s === undefined ? undefined : s.length === 1 ? [1, picked] : [...s.slice(0, -1), picked])];
  },
  cost: perInput(0),
  int8,
  on,
  *samples() {
    yield { name: "columns", in: { x: random("float32", 3, 4), indices: ints64(0, 2) } };
  },
});
export const binarizer = rows({
  name: "Binarizer",
  doc: "1 where an element is above the threshold, else 0.",
  out: { y: tensor("T") },
  attrs: {},
  infer: same,
  *samples() {
    yield { name: "threshold", in: { x: random("float32", 2, 3) }, attrs: { threshold: aFloat(0.5) } };
  },
});
export const castMap = defineOp({
  name: "CastMap",
  domain,
  doc: "The values of a map from integers, in the order of their keys, as [1, count].",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { cast_to: word("TO_FLOAT", "TO_FLOAT", "TO_STRING", "TO_INT64") },
  role: "compute",
  infer: (at) => {
    const to: Readonly<Record<string, DType>> = { TO_FLOAT: "float32", TO_STRING: "string", TO_INT64: "int64" };
    return [fact(to[at.attrs.cast_to], [1, UNKNOWN])];
  },
  cost: () => ({ flops: 0, bytes: 0 }),
  int8,
  on,
  *samples() {},
});
export const categoryMapper = rows({
  name: "CategoryMapper",
  doc: "Strings to their category numbers, or numbers to their strings.",
  out: { y: tensor() },
  types: ["string", "int64"],
  attrs: {},
  infer: (at) => [fact(dtypeOf(at.in.x) === "string" ? "int64" : dtypeOf(at.in.x) === undefined ? undefined : "string", shapeOf(at.in.x))],
  *samples() {
    const attrs = { cats_int64s: aInts(1, 2), cats_strings: { kind: "strings", value: ["a", "b"] } } as const;
    yield { name: "to number", in: { x: fed("string", [2], ["b", "a"]) }, attrs };
    yield { name: "to text", in: { x: fed("int64", [2], [1, 2]) }, attrs };
  },
});
export const dictVectorizer = defineOp({
  name: "DictVectorizer",
  domain,
  doc: "A map's values in the order of a vocabulary, 0 where a key is missing: [1, vocabulary].",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor() },
  out: { y: tensor() },
  attrs: { int64_vocabulary: optInts(), string_vocabulary: optStrings() },
  role: "compute",
  infer: (at) => {
    const of = at.in.x.type.kind === "map" && at.in.x.type.of.kind === "tensor" ? at.in.x.type.of.dtype : undefined;
    return [fact(of, [1, at.attrs.int64_vocabulary?.length ?? at.attrs.string_vocabulary?.length ?? UNKNOWN])];
  },
  cost: () => ({ flops: 0, bytes: 0 }),
  int8,
  on,
  *samples() {},
});
export const featureVectorizer = defineOp({
  name: "FeatureVectorizer",
  domain,
  doc: "Joins feature columns as float32: [rows, sum of columns].",
  reads: { onnx: [{ since: 1 }] },
  in: { xs: variadic("T") },
  out: { y: tensor("float32") },
  types: { T: INPUT },
  attrs: { inputdimensions: optInts() },
  role: "compute",
  infer: (at) => {
    const first = at.in.xs[0];
    const dims = at.attrs.inputdimensions;
    const width = dims !== undefined ? dims.reduce<Dim>((a, b) => add(a, b), 0) : UNKNOWN;
    return [fact("float32", [first === undefined ? UNKNOWN : rowCount(first), width])];
  },
  cost: moves,
  int8,
  on,
  *samples() {
    yield {
      name: "two",
      in: { xs: [random("float32", 2, 3), random("float32", 2, 1)] },
      attrs: { inputdimensions: aInts(3, 1) },
    };
  },
});
export const imputer = rows({
  name: "Imputer",
  doc: "Replaces a given value (or NaN) by another, per column.",
  out: { y: tensor("T") },
  attrs: {},
  infer: same,
  *samples() {
    yield {
      name: "number",
      in: { x: fed("float32", [2, 2], [1, 9, 9, 2]) },
      attrs: { imputed_value_floats: aFloats(0, 5), replaced_value_float: aFloat(9) },
    };
  },
});
export const labelEncoder = rows({
  name: "LabelEncoder",
  doc: "Maps each element through a table of keys and values.",
  since: [1, 2, 4],
  out: { y: tensor() },
  types: ["string", ...NUMBERS],
  attrs: {
    classes_strings: optStrings(),
    values_floats: optFloats(),
    values_int64s: optInts(),
    values_strings: optStrings(),
    values_tensor: optTensor(),
  },
  infer: (at) => {
    const a = at.attrs;
    const d: DType | undefined =
      a.classes_strings !== undefined
        ? dtypeOf(at.in.x) === "string"
          ? "int64"
          : "string"
        : a.values_tensor !== undefined
          ? a.values_tensor.dtype
          : a.values_strings !== undefined
            ? "string"
            : a.values_int64s !== undefined
              ? "int64"
              : a.values_floats !== undefined
                ? "float32"
                : undefined;
    return [fact(d, shapeOf(at.in.x))];
  },
  *samples() {
    yield {
      name: "text to number",
      in: { x: fed("string", [3], ["a", "b", "c"]) },
      attrs: { keys_strings: { kind: "strings", value: ["a", "b"] }, values_int64s: aInts(4, 5), default_int64: aInt(9) },
    };
  },
});
const linear = { coefficients: aFloats(0.5, -1, 2, 1, 0.25, -0.5), intercepts: aFloats(0.1, 0.2) };
export const linearClassifier = rows({
  name: "LinearClassifier",
  doc: "Label and scores of a linear model.",
  out: { label: tensor(), scores: tensor("float32") },
  attrs: { classlabels_ints: optInts(), classlabels_strings: optStrings(), intercepts: optFloats() },
  infer: (at) => labelled(at.in.x, at.attrs.classlabels_strings, at.attrs.classlabels_ints, undefined),
  *samples() {
    yield { name: "two classes", in: { x: random("float32", 4, 3) }, attrs: { ...linear, classlabels_ints: aInts(0, 1) }, outs: 2 };
  },
});
export const linearRegressor = rows({
  name: "LinearRegressor",
  doc: "Targets of a linear model, [rows, targets].",
  out: { y: tensor("float32") },
  attrs: { targets: int(1) },
  infer: (at) => [fact("float32", [rowCount(at.in.x), at.attrs.targets])],
  *samples() {
    yield { name: "two targets", in: { x: random("float32", 4, 3) }, attrs: { ...linear, targets: aInt(2) } };
  },
});
export const normalizer = rows({
  name: "Normalizer",
  doc: "Scales each row by its largest element, sum of magnitudes, or Euclidean norm.",
  out: { y: tensor("float32") },
  attrs: { norm: word("MAX", "MAX", "L1", "L2") },
  infer: asFloat,
  *samples() {
    yield { name: "L2", in: { x: random("float32", 2, 3) }, attrs: { norm: aText("L2") } };
  },
});
export const oneHotEncoder = rows({
  name: "OneHotEncoder",
  doc: "A 1 at each element's category along a new last axis.",
  out: { y: tensor("float32") },
  types: [...INPUT, "string"],
  attrs: { cats_int64s: optInts(), cats_strings: optStrings() },
  infer: (at) => {
    const s: Shape = shapeOf(at.in.x);
    return [
      fact("float32", s === undefined ? undefined : [...s, at.attrs.cats_int64s?.length ?? at.attrs.cats_strings?.length ?? UNKNOWN]),
    ];
  },
  *samples() {
    yield { name: "numbers", in: { x: fed("int64", [3], [0, 2, 1]) }, attrs: { cats_int64s: aInts(0, 1, 2) } };
  },
});
export const scaler = rows({
  name: "Scaler",
  doc: "(x - offset) * scale, per column.",
  out: { y: tensor("float32") },
  attrs: {},
  infer: asFloat,
  *samples() {
    yield { name: "columns", in: { x: random("float32", 2, 3) }, attrs: { offset: aFloats(1, 2, 3), scale: aFloats(0.5, 2, 1) } };
  },
});
const machine = {
  coefficients: aFloats(1, -1),
  kernel_params: aFloats(0.5, 0, 3),
  kernel_type: aText("RBF"),
  rho: aFloats(0.25),
  support_vectors: aFloats(1, 2, 3, -1, 0, 1),
};
export const svmClassifier = rows({
  name: "SVMClassifier",
  doc: "Label and scores of a support-vector machine.",
  out: { label: tensor(), scores: tensor("float32") },
  attrs: { classlabels_ints: optInts(), classlabels_strings: optStrings() },
  flops: 8,
  // The number of scores depends on the kernel, the number of classes and the calibration.
  infer: (at) => labelled(at.in.x, at.attrs.classlabels_strings, at.attrs.classlabels_ints, UNKNOWN),
  *samples() {
    yield {
      name: "two classes",
      in: { x: random("float32", 4, 3) },
      attrs: { ...machine, vectors_per_class: aInts(1, 1), classlabels_ints: aInts(0, 1) },
      outs: 2,
    };
  },
});
export const svmRegressor = rows({
  name: "SVMRegressor",
  doc: "Target of a support-vector machine, [rows, 1].",
  out: { y: tensor("float32") },
  attrs: {},
  flops: 8,
  infer: (at) => [fact("float32", [rowCount(at.in.x), 1])],
  *samples() {
    yield { name: "RBF", in: { x: random("float32", 4, 3) }, attrs: { ...machine, n_supports: aInt(2) } };
  },
});
export const treeEnsemble = rows({
  name: "TreeEnsemble",
  doc: "Sum, mean, least or largest of trees' leaves: [rows, targets].",
  since: [5],
  types: ["float32", "float64", "float16"],
  out: { y: tensor("T") },
  attrs: { n_targets: optInt() },
  flops: 8,
  infer: (at) => [fact(dtypeOf(at.in.x), [rowCount(at.in.x), at.attrs.n_targets ?? UNKNOWN])],
  *samples() {
    const value = (values: readonly number[], dtype: "float32" | "uint8") =>
      ({
        kind: "tensor",
        value: {
          dtype,
          dims: [values.length],
          data: {
            kind: "bytes",
            bytes: new Uint8Array(dtype === "float32" ? new Float32Array(values).buffer : new Uint8Array(values).buffer),
          },
        },
      }) as const;
    yield {
      name: "one split",
      in: { x: random("float32", 4, 2) },
      attrs: {
        n_targets: aInt(2),
        aggregate_function: aInt(1),
        post_transform: aInt(0),
        tree_roots: aInts(0),
        nodes_modes: value([0], "uint8"),
        nodes_featureids: aInts(1),
        nodes_splits: value([0.5], "float32"),
        nodes_truenodeids: aInts(0),
        nodes_trueleafs: aInts(1),
        nodes_falsenodeids: aInts(1),
        nodes_falseleafs: aInts(1),
        leaf_targetids: aInts(0, 1),
        leaf_weights: value([5, -2], "float32"),
      },
    };
  },
});
const tree = {
  nodes_treeids: aInts(0, 0, 0),
  nodes_nodeids: aInts(0, 1, 2),
  nodes_featureids: aInts(1, 0, 0),
  nodes_values: aFloats(0.5, 0, 0),
  nodes_modes: { kind: "strings", value: ["BRANCH_LEQ", "LEAF", "LEAF"] },
  nodes_truenodeids: aInts(1, 0, 0),
  nodes_falsenodeids: aInts(2, 0, 0),
} as const;
export const treeEnsembleClassifier = rows({
  name: "TreeEnsembleClassifier",
  doc: "Label and scores of an ensemble of decision trees.",
  out: { label: tensor(), scores: tensor("float32") },
  attrs: { classlabels_int64s: optInts(), classlabels_strings: optStrings() },
  flops: 8,
  infer: (at) => labelled(at.in.x, at.attrs.classlabels_strings, at.attrs.classlabels_int64s, undefined),
  *samples() {
    yield {
      name: "one tree",
      in: { x: random("float32", 4, 2) },
      attrs: {
        ...tree,
        class_ids: aInts(0, 1),
        class_nodeids: aInts(1, 2),
        class_treeids: aInts(0, 0),
        class_weights: aFloats(1, 1),
        classlabels_int64s: aInts(3, 4),
      },
      outs: 2,
    };
  },
});
export const treeEnsembleRegressor = rows({
  name: "TreeEnsembleRegressor",
  doc: "Targets of an ensemble of decision trees, [rows, targets].",
  out: { y: tensor("float32") },
  attrs: { n_targets: optInt() },
  flops: 8,
  infer: (at) => [fact("float32", [rowCount(at.in.x), at.attrs.n_targets ?? UNKNOWN])],
  *samples() {
    yield {
      name: "one tree",
      in: { x: random("float32", 4, 2) },
      attrs: {
        ...tree,
        n_targets: aInt(1),
        target_ids: aInts(0, 0),
        target_nodeids: aInts(1, 2),
        target_treeids: aInts(0, 0),
        target_weights: aFloats(1, 2),
      },
    };
  },
});
export const zipMap = defineOp({
  name: "ZipMap",
  domain,
  doc: "Scores [rows, classes] as a sequence of maps from class to score.",
  reads: { onnx: [{ since: 1 }] },
  in: { x: tensor("float32") },
  out: { y: tensor() },
  attrs: { classlabels_int64s: optInts(), classlabels_strings: optStrings() },
  role: "compute",
  infer: (at) => {
    const key: DType = at.attrs.classlabels_strings !== undefined ? "string" : "int64";
    return [
      {
        type: {
          kind: "sequence",
          of: { kind: "map", key, of: { kind: "tensor", dtype: "float32", shape: [] } },
        },
      },
    ];
  },
  cost: perInput(0),
  int8,
  on,
  *samples() {
    yield { name: "numbers", in: { x: random("float32", 2, 3) }, attrs: { classlabels_int64s: aInts(0, 1, 2) } };
  },
});
