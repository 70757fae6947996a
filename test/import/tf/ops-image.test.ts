/** TensorFlow's image operators: every convention of resizing against its definition, crops, colours, boxes. */
import { expect, it } from "vitest";
import { importTf } from "../../../src/import/tf/index.js";
import { bool, constant, float, graphDef, node, placeholder, text } from "../../support/tf-graph.js";
import { cf, check, ci, f, i, plain, run, t, want, wf, wi } from "../../support/tf-ops.js";

const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const F = Math.fround;
const hold = (x: number, low: number, high: number): number => Math.max(low, Math.min(high, x));
const scaleOf = (from: number, to: number, align: boolean): number => (align && to > 1 ? F(from - 1) / F(to - 1) : F(from) / F(to));
const conventions = [
  { align_corners: false, half_pixel_centers: false },
  { align_corners: true, half_pixel_centers: false },
  { align_corners: false, half_pixel_centers: true },
] as const;
const sizes = [
  [3, 5, 5, 3],
  [5, 4, 2, 8],
  [4, 4, 8, 2],
  [2, 3, 1, 1],
] as const;
type Convention = (typeof conventions)[number];
const attrsOf = (c: Convention) => ({ align_corners: bool(c.align_corners), half_pixel_centers: bool(c.half_pixel_centers) });
const at = (k: number, from: number, to: number, c: Convention): number => {
  const s = F(scaleOf(from, to, c.align_corners));
  return c.half_pixel_centers ? (k + 0.5) * s - 0.5 : k * s;
};
/** Applies the same weights per side: `weights(k, from, to)` lists [pixel, weight]. */
function resized(
  x: readonly number[],
  [h, w, oh, ow]: readonly [number, number, number, number],
  weights: (k: number, from: number, to: number) => readonly (readonly [number, number])[],
): number[] {
  return upTo(oh).flatMap((y) =>
    upTo(ow).map((z) =>
      weights(y, h, oh).reduce((s, [p, a]) => s + weights(z, w, ow).reduce((r, [q, b]) => r + a * b * (x[p * w + q] ?? 0), 0), 0),
    ),
  );
}

