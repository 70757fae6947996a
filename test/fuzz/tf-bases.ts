/** The TensorFlow models that mutation starts from: graphs made here, SavedModels with their checkpoints, and small real ones. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { readNpz } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";
import {
  bool,
  constant,
  FLOAT,
  type FunctionSpec,
  float,
  func,
  graphDef,
  INT32,
  int,
  ints,
  type NodeSpec,
  node,
  placeholder,
  RESOURCE,
  shape,
  text,
  type,
  writeSavedModel,
} from "../support/tf-graph.js";

export interface TfBase {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly outputs: readonly string[] | undefined;
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** TensorFlow's own results, where they are known. */
  readonly expected: Readonly<Record<string, Tensor>> | undefined;
}

const T = type(FLOAT);
const I = type(INT32);
interface Spec {
  readonly name: string;
  readonly nodes: readonly NodeSpec[];
  readonly functions?: readonly FunctionSpec[];
  readonly feeds: Readonly<Record<string, Tensor>>;
}
const specs: readonly Spec[] = [
  {
    name: "conv",
    feeds: { x: ramp([2, 8, 8, 3]) },
    nodes: [
      placeholder("x", FLOAT, [-1, 8, 8, 3]),
      constant("w", FLOAT, [3, 3, 3, 4], [0.5]),
      node("conv", "Conv2D", ["x", "w"], {
        T,
        strides: (w) => w.message(1, () => [1, 1, 1, 1].forEach((s) => w.uint(3, s))),
        padding: text("SAME"),
      }),
      node("act", "Relu6", ["conv"], { T }),
      constant("axes", INT32, [2], [1, 2]),
      node("mean", "Mean", ["act", "axes"], { T, Tidx: I, keep_dims: bool(false) }),
      constant("dims", INT32, [2], [-1, 4]),
      node("flat", "Reshape", ["mean", "dims"], { T, Tshape: I }),
      constant("k", INT32, [], [2]),
      node("top", "TopKV2", ["flat", "k"], { T }),
      node("soft", "Softmax", ["flat"], { T }),
      node("clip", "LeakyRelu", ["soft"], { T, alpha: float(0.2) }),
    ],
  },
  {
    name: "frames",
    feeds: { x: new Tensor("float32", [0.5], []), n: new Tensor("int32", [4], []) },
    nodes: [
      placeholder("x", FLOAT, []),
      placeholder("n", INT32, []),
      constant("zero", INT32, [], [0]),
      ...["i", "v"].map((s) =>
        node(`${s}_enter`, "Enter", [s === "i" ? "zero" : "x"], { T: s === "i" ? I : T, frame_name: text("f"), is_constant: bool(false) }),
      ),
      node("n_enter", "Enter", ["n"], { T: I, frame_name: text("f"), is_constant: bool(true) }),
      node("i", "Merge", ["i_enter", "i_next"], { T: I, N: int(2) }),
      node("v", "Merge", ["v_enter", "v_next"], { T, N: int(2) }),
      node("less", "Less", ["i", "n_enter"], { T: I }),
      node("go", "LoopCond", ["less"]),
      node("i_switch", "Switch", ["i", "go"], { T: I }),
      node("v_switch", "Switch", ["v", "go"], { T }),
      constant("one", INT32, [], [1]),
      node("i_add", "Add", ["i_switch:1", "one"], { T: I }),
      node("v_add", "Add", ["v_switch:1", "v_switch:1"], { T }),
      node("array", "TensorArrayV3", ["n"], { dtype: T, element_shape: shape(undefined) }),
      node("flow_enter", "Enter", ["array:1"], { T, frame_name: text("f") }),
      node("flow", "Merge", ["flow_enter", "flow_next"], { T, N: int(2) }),
      node("flow_switch", "Switch", ["flow", "go"], { T }),
      node("write", "TensorArrayWriteV3", ["array", "i_switch:1", "v_switch:1", "flow_switch:1"], { T }),
      node("flow_next", "NextIteration", ["write"], { T }),
      node("flow_exit", "Exit", ["flow_switch"], { T }),
      node("i_next", "NextIteration", ["i_add"], { T: I }),
      node("v_next", "NextIteration", ["v_add"], { T }),
      node("v_exit", "Exit", ["v_switch"], { T }),
      constant("big", FLOAT, [], [3]),
      node("test", "Greater", ["v_exit", "big"], { T }),
      node("s", "Switch", ["v_exit", "test"], { T }),
      node("neg", "Neg", ["s:1"], { T }),
      node("y", "Merge", ["s", "neg"], { T, N: int(2) }),
      node("read", "TensorArrayReadV3", ["array", "zero", "flow_exit"], { dtype: T }),
    ],
  },
  {
    name: "functions",
    feeds: { x: new Tensor("float32", [0.5, -1.5], [2]) },
    nodes: [
      placeholder("x", FLOAT, [2]),
      constant("c", INT32, [], [3]),
      node("loop", "While", ["c", "x"], { cond: func("cond"), body: func("body") }),
      node("call", "PartitionedCall", ["loop:1"], { f: func("inner") }),
      node("if", "If", ["c", "call"], { then_branch: func("inner"), else_branch: func("inner") }),
    ],
    functions: [
      { name: "inner", args: [["a", FLOAT]], results: [["r", FLOAT, "s:y:0"]], nodes: [node("s", "Square", ["a"], { T })] },
      {
        name: "cond",
        args: [
          ["i", INT32],
          ["a", FLOAT],
        ],
        results: [["go", 10, "g:z:0"]],
        nodes: [constant("z", INT32, [], [0]), node("g", "Greater", ["i", "z:output:0"], { T: I })],
      },
      {
        name: "body",
        args: [
          ["i", INT32],
          ["a", FLOAT],
        ],
        results: [
          ["i2", INT32, "d:z:0"],
          ["a2", FLOAT, "q:output:0"],
        ],
        nodes: [
          constant("one", INT32, [], [1]),
          node("d", "Sub", ["i", "one:output:0"], { T: I }),
          node("q", "PartitionedCall", ["a"], { f: func("inner") }),
        ],
      },
    ],
  },
  {
    name: "shapes",
    feeds: { x: ramp([2, 3, 4]), i: new Tensor("int32", [1, 0, 2], [3]) },
    nodes: [
      placeholder("x", FLOAT, [-1, 3, 4]),
      placeholder("i", INT32, [3]),
      node("shape", "Shape", ["x"], { T, out_type: I }),
      constant("zero", INT32, [1], [0]),
      constant("one", INT32, [1], [1]),
      constant("minus", INT32, [], [-1]),
      node("first", "StridedSlice", ["shape", "zero", "one", "one"], {
        T: I,
        Index: I,
        begin_mask: int(0),
        end_mask: int(0),
        ellipsis_mask: int(0),
        new_axis_mask: int(0),
        shrink_axis_mask: int(1),
      }),
      node("pack", "Pack", ["first", "minus"], { T: I, N: int(2), axis: int(0) }),
      node("flat", "Reshape", ["x", "pack"], { T, Tshape: I }),
      constant("axis", INT32, [], [1]),
      node("rows", "GatherV2", ["x", "i", "axis"], { Tparams: T, Tindices: I, Taxis: I, batch_dims: int(0) }),
      constant("times", INT32, [3], [1, 1, 3]),
      node("tile", "Tile", ["rows", "times"], { T, Tmultiples: I }),
      node("split", "Split", ["minus", "tile"], { T, num_split: int(3) }),
      node("sum", "AddN", ["split", "split:1", "split:2"], { T, N: int(3) }),
      constant("pads", INT32, [3, 2], [0, 0, 1, 1, 0, 2]),
      node("pad", "MirrorPad", ["sum", "pads"], { T, Tpaddings: I, mode: text("REFLECT") }),
      node("where", "Where", ["pad"], { T }),
      node("cum", "Cumsum", ["flat", "axis"], { T, Tidx: I, exclusive: bool(true), reverse: bool(true) }),
      node("quantized", "FakeQuantWithMinMaxArgs", ["cum"], { min: float(-3), max: float(3), num_bits: int(8), narrow_range: bool(true) }),
      node("log", "LogSoftmax", ["quantized"], { T }),
    ],
  },
  {
    name: "image",
    feeds: { x: ramp([1, 4, 4, 2]) },
    nodes: [
      placeholder("x", FLOAT, [1, -1, -1, 2]),
      constant("size", INT32, [2], [7, 5]),
      node("up", "ResizeBilinear", ["x", "size"], { T, align_corners: bool(false), half_pixel_centers: bool(true) }),
      constant("depth", FLOAT, [3, 3, 2, 1], [0.25]),
      node("dw", "DepthwiseConv2dNative", ["up", "depth"], { T, strides: ints(1, 2, 2, 1), padding: text("SAME") }),
      constant("scale", FLOAT, [2], [1, 2]),
      constant("offset", FLOAT, [2], [0.5, -0.5]),
      node("bn", "FusedBatchNormV3", ["dw", "scale", "offset", "offset", "scale"], {
        T,
        U: T,
        is_training: bool(false),
        epsilon: float(0.001),
      }),
      node("relu", "Relu", ["bn"], { T }),
      node("pool", "MaxPool", ["relu"], { T, ksize: ints(1, 2, 2, 1), strides: ints(1, 1, 1, 1), padding: text("VALID") }),
      constant("boxes", FLOAT, [2, 4], [0, 0, 1, 1, 0.2, 0.1, 0.9, 0.8]),
      constant("scores", FLOAT, [2], [0.9, 0.8]),
      constant("most", INT32, [], [2]),
      node("nms", "NonMaxSuppression", ["boxes", "scores", "most"], { iou_threshold: float(0.5) }),
    ],
  },
];

