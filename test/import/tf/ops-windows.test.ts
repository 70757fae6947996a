/** TensorFlow's convolutions, pools and patches against their definition, in every padding, stride and dilation, with known and open dims. */
import { describe, expect, it } from "vitest";
import { importTf } from "../../../src/import/tf/index.js";
import { unreadableNodes } from "../../../src/import/tf/unreadable.js";
import { bool, constant, float, graphDef, int, ints, node, placeholder, text } from "../../support/tf-graph.js";
import { cf, check, ci, f, i, plain, run, t, want, wf, wi } from "../../support/tf-ops.js";

const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const wave = (n: number, step = 0.7): number[] => upTo(n).map((k) => Math.fround(Math.sin(1 + k * step)));

interface Setup {
  readonly size: readonly [number, number];
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly padding: "SAME" | "VALID";
}
/** Output size and padding in front of each side, by TensorFlow's rule. */
function geometry(s: Setup) {
  return ([0, 1] as const).map((a) => {
    const [size, k, stride, d] = [s.size[a], s.kernel[a], s.strides[a], s.dilations[a]];
    const reach = (k - 1) * d + 1;
    const out = s.padding === "SAME" ? Math.ceil(size / stride) : Math.ceil((size - reach + 1) / stride);
    const total = s.padding === "SAME" ? Math.max(0, (out - 1) * stride + reach - size) : 0;
    return { out, before: Math.floor(total / 2) };
  });
}
/** Every (output place, kernel place, input place inside the image). */
function* taps(s: Setup): Generator<readonly [oy: number, ox: number, ky: number, kx: number, y: number, x: number]> {
  const [h, w] = geometry(s);
  if (h === undefined || w === undefined) return;
  for (const oy of upTo(h.out))
    for (const ox of upTo(w.out))
      for (const ky of upTo(s.kernel[0]))
        for (const kx of upTo(s.kernel[1])) {
          const y = oy * s.strides[0] + ky * s.dilations[0] - h.before;
          const x = ox * s.strides[1] + kx * s.dilations[1] - w.before;
          if (y >= 0 && y < s.size[0] && x >= 0 && x < s.size[1]) yield [oy, ox, ky, kx, y, x];
        }
}
const setups: readonly Setup[] = [
  { size: [5, 6], kernel: [3, 2], strides: [1, 1], dilations: [1, 1], padding: "SAME" },
  { size: [5, 6], kernel: [2, 3], strides: [2, 3], dilations: [1, 1], padding: "SAME" },
  { size: [6, 5], kernel: [1, 2], strides: [3, 3], dilations: [1, 1], padding: "SAME" },
  { size: [7, 6], kernel: [3, 2], strides: [2, 1], dilations: [1, 1], padding: "VALID" },
  { size: [7, 7], kernel: [2, 3], strides: [1, 1], dilations: [3, 2], padding: "SAME" },
  { size: [7, 8], kernel: [3, 2], strides: [2, 2], dilations: [2, 3], padding: "SAME" },
];
const label = (s: Setup): string =>
  `${s.padding} ${s.size.join("x")} by ${s.kernel.join("x")} / ${s.strides.join("x")} dilated ${s.dilations.join("x")}`;
const attrsOf = (s: Setup) => ({
  strides: ints(1, ...s.strides, 1),
  dilations: ints(1, ...s.dilations, 1),
  padding: text(s.padding),
});

