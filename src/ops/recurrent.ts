/** Recurrent layers. Layout 1 (batch first) is read as layout 0 between transpositions: no engine has kernels for it. */

import { no, yes } from "../diagnostics.js";
import { isStatic, mul, UNKNOWN } from "../ir/dims.js";
import type { Attr, Dim, ValueId } from "../ir/types.js";
import { FLOATS64, on, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  int,
  type OnnxReading,
  optFloat,
  optFloats,
  optInt,
  optional,
  optStrings,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  word,
} from "./define.js";
import { aInt, aText, given, random } from "./samples.js";
import { count, fact, traffic } from "./shapes.js";

const int8 = absent("the recurrence feeds its own rounding back; kept in float");
const engines = on(
  when("layout 0, up to 2048 hidden units", (at) => {
    if (at.attrs["layout"] === 1) return no("batch-first layout", "export the layer in its plain form");
    const hidden = shapeOf(at.in["r"] as Fact)?.[2];
    return typeof hidden === "number" && hidden > 2048 ? no(`${hidden} hidden units do not fit a block's shared memory`) : yes;
  }),
  when("layout 0, no coupled gates", (at) =>
    at.attrs["layout"] === 1 || at.attrs["input_forget"] === true
      ? no(at.attrs["layout"] === 1 ? "batch-first layout" : "coupled input and forget gates", "export the layer in its plain form")
      : yes,
  ),
);

/** Inputs and outputs with a batch axis first under layout 1; opset 1 said with `output_sequence` what absent outputs say today. */
function read(n: RawNode, to: Rewriter): void {
  const { output_sequence, layout, ...rest } = n.attrs;
  if (layout?.kind !== "int" || Number(layout.value) !== 1) {
    if (output_sequence === undefined) to.keep();
    else to.emit(n.op, n.ins, rest, n.outs);
    return;
  }
  const swap: Readonly<Record<string, Attr>> = { perm: { kind: "ints", value: [1, 0, 2] } };
  const ins: (ValueId | undefined)[] = n.ins.map((v, i) =>
    v !== undefined && (i === 0 || i === 5 || i === 6) ? to.emit("Transpose", [v], swap)[0] : v,
  );
  const inner = to.emit(n.op, ins, rest, n.outs.length);
  n.outs.forEach((v, i) => {
    // Y [seq, dirs, batch, hidden] becomes [batch, seq, dirs, hidden]; the states [dirs, batch, hidden] become [batch, dirs, hidden].
    if (v !== undefined) to.emit("Transpose", [inner[i]], i === 0 ? { perm: { kind: "ints", value: [2, 0, 1, 3] } } : swap, [v]);
  });
}
const reads = { onnx: [{ since: 1, adapt: read }, { since: 7 }, { since: 14, adapt: read }] as readonly OnnxReading[] } as const;

interface RecurrentAttrs {
  readonly direction: string;
  readonly hidden_size: number | undefined;
  readonly layout: number;
}
/** Facts of the sequence output and of `states` final states. Dims: [seq, batch, input], or [batch, seq, input] under layout 1. */
function recurrentFacts(x: Fact, r: Fact, a: RecurrentAttrs, states: number): readonly Fact[] {
  const s = shapeOf(x);
  const batchFirst = a.layout === 1;
  const [seq, batch] = [s?.[batchFirst ? 1 : 0] ?? UNKNOWN, s?.[batchFirst ? 0 : 1] ?? UNKNOWN];
  const hidden: Dim = a.hidden_size ?? shapeOf(r)?.[2] ?? UNKNOWN;
  const dirs = a.direction === "bidirectional" ? 2 : 1;
  const d = dtypeOf(x);
  const state = fact(d, batchFirst ? [batch, dirs, hidden] : [dirs, batch, hidden]);
  return [fact(d, batchFirst ? [batch, seq, dirs, hidden] : [seq, dirs, batch, hidden]), ...new Array<Fact>(states).fill(state)];
}
/** Every step multiplies the input and the state by the gates' weights: 2 * seq * batch * (elements of W and R). */
const recurrentCost = (at: {
  readonly in: { readonly x: Fact; readonly w: Fact; readonly r: Fact };
  readonly out: readonly Fact["type"][];
}) => {
  const s = shapeOf(at.in.x);
  const steps = mul(s?.[0] ?? 1, s?.[1] ?? 1);
  return { flops: 2 * (isStatic(steps) ? steps : 1) * (count(at.in.w) + count(at.in.r)), bytes: traffic(at.in, at.out) };
};

const common = {
  activation_alpha: optFloats(),
  activation_beta: optFloats(),
  activations: optStrings(),
  clip: optFloat(),
  direction: word("forward", "forward", "reverse", "bidirectional"),
  hidden_size: optInt(),
  layout: int(0),
};

/** Weights of a size that keeps long recurrences from saturating. */
const wave = (...dims: readonly number[]) =>
  given(
    "float32",
    dims,
    Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.fround(0.15 * Math.sin(1.7 * i))),
  );