it.each(conventions)("resizes with $align_corners corners and $half_pixel_centers centres as TensorFlow does", async (c) => {
  for (const size of sizes) {
    const [h, w, oh, ow] = size;
    const x = upTo(h * w).map((k) => F(Math.sin(k * 1.3)));
    const image = f([1, h, w, 1], x);
    const wanted = (values: readonly number[]) => wf([1, oh, ow, 1], values);
    const linear = (k: number, from: number, to: number): readonly (readonly [number, number])[] => {
      const place = at(k, from, to, c);
      const d = place - Math.floor(place);
      return [
        [Math.max(0, Math.floor(place)), 1 - d],
        [Math.min(from - 1, Math.ceil(place)), d],
      ];
    };
    await check("ResizeBilinear", [image, ci([2], [oh, ow])], attrsOf(c), wanted(resized(x, size, linear)));
    const nearest = (k: number, from: number, to: number): readonly (readonly [number, number])[] => {
      const s = F(scaleOf(from, to, c.align_corners));
      const place = c.half_pixel_centers ? Math.floor(F(F(k + 0.5) * s)) : c.align_corners ? Math.round(F(k * s)) : Math.floor(F(k * s));
      return [[hold(place, 0, from - 1), 1]];
    };
    const near = resized(x, size, nearest);
    await check("ResizeNearestNeighbor", [image, ci([2], [oh, ow])], attrsOf(c), wanted(near));
    await check("ResizeNearestNeighbor", [image, i([2], [oh, ow])], attrsOf(c), wanted(near), { modes: ["static"] });
    const bytes = upTo(h * w).map((k) => 3 * k);
    await check(
      "ResizeNearestNeighbor",
      [t("uint8", [1, h, w, 1], bytes), ci([2], [oh, ow])],
      attrsOf(c),
      want("uint8", [1, oh, ow, 1], resized(bytes, size, nearest)),
    );
    const cubic = (k: number, from: number, to: number): readonly (readonly [number, number])[] => {
      const place = F(at(k, from, to, c));
      const a = c.half_pixel_centers ? -0.5 : -0.75;
      const d = Math.round((place - Math.floor(place)) * 1024) / 1024;
      const inner = (v: number): number => ((a + 2) * v - (a + 3)) * v * v + 1;
      const outer = (v: number): number => ((a * v - 5 * a) * v + 8 * a) * v - 4 * a;
      const all = [outer(d + 1), inner(d), inner(1 - d), outer(2 - d)].map((v, j) => [Math.floor(place) + j - 1, v] as const);
      if (!c.half_pixel_centers) return all.map(([p, v]) => [hold(p, 0, from - 1), v]);
      const inside = all.filter(([p]) => p >= 0 && p < from);
      const total = inside.reduce((s, [, v]) => s + v, 0);
      return inside.map(([p, v]) => [p, v / total]);
    };
    await check("ResizeBicubic", [image, ci([2], [oh, ow])], attrsOf(c), wanted(resized(x, size, cubic)));
    if (c.half_pixel_centers) continue;
    const area = (k: number, from: number, to: number): readonly (readonly [number, number])[] => {
      const s = F(scaleOf(from, to, c.align_corners));
      const [low, high] = [k * s, (k + 1) * s];
      return upTo(Math.ceil(high) - Math.floor(low)).map((j) => {
        const p = Math.floor(low) + j;
        return [hold(p, 0, from - 1), (Math.min(p + 1, high) - Math.max(p, low)) / s];
      });
    };
    await check("ResizeArea", [image, ci([2], [oh, ow])], { align_corners: bool(c.align_corners) }, wanted(resized(x, size, area)));
  }
});
it("is one Resize between transposes where ONNX Runtime picks the same pixels", () => {
  for (const op of ["ResizeBilinear", "ResizeNearestNeighbor"]) {
    const g = importTf(graphDef([placeholder("x", 1, [1, 4, 4, 2]), constant("s", 3, [2], [8, 8]), node("y", op, ["x", "s"])]));
    expect(g.nodes.map((n) => n.op)).toEqual(["Transpose", "Resize", "Transpose"]);
  }
});
it("scales and shifts with antialiasing", async () => {
  const x = [1, 2, 3, 4];
  const ins = [f([1, 1, 4, 1], x), ci([2], [1, 2]), cf([2], [1, 0.5]), cf([2], [0, 0])];
  // A triangle of radius 2 around 1 and 3: weights 1/4 and 3/4 in turn, cut off at the image's ends.
  const [left, right] = [(0.75 * 1 + 0.75 * 2 + 0.25 * 3) / 1.75, (0.25 * 2 + 0.75 * 3 + 0.75 * 4) / 1.75];
  await check("ScaleAndTranslate", ins, { kernel_type: text("triangle"), antialias: bool(true) }, wf([1, 1, 2, 1], [left, right]), {
    modes: ["static"],
  });
});
it("crops boxes of any corners, with a value for what lies outside", async () => {
  const image = f([1, 2, 2, 1], [1, 2, 3, 4]);
  const size = ci([2], [2, 2]);
  const box = (...corners: readonly number[]) => f([1, 4], corners);
  await check("CropAndResize", [image, box(0, 0, 1, 1), i([1], [0]), size], {}, wf([1, 2, 2, 1], [1, 2, 3, 4]));
  await check("CropAndResize", [image, box(0, 1, 1, 0), i([1], [0]), size], {}, wf([1, 2, 2, 1], [2, 1, 4, 3]));
  await check(
    "CropAndResize",
    [image, box(0, 0, 2, 1), i([1], [0]), size],
    { extrapolation_value: float(9) },
    wf([1, 2, 2, 1], [1, 2, 9, 9]),
  );
  await check("CropAndResize", [image, box(0, 0, 1, 1), i([1], [0]), ci([2], [1, 1])], {}, wf([1, 1, 1, 1], [2.5]));
  await check(
    "CropAndResize",
    [image, box(0, 0.4, 1, 0.6), i([1], [0]), size],
    { method: text("nearest") },
    wf([1, 2, 2, 1], [1, 2, 3, 4]),
  );
});
it("turns colours round and back", async () => {
  const rgb = [1, 0, 0, 0, 1, 0, 0, 0, 1, 0.5, 0.25, 0.25, 0.3, 0.3, 0.3, 0, 0, 0];
  const [hsv] = await run("RGBToHSV", [f([6, 3], rgb)]);
  const wanted = [0, 1, 1, 1 / 3, 1, 1, 2 / 3, 1, 1, 0, 0.5, 0.5, 0, 0, 0.3, 0, 0, 0];
  plain(hsv).forEach((v, k) => expect(v).toBeCloseTo(wanted[k] ?? 0, 5));
  await check("HSVToRGB", [f([6, 3], wanted)], {}, wf([6, 3], rgb));
  await check("AdjustHue", [f([1, 3], [1, 0, 0]), f([], [1 / 3])], {}, wf([1, 3], [0, 1, 0]));
  await check("AdjustSaturation", [f([1, 3], [1, 0.5, 0.5]), f([], [0])], {}, wf([1, 3], [1, 1, 1]));
  await check("AdjustContrastv2", [f([1, 2, 1], [1, 3]), f([], [2])], {}, wf([1, 2, 1], [0, 4]));
});
it("draws boxes in turn", async () => {
  const boxes = f([1, 1, 4], [0, 0, 1, 0.5]);
  await check(
    "DrawBoundingBoxesV2",
    [f([1, 3, 3, 1], new Array(9).fill(0)), boxes, f([1, 1], [7])],
    {},
    wf([1, 3, 3, 1], [7, 7, 0, 7, 7, 0, 7, 7, 0]),
    { modes: ["static"] },
  );
  const [y] = await run("DrawBoundingBoxes", [f([1, 3, 3, 3], new Array(27).fill(0)), boxes]);
  expect(plain(y).slice(0, 3)).toEqual([1, 1, 0]);
});
it("keeps integers whole", async () => {
  await check(
    "ResizeNearestNeighbor",
    [t("int64", [1, 1, 2, 1], [2n ** 53n, 1n]), ci([2], [1, 4])],
    {},
    want("int64", [1, 1, 4, 1], [2 ** 53, 2 ** 53, 1, 1]),
  );
  await check("ResizeBilinear", [i([1, 1, 2, 1], [0, 4]), ci([2], [1, 4])], {}, wf([1, 1, 4, 1], [0, 2, 4, 4]));
  await check("ReverseV2", [i([2], [1, 2]), ci([1], [0])], {}, wi([2], [2, 1]));
});
