/** Recurrent cells in one operator: LSTM and GRU blocks, and the LSTM over a whole sequence as a Scan. */
import type { ValueType } from "../../ir/types.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { counting, dimOf, shapeFrom } from "./helpers.js";
import { compute, like } from "./kernels.js";

interface Cell {
  /** Places of the input, candidate, forget and output gates among the quarters of the product. */
  readonly gates: readonly [i: number, c: number, f: number, o: number];
  readonly forgetBias: number;
  readonly clip: number;
  readonly peephole: readonly [ci: Val, cf: Val, co: Val] | undefined;
}
/** One step; `pre` is [batch, 4 units], bias included. Results in TensorFlow's order: i, cs, f, o, ci, co, h. */
function lstmStep(n: TfNode, b: TfBuilder, pre: Val, cellBefore: Val, units: number, cell: Cell): readonly Val[] {
  const k = compute(n, b);
  const quarter = (q: number): Val => b.slice(pre, [q * units], [(q + 1) * units], [1]);
  const through = (x: Val, state: Val, weight: Val | undefined): Val =>
    weight === undefined ? x : k("Add", [x, k("Mul", [state, weight])]);
  const [pi, pf, po] = cell.peephole ?? [];
  const i = k("Sigmoid", [through(quarter(cell.gates[0]), cellBefore, pi)]);
  const candidate = k("Tanh", [quarter(cell.gates[1])]);
  const biased = cell.forgetBias === 0 ? quarter(cell.gates[2]) : k("Add", [quarter(cell.gates[2]), like(n, b, pre, cell.forgetBias)]);
  const f = k("Sigmoid", [through(biased, cellBefore, pf)]);
  const open = k("Add", [k("Mul", [candidate, i]), k("Mul", [cellBefore, f])]);
  const cs = cell.clip > 0 ? k("Clip", [open, like(n, b, pre, -cell.clip), like(n, b, pre, cell.clip)]) : open;
  const o = k("Sigmoid", [through(quarter(cell.gates[3]), cs, po)]);
  const co = k("Tanh", [cs]);
  return [i, cs, f, o, candidate, co, k("Mul", [co, o])];
}
function cellOf(n: TfNode, weights: readonly Val[]): Cell {
  const v2 = n.op === "BlockLSTMV2";
  const [ci, cf, co] = weights;
  return {
    gates: v2 ? [0, 2, 1, 3] : [0, 1, 2, 3],
    forgetBias: v2 ? 0 : n.float("forget_bias", 1),
    clip: n.float("cell_clip", v2 ? 0 : 3),
    peephole: n.bool("use_peephole", false) && ci !== undefined && cf !== undefined && co !== undefined ? [ci, cf, co] : undefined,
  };
}
function unitsOf(n: TfNode, ...of: readonly Val[]): number {
  for (const v of of) {
    const d = v.shape?.at(-1);
    if (typeof d === "number") return d;
  }
  return n.refuse("the number of its units is not known at compile time", "give the graph's inputs shapes");
}
const MADE = ["MatMul", "Concat", "Add", "Mul", "Sigmoid", "Tanh", "Clip", "Slice"];
const LSTM_OUTS = ["i", "cs", "f", "o", "ci", "co", "h"];
export const lstmBlockCell = defineTfOp({
  name: "LSTMBlockCell",
  outs: LSTM_OUTS,
  to: MADE,
  lower: (n, b) => {
    const [x, cs, h, w, wci, wcf, wco, bias] = [n.in(0), n.in(1), n.in(2), n.in(3), n.in(4), n.in(5), n.in(6), n.in(7)];
    const k = compute(n, b);
    const weights = n.bool("use_peephole", false) ? [wci, wcf, wco] : [];
    const pre = k("Add", [k("MatMul", [b.concat([x, h], 1), w]), bias]);
    return lstmStep(n, b, pre, cs, unitsOf(n, cs, h, wci), cellOf(n, weights));
  },
});
export const blockLstm = defineTfOp({
  names: ["BlockLSTM", "BlockLSTMV2"],
  outs: LSTM_OUTS,
  to: ["Scan", "Where", "Less", "Range", ...MADE],
  lower: (n, b) => {
    const [length, x, cs, h, w, wci, wcf, wco, bias] = [n.in(0), n.in(1), n.in(2), n.in(3), n.in(4), n.in(5), n.in(6), n.in(7), n.in(8)];
    const k = compute(n, b);
    const units = unitsOf(n, cs, h, wci);
    const features = x.shape?.[2];
    if (typeof features !== "number")
      return n.refuse("the number of its features is not known at compile time", "give the graph's inputs shapes");
    const cell = cellOf(n, n.bool("use_peephole", false) ? [wci, wcf, wco] : []);
    const [time, batch] = [dimOf(b, x, 0), dimOf(b, x, 1)];
    // The inputs' share of all steps is one product; only the hidden state's is left to the steps.
    const rows = b.slice(w, [0], [features], [0]);
    const back = b.slice(w, [features], [Number.MAX_SAFE_INTEGER], [0]);
    const given = k("Add", [k("MatMul", [x, rows]), bias]);
    // Steps from `length` on give zeros and change nothing.
    const steps = counting(b, time);
    const live = b.op("Less", [steps, b.cast(b.reshape(length, []), "int64")]);
    const type = (v: Val, dims: readonly (number | string)[]): ValueType => ({ kind: "tensor", dtype: v.dtype, shape: dims });
    const rowsOf = x.shape?.[1] ?? "?";
    const body = b.body(
      "steps",
      [
        { name: "steps/cs", type: type(cs, [rowsOf, units]) },
        { name: "steps/h", type: type(h, [rowsOf, units]) },
        { name: "steps/x", type: type(given, [rowsOf, 4 * units]) },
        { name: "steps/live", type: { kind: "tensor", dtype: "bool", shape: [] } },
      ],
      (c, [csi, hi, xi, on]) => {
        if (csi === undefined || hi === undefined || xi === undefined || on === undefined) return [];
        const pre = compute(n, c)("Add", [xi, compute(n, c)("MatMul", [hi, back])]);
        const out = lstmStep(n, c, pre, csi, units, cell).map((v) => compute(n, c)("Where", [on, v, like(n, c, v, 0)]));
        const [nextCs, nextH] = [out[1], out[6]];
        if (nextCs === undefined || nextH === undefined) return [];
        return [compute(n, c)("Where", [on, nextCs, csi]), compute(n, c)("Where", [on, nextH, hi]), ...out];
      },
    );
    const full = (v: Val): Val =>
      v.rank === 2 && v.shape?.[0] === x.shape?.[1] ? v : compute(n, b)("Expand", [v, shapeFrom(b, [batch, units])]);
    return b.ops("Scan", [full(cs), full(h), given, live], { body, num_scan_inputs: 2 }, 9).slice(2);
  },
});
export const gruBlockCell = defineTfOp({
  names: ["GRUBlockCell", "GRUBlockCellV2"],
  outs: ["r", "u", "c", "h"],
  to: [...MADE, "Sub"],
  lower: (n, b) => {
    const [x, h, wru, wc, bru, bc] = [n.in(0), n.in(1), n.in(2), n.in(3), n.in(4), n.in(5)];
    const k = compute(n, b);
    const units = unitsOf(n, h, wc, bc);
    const gates = k("Sigmoid", [k("Add", [k("MatMul", [b.concat([x, h], 1), wru]), bru])]);
    const r = b.slice(gates, [0], [units], [1]);
    const u = b.slice(gates, [units], [2 * units], [1]);
    const c = k("Tanh", [k("Add", [k("MatMul", [b.concat([x, k("Mul", [h, r])], 1), wc]), bc])]);
    const next = k("Add", [k("Mul", [k("Sub", [like(n, b, u, 1), u]), c]), k("Mul", [u, h])]);
    return [r, u, c, next];
  },
});
export const cudnn = defineTfOp({
  names: ["CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"],
  absent: "its weights are packed the way one version of cuDNN wants them",
  fix: "save the model with use_cudnn off, so that the recurrent layer is spelled out",
});
export const ctc = defineTfOp({
  names: ["CTCGreedyDecoder", "CTCBeamSearchDecoder", "CTCLoss", "CTCLossV2"],
  absent: "its result is a sparse tensor of a length that is not known beforehand",
  fix: "cut the graph before it with `outputs` and decode in your program",
});
