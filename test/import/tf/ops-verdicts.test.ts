/** The table of TensorFlow operators: what is read, what is not and why. */
import { expect, it } from "vitest";
import { importTf } from "../../../src/import/tf/index.js";
import { unreadableNodes } from "../../../src/import/tf/unreadable.js";
import { lookup } from "../../../src/ops/registry.js";
import { allTfOps, lookupTf } from "../../../src/ops/tf/registry.js";
import { constant, graphDef, int, ints, node, placeholder, text } from "../../support/tf-graph.js";

/** What TF-TRT converted. */
const TF_TRT =
  "Abs Acos Acosh Add AddN AddV2 ArgMax ArgMin Asin Asinh Atan Atanh AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BiasAdd Cast Ceil ClipByValue CombinedNonMaxSuppression ConcatV2 Const Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 Cos Cosh DataFormatVecPermute DepthToSpace DepthwiseConv2dNative Div Einsum Elu Equal Erf Exp ExpandDims FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars Fill Floor FloorDiv FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedConv2DBiasActivation GatherV2 Greater GreaterEqual Identity IdentityN LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPool3D Maximum Mean Min Minimum Mul Neg OnesLike Pack Pad Pow Prod QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 Range ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Sin Sinh Slice Snapshot Softmax Softplus Softsign SpaceToDepth Split Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose Unpack VariableV2 ZerosLike";
const LACKED =
  "NotEqual GatherNd MirrorPad PadV2 SplitV NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 CropAndResize SpaceToBatchND BatchToSpaceND OneHot Cumsum FloorMod QuantizeAndDequantizeV4 LSTMBlockCell BlockLSTM BlockLSTMV2 GRUBlockCell If While Switch Merge Enter Exit";

it("reads every operator that TF-TRT converted, and those it lacked", () => {
  for (const name of `${TF_TRT} ${LACKED}`.split(" ")) {
    const def = lookupTf(name);
    expect(def, name).toBeDefined();
    expect(def?.rule.kind, name).not.toBe("absent");
  }
});
it("lowers to canonical operators alone, and says why and what to do where it does not", () => {
  for (const [name, def] of allTfOps()) {
    for (const op of def.to) expect(lookup("", op), `${name} to ${op}`).toBeDefined();
    if (def.rule.kind !== "absent") continue;
    expect(def.rule.why.length, name).toBeGreaterThan(10);
    expect(def.rule.fix ?? "", name).not.toBe("");
  }
});
it("names what cannot be read and still makes what does not depend on it", () => {
  const g = importTf(
    graphDef([
      placeholder("s", 7, [2]),
      placeholder("x", 1, [2]),
      node("hash", "StringToHashBucketFast", ["s"]),
      node("y", "Neg", ["x"]),
      node("z", "LookupTableFindV2", ["hash", "hash", "hash"]),
    ]),
    { outputs: ["y", "z"] },
  );
  expect(g.nodes.map((n) => n.op)).toContain("Neg");
  const left = unreadableNodes(g).map((n) => `${n.op}: ${n.extra?.doc}`);
  expect(left.find((l) => l.startsWith("LookupTableFindV2"))).toMatch(/lookup tables live beside the graph/);
  expect(left.find((l) => l.startsWith("StringToHashBucketFast"))).toMatch(/byte for byte/);
});
it("marks what differs from run to run", () => {
  for (const name of ["RandomUniform", "RandomStandardNormal", "Multinomial", "RandomShuffle"])
    expect(lookupTf(name)?.random, name).toBe(true);
});
it("refuses counts that no graph means instead of writing them out", () => {
  const huge = 2 ** 31 - 1;
  const cases: readonly (readonly [string, readonly string[], Parameters<typeof node>[3]])[] = [
    ["Unpack", ["x"], { num: int(huge) }],
    ["Split", ["axis", "x"], { num_split: int(huge) }],
    ["DynamicPartition", ["x", "axis"], { num_partitions: int(huge) }],
    [
      "ExtractImagePatches",
      ["image"],
      { ksizes: ints(1, 60000, 60000, 1), strides: ints(1, 1, 1, 1), rates: ints(1, 1, 1, 1), padding: text("SAME") },
    ],
    ["MatrixDiagV3", ["x", "axis", "huge", "huge", "zero"], {}],
    ["AudioSpectrogram", ["x"], { window_size: int(huge), stride: int(1) }],
    ["FakeQuantWithMinMaxArgs", ["x"], { num_bits: int(huge) }],
  ];
  for (const [op, ins, attrs] of cases) {
    const g = importTf(
      graphDef([
        placeholder("x", 1, [4]),
        placeholder("image", 1, [1, 8, 8, 1]),
        constant("axis", 3, [], [0]),
        constant("huge", 3, [], [huge]),
        constant("zero", 1, [], [0]),
        node("y", op, ins, attrs),
      ]),
      { outputs: ["y"] },
    );
    expect(unreadableNodes(g)[0]?.extra?.doc ?? "", op).toMatch(/2147483647|3600000000|out of reach|4611686014132420600/);
  }
});