describe.each(setups.map((s) => [label(s), s] as const))("%s", (_, s) => {
  const [h = { out: 0 }, w = { out: 0 }] = geometry(s);
  const [cIn, cOut] = [2, 3];
  const x = wave(s.size[0] * s.size[1] * cIn);
  it("convolves", async () => {
    const filter = wave(s.kernel[0] * s.kernel[1] * cIn * cOut, 0.3);
    const y = new Array<number>(h.out * w.out * cOut).fill(0);
    for (const [oy, ox, ky, kx, iy, ix] of taps(s))
      for (const c of upTo(cIn))
        for (const k of upTo(cOut)) {
          const at = (oy * w.out + ox) * cOut + k;
          y[at] = (y[at] ?? 0) + (x[(iy * s.size[1] + ix) * cIn + c] ?? 0) * (filter[((ky * s.kernel[1] + kx) * cIn + c) * cOut + k] ?? 0);
        }
    await check("Conv2D", [f([1, ...s.size, cIn], x), cf([...s.kernel, cIn, cOut], filter)], attrsOf(s), wf([1, h.out, w.out, cOut], y));
  });
  it("convolves by channel", async () => {
    const filter = wave(s.kernel[0] * s.kernel[1] * cIn * 2, 0.3);
    const y = new Array<number>(h.out * w.out * cIn * 2).fill(0);
    for (const [oy, ox, ky, kx, iy, ix] of taps(s))
      for (const c of upTo(cIn))
        for (const m of upTo(2)) {
          const at = (oy * w.out + ox) * cIn * 2 + c * 2 + m;
          y[at] = (y[at] ?? 0) + (x[(iy * s.size[1] + ix) * cIn + c] ?? 0) * (filter[((ky * s.kernel[1] + kx) * cIn + c) * 2 + m] ?? 0);
        }
    await check(
      "DepthwiseConv2dNative",
      [f([1, ...s.size, cIn], x), cf([...s.kernel, cIn, 2], filter)],
      attrsOf(s),
      wf([1, h.out, w.out, cIn * 2], y),
    );
  });
  it("convolves back to any size that leads here", async () => {
    const filter = wave(s.kernel[0] * s.kernel[1] * cIn * cOut, 0.3);
    const dy = wave(h.out * w.out * cOut, 0.9);
    const dx = new Array<number>(s.size[0] * s.size[1] * cIn).fill(0);
    for (const [oy, ox, ky, kx, iy, ix] of taps(s))
      for (const c of upTo(cIn))
        for (const k of upTo(cOut)) {
          const at = (iy * s.size[1] + ix) * cIn + c;
          dx[at] = (dx[at] ?? 0) + (dy[(oy * w.out + ox) * cOut + k] ?? 0) * (filter[((ky * s.kernel[1] + kx) * cIn + c) * cOut + k] ?? 0);
        }
    const wanted = wf([1, ...s.size, cIn], dx);
    const rest = [cf([...s.kernel, cIn, cOut], filter), f([1, h.out, w.out, cOut], dy)];
    await check("Conv2DBackpropInput", [ci([4], [1, ...s.size, cIn]), ...rest], attrsOf(s), wanted);
    await check("Conv2DBackpropInput", [i([4], [1, ...s.size, cIn]), ...rest], attrsOf(s), wanted, { modes: ["static"] });
  });
  it("pools", async () => {
    if (s.dilations.some((d) => d !== 1)) return;
    const [sums, counts, tops] = [0, 0, Number.NEGATIVE_INFINITY].map((v) => new Array<number>(h.out * w.out * cIn).fill(v)) as [
      number[],
      number[],
      number[],
    ];
    const where = new Array<number>(h.out * w.out * cIn).fill(-1);
    for (const [oy, ox, , , iy, ix] of taps(s))
      for (const c of upTo(cIn)) {
        const at = (oy * w.out + ox) * cIn + c;
        const v = x[(iy * s.size[1] + ix) * cIn + c] ?? 0;
        sums[at] = (sums[at] ?? 0) + v;
        counts[at] = (counts[at] ?? 0) + 1;
        if (v > (tops[at] ?? 0)) [tops[at], where[at]] = [v, (iy * s.size[1] + ix) * cIn + c];
      }
    const attrs = { ksize: ints(1, ...s.kernel, 1), strides: ints(1, ...s.strides, 1), padding: text(s.padding) };
    const dims = [1, h.out, w.out, cIn];
    const image = f([1, ...s.size, cIn], x);
    await check(
      "AvgPool",
      [image],
      attrs,
      wf(
        dims,
        sums.map((v, k) => v / (counts[k] ?? 1)),
      ),
    );
    await check("MaxPool", [image], attrs, wf(dims, tops));
    await check("MaxPoolWithArgmax", [image], attrs, [wf(dims, tops), want("int64", dims, where)]);
  });
  it("lays out patches", async () => {
    const y = new Array<number>(h.out * w.out * s.kernel[0] * s.kernel[1] * cIn).fill(0);
    for (const [oy, ox, ky, kx, iy, ix] of taps(s))
      for (const c of upTo(cIn))
        y[((oy * w.out + ox) * s.kernel[0] * s.kernel[1] + ky * s.kernel[1] + kx) * cIn + c] = x[(iy * s.size[1] + ix) * cIn + c] ?? 0;
    const attrs = {
      ksizes: ints(1, ...s.kernel, 1),
      strides: ints(1, ...s.strides, 1),
      rates: ints(1, ...s.dilations, 1),
      padding: text(s.padding),
    };
    await check("ExtractImagePatches", [f([1, ...s.size, cIn], x)], attrs, wf([1, h.out, w.out, s.kernel[0] * s.kernel[1] * cIn], y));
  });
});

