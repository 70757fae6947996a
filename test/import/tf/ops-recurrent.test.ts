/** LSTM and GRU blocks against their equations, gate orders and clipping included. */
import { it } from "vitest";
import { bool, float } from "../../support/tf-graph.js";
import { check, f, t, wf } from "../../support/tf-ops.js";

const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const wave = (n: number, step: number): number[] => upTo(n).map((k) => Math.fround(Math.sin(1 + k * step)));
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const [INPUTS, UNITS] = [2, 3];
const x = wave(2 * INPUTS, 0.9);
const [c0, h0] = [wave(UNITS, 0.4), wave(UNITS, 1.1)];
const w = wave((INPUTS + UNITS) * 4 * UNITS, 0.37);
const bias = wave(4 * UNITS, 0.21);
const peep = [wave(UNITS, 0.5), wave(UNITS, 0.6), wave(UNITS, 0.7)];

interface Options {
  readonly order: readonly [i: number, c: number, f: number, o: number];
  readonly forget: number;
  readonly clip: number;
  readonly peephole: boolean;
}
/** One step for a batch of one: [i, cs, f, o, ci, co, h], each of the units. */
function lstm(input: readonly number[], c: readonly number[], h: readonly number[], options: Options): number[][] {
  const row = [...input, ...h];
  const gate = (q: number, u: number): number =>
    row.reduce((s, v, k) => s + v * (w[k * 4 * UNITS + q * UNITS + u] ?? 0), bias[q * UNITS + u] ?? 0);
  const p = (k: number, u: number, state: number): number => (options.peephole ? (peep[k]?.[u] ?? 0) * state : 0);
  const out: number[][] = [[], [], [], [], [], [], []];
  for (const u of upTo(UNITS)) {
    const before = c[u] ?? 0;
    const i = sigmoid(gate(options.order[0], u) + p(0, u, before));
    const ci = Math.tanh(gate(options.order[1], u));
    const forget = sigmoid(gate(options.order[2], u) + options.forget + p(1, u, before));
    const open = ci * i + before * forget;
    const cs = options.clip > 0 ? Math.max(-options.clip, Math.min(options.clip, open)) : open;
    const o = sigmoid(gate(options.order[3], u) + p(2, u, cs));
    [i, cs, forget, o, ci, Math.tanh(cs), Math.tanh(cs) * o].forEach((v, k) => {
      out[k]?.push(v);
    });
  }
  return out;
}
const weights = [f([INPUTS + UNITS, 4 * UNITS], w), ...peep.map((v) => f([UNITS], v)), f([4 * UNITS], bias)];
const states = [f([1, UNITS], c0), f([1, UNITS], h0)];

it.each([
  { peephole: false, clip: 3, forget: 1 },
  { peephole: true, clip: 0.3, forget: 0.5 },
])("steps an LSTM cell: %o", async (o) => {
  const wanted = lstm(x.slice(0, INPUTS), c0, h0, { ...o, order: [0, 1, 2, 3] }).map((v) => wf([1, UNITS], v));
  const attrs = { use_peephole: bool(o.peephole), cell_clip: float(o.clip), forget_bias: float(o.forget) };
  await check("LSTMBlockCell", [f([1, INPUTS], x.slice(0, INPUTS)), ...states, ...weights], attrs, wanted, { modes: ["static"] });
});
it.each(["BlockLSTM", "BlockLSTMV2"])("runs %s over a sequence, with zeros behind its length", async (op) => {
  const v2 = op === "BlockLSTMV2";
  const options: Options = { order: v2 ? [0, 2, 1, 3] : [0, 1, 2, 3], forget: v2 ? 0 : 1, clip: v2 ? 0 : 3, peephole: false };
  const first = lstm(x.slice(0, INPUTS), c0, h0, options);
  const second = lstm(x.slice(INPUTS), first[1] ?? [], first[6] ?? [], options);
  const sequence = f([3, 1, INPUTS], [...x, 5, 5]);
  const wanted = first.map((v, k) => wf([3, 1, UNITS], [...v, ...(second[k] ?? []), 0, 0, 0]));
  await check(op, [t("int64", [], [2]), sequence, ...states, ...weights], {}, wanted, { modes: ["static"] });
});
it("steps a GRU cell", async () => {
  const input = x.slice(0, INPUTS);
  const [wru, wc] = [wave((INPUTS + UNITS) * 2 * UNITS, 0.31), wave((INPUTS + UNITS) * UNITS, 0.43)];
  const [bru, bc] = [wave(2 * UNITS, 0.2), wave(UNITS, 0.3)];
  const row = [...input, ...h0];
  const ru = upTo(2 * UNITS).map((u) => sigmoid(row.reduce((s, v, k) => s + v * (wru[k * 2 * UNITS + u] ?? 0), bru[u] ?? 0)));
  const [r, u] = [ru.slice(0, UNITS), ru.slice(UNITS)];
  const reset = [...input, ...h0.map((v, k) => v * (r[k] ?? 0))];
  const c = upTo(UNITS).map((k) => Math.tanh(reset.reduce((s, v, j) => s + v * (wc[j * UNITS + k] ?? 0), bc[k] ?? 0)));
  const h = upTo(UNITS).map((k) => (1 - (u[k] ?? 0)) * (c[k] ?? 0) + (u[k] ?? 0) * (h0[k] ?? 0));
  const ins = [
    f([1, INPUTS], input),
    f([1, UNITS], h0),
    f([INPUTS + UNITS, 2 * UNITS], wru),
    f([INPUTS + UNITS, UNITS], wc),
    f([2 * UNITS], bru),
    f([UNITS], bc),
  ];
  await check(
    "GRUBlockCell",
    ins,
    {},
    [r, u, c, h].map((v) => wf([1, UNITS], v)),
    { modes: ["static"] },
  );
});
