/** The models that mutation starts from: made here, one per operator sample, and small real ones where the test data is at hand. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { numberToHalf } from "../../src/ir/numeric.js";
import { parse } from "../../src/ir/parse.js";
import { fromTensor } from "../../src/ir/payload.js";
import type { ValueId } from "../../src/ir/types.js";
import type { AnyOp, Sample, SampleInput, Slot } from "../../src/ops/define.js";
import { allOps } from "../../src/ops/registry.js";
import { isTensorDType, Tensor } from "../../src/tensor.js";
import { intField, messageField, textField, writeMessage } from "./proto.js";

export interface Base {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** `outputs` and `inputs` as in the text form. */
const g = (name: string, inputs: string, outputs: string, body: string): string =>
  `graph "${name}" opset {"": 18} (${inputs}) -> (${outputs}) {\n${body}\n}`;

const TEXTS: readonly string[] = [
  g(
    "mlp",
    "%x: float32[N, 4]",
    "%y",
    `const %w1 = float32[4, 3] [1.0, -1.0, 0.5, 2.0, 0.25, -0.5, 1.5, 0.0, 1.0, -2.0, 0.75, 0.125]
     const %b1 = float32[3] [0.5, -0.25, 1.0]
     const %w2 = float32[3, 2] [1.0, 2.0, 3.0, -1.0, -2.0, -3.0]
     %h = Gemm(%x, %w1, %b1) @"fc1"
     %r = Relu(%h) @"act"
     %z = MatMul(%r, %w2) @"fc2"
     %y = Softmax(%z) {axis = -1} @"prob"`,
  ),
  g(
    "conv-net",
    "%x: float32[1, 2, 6, 6]",
    "%y",
    `const %w = float32[3, 2, 3, 3] [${Array.from({ length: 54 }, (_, i) => ((i % 7) - 3) / 4)
      .map((v) => v.toFixed(3))
      .join(", ")}]
     const %s = float32[3] [1.0, 0.5, 2.0]
     const %b = float32[3] [0.0, 1.0, -1.0]
     const %m = float32[3] [0.1, 0.2, 0.3]
     const %v = float32[3] [1.0, 2.0, 0.5]
     const %sh = int64[2] [1, -1]
     %c = Conv(%x, %w, _) {pads = [1, 1, 1, 1], strides = [1, 1]} @"conv"
     %n = BatchNormalization(%c, %s, %b, %m, %v) @"bn"
     %a = Clip(%n, _, _) @"clip"
     %p = MaxPool(%a) {kernel_shape = [2, 2], strides = [2, 2]} @"pool"
     %q = GlobalAveragePool(%p) @"gap"
     %y = Reshape(%q, %sh) @"flat"`,
  ),
  g(
    "shape-arithmetic",
    "%x: float32[N, 3, M]",
    "%y",
    `const %zero = int64[] [0]
     const %two = int64[1] [2]
     const %minus = int64[1] [-1]
     const %one = int64[1] [1]
     const %one.axes = int64[1] [0]
     %s = Shape(%x) @"shape"
     %n = Gather(%s, %zero) @"first"
     %nu = Unsqueeze(%n, %one.axes) @"u"
     %t = Concat(%nu, %minus) {axis = 0} @"target"
     %r = Reshape(%x, %t) @"reshape"
     %e = Slice(%r, %one.axes, %two, %one, %one) @"slice"
     %l = ConstantOfShape(%s) {value = float32[1] [2.0]} @"fill"
     %lm = ReduceMean(%l, %minus) @"mean"
     %f = Flatten(%lm) @"flatten"
     %y = Concat(%e, %f) {axis = 1} @"join"`,
  ),
  g(
    "control-flow",
    "%x: float32[2, 2], %n: int64, %go: bool",
    "%out, %picked",
    `%out, %stack = Loop(%n, %go, %x) {
       body = graph "body" (%i: int64, %c: bool, %state: float32[2, 2]) captures (%outer = %x) -> (%keep, %next, %each) {
         %keep = Identity(%c)
         %next = Add(%state, %outer) @"inner"
         %each = ReduceSum(%next) @"sum"
       }
     } @"loop"
     %picked = If(%go) {
       then_branch = graph "then" () captures (%a = %out) -> (%r) {
         %r = Neg(%a) @"neg"
       }
       else_branch = graph "else" () captures (%a = %out) -> (%r) {
         %r = Exp(%a) @"exp"
       }
     } @"if"`,
  ),
  g(
    "scan",
    "%h: float32[2], %xs: float32[5, 2]",
    "%last, %all",
    `%last, %all = Scan(%h, %xs) {
       num_scan_inputs = 1
       body = graph "body" (%s: float32[2], %x: float32[2]) -> (%t, %u) {
         %t = Add(%s, %x) @"add"
         %u = Mul(%t, %x) @"mul"
       }
     } @"scan"`,
  ),
  g(
    "sequences",
    "%x: float32[4, 3]",
    "%y, %k",
    `const %axis = int64[] [1]
     %s = SplitToSequence(%x) {axis = 0} @"split"
     %t = SequenceInsert(%s, %x) @"insert"
     %k = SequenceLength(%t) @"length"
     %a = SequenceAt(%s, %axis) @"at"
     %c = ConcatFromSequence(%s) {axis = 0} @"join"
     %y = Add(%a, %c) @"add"`,
  ),
  g(
    "strings",
    "%x: string[N]",
    "%y, %e",
    `const %d = string[1] ["b"]
     %y = StringConcat(%x, %d) @"cat"
     %e = Equal(%x, %d) @"equal"`,
  ),
  g(
    "quantized",
    "%x: float32[2, 4]",
    "%y",
    `const %xs = float32[] [0.1]
     const %xz = int8[] [3]
     const %w = int8[4, 3] [1, 2, 3, -4, 5, -6, 7, 8, -9, 10, 11, 12]
     const %ws = float32[3] [0.1, 0.2, 0.3]
     const %wz = int8[3] [0, 0, 0]
     %q = QuantizeLinear(%x, %xs, %xz) @"q"
     %d = DequantizeLinear(%q, %xs, %xz) @"dq"
     %wd = DequantizeLinear(%w, %ws, %wz) {axis = 1} @"dqw"
     %m = MatMul(%d, %wd) @"mm"
     %o = QuantizeLinear(%m, %xs, %xz) @"qo"
     %y = DequantizeLinear(%o, %xs, %xz) @"dqo"`,
  ),
  g(
    "attention",
    "%q: float32[1, 4, 8]",
    "%y",
    `const %k = float32[8, 8] [${Array.from({ length: 64 }, (_, i) => (((i * 13) % 17) - 8) / 8)
      .map((v) => v.toFixed(3))
      .join(", ")}]
     const %heads = int64[4] [1, 4, 2, 4]
     const %back = int64[3] [1, 4, 8]
     const %scale = float32[] [0.5]
     %p = MatMul(%q, %k) @"proj"
     %r = Reshape(%p, %heads) @"heads"
     %t = Transpose(%r) {perm = [0, 2, 1, 3]} @"t1"
     %u = Transpose(%r) {perm = [0, 2, 3, 1]} @"t2"
     %s = MatMul(%t, %u) @"scores"
     %m = Mul(%s, %scale) @"scaled"
     %w = Softmax(%m) {axis = 3} @"weights"
     %o = MatMul(%w, %t) @"mix"
     %v = Transpose(%o) {perm = [0, 2, 1, 3]} @"t3"
     %y = Reshape(%v, %back) @"merge"`,
  ),
  g(
    "recurrent",
    "%x: float32[3, 1, 2]",
    "%y, %h",
    `const %w = float32[1, 8, 2] [${Array.from({ length: 16 }, (_, i) => ((i % 5) - 2) / 4)
      .map((v) => v.toFixed(2))
      .join(", ")}]
     const %r = float32[1, 8, 2] [${Array.from({ length: 16 }, (_, i) => ((i % 3) - 1) / 2)
       .map((v) => v.toFixed(2))
       .join(", ")}]
     %y, %h, %c = LSTM(%x, %w, %r) {hidden_size = 2} @"lstm"`,
  ),
  g(
    "indices",
    "%x: float32[4, 5], %i: int64[2, 2]",
    "%a, %b, %c, %d",
    `const %u = float32[2] [1.0, 2.0]
     const %k = int64[1] [2]
     const %sizes = int64[2] [8, 10]
     const %pads = int64[4] [1, 0, 0, 1]
     const %two = int64[3] [2, 4, 5]
     const %times = int64[3] [1, 2, 1]
     %a = GatherND(%x, %i) @"gather"
     %b = ScatterND(%x, %i, %u) @"scatter"
     %p = Pad(%x, %pads) @"pad"
     %c, %ci = TopK(%p, %k) @"topk"
     %e = Expand(%x, %two) @"expand"
     %d = Tile(%e, %times) @"tile"`,
  ),
  g(
    "halves",
    "%x: float16[2, 3], %b: bool[2, 3]",
    "%y, %z",
    `const %w = float16[3] [0.5, 1.0, 2.0]
     %m = Mul(%x, %w) @"mul"
     %f = Cast(%m) {to = 1} @"cast"
     %g = Cast(%f) {to = 16} @"bf"
     %h = Cast(%g) {to = 10} @"back"
     %y = Where(%b, %h, %x) @"where"
     %z = Not(%b) @"not"`,
  ),
];

