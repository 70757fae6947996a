/** Products, convolutions, attention and recurrent layers of awkward sizes, as graphs with feeds, for the suites that run on a GPU. */
import { Editor } from "../../src/ir/edit.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Attrs, Graph, ValueId } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { Tensor } from "../../src/tensor.js";

export interface Case {
  readonly title: string;
  readonly graph: Graph;
  readonly inputs: readonly Tensor[];
}

let seed = 1;
function random(dims: readonly number[], size = 1): Tensor {
  let s = (seed++ * 2654435761) >>> 0;
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return (s / 2 ** 31 - 1) * size;
  });
  return new Tensor("float32", data, dims);
}
const shape = (dims: readonly number[]): string => `float32[${dims.join(", ")}]`;
/** All operands are fed: nothing is folded. */
function made(title: string, operands: Readonly<Record<string, readonly number[]>>, outs: string, body: string, size?: number): Case {
  const inputs = Object.values(operands).map((d) => random(d, size));
  const header = Object.entries(operands)
    .map(([name, d]) => `%${name}: ${shape(d)}`)
    .join(", ");
  return { title, graph: parse(`graph "g" opset {"": 20} (${header}) -> (${outs}) {\n${body}\n}`), inputs };
}

export function matrices(): readonly Case[] {
  const sizes: readonly (readonly [number, number, number])[] = [
    [1, 1, 1],
    [1, 1000, 512],
    [257, 1, 64],
    [65, 66, 1],
    [37, 53, 41],
    [130, 72, 200],
    [128, 256, 512],
    [96, 80, 72],
  ];
  return [
    ...sizes.map(([m, n, k]) =>
      made(
        `product ${m}x${n}x${k} with bias, activation and residual`,
        { a: [m, k], b: [k, n], v: [n], r: [m, n] },
        "%y",
        `%p: ${shape([m, n])} = MatMul(%a, %b)\n%q: ${shape([m, n])} = Add(%p, %v)\n%s: ${shape([m, n])} = Relu(%q)\n%y: ${shape([m, n])} = Add(%s, %r)`,
      ),
    ),
    made("batches with one shared operand", { a: [2, 3, 33, 32], b: [3, 32, 48] }, "%y", `%y: ${shape([2, 3, 33, 48])} = MatMul(%a, %b)`),
    made(
      "transposed operands",
      { a: [97, 73], b: [81, 97] },
      "%y",
      `%y: ${shape([73, 81])} = Gemm(%a, %b) {transA = 1, transB = 1, alpha = 0.5}`,
    ),
    made(
      "a product behind a transposition",
      { a: [40, 24], b: [40, 17] },
      "%y",
      `%t: ${shape([24, 40])} = Transpose(%a) {perm = [1, 0]}\n%y: ${shape([24, 17])} = MatMul(%t, %b)`,
    ),
  ];
}