it("takes explicit paddings, groups, channels first", async () => {
  const x = wave(2 * 4 * 4);
  const attrs = {
    strides: ints(1, 1, 1, 1),
    padding: text("EXPLICIT"),
    explicit_paddings: ints(0, 0, 0, 0, 1, 0, 0, 2),
    data_format: text("NCHW"),
  };
  const [y] = await run("Conv2D", [f([1, 2, 4, 4], x), cf([2, 2, 1, 2], wave(8))], attrs);
  expect(y?.dims).toEqual([1, 2, 4, 5]);
  // Group g sees channel g alone; the corner of the padded image is empty but for its last place.
  const filter = wave(8);
  for (const g of [0, 1])
    expect(plain(y)[g * 20]).toBeCloseTo(
      (x[g * 16] ?? 0) * (filter[(1 * 2 + 0) * 2 + g] ?? 0) + (x[g * 16 + 1] ?? 0) * (filter[(1 * 2 + 1) * 2 + g] ?? 0),
      5,
    );
});
it("needs no Pad and no Transpose but at the ends for a static convolution", () => {
  const g = importTf(
    graphDef([
      placeholder("x", 1, [1, 8, 8, 3]),
      constant("w", 1, [3, 3, 3, 4], [0.5]),
      node("y", "Conv2D", ["x", "w"], { strides: ints(1, 2, 2, 1), padding: text("SAME") }),
    ]),
  );
  const ops = g.nodes.map((n) => n.op);
  expect(ops.filter((op) => op !== "Transpose")).toEqual(["Conv"]);
  expect(g.nodes.find((n) => n.op === "Conv")?.attrs["pads"]).toEqual({ kind: "ints", value: [0, 0, 1, 1] });
});
it("refuses windows over channels and packed layouts, with a reason", () => {
  const verdict = (op: string, attrs: Parameters<typeof node>[3]): string => {
    const nodes = [
      placeholder("x", 1, [1, 2, 2, 2]),
      constant("w", 1, [1, 1, 2, 1], [1, 1]),
      node("y", op, op === "MaxPool" ? ["x"] : ["x", "w"], attrs),
    ];
    return unreadableNodes(importTf(graphDef(nodes)))[0]?.extra?.doc ?? "";
  };
  const pool = { ksize: ints(1, 1, 1, 2), strides: ints(1, 1, 1, 2), padding: text("VALID") };
  expect(verdict("MaxPool", pool)).toMatch(/window \[1, 1, 1, 2\] reach over the batch or the channels/);
  const packed = { strides: ints(1, 1, 1, 1), padding: text("SAME"), data_format: text("NCHW_VECT_C") };
  expect(verdict("Conv2D", packed)).toMatch(/'NCHW_VECT_C' packs channels into vectors/);
});
it("dilates by a structuring element", async () => {
  const attrs = { strides: ints(1, 1, 1, 1), rates: ints(1, 1, 1, 1), padding: text("SAME") };
  await check(
    "Dilation2D",
    [f([1, 2, 2, 1], [1, 2, 3, 4]), cf([2, 2, 1], [0.1, 0.2, 0.3, 0.4])],
    attrs,
    wf([1, 2, 2, 1], [4.4, 4.3, 4.2, 4.1]),
  );
});
it("convolves volumes, forwards and back", async () => {
  const attrs = { strides: ints(1, 2, 1, 1, 1), padding: text("SAME") };
  const x = wave(3 * 2 * 2);
  const [y] = await run("Conv3D", [f([1, 3, 2, 2, 1], x), cf([2, 1, 1, 1, 1], [1, 10])], attrs);
  expect(plain(y).map((v) => Math.fround(v))).toEqual(
    upTo(8)
      .map((k) => (k < 4 ? Math.fround((x[k] ?? 0) + 10 * (x[k + 4] ?? 0)) : Math.fround(x[k + 4] ?? 0)))
      .map((v) => expect.closeTo(v, 5)),
  );
  const [back] = await run(
    "Conv3DBackpropInputV2",
    [ci([5], [1, 3, 2, 2, 1]), cf([2, 1, 1, 1, 1], [1, 10]), f([1, 2, 2, 2, 1], upTo(8))],
    attrs,
  );
  expect(plain(back)).toEqual([0, 1, 2, 3, 0, 10, 20, 30, 4, 5, 6, 7]);
});