/** A model with local functions, an unknown operator's domain and metadata, written by hand: the exporter inlines functions. */
function withFunctions(): Uint8Array {
  const node = (op: string, ins: readonly string[], outs: readonly string[], domain = "") =>
    [
      ...ins.map((n) => textField(1, n)),
      ...outs.map((n) => textField(2, n)),
      textField(3, `${op}_${outs[0]}`),
      textField(4, op),
      ...(domain === "" ? [] : [textField(7, domain)]),
    ] as const;
  const info = (name: string, ...dims: readonly number[]) => [
    textField(1, name),
    messageField(
      2,
      "type",
      messageField(1, "tensorType", intField(1, 1), messageField(2, "shape", ...dims.map((d) => messageField(1, "dim", intField(1, d))))),
    ),
  ];
  return writeMessage({
    kind: "model",
    fields: [
      intField(1, 9),
      textField(2, "partita-tests"),
      messageField(
        7,
        "graph",
        messageField(1, "node", ...node("Twice", ["x"], ["t"], "own")),
        messageField(1, "node", ...node("Twice", ["t"], ["u"], "own")),
        messageField(1, "node", ...node("Relu", ["u"], ["y"])),
        textField(2, "functions"),
        messageField(11, "info", ...info("x", 2, 3)),
        messageField(12, "info", ...info("y", 2, 3)),
        messageField(13, "info", ...info("t", 2, 3)),
      ),
      messageField(8, "opset", textField(1, ""), intField(2, 17)),
      messageField(8, "opset", textField(1, "own"), intField(2, 1)),
      messageField(14, "entry", textField(1, "author"), textField(2, "tests")),
      messageField(
        25,
        "function",
        textField(1, "Twice"),
        textField(4, "a"),
        textField(5, "c"),
        messageField(7, "node", ...node("Add", ["a", "a"], ["b"])),
        messageField(7, "node", ...node("Neg", ["b"], ["c"])),
        messageField(9, "opset", textField(1, ""), intField(2, 17)),
        textField(10, "own"),
      ),
    ],
  });
}