export function convolutions(): readonly Case[] {
  const conv = (title: string, x: readonly number[], w: readonly number[], out: readonly number[], attributes: string): Case =>
    made(
      title,
      { x, w, b: [out[1] as number] },
      "%y",
      `%c: ${shape(out)} = Conv(%x, %w, %b) {${attributes}}\n%y: ${shape(out)} = Relu(%c)`,
      0.5,
    );
  /** A first layer and the max pooling behind it; the weights are constants, as they are in a model. */
  const pooled = (title: string, x: readonly number[], w: readonly number[], c: readonly number[], pads: number): Case => {
    const e = new Editor({ name: "pooled", opsets: { "": 20 } });
    const tensor = (dims: readonly number[]) => ({ kind: "tensor", dtype: "float32", shape: dims }) as const;
    const ints = (...value: number[]) => ({ kind: "ints", value }) as const;
    const constant = (name: string, dims: readonly number[]) =>
      e.addConstant(name, makeConstant("float32", dims, [...(random(dims, 0.5).data as Float32Array)]));
    const add = (op: string, ins: readonly ValueId[], attrs: Attrs = {}) => e.add({ op, ins, outs: 1, attrs, name: op }).outs[0] as ValueId;
    const strides = ints(2, 2);
    const conv = add("Conv", [e.addInput("x", tensor(x)), constant("w", w), constant("b", [c[1] as number])], {
      pads: ints(pads, pads, pads, pads),
      strides,
    });
    e.setOutputs([add("MaxPool", [add("Relu", [conv])], { kernel_shape: ints(3, 3), pads: ints(1, 1, 1, 1), strides })]);
    return { title, graph: inferGraph(e.finish()).graph, inputs: [random(x, 0.5)] };
  };
  /** Windows over what is 1 where its input is 0: what lies outside them is 0 all the same. */
  const behindExp = (title: string, w: Readonly<Record<string, readonly number[]>>, out: readonly number[], node: string): Case =>
    made(`${title} behind Exp`, { x: [2, 6, 6, 8], ...w }, "%y", `%e: ${shape([2, 6, 6, 8])} = Exp(%x)\n%y: ${shape(out)} = ${node}`, 0.5);
  return [
    pooled("a stem and its pool", [3, 3, 64, 112], [64, 3, 7, 7], [3, 64, 32, 56], 3),
    pooled("a wide stem and its pool", [1, 3, 32, 224], [64, 3, 7, 7], [1, 64, 16, 112], 3),
    pooled("a narrow stem and its pool", [2, 1, 24, 20], [32, 1, 3, 3], [2, 32, 12, 10], 1),
    conv("three channels", [2, 3, 15, 17], [20, 3, 3, 3], [2, 20, 15, 17], "pads = [1, 1, 1, 1]"),
    conv("a stem", [1, 3, 32, 32], [64, 3, 7, 7], [1, 64, 16, 16], "pads = [3, 3, 3, 3], strides = [2, 2]"),
    conv("pointwise", [2, 40, 7, 9], [72, 40, 1, 1], [2, 72, 7, 9], ""),
    conv("pointwise with strides", [1, 64, 28, 28], [128, 64, 1, 1], [1, 128, 14, 14], "strides = [2, 2]"),
    conv("deep", [1, 256, 7, 7], [64, 256, 3, 3], [1, 64, 7, 7], "pads = [1, 1, 1, 1]"),
    conv("dilated", [1, 32, 20, 22], [48, 32, 3, 3], [1, 48, 20, 22], "pads = [2, 2, 2, 2], dilations = [2, 2]"),
    conv("asymmetric", [2, 16, 11, 14], [32, 16, 3, 2], [2, 32, 5, 5], "pads = [0, 1, 1, 0], strides = [2, 3]"),
    conv("groups", [2, 64, 10, 10], [96, 16, 3, 3], [2, 96, 10, 10], "pads = [1, 1, 1, 1], group = 4"),
    conv("odd groups", [1, 15, 8, 8], [25, 3, 3, 3], [1, 25, 8, 8], "pads = [1, 1, 1, 1], group = 5"),
    conv("depthwise", [2, 24, 9, 11], [24, 1, 3, 3], [2, 24, 9, 11], "pads = [1, 1, 1, 1], group = 24"),
    conv(
      "depthwise, odd channels and strides",
      [1, 13, 14, 15],
      [26, 1, 5, 5],
      [1, 26, 7, 8],
      "pads = [2, 2, 2, 2], strides = [2, 2], group = 13",
    ),
    conv("a volume", [1, 16, 5, 7, 8], [24, 16, 3, 3, 3], [1, 24, 5, 4, 8], "pads = [1, 1, 1, 1, 1, 1], strides = [1, 2, 1]"),
    conv("a signal", [2, 12, 31], [17, 12, 5], [2, 17, 16], "pads = [2, 2], strides = [2]"),
    behindExp(
      "a transposed convolution",
      { w: [6, 4, 3, 3] },
      [2, 4, 13, 15],
      "ConvTranspose(%e, %w) {strides = [2, 2], pads = [0, 1, 0, 1]}",
    ),
    behindExp("a norm of windows", {}, [2, 6, 6, 8], "LpPool(%e) {kernel_shape = [3, 3], pads = [1, 1, 1, 1]}"),
    behindExp("a norm over channels", {}, [2, 6, 6, 8], "LRN(%e) {size = 3, alpha = 0.5}"),
    behindExp("a mean of windows", {}, [2, 6, 6, 8], "AveragePool(%e) {kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1}"),
  ];
}

