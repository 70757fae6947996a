/** The dyadic histogram against counting one by one, the WebAssembly kernel against the histogram, merges in any order. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  absmaxOf,
  BINS,
  ChannelObserver,
  type ChannelStatistics,
  channelMeans,
  exponentOf,
  LEAST_EXPONENT,
  mergeObservations,
  type Observation,
  Observer,
} from "../../src/quantize/histogram.js";
import { KERNEL } from "../../src/quantize/kernel.js";

interface Reducer {
  add(name: string, type: string, data: unknown, dims: readonly number[]): void;
  collect(): { readonly seen: readonly (Observation & { readonly name: string })[] };
}
const { open } = (await import(new URL("../../src/quantize/reducer.mjs", import.meta.url).href)) as {
  open(settings: { kernel: Uint8Array; tensors: readonly { name: string; axis?: number }[] }): Promise<Reducer>;
};
const { kernelSource } = (await import(new URL("../../scripts/build-kernel.mjs", import.meta.url).href)) as {
  kernelSource(): Promise<string>;
};
const kernel = Buffer.from(KERNEL, "base64");

/** What the kernel sees of arrays that are added one after another. */
async function byKernel(arrays: readonly Float32Array[], axis?: number, dims?: readonly number[]): Promise<Observation> {
  const r = await open({ kernel, tensors: [axis === undefined ? { name: "x" } : { name: "x", axis }] });
  for (const a of arrays) r.add("x", "float32", a, dims ?? [a.length]);
  const [{ name: _, ...seen }] = r.collect().seen as [Observation & { name: string }];
  return seen;
}
function byReference(arrays: readonly Float32Array[]): Observation {
  const o = new Observer();
  for (const a of arrays) o.add(a);
  return o.finish();
}
/** Counts as one text: comparing 4096 numbers one by one takes the test runner long. */
const brief = (o: Observation): unknown => ({
  ...o,
  histogram: { exponent: o.histogram.exponent, counts: Buffer.from(o.histogram.counts.buffer).toString("base64") },
});
/** Small, seeded, and the same everywhere. */
function random(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 32;
  };
}
function gaussian(n: number, seed: number, map: (x: number) => number = (x) => x): Float32Array {
  const r = random(seed);
  return Float32Array.from({ length: n }, () => map(Math.sqrt(-2 * Math.log(1 - r())) * Math.cos(2 * Math.PI * r())));
}
/** Floats of every kind: bit patterns, denormals, huge ones, zeros of both signs, and what is not finite. */
const anyFloat = fc.oneof(
  fc.float({ noNaN: false }),
  fc.constantFrom(
    0,
    -0,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    3.4028234663852886e38,
    1.401298464324817e-45,
    6,
    255.99998,
    256,
  ),
  fc.double({ min: -1e-30, max: 1e-30, noNaN: true }),
);
const anyArrays = fc.array(
  fc.array(anyFloat, { maxLength: 40 }).map((xs) => Float32Array.from(xs)),
  { maxLength: 6 },
);

describe("the dyadic histogram", () => {
  it("has the narrowest bins that hold the largest magnitude", () => {
    for (const [absmax, e] of [
      [1, -11],
      [0.99999994, -12],
      [4096, 1],
      [4095.9997, 0],
      [3.4028234663852886e38, 116],
      [0, LEAST_EXPONENT],
      [1e-45, LEAST_EXPONENT],
    ] as const) {
      expect(exponentOf(absmax)).toBe(e);
      if (e > LEAST_EXPONENT) expect(Math.floor(absmax / 2 ** e)).toBeGreaterThanOrEqual(BINS / 2);
      expect(absmax / 2 ** e).toBeLessThan(BINS);
    }
  });
  it("counts every finite element in its bin", () => {
    const x = gaussian(5000, 1, (v) => v * 3);
    const o = byReference([x]);
    const counts = new Float64Array(BINS);
    for (const v of x) {
      const b = Math.floor(Math.abs(v) / 2 ** o.histogram.exponent);
      counts[b] = (counts[b] ?? 0) + 1;
    }
    expect(o.histogram.counts).toEqual(counts);
    expect([o.min, o.max, o.count]).toEqual([Math.min(...x), Math.max(...x), 5000]);
  });
  it("keeps NaN and infinities out of everything but their count; the zeros have one sign", () => {
    const o = byReference([Float32Array.from([Number.NaN, 1, Number.POSITIVE_INFINITY, -0, -2, Number.NEGATIVE_INFINITY])]);
    expect(o).toMatchObject({ min: -2, max: 1, count: 3, zeros: 1, nonFinite: 3 });
    expect(Object.is(byReference([Float32Array.from([-0])]).min, 0)).toBe(true);
    expect(byReference([])).toMatchObject({ min: 0, max: 0, count: 0, zeros: 0, nonFinite: 0 });
  });
  it("does not depend on order, batches or shards: 16 shards in 20 orders", () => {
    const shards = Array.from({ length: 16 }, (_, i) => gaussian(3000 + i, i + 1, (v) => v * 2 ** ((i * 7) % 11)));
    const whole = byReference(shards);
    const r = random(5);
    for (let order = 0; order < 20; order++) {
      const shuffled = shards.map((s) => ({ s, at: r() })).sort((a, b) => a.at - b.at);
      expect(brief(mergeObservations(shuffled.map(({ s }) => byReference([s]))))).toEqual(brief(whole));
      expect(brief(byReference(shuffled.map(({ s }) => s)))).toEqual(brief(whole));
    }
    const joined = new Float32Array(shards.reduce((n, s) => n + s.length, 0));
    let at = 0;
    for (const s of shards) {
      joined.set(s, at);
      at += s.length;
    }
    expect(brief(byReference([joined]))).toEqual(brief(whole));
    expect(absmaxOf(whole)).toBe(Math.max(...joined.map(Math.abs)));
  });
});

