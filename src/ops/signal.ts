/** Fourier transforms and their windows. */

import { add, floorDiv, mul, sub, UNKNOWN } from "../ir/dims.js";
import { dtypeFromOnnx } from "../ir/dtypes.js";
import { FLOATS64, hostOnly } from "./answers.js";
import { absent, defineOp, dtypeOf, flag, int, optional, type RawNode, type Rewriter, shapeOf, tensor } from "./define.js";
import { aInt, given, random } from "./samples.js";
import { axisOf, elementsOf, fact, numbersOf, perOutput } from "./shapes.js";

const on = hostOnly("Fourier transforms have no kernel");
const int8 = absent("needs float");
/** The axis moved from an attribute to an input. */
function axisToInput(n: RawNode, to: Rewriter): void {
  const { axis, ...rest } = n.attrs;
  to.emit("DFT", [n.ins[0], n.ins[1], to.int64(axis?.kind === "int" ? Number(axis.value) : 1)], rest, n.outs);
}
export const dft = defineOp({
  name: "DFT",
  doc: "Discrete Fourier transform along an axis; the last dim holds real, or real and imaginary parts.",
  reads: { onnx: [{ since: 17, adapt: axisToInput }, { since: 20 }] },
  in: { x: tensor("T"), length: optional(), axis: optional() },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { inverse: flag(false), onesided: flag(false) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const axis = at.in.axis === undefined ? -2 : numbersOf(at.in.axis)?.[0];
    if (x === undefined || axis === undefined)
      return [
        fact(
          dtypeOf(at.in.x),
          x?.map(() => UNKNOWN),
        ),
      ];
    const a = axisOf(axis, x.length) ?? 0;
    const real = at.attrs.onesided && at.attrs.inverse;
    const bins = x[a] ?? UNKNOWN;
    // A one-sided spectrum of b bins is that of 2 (b - 1) samples, unless the length says otherwise.
    const n = at.in.length === undefined ? (real ? mul(sub(bins, 1), 2) : bins) : (elementsOf(at.in.length)?.[0] ?? UNKNOWN);

    return [
      fact(
        dtypeOf(at.in.x),
        x.map((d, i) =>
          i === a ? (at.attrs.onesided && !at.attrs.inverse ? add(floorDiv(n, 2), 1) : n) : i === x.length - 1 ? (real ? 1 : 2) : d,
        ),
      ),
    ];
  },
  cost: perOutput(40),
  int8,
  on,
  *samples() {
    yield { name: "real", in: { x: random("float32", 1, 8, 1) } };
    yield {
      name: "onesided",
      in: { x: random("float32", 2, 9, 1), length: given("int64", [], [8]), axis: given("int64", [], [1]) },
      attrs: { onesided: aInt(1) },
    };
  },
});
export const stft = defineOp({
  name: "STFT",
  doc: "Short-time Fourier transform of frames of a signal.",
  reads: { onnx: [{ since: 17 }] },
  in: { x: tensor("T"), step: tensor(), window: optional("T"), length: optional() },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { onesided: flag(true) },
  role: "compute",
  infer: (at) => {
    const x = shapeOf(at.in.x);
    const n = elementsOf(at.in.length)?.[0] ?? shapeOf(at.in.window)?.[0] ?? UNKNOWN;
    const step = elementsOf(at.in.step)?.[0] ?? UNKNOWN;
    return [
      fact(dtypeOf(at.in.x), [
        x?.[0] ?? UNKNOWN,
        add(floorDiv(sub(x?.[1] ?? UNKNOWN, n), step), 1),
        at.attrs.onesided ? add(floorDiv(n, 2), 1) : n,
        2,
      ]),
    ];
  },
  cost: perOutput(40),
  int8,
  on,
  *samples() {
    yield { name: "frames", in: { x: random("float32", 1, 32, 1), step: given("int64", [], [8]), window: random("float32", 16) } };
  },
});
export const melWeightMatrix = defineOp({
  name: "MelWeightMatrix",
  doc: "Matrix that maps spectrum bins to the mel scale.",
  reads: { onnx: [{ since: 17 }] },
  in: { bins: tensor(), length: tensor(), rate: tensor(), low: tensor(), high: tensor() },
  out: { y: tensor() },
  attrs: { output_datatype: int(1) },
  role: "compute",
  infer: (at) => [
    fact(dtypeFromOnnx(at.attrs.output_datatype), [
      add(floorDiv(elementsOf(at.in.length)?.[0] ?? UNKNOWN, 2), 1),
      elementsOf(at.in.bins)?.[0] ?? UNKNOWN,
    ]),
  ],
  cost: perOutput(10),
  int8,
  on,
  *samples() {
    const i = (x: number) => given("int64", [], [x]);
    yield {
      name: "8 bins",
      in: { bins: i(8), length: i(16), rate: i(8192), low: given("float32", [], [0]), high: given("float32", [], [4096]) },
    };
  },
});
const window = <const N extends string>(name: N, doc: string) =>
  defineOp({
    name,
    doc,
    reads: { onnx: [{ since: 17 }] },
    in: { size: tensor() },
    out: { y: tensor() },
    attrs: { output_datatype: int(1), periodic: flag(true) },
    role: "compute",
    infer: (at) => [fact(dtypeFromOnnx(at.attrs.output_datatype), [elementsOf(at.in.size)?.[0] ?? UNKNOWN])],
    cost: perOutput(10),
    int8,
    on,
    *samples() {
      yield { name: "ten", in: { size: given("int32", [], [10]) } };
      yield { name: "symmetric", in: { size: given("int64", [], [7]) }, attrs: { periodic: aInt(0) } };
    },
  });
export const hannWindow = window("HannWindow", "Hann window.");
export const hammingWindow = window("HammingWindow", "Hamming window.");
export const blackmanWindow = window("BlackmanWindow", "Blackman window.");