export function attentions(): readonly Case[] {
  /** One mask of keys for all queries, as models have it: spread over them in front. */
  const maskedKeys = (title: string, q: readonly number[], k: readonly number[], mask: readonly number[]): Case => {
    const whole = [mask[0], mask[1], q[2], mask[3]] as number[];
    return made(
      title,
      { q, k, v: k, m: mask },
      "%y",
      `const %s = int64[4] [${whole.join(", ")}]\n%w: ${shape(whole)} = Expand(%m, %s)\n%y: ${shape(q)} = Attention(%q, %k, %v, %w)`,
    );
  };
  const attention = (title: string, q: readonly number[], k: readonly number[], mask?: readonly number[], attributes = ""): Case =>
    made(
      title,
      { q, k, v: k, ...(mask === undefined ? {} : { m: mask }) },
      "%y",
      `%y: ${shape(q)} = Attention(%q, %k, %v${mask === undefined ? "" : ", %m"})${attributes === "" ? "" : ` {${attributes}}`}`,
    );
  return [
    attention("one position", [1, 1, 1, 16], [1, 1, 1, 16]),
    attention("primes", [2, 3, 37, 24], [2, 3, 53, 24]),
    attention("odd channels", [1, 2, 33, 19], [1, 2, 29, 19]),
    attention("with a mask", [2, 4, 65, 32], [2, 4, 130, 32], [65, 130]),
    attention("with a mask of odd rows", [2, 3, 37, 32], [2, 3, 53, 32], [37, 53]),
    maskedKeys("with a mask of keys", [3, 4, 70, 64], [3, 4, 128, 64], [3, 1, 1, 128]),
    maskedKeys("with a mask of keys, an odd number of them", [2, 2, 64, 48], [2, 2, 77, 48], [2, 1, 1, 77]),
    attention("with a mask of heads", [2, 4, 64, 32], [2, 4, 64, 32], [1, 4, 64, 64]),
    attention("causal", [1, 4, 100, 64], [1, 4, 100, 64], undefined, "is_causal = 1"),
    attention("grouped heads", [1, 8, 20, 64], [1, 2, 75, 64]),
    attention("wide heads", [1, 2, 80, 256], [1, 2, 96, 256]),
    attention("capped scores", [2, 3, 37, 24], [2, 3, 53, 24], undefined, "softcap = 0.5"),
    attention("capped scores with a mask", [2, 4, 65, 32], [2, 4, 130, 32], [65, 130], "softcap = 0.25, scale = 1.0"),
    attention(
      "capped scores of grouped wide heads, causal",
      [1, 4, 100, 256],
      [1, 2, 100, 256],
      undefined,
      "softcap = 30.0, is_causal = 1",
    ),
    attention("capped scores of odd channels", [1, 2, 33, 19], [1, 2, 29, 19], undefined, "softcap = 0.125, scale = -0.7"),
  ];
}