/** Numbers that go up and down, the same everywhere. */
function ramp(dims: readonly number[]): Tensor {
  const count = dims.reduce((a, d) => a * d, 1);
  return new Tensor(
    "float32",
    Float32Array.from({ length: count }, (_, i) => ((i * 7) % 11) / 4 - 1),
    dims,
  );
}

/** Graphs of the project itself; what they give is what their unchanged form gives. */
export const ownGraphs = (): readonly TfBase[] =>
  specs.map((s) => ({ name: s.name, bytes: graphDef(s.nodes, s.functions), outputs: undefined, feeds: s.feeds, expected: undefined }));

/** Graphs of one or a few operators with TensorFlow's results, below a folder of test data. */
export function realGraphs(data: string): readonly TfBase[] {
  const root = join(data, "tf-cases");
  if (!existsSync(join(root, "cases.json"))) return [];
  const list = JSON.parse(readFileSync(join(root, "cases.json"), "utf8")) as Record<string, { runtime_inputs: boolean; random: boolean }>;
  const found: TfBase[] = [];
  for (const [name, info] of Object.entries(list)) {
    const path = join(root, name, "model_in.pb");
    // One case leaves the order of its results open.
    if (info.random || name === "topk/rank2_k5" || !existsSync(path) || statSync(path).size > 50_000) continue;
    const io = readNpz(join(root, name, "io_in.npz"));
    const side = (prefix: string): Record<string, Tensor> =>
      Object.fromEntries([...io].filter(([k]) => k.startsWith(prefix)).map(([k, t]) => [k.slice(prefix.length), t]));
    const expected = side("out|");
    found.push({ name: `tf-cases/${name}`, bytes: readFileSync(path), outputs: Object.keys(expected), feeds: side("in|"), expected });
  }
  return found;
}

