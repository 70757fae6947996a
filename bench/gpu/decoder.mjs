// GPT-2's decoder step with seeded random weights, its cache of fixed room: one token in, the next one out, so that every step is the same CUDA graph and
// all that goes from step to step can stay on the device. The weights go to a file in the order of `weights`, for peers that load the same numbers.
import { Editor, makeConstant } from "../../dist/ir.js";
import { random } from "./networks.mjs";

const int = (value) => ({ kind: "int", value });
const ints = (...value) => ({ kind: "ints", value });
const tensor = (dtype, ...shape) => ({ kind: "tensor", dtype, shape });

/**
 * Inputs: ids [1, 1] and position [1, 1] int64, past_key_i and past_value_i [1, heads, room, size]. Outputs: next [1, 1] (the token of the largest logit),
 * position_next, present_key_i, present_value_i. `carry` maps inputs to outputs. Names of weights are those of the architecture's reference.
 */
export function decoder({ layers = 12, hidden = 768, heads = 12, vocabulary = 50257, positions = 1024, room = 256 } = {}) {
  const e = new Editor({ name: "gpt2", opsets: { "": 20 } });
  const draw = random(5);
  const weights = [];
  let count = 0;
  const weight = (name, dims, scale, around = 0) => {
    const data = draw(
      dims.reduce((a, b) => a * b, 1),
      scale,
    );
    if (around !== 0) for (let i = 0; i < data.length; i++) data[i] += around;
    weights.push({ name, dims, data });
    return e.addConstant(name, { dtype: "float32", dims, data: { kind: "bytes", bytes: new Uint8Array(data.buffer) } });
  };
  const constant = (dtype, dims, values) => e.addConstant(`c${count++}`, makeConstant(dtype, dims, values));
  const add = (op, ins, attrs = {}, outs = 1) => e.add({ op, ins, outs, attrs, name: `${op.toLowerCase()}${count++}` }).outs;
  const one = (op, ins, attrs) => add(op, ins, attrs)[0];
  const size = hidden / heads;

  const ids = e.addInput("ids", tensor("int64", 1, 1));
  const position = e.addInput("position", tensor("int64", 1, 1));
  const past = Array.from({ length: layers }, (_, i) => ({
    key: e.addInput(`past_key_${i}`, tensor("float32", 1, heads, room, size)),
    value: e.addInput(`past_value_${i}`, tensor("float32", 1, heads, room, size)),
  }));
  const norm = (v, name) =>
    one("LayerNormalization", [v, weight(`${name}.weight`, [hidden], 0.1, 1), weight(`${name}.bias`, [hidden], 0.05)], {
      axis: int(-1),
      epsilon: { kind: "float", value: 1e-5 },
    });
  const dense = (v, name, from, to) =>
    one("Add", [one("MatMul", [v, weight(`${name}.weight`, [from, to], Math.sqrt(3 / from))]), weight(`${name}.bias`, [to], 0.05)]);
  const wte = weight("transformer.wte.weight", [vocabulary, hidden], 0.1);
  const wpe = weight("transformer.wpe.weight", [positions, hidden], 0.3);
  const places = constant(
    "int64",
    [1, 1, room],
    Array.from({ length: room }, (_, i) => i),
  );
  // [1, 1, room]: the place of this step, and the places that it may look at.
  const here = one("Unsqueeze", [one("Equal", [places, position]), constant("int64", [1], [3])]);
  const seen = one("Where", [one("LessOrEqual", [places, position]), constant("float32", [], [0]), constant("float32", [], [-10000])]);
  const bias = one("Unsqueeze", [seen, constant("int64", [1], [1])]);
  const split = (v) => one("Reshape", [v, constant("int64", [4], [1, heads, 1, size])]);
  let v = one("Add", [one("Gather", [wte, ids]), one("Gather", [wpe, position])]);
  const present = [];
  for (let l = 0; l < layers; l++) {
    const at = `transformer.h.${l}`;
    const x = norm(v, `${at}.ln_1`);
    const [q, k, w] = add(
      "Split",
      [dense(x, `${at}.attn.c_attn`, hidden, 3 * hidden), constant("int64", [3], [hidden, hidden, hidden])],
      { axis: int(-1) },
      3,
    );
    const key = one("Where", [here, split(k), past[l].key]);
    const value = one("Where", [here, split(w), past[l].value]);
    present.push({ key, value });
    const scores = one("Add", [
      one("Div", [
        one("MatMul", [split(q), one("Transpose", [key], { perm: ints(0, 1, 3, 2) })]),
        constant("float32", [], [Math.sqrt(size)]),
      ]),
      bias,
    ]);
    const mixed = one("Reshape", [
      one("MatMul", [one("Softmax", [scores], { axis: int(-1) }), value]),
      constant("int64", [3], [1, 1, hidden]),
    ]);
    v = one("Add", [v, dense(mixed, `${at}.attn.c_proj`, hidden, hidden)]);
    const up = one("Gelu", [dense(norm(v, `${at}.ln_2`), `${at}.mlp.c_fc`, hidden, 4 * hidden)], {
      approximate: { kind: "string", value: "tanh" },
    });
    v = one("Add", [v, dense(up, `${at}.mlp.c_proj`, 4 * hidden, hidden)]);
  }
  const last = one("Reshape", [norm(v, "transformer.ln_f"), constant("int64", [2], [1, hidden])]);
  const logits = one("Gemm", [last, wte], { transB: int(1) });
  const next = one("ArgMax", [logits], { axis: int(-1), keepdims: int(1) });
  const after = one("Add", [position, constant("int64", [], [1])]);
  const named = { next, position_next: after };
  present.forEach((p, i) => Object.assign(named, { [`present_key_${i}`]: p.key, [`present_value_${i}`]: p.value }));
  for (const [name, id] of Object.entries(named)) e.rename(id, name);
  e.setOutputs(Object.values(named));
  const carry = { ids: "next", position: "position_next" };
  for (let i = 0; i < layers; i++)
    Object.assign(carry, { [`past_key_${i}`]: `present_key_${i}`, [`past_value_${i}`]: `present_value_${i}` });
  return { graph: e.finish(), weights, carry };
}