/** A model whose weights lie in `inside.bin`: 64 bytes, float32[4, 4]. */
function withExternal(): Uint8Array {
  const info = (name: string) => [
    textField(1, name),
    messageField(
      2,
      "type",
      messageField(
        1,
        "tensorType",
        intField(1, 1),
        messageField(2, "shape", messageField(1, "dim", intField(1, 4)), messageField(1, "dim", intField(1, 4))),
      ),
    ),
  ];
  const entry = (k: string, v: string) => messageField(13, "entry", textField(1, k), textField(2, v));
  return writeMessage({
    kind: "model",
    fields: [
      intField(1, 8),
      messageField(
        7,
        "graph",
        messageField(1, "node", textField(1, "x"), textField(1, "w"), textField(2, "y"), textField(4, "MatMul")),
        textField(2, "external"),
        messageField(
          5,
          "tensor",
          intField(1, 4),
          intField(1, 4),
          intField(2, 1),
          textField(8, "w"),
          entry("location", "inside.bin"),
          entry("offset", "0"),
          entry("length", "64"),
          intField(14, 1),
        ),
        messageField(11, "info", ...info("x")),
        messageField(12, "info", ...info("y")),
      ),
      messageField(8, "opset", intField(2, 17)),
    ],
  });
}

function sampleTensor(s: SampleInput): Tensor | undefined {
  if (!isTensorDType(s.dtype) || s.dtype === "bfloat16") return undefined;
  const count = s.dims.reduce((a, b) => a * b, 1);
  const values =
    s.fill === "random"
      ? Array.from({ length: count }, (_, i) => (s.dtype.startsWith("u") || s.dtype === "bool" ? i % 2 : (i % 9) - 4))
      : s.fill;
  if (s.dtype === "string") return new Tensor("string", values.map(String), s.dims);
  if (s.dtype === "float16")
    return new Tensor(
      "float16",
      Uint16Array.from(values, (x) => numberToHalf(Number(x))),
      s.dims,
    );
  return new Tensor(s.dtype, values as readonly number[], s.dims);
}