const operands = (gates: number, dirs: number) => ({
  x: random("float32", 3, 2, 4),
  w: random("float32", dirs, gates * 5, 4),
  r: random("float32", dirs, gates * 5, 5),
});
/** Rows of the given lengths in 96 units, both ways: a sample without its outputs. */
const manyUnits = (gates: number, lengths: readonly number[]) => ({
  name: "many units, short rows",
  in: {
    x: random("float32", Math.max(...lengths), lengths.length, 20),
    w: wave(2, gates * 96, 20),
    r: wave(2, gates * 96, 96),
    b: wave(2, 2 * gates * 96),
    lengths: given("int32", [lengths.length], lengths),
  },
  attrs: { hidden_size: aInt(96), direction: aText("bidirectional") },
});

export const rnn = defineOp({
  name: "RNN",
  doc: "Elman recurrent layer: X [seq, batch, input], W [dirs, hidden, input], R [dirs, hidden, hidden].",
  reads,
  in: { x: tensor("T"), w: tensor("T"), r: tensor("T"), b: optional("T"), lengths: optional("int32"), initialH: optional("T") },
  out: { y: optional("T"), yH: optional("T") },
  types: { T: FLOATS64 },
  attrs: common,
  role: "compute",
  infer: (at) => recurrentFacts(at.in.x, at.in.r, at.attrs, 1),
  cost: recurrentCost,
  int8,
  on: engines,
  *samples() {
    yield { name: "forward", in: operands(1, 1), attrs: { hidden_size: aInt(5) }, outs: 2 };
    yield {
      name: "bidirectional",
      in: operands(1, 2),
      attrs: { hidden_size: aInt(5), direction: aText("bidirectional"), activations: { kind: "strings", value: ["Tanh", "Relu"] } },
      outs: 2,
    };
  },
});
export const lstm = defineOp({
  name: "LSTM",
  doc: "Long short-term memory layer, gates in order i, o, f, c: W [dirs, 4 hidden, input], R [dirs, 4 hidden, hidden], P the peephole weights.",
  reads,
  in: {
    x: tensor("T"),
    w: tensor("T"),
    r: tensor("T"),
    b: optional("T"),
    lengths: optional("int32"),
    initialH: optional("T"),
    initialC: optional("T"),
    p: optional("T"),
  },
  out: { y: optional("T"), yH: optional("T"), yC: optional("T") },
  types: { T: FLOATS64 },
  attrs: { ...common, input_forget: flag(false) },
  role: "compute",
  infer: (at) => recurrentFacts(at.in.x, at.in.r, at.attrs, 2),
  cost: recurrentCost,
  int8,
  on: engines,
  *samples() {
    yield { name: "forward", in: operands(4, 1), attrs: { hidden_size: aInt(5) }, outs: 3 };
    yield {
      name: "reverse, bias and lengths",
      in: { ...operands(4, 1), b: random("float32", 1, 40), lengths: given("int32", [2], [3, 2]) },
      attrs: { hidden_size: aInt(5), direction: aText("reverse") },
      outs: 3,
    };
    yield { name: "bidirectional", in: operands(4, 2), attrs: { hidden_size: aInt(5), direction: aText("bidirectional") }, outs: 3 };
    yield {
      name: "peepholes, states, clip",
      in: {
        ...operands(4, 1),
        b: random("float32", 1, 40),
        initialH: random("float32", 1, 2, 5),
        initialC: random("float32", 1, 2, 5),
        p: random("float32", 1, 15),
      },
      attrs: { hidden_size: aInt(5), clip: { kind: "float", value: 1.5 } },
      outs: 3,
    };
    yield { ...manyUnits(4, [7, 4, 1]), outs: 3 };
  },
});
export const gru = defineOp({
  name: "GRU",
  doc: "Gated recurrent unit layer, gates in order z, r, h: W [dirs, 3 hidden, input], R [dirs, 3 hidden, hidden].",
  reads,
  in: { x: tensor("T"), w: tensor("T"), r: tensor("T"), b: optional("T"), lengths: optional("int32"), initialH: optional("T") },
  out: { y: optional("T"), yH: optional("T") },
  types: { T: FLOATS64 },
  attrs: { ...common, linear_before_reset: flag(false) },
  role: "compute",
  infer: (at) => recurrentFacts(at.in.x, at.in.r, at.attrs, 1),
  cost: recurrentCost,
  int8,
  on: engines,
  *samples() {
    yield { name: "forward", in: operands(3, 1), attrs: { hidden_size: aInt(5) }, outs: 2 };
    yield {
      name: "linear before reset",
      in: { ...operands(3, 1), b: random("float32", 1, 30), initialH: random("float32", 1, 2, 5) },
      attrs: { hidden_size: aInt(5), linear_before_reset: aInt(1) },
      outs: 2,
    };
    yield { name: "bidirectional", in: operands(3, 2), attrs: { hidden_size: aInt(5), direction: aText("bidirectional") }, outs: 2 };
    yield { ...manyUnits(3, [6, 3, 1]), outs: 2 };
  },
});