describe("the WebAssembly kernel", () => {
  it("is what its text assembles to", async () => {
    expect(readFileSync(new URL("../../src/quantize/kernel.ts", import.meta.url), "utf8")).toBe(await kernelSource());
  });
  it("equals the TypeScript form on any floats, bit for bit", async () => {
    await fc.assert(
      fc.asyncProperty(anyArrays, async (arrays) => {
        expect(brief(await byKernel(arrays))).toStrictEqual(brief(byReference(arrays)));
      }),
      { numRuns: 150 },
    );
  });
  it("equals it over pieces, growing ranges, outliers and many zeros", async () => {
    const cases = [
      [gaussian(100_003, 1)],
      [gaussian(40_000, 2, (v) => Math.max(0, v)), gaussian(40_001, 3, (v) => Math.min(6, Math.max(0, 4 * v)))],
      [gaussian(9000, 4), gaussian(9000, 5, (v) => v * 1000), gaussian(9000, 6, (v) => v * 1e-20)],
      [new Float32Array(20_000), gaussian(3, 7)],
      [gaussian(8192, 8).fill(Number.NaN, 4000, 4100), gaussian(8192, 9).fill(Number.POSITIVE_INFINITY, 8190)],
      [gaussian(70_000, 10, (v) => v * 2 ** -125), gaussian(70_000, 11, (v) => v * 2 ** 120)],
    ];
    for (const arrays of cases) expect(brief(await byKernel(arrays))).toStrictEqual(brief(byReference(arrays)));
  });
  it("reads half and double precision", async () => {
    const r = await open({ kernel, tensors: [{ name: "h" }, { name: "d" }] });
    r.add("h", "float16", Uint16Array.from([0x3c00, 0xc000, 0x0001, 0x7c00, 0x7e00, 0x8000]), [6]);
    r.add("d", "float64", Float64Array.from([1, -2, 2 ** -24, Number.POSITIVE_INFINITY, Number.NaN, -0]), [6]);
    const [h, d] = r.collect().seen;
    expect(h).toMatchObject({ min: -2, max: 1, count: 4, zeros: 1, nonFinite: 2 });
    expect({ ...h, name: "" }).toEqual({ ...d, name: "" });
    expect(() => r.add("h", "int8", new Int8Array(1), [1])).toThrow("a tensor of int8 has no histogram");
  });
});

describe("channels", () => {
  const shapes = [
    { dims: [2, 5, 7, 3], axis: 1, inner: 21 },
    { dims: [3, 70, 9], axis: -1, inner: 1 },
    { dims: [300, 6], axis: 1, inner: 1 },
    { dims: [1, 3, 1000], axis: 1, inner: 1000 },
    { dims: [4, 1, 2], axis: 1, inner: 2 },
  ];
  const reference = (arrays: readonly Float32Array[], s: (typeof shapes)[number]): ChannelStatistics => {
    const o = new ChannelObserver(s.axis, s.dims.at(s.axis) as number);
    for (const a of arrays) o.add(a, s.inner);
    return o.finish();
  };
  it("the kernel equals the TypeScript form", async () => {
    for (const s of shapes) {
      const n = s.dims.reduce((a, d) => a * d, 1);
      const plain = [gaussian(n, 1), gaussian(n, 2, (v) => v * 50)];
      const wild = [gaussian(n, 3, (v) => v * 300), gaussian(n, 4, (v) => (v > 2 ? Number.NaN : v > 1.9 ? v * 1e30 : v))];
      for (const arrays of [plain, wild]) expect((await byKernel(arrays, s.axis, s.dims)).channels).toStrictEqual(reference(arrays, s));
    }
  });
  it("means are exact: any order, any grouping, any merge", async () => {
    const [s] = shapes as [(typeof shapes)[number]];
    const n = s.dims.reduce((a, d) => a * d, 1);
    const parts = Array.from({ length: 9 }, (_, i) => gaussian(n, i + 1, (v) => v * 10 ** (i % 4)));
    const whole = await byKernel(parts, s.axis, s.dims);
    const merged = mergeObservations(await Promise.all([...parts].reverse().map((p) => byKernel([p], s.axis, s.dims))));
    expect(merged).toStrictEqual(whole);
    const { channels } = whole;
    if (channels === undefined) throw new Error("no channels");
    const means = channelMeans(channels);
    for (let c = 0; c < 5; c++) {
      let [sum, most] = [0, 0];
      for (const p of parts)
        p.forEach((v, i) => {
          if (Math.floor(i / s.inner) % 5 !== c) return;
          sum += v;
          most = Math.max(most, Math.abs(v));
        });
      expect(means[c]).toBeCloseTo(sum / (9 * 42), 8);
      expect(channels.absmax[c]).toBe(most);
      expect(channels.counts[c]).toBe(9 * 42);
    }
  });
  it("refuses an axis that is not there, and channels that change", async () => {
    await expect(byKernel([gaussian(6, 1)], 2, [2, 3])).rejects.toThrow("tensor 'x' of dims [2, 3] has no axis 2");
    const r = await open({ kernel, tensors: [{ name: "x", axis: 1 }] });
    r.add("x", "float32", gaussian(6, 1), [2, 3]);
    expect(() => r.add("x", "float32", gaussian(8, 1), [2, 4])).toThrow("tensor 'x' has 4 channels on axis 1, and had 3 before");
    const other = (axis: number): Observation => ({ ...byReference([gaussian(6, 1)]), channels: new ChannelObserver(axis, 3).finish() });
    expect(() => mergeObservations([other(1), other(2)])).toThrow("observations of one tensor differ in their channels");
  });
});