/** An operator's sample as a model; every second run-time input with fixed values becomes a constant. */
function sampleModel(def: AnyOp, sample: Sample): Uint8Array | undefined {
  const e = new Editor({
    name: `${def.name}: ${sample.name}`,
    opsets: { "": 18, ...(def.domain ? { [def.domain]: Math.max(...def.reads.onnx.map((r) => r.since)) } : {}) },
  });
  const ins: (ValueId | undefined)[] = [];
  for (const [name, slot] of Object.entries(def.in as Record<string, Slot>)) {
    const raw = sample.in[name];
    for (const s of (slot.kind === "variadic" ? (raw ?? []) : [raw]) as readonly (SampleInput | undefined)[]) {
      if (s === undefined) ins.push(undefined);
      else if (s.constant === true || s.fill !== "random") {
        const t = sampleTensor(s);
        if (t === undefined) return undefined;
        ins.push(e.addConstant(name, fromTensor(t)));
      } else ins.push(e.addInput(name, { kind: "tensor", dtype: s.dtype, shape: s.dims }));
    }
  }
  while (ins.length > 0 && ins[ins.length - 1] === undefined) ins.pop();
  const n = e.add({ op: def.name, domain: def.domain ?? "", name: "n", ins, outs: sample.outs ?? 1, attrs: sample.attrs ?? {} });
  e.setOutputs(n.outs.filter((v) => v !== undefined));
  return encodeOnnx(e.finish());
}

/** Models of the project itself: the same on every machine. */
export function ownBases(): Base[] {
  const bases: Base[] = TEXTS.map((text) => {
    const graph = parse(text);
    return { name: graph.name, bytes: encodeOnnx(graph) };
  });
  bases.push({ name: "functions", bytes: withFunctions() }, { name: "external", bytes: withExternal() });
  for (const def of allOps()) {
    if (def.random === true) continue;
    for (const sample of def.samples()) {
      const bytes = sampleModel(def, sample);
      if (bytes !== undefined && bytes.length < 20_000) bases.push({ name: `${def.name}: ${sample.name}`, bytes });
    }
  }
  return bases;
}

/** Small real models, and the ONNX backend suite's, below a folder of test data. */
export function realBases(data: string): Base[] {
  const bases: Base[] = [];
  const take = (name: string, path: string, limit: number): void => {
    if (existsSync(path) && statSync(path).size < limit) bases.push({ name, bytes: readFileSync(path) });
  };
  for (const set of ["node", "simple", "pytorch-operator", "pytorch-converted"]) {
    const folder = join(data, "onnx-backend", set);
    // Random operators have no result to compare with.
    for (const name of existsSync(folder) ? readdirSync(folder).sort() : [])
      if (!/bernoulli|dropout|multinomial|random/i.test(name)) take(`${set}/${name}`, join(folder, name, "model.onnx"), 100_000);
  }
  for (const set of ["real", "torch"]) {
    const folder = join(data, set);
    for (const name of existsSync(folder) ? readdirSync(folder).sort() : [])
      if (statSync(join(folder, name)).isDirectory())
        for (const file of readdirSync(join(folder, name)))
          if (file.endsWith(".onnx")) take(`${set}/${name}/${file}`, join(folder, name, file), 400_000);
  }
  return bases;
}