describe("normalisation", () => {
  const x = wave(2 * 2 * 2 * 3);
  const vectors = [
    [1, 2, 3],
    [0.1, 0.2, 0.3],
    [0.5, -0.5, 0],
    [1, 4, 0.25],
  ].map((v) => cf([3], v));
  it("uses the given mean and variance in inference", async () => {
    const y = x.map((v, k) => {
      const c = k % 3;
      return ((v - ([0.5, -0.5, 0][c] ?? 0)) / Math.sqrt(([1, 4, 0.25][c] ?? 0) + 0.01)) * (c + 1) + (c + 1) / 10;
    });
    await check(
      "FusedBatchNormV3",
      [f([2, 2, 2, 3], x), ...vectors],
      { epsilon: float(0.01), is_training: bool(false) },
      wf([2, 2, 2, 3], y),
    );
  });
  it("uses the batch's in training, and gives the unbiased variance out", async () => {
    const of = (c: number): number[] => x.filter((_, k) => k % 3 === c);
    const mean = [0, 1, 2].map((c) => of(c).reduce((s, v) => s + v, 0) / 8);
    const variance = [0, 1, 2].map((c) => of(c).reduce((s, v) => s + (v - (mean[c] ?? 0)) ** 2, 0) / 8);
    const y = x.map((v, k) => ((v - (mean[k % 3] ?? 0)) / Math.sqrt((variance[k % 3] ?? 0) + 0.001)) * ((k % 3) + 1) + ((k % 3) + 1) / 10);
    await check("FusedBatchNorm", [f([2, 2, 2, 3], x), ...vectors.slice(0, 2), cf([0], []), cf([0], [])], { epsilon: float(0.001) }, [
      wf([2, 2, 2, 3], y),
      wf([3], mean),
      wf(
        [3],
        variance.map((v) => (v * 8) / 7),
      ),
    ]);
  });
  it("sums squares over neighbouring channels", async () => {
    const v = [1, 2, 3, 4];
    const y = v.map((_, c) => (v[c] ?? 0) / Math.sqrt(1 + 0.5 * v.reduce((s, u, k) => (Math.abs(k - c) <= 1 ? s + u * u : s), 0)));
    await check("LRN", [f([1, 1, 1, 4], v)], { depth_radius: int(1), alpha: float(0.5), beta: float(0.5) }, wf([1, 1, 1, 4], y));
  });
  it("gives losses and gradients of softmax, NaN where the label is no class", async () => {
    const e = [1, Math.E, Math.E ** 2].map((v) => v / (1 + Math.E + Math.E ** 2));
    const logits = f([1, 3], [0, 1, 2]);
    await check("SparseSoftmaxCrossEntropyWithLogits", [logits, i([1], [1])], {}, [
      wf([1], [-Math.log(e[1] ?? 1)]),
      wf([1, 3], [e[0] ?? 0, (e[1] ?? 0) - 1, e[2] ?? 0]),
    ]);
    await check("SparseSoftmaxCrossEntropyWithLogits", [logits, i([1], [3])], {}, wf([1], [Number.NaN]));
    await check(
      "SoftmaxCrossEntropyWithLogits",
      [logits, f([1, 3], [0.5, 0.5, 0])],
      {},
      wf([1], [-(Math.log(e[0] ?? 1) + Math.log(e[1] ?? 1)) / 2]),
    );
    await check("Softmax", [t("float64", [1, 3], [0, 1, 2])], {}, want("float64", [1, 3], e));
  });
});
it("keeps integers in products of patches", async () => {
  await check(
    "ExtractImagePatches",
    [i([1, 2, 2, 1], [1, 2, 3, 4])],
    { ksizes: ints(1, 2, 2, 1), strides: ints(1, 1, 1, 1), rates: ints(1, 1, 1, 1), padding: text("VALID") },
    wi([1, 1, 1, 4], [1, 2, 3, 4]),
  );
});