/** Attention behind a cache: [batch, heads, queries, channels], heads of keys, keys in the cache, and what is asked for besides the result. */
export function cachedAttentions(): readonly Case[] {
  const cached = (
    title: string,
    [batch, heads, queries, size]: readonly [number, number, number, number],
    [kvHeads, past]: readonly [number, number],
    more: { mask?: readonly number[]; attributes?: string; grown?: boolean; flat?: boolean } = {},
  ): Case => {
    const { mask, attributes = "", grown = true, flat = false } = more;
    const [q, now] = [heads, kvHeads].map((h) => (flat ? [batch, queries, h * size] : [batch, h, queries, size])) as [number[], number[]];
    const cache = [batch, kvHeads, past, size];
    const whole = shape([batch, kvHeads, past + queries, size]);
    const counts = flat ? `q_num_heads = ${heads}, kv_num_heads = ${kvHeads}` : "";
    const list = [attributes, counts].filter((a) => a !== "").join(", ");
    return made(
      title,
      { q, k: now, v: now, ...(mask === undefined ? {} : { m: mask }), pk: cache, pv: cache },
      grown ? "%y, %gk, %gv" : "%y",
      `%y: ${shape(q)}, %gk: ${whole}, %gv: ${whole} = Attention(%q, %k, %v, ${mask === undefined ? "_" : "%m"}, %pk, %pv)${list === "" ? "" : ` {${list}}`}`,
    );
  };
  return [
    cached("a step behind 300 keys", [1, 4, 1, 64], [4, 300]),
    cached("a step of grouped heads", [2, 8, 1, 64], [2, 77]),
    cached("a step of wide heads behind many keys", [1, 2, 1, 128], [1, 2000]),
    cached("a step of odd channels", [1, 3, 1, 19], [3, 33]),
    cached("a step behind nothing", [1, 2, 1, 32], [2, 0]),
    cached("a step whose cache nobody asks for", [1, 4, 1, 32], [2, 41], { grown: false }),
    cached("a step with a mask", [2, 4, 2, 32], [4, 30], { mask: [2, 1, 2, 32] }),
    cached("four steps, causal", [1, 6, 4, 16], [2, 9], { attributes: "is_causal = 1" }),
    cached("steps of heads side by side", [2, 4, 3, 24], [2, 50], { flat: true, attributes: "scale = 0.3" }),
    cached("a step of capped scores", [2, 8, 1, 64], [2, 77], { attributes: "softcap = 0.5" }),
    cached("a step of capped scores with a mask", [2, 4, 2, 32], [4, 30], {
      mask: [2, 1, 2, 32],
      attributes: "softcap = 0.25, scale = 1.0",
    }),
    cached("four steps of capped scores, causal, odd channels", [1, 6, 4, 19], [2, 33], {
      attributes: "is_causal = 1, softcap = 0.125, scale = 0.7",
    }),
    cached("many queries of capped scores behind a cache", [1, 4, 70, 64], [2, 45], { attributes: "is_causal = 1, softcap = 0.5" }),
    cached("many queries behind a cache, causal", [1, 4, 70, 64], [2, 45], { attributes: "is_causal = 1" }),
    cached("many queries of heads side by side", [2, 3, 40, 32], [3, 20], { flat: true }),
    cached("many queries, with a mask", [1, 2, 33, 32], [2, 31], { mask: [33, 64], grown: false }),
  ];
}

export function recurrences(): readonly Case[] {
  const gates = { LSTM: 4, GRU: 3, RNN: 1 };
  const layer = (
    op: keyof typeof gates,
    [steps, batch, input, hidden]: readonly [number, number, number, number],
    direction: "forward" | "reverse" | "bidirectional",
    attributes = "",
  ): Case => {
    const dirs = direction === "bidirectional" ? 2 : 1;
    const rows = gates[op] * hidden;
    const state = shape([dirs, batch, hidden]);
    return made(
      `${op} of ${hidden} units, ${steps} steps, ${batch} rows, ${direction}${attributes}`,
      { x: [steps, batch, input], w: [dirs, rows, input], r: [dirs, rows, hidden], b: [dirs, 2 * rows] },
      op === "LSTM" ? "%y, %h, %c" : "%y, %h",
      `%y: ${shape([steps, dirs, batch, hidden])}, %h: ${state}${op === "LSTM" ? `, %c: ${state}` : ""} = ${op}(%x, %w, %r, %b) {hidden_size = ${hidden}, direction = "${direction}"${attributes}}`,
      // Weights that neither fade out nor run away over the steps.
      Math.min(0.15, 1 / Math.sqrt(hidden)),
    );
  };
  return [
    layer("LSTM", [1, 1, 1, 1], "forward"),
    layer("LSTM", [9, 3, 13, 17], "bidirectional"),
    layer("LSTM", [12, 1, 40, 128], "forward"),
    layer("LSTM", [5, 37, 24, 64], "reverse"),
    layer("LSTM", [6, 2, 32, 256], "bidirectional"),
    layer("LSTM", [4, 150, 16, 200], "forward"),
    layer("LSTM", [3, 1, 64, 1024], "forward"),
    layer("LSTM", [3, 2, 64, 333], "forward"),
    layer("GRU", [9, 3, 13, 17], "bidirectional"),
    layer("GRU", [12, 1, 40, 128], "forward", ", linear_before_reset = 1"),
    layer("GRU", [6, 2, 32, 256], "bidirectional"),
    layer("GRU", [4, 150, 16, 200], "reverse", ", linear_before_reset = 1"),
    layer("GRU", [3, 2, 64, 1024], "forward"),
    layer("RNN", [9, 3, 13, 17], "bidirectional"),
    layer("RNN", [6, 2, 32, 512], "forward"),
  ];
}