/** SavedModels of TensorFlow 1 and of Keras' kind, with three variables; below `folder`, by name. */
export function ownSavedModels(
  folder: string,
): readonly { readonly name: string; readonly path: string; readonly feeds: TfBase["feeds"] }[] {
  const feeds = { x: new Tensor("float32", [1, 2, 3, 4], [2, 2]) };
  const variables = [
    { key: "v", dims: [2], values: [1, 2] },
    { key: "old", dims: [2], values: [3, 4] },
    { key: "other", dims: [1, 3], values: [5, 6, 7] },
  ];
  writeSavedModel(join(folder, "tf1"), {
    nodes: [
      placeholder("x", FLOAT, [-1, 2]),
      { name: "v", op: "VarHandleOp", attrs: { dtype: T, shape: shape([2]), shared_name: text("v") } },
      node("value", "ReadVariableOp", ["v"], { dtype: T }),
      node("old", "VariableV2", [], { dtype: T, shape: shape([2]) }),
      node("sum", "AddV2", ["x", "value"], { T }),
      node("y", "Mul", ["sum", "old"], { T }),
    ],
    signatures: { serving_default: { inputs: { x: "x:0" }, outputs: { y: "y:0" } } },
    variables,
  });
  const handle = (n: string, dims: readonly number[]) => node(n, "VarHandleOp", [], { dtype: T, shape: shape(dims), shared_name: text(n) });
  writeSavedModel(join(folder, "keras"), {
    nodes: [
      placeholder("serving_x", FLOAT, [-1, 2]),
      handle("a", [2]),
      handle("b", [2]),
      node("call", "StatefulPartitionedCall", ["serving_x", "a", "b"], { f: func("model") }),
      constant("saver_filename", 7, [], [""]),
      node("restored", "StatefulPartitionedCall", ["saver_filename", "a", "b"], { f: func("restore") }),
    ],
    functions: [
      {
        name: "model",
        args: [
          ["x", FLOAT],
          ["a", RESOURCE],
          ["b", RESOURCE],
        ],
        results: [["out", FLOAT, "inner:r:0"]],
        nodes: [
          node("ra", "ReadVariableOp", ["a"], { dtype: T }),
          node("rb", "ReadVariableOp", ["b"], { dtype: T }),
          node("add", "AddV2", ["x", "ra:value:0"], { T }),
          node("mul", "Mul", ["add:z:0", "rb:value:0"], { T }),
          node("inner", "twice", ["mul:z:0"]),
        ],
      },
      { name: "twice", args: [["a", FLOAT]], results: [["r", FLOAT, "s:z:0"]], nodes: [node("s", "AddV2", ["a", "a"], { T })] },
      {
        name: "restore",
        args: [
          ["prefix", 7],
          ["a", RESOURCE],
          ["b", RESOURCE],
        ],
        results: [],
        nodes: [
          constant("names", 7, [2], ["v", "old"]),
          constant("slices", 7, [2], ["", ""]),
          node("RestoreV2", "RestoreV2", ["prefix", "names:output:0", "slices:output:0"]),
          node("assign", "AssignVariableOp", ["a", "RestoreV2:tensors:0"], { dtype: T }),
          node("assign_1", "AssignVariableOp", ["b", "RestoreV2:tensors:1"], { dtype: T }),
        ],
      },
    ],
    signatures: { serving_default: { inputs: { x: "serving_x:0" }, outputs: { y: "call:0" } } },
    variables,
  });
  return ["tf1", "keras"].map((name) => ({ name, path: join(folder, name), feeds }));
}
