/** TensorFlow's gathers, scatters, segments, orders and counts. */
import { expect, it } from "vitest";
import { bool, float, floats, int, type } from "../../support/tf-graph.js";
import { check, ci, f, i, plain, run, t, want, wf, wi } from "../../support/tf-ops.js";

const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);

it("gathers along any axis, by batch too", async () => {
  const x = i([2, 3, 2], upTo(12));
  await check("GatherV2", [x, i([2], [2, 0]), ci([], [1])], {}, wi([2, 2, 2], [4, 5, 0, 1, 10, 11, 6, 7]));
  await check("GatherV2", [x, t("uint8", [1], [1]), ci([], [-1])], {}, wi([2, 3, 1], [1, 3, 5, 7, 9, 11]));
  await check("GatherV2", [x, i([2, 1], [2, 0]), ci([], [1])], { batch_dims: int(1) }, wi([2, 1, 2], [4, 5, 6, 7]));
  await check("GatherV2", [x, i([2, 1], [1, 0]), ci([], [2])], { batch_dims: int(1) }, wi([2, 3, 1], [1, 3, 5, 6, 8, 10]));
  await check("GatherNd", [x, i([2, 2], [0, 1, 1, 2])], {}, wi([2, 2], [2, 3, 10, 11]));
  await check("GatherNd", [i([2], [5, 6]), i([3, 0], [])], {}, wi([3, 2], [5, 6, 5, 6, 5, 6]), { modes: ["static"] });
});
it("hits no class outside of them", async () => {
  await check(
    "OneHot",
    [i([4], [1, -1, 3, 0]), ci([], [3]), f([], [5]), f([], [-1])],
    {},
    wf([4, 3], [-1, 5, -1, -1, -1, -1, -1, -1, -1, 5, -1, -1]),
  );
  await check(
    "OneHot",
    [i([2], [0, 1]), ci([], [2]), t("int8", [], [1]), t("int8", [], [0])],
    { axis: int(0) },
    want("int8", [2, 2], [1, 0, 0, 1]),
  );
});
it("adds up what is scattered to one place", async () => {
  await check("ScatterNd", [i([4, 1], [4, 3, 1, 4]), i([4], [9, 10, 11, 12]), ci([1], [6])], {}, wi([6], [0, 11, 0, 10, 21, 0]));
  await check("ScatterNd", [i([1, 1], [1]), f([1, 2], [3, 4]), ci([2], [2, 2])], {}, wf([2, 2], [0, 0, 3, 4]));
  await check(
    "ScatterNd",
    [i([2, 2], [0, 1, 1, 0]), t("float16", [2], [1, 2]), i([2], [2, 2])],
    {},
    want("float16", [2, 2], [0, 1, 2, 0]),
    { modes: ["static"] },
  );
  await check("TensorScatterUpdate", [i([3], [1, 2, 3]), i([1, 1], [1]), i([1], [9])], {}, wi([3], [1, 9, 3]));
  await check("TensorScatterSub", [i([3], [1, 2, 3]), i([2, 1], [1, 1]), i([2], [9, 1])], {}, wi([3], [1, -8, 3]));
  await check("TensorScatterMax", [i([3], [1, 2, 3]), i([2, 1], [1, 0]), i([2], [9, -1])], {}, wi([3], [1, 9, 3]));
});
it("adds many rows to few places the same way every time", async () => {
  const n = 20000;
  const ids = upTo(n).map((k) => k % 7);
  for (let round = 0; round < 3; round++) {
    const [y] = await run("UnsortedSegmentSum", [
      i(
        [n],
        upTo(n).map(() => 1),
      ),
      i([n], ids),
      ci([], [7]),
    ]);
    expect(plain(y)).toEqual(upTo(7).map((s) => ids.filter((v) => v === s).length));
  }
});
it("stitches rows, the later winning, and takes them apart", async () => {
  await check(
    "DynamicStitch",
    [i([2], [0, 2]), i([2], [1, 0]), i([2, 1], [1, 2]), i([2, 1], [3, 4])],
    { N: int(2) },
    wi([3, 1], [4, 3, 2]),
  );
  await check("DynamicPartition", [i([3, 1], [1, 2, 3]), i([3], [1, 0, 1])], { num_partitions: int(3) }, [
    wi([1, 1], [2]),
    wi([2, 1], [1, 3]),
    wi([0, 1], []),
  ]);
});
it("reduces segments; empty ones as TensorFlow says", async () => {
  const x = i([4], [4, -3, 5, 7]);
  const ids = i([4], [0, 0, 2, 2]);
  await check("SegmentSum", [x, ids], {}, wi([3], [1, 0, 12]));
  await check("SegmentProd", [x, ids], {}, wi([3], [-12, 1, 35]));
  await check("SegmentMax", [x, ids], {}, wi([3], [4, 0, 7]));
  await check("SegmentMin", [x, ids], {}, wi([3], [-3, 0, 5]));
  await check("SegmentMean", [f([4, 1], [4, -3, 5, 7]), ids], {}, wf([3, 1], [0.5, 0, 6]));
  const loose = i([4], [2, -1, 0, 2]);
  await check("UnsortedSegmentSum", [x, loose, ci([], [4])], {}, wi([4], [5, 0, 11, 0]));
  await check("UnsortedSegmentMax", [x, i([4], [0, -1, 0, 0]), ci([], [2])], {}, wi([2], [7, -2147483648]));
  await check("UnsortedSegmentMin", [i([2, 2], [1, 2, 3, 4]), i([2, 2], [0, 0, 1, 0]), i([], [2])], {}, wi([2], [1, 3]), {
    modes: ["static"],
  });
  await check("UnsortedSegmentMax", [f([1], [1]), i([1], [0]), ci([], [2])], {}, wf([2], [1, -3.4028234663852886e38]));
  await check("SparseSegmentMean", [f([3, 1], [1, 2, 3]), i([2], [2, 0]), i([2], [0, 0])], {}, wf([1, 1], [2]));
  await check("SparseSegmentSqrtN", [f([2], [3, 4]), i([2], [0, 1]), i([2], [1, 1])], {}, wf([2], [0, 7 / Math.SQRT2]));
});
it("counts", async () => {
  await check("Bincount", [i([4], [1, 1, 5, 0]), ci([], [3]), f([0], [])], {}, wf([3], [1, 2, 0]));
  await check("DenseBincount", [i([3], [1, 1, 0]), ci([], [3]), f([3], [0.5, 1, 2])], {}, wf([3], [2, 1.5, 0]));
  await check("HistogramFixedWidth", [f([6], [-1, 0, 1.5, 2, 5, 15]), f([2], [0, 5]), ci([], [5])], {}, wi([5], [2, 1, 1, 0, 2]));
  await check("Bucketize", [f([3], [-5, 10, 150])], { boundaries: floats(0, 10, 100) }, wi([3], [0, 2, 3]));
  await check("LowerBound", [f([1, 3], [1, 2, 2]), f([1, 2], [2, 3])], {}, wi([1, 2], [1, 3]));
  await check("UpperBound", [f([1, 3], [1, 2, 2]), f([1, 2], [2, 0])], { out_type: type(9) }, want("int64", [1, 2], [3, 0]));
});
it("orders, of equals the first in front", async () => {
  await check("TopKV2", [i([5], [1, 5, 3, 5, 2]), ci([], [3])], {}, [wi([3], [5, 5, 3]), wi([3], [1, 3, 2])]);
  await check("TopKV2", [t("uint32", [2], [1, 4294967295]), ci([], [1])], {}, [want("uint32", [1], [4294967295]), wi([1], [1])]);
  await check("NthElement", [f([2, 3], [3, 1, 2, 9, 7, 8]), ci([], [1])], {}, wf([2], [2, 8]));
  await check("NthElement", [f([3], [3, 1, 2]), i([], [0])], { reverse: bool(true) }, wf([], [3]), { modes: ["static"] });
  await check(
    "InTopKV2",
    [f([3, 3], [1, 2, 2, 3, 1, 1, 1, Number.NaN, 5]), i([3], [1, 2, 1]), ci([], [1])],
    {},
    want("bool", [3], [1, 0, 0]),
  );
});
it("finds unique elements, differences, places that hold", async () => {
  await check("Unique", [i([5], [4, 1, 4, 2, 1])], {}, [wi([3], [4, 1, 2]), wi([5], [0, 1, 0, 2, 1])]);
  await check("UniqueWithCounts", [t("uint8", [3], [7, 9, 7])], { out_idx: type(9) }, [
    want("uint8", [2], [7, 9]),
    want("int64", [3], [0, 1, 0]),
    want("int64", [2], [2, 1]),
  ]);
  await check("ListDiff", [i([4], [1, 2, 3, 1]), i([2], [2, 9])], {}, [wi([3], [1, 3, 1]), wi([3], [0, 2, 3])]);
  await check("Where", [f([2, 2], [0, 1.5, -0.5, 0])], {}, want("int64", [2, 2], [0, 1, 1, 0]));
});
it("finds every box once, and the best of all classes", async () => {
  const boxes = f([4, 4], [0, 0, 1, 1, 0, 0.1, 1, 1.1, 0, 2, 1, 3, 1, 3, 0, 2]);
  const scores = f([4], [0.9, 0.8, 0.7, 0.95]);
  const size = ci([], [3]);
  await check("NonMaxSuppressionV3", [boxes, scores, size, f([], [0.5]), f([], [0.1])], {}, wi([2], [3, 0]));
  await check("NonMaxSuppressionV4", [boxes, scores, size, f([], [0.5]), f([], [0.1])], { pad_to_max_output_size: bool(true) }, [
    wi([3], [3, 0, 0]),
    wi([], [2]),
  ]);
  await check("NonMaxSuppression", [boxes, scores, ci([], [1])], { iou_threshold: float(0.5) }, wi([1], [3]));
  const overlaps = f([3, 3], [1, 0.8, 0, 0.8, 1, 0.2, 0, 0.2, 1]);
  await check("NonMaxSuppressionWithOverlaps", [overlaps, f([3], [0.5, 0.9, 0.4]), size, f([], [0.5]), f([], [0.1])], {}, wi([2], [1, 2]));
  await check(
    "CombinedNonMaxSuppression",
    [f([1, 2, 1, 4], [0, 0, 1, 1, 0, 0, 0.5, 2]), f([1, 2, 2], [0.9, 0.1, 0.3, 0.8]), ci([], [2]), ci([], [3]), f([], [0.5]), f([], [0.2])],
    {},
    [wf([1, 3, 4], [0, 0, 1, 1, 0, 0, 0.5, 1, 0, 0, 0.5, 1]), wf([1, 3], [0.9, 0.8, 0.3]), wf([1, 3], [0, 1, 0]), wi([1], [3])],
    { modes: ["static"] },
  );
});
it("makes random numbers of the right type, shape and range, other ones every time", async () => {
  const [u] = await run("RandomUniform", [i([2], [300, 2])], { dtype: type(1) });
  expect([u?.type, u?.dims]).toEqual(["float32", [300, 2]]);
  expect(plain(u).every((v) => v >= 0 && v < 1)).toBe(true);
  const [n] = await run("RandomUniformInt", [i([1], [500]), t("int64", [], [-3]), t("int64", [], [4])]);
  expect(n?.type).toBe("int64");
  expect([...new Set(plain(n))].sort((a, b) => a - b)).toEqual([-3, -2, -1, 0, 1, 2, 3]);
  const [tn] = await run("TruncatedNormal", [i([1], [2000])], { dtype: type(1) });
  expect(Math.max(...plain(tn).map(Math.abs))).toBeLessThanOrEqual(2.0001);
  expect(Math.sqrt(plain(tn).reduce((s, v) => s + v * v, 0) / 2000)).toBeCloseTo(0.88, 1);
  const [s] = await run("RandomShuffle", [i([9], upTo(9))]);
  expect(plain(s).sort((a, b) => a - b)).toEqual(upTo(9));
  const [p] = await run("RandomPoissonV2", [i([1], [3000]), f([1], [4])], { dtype: type(9) });
  expect(plain(p).reduce((sum, v) => sum + v, 0) / 3000).toBeCloseTo(4, 0);
  const [m] = await run("Multinomial", [f([1, 3], [0, -50, 0]), ci([], [200])]);
  expect([m?.type, m?.dims, [...new Set(plain(m))].sort()]).toEqual(["int64", [1, 200], [0, 2]]);
});
