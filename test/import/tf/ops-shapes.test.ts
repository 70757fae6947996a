/** TensorFlow's shape operators: strided slices against NumPy's rule on random masks, pads, splits, packs, rotations, made tensors. */
import { expect, it } from "vitest";
import { int, ints, text, type } from "../../support/tf-graph.js";
import { check, ci, f, i, plain, run, t, want, wf, wi } from "../../support/tf-ops.js";

const count = (dims: readonly number[]): number => dims.reduce((a, d) => a * d, 1);
const upTo = (n: number): number[] => Array.from({ length: n }, (_, k) => k);

interface Spec {
  readonly begin: readonly number[];
  readonly end: readonly number[];
  readonly strides: readonly number[];
  readonly masks: Readonly<Record<"begin" | "end" | "ellipsis" | "new_axis" | "shrink_axis", number>>;
}
/** Basic indexing by definition: every kept place of every dimension, listed. */
function sliced(dims: readonly number[], s: Spec): { dims: number[]; values: number[] } {
  const bit = (mask: number, k: number): boolean => ((mask >> k) & 1) === 1;
  const places: number[][] = [];
  const out: number[] = [];
  let axis = 0;
  const whole = (): void => {
    const d = dims[axis++] ?? 0;
    places.push(upTo(d));
    out.push(d);
  };
  s.begin.forEach((from, k) => {
    if (bit(s.masks.ellipsis, k)) {
      const later = s.begin.filter((_, j) => j > k && !bit(s.masks.new_axis, j)).length;
      while (axis < dims.length - later) whole();
      return;
    }
    if (bit(s.masks.new_axis, k)) {
      out.push(1);
      return;
    }
    const d = dims[axis++] ?? 0;
    const step = s.strides[k] ?? 1;
    if (bit(s.masks.shrink_axis, k)) {
      places.push([from < 0 ? from + d : from]);
      return;
    }
    const held = (x: number): number => Math.max(step > 0 ? 0 : -1, Math.min(step > 0 ? d : d - 1, x < 0 ? x + d : x));
    const start = bit(s.masks.begin, k) ? (step > 0 ? 0 : d - 1) : held(from);
    const stop = bit(s.masks.end, k) ? (step > 0 ? d : -1) : held(s.end[k] ?? 0);
    const list: number[] = [];
    for (let p = start; step > 0 ? p < stop : p > stop; p += step) list.push(p);
    places.push(list);
    out.push(list.length);
  });
  while (axis < dims.length) whole();
  let flat = [0];
  places.forEach((list, a) => {
    flat = flat.flatMap((base) => list.map((p) => base * (dims[a] ?? 1) + p));
  });
  return { dims: out, values: flat };
}
const maskAttrs = (s: Spec) => Object.fromEntries(Object.entries(s.masks).map(([k, v]) => [`${k}_mask`, int(v)]));

it("slices by every mask as NumPy's indexing does", async () => {
  let seed = 7;
  const next = (n: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * n);
  };
  for (let round = 0; round < 40; round++) {
    const dims = upTo(1 + next(3)).map(() => 2 + next(4));
    const kinds = [...upTo(1 + next(dims.length)).map(() => ["slice", "slice", "shrink"][next(3)] as string)];
    if (next(2) === 0) kinds.splice(next(kinds.length + 1), 0, "new");
    if (next(3) === 0) kinds.splice(next(kinds.length + 1), 0, "ellipsis");
    const masks = { begin: 0, end: 0, ellipsis: 0, new_axis: 0, shrink_axis: 0 };
    const [begin, end, strides]: [number[], number[], number[]] = [[], [], []];
    // The dimension a place speaks of, so that positions that shrink are inside.
    const behind = (k: number): number => kinds.filter((kind, j) => j > k && kind !== "new" && kind !== "ellipsis").length;
    let axis = 0;
    kinds.forEach((kind, k) => {
      if (kind === "ellipsis") axis = dims.length - behind(k);
      const d = dims[axis] ?? 1;
      const step = [1, 1, 2, -1, -2][next(5)] as number;
      begin.push(next(2 * d + 2) - d - 1);
      end.push(next(2 * d + 4) - d - 2);
      strides.push(kind === "slice" ? step : 1);
      if (kind === "ellipsis") masks.ellipsis |= 1 << k;
      if (kind === "new") masks.new_axis |= 1 << k;
      if (kind === "shrink") {
        masks.shrink_axis |= 1 << k;
        begin[k] = next(2 * d) - d;
      }
      if (kind === "slice" && next(3) === 0) masks.begin |= 1 << k;
      if (kind === "slice" && next(3) === 0) masks.end |= 1 << k;
      if (kind === "slice" || kind === "shrink") axis++;
    });
    const s: Spec = { begin, end, strides, masks };
    const expected = sliced(dims, s);
    const x = i(dims, upTo(count(dims)));
    const n = [begin.length];
    for (const mode of ["static", "open"] as const)
      for (const known of [true, false]) {
        const bound = (values: readonly number[]) => (known ? ci(n, values) : i(n, values));
        // Bounds that are fed have a known number all the same.
        if (!known && mode === "open") continue;
        const [y] = await run("StridedSlice", [x, bound(begin), bound(end), ci(n, strides)], maskAttrs(s), 1, mode);
        expect({ dims: y?.dims, values: plain(y) }, JSON.stringify({ dims, ...s, mode, known })).toEqual(expected);
      }
  }
});
it("slices to the end where the size is -1", async () => {
  const x = i([2, 3], upTo(6));
  await check("Slice", [x, ci([2], [0, 1]), ci([2], [-1, 2])], {}, wi([2, 2], [1, 2, 4, 5]));
  await check("Slice", [x, i([2], [1, 1]), i([2], [-1, 1])], {}, wi([1, 1], [4]), { modes: ["static"] });
});
it("asks for shapes in the type wanted", async () => {
  await check("Shape", [f([2, 0], [])], {}, wi([2], [2, 0]));
  await check("Shape", [f([3], [1, 2, 3])], { out_type: type(9) }, want("int64", [1], [3]));
  await check("Size", [f([2, 3], upTo(6))], {}, wi([], [6]));
  await check("Rank", [f([2, 3], upTo(6))], {}, wi([], [2]));
  await check("Squeeze", [i([1, 2, 1], [1, 2])], { squeeze_dims: ints(-1) }, wi([1, 2], [1, 2]));
  await check("Squeeze", [i([1, 2, 1], [1, 2])], {}, wi([2], [1, 2]));
  await check("Reshape", [f([0, 4], []), ci([2], [0, 2])], {}, wf([0, 2], []));
});
it("packs, unpacks, splits, concatenates", async () => {
  await check("Pack", [i([2], [1, 2]), i([2], [3, 4])], { axis: int(1) }, wi([2, 2], [1, 3, 2, 4]));
  await check("Unpack", [i([2, 2], [1, 2, 3, 4])], { num: int(2), axis: int(-1) }, [wi([2], [1, 3]), wi([2], [2, 4])]);
  await check("Split", [ci([], [1]), i([1, 4], [1, 2, 3, 4])], { num_split: int(2) }, [wi([1, 2], [1, 2]), wi([1, 2], [3, 4])]);
  await check("SplitV", [i([5], upTo(5)), ci([2], [-1, 2]), ci([], [0])], { num_split: int(2) }, [wi([3], [0, 1, 2]), wi([2], [3, 4])]);
  await check("ConcatV2", [i([0, 2], []), i([1, 2], [1, 2]), ci([], [0])], {}, wi([1, 2], [1, 2]));
  await check("ConcatOffset", [ci([], [1]), i([2], [2, 3]), i([2], [2, 5])], {}, [wi([2], [0, 0]), wi([2], [0, 3])], { modes: ["static"] });
});
it("pads, by zeros, a value, or a mirror", async () => {
  const x = i([3], [1, 2, 3]);
  await check("Pad", [x, ci([1, 2], [1, 2])], {}, wi([6], [0, 1, 2, 3, 0, 0]));
  await check("PadV2", [t("int16", [1], [7]), ci([1, 2], [1, 1]), t("int16", [], [9])], {}, want("int16", [3], [9, 7, 9]));
  await check("MirrorPad", [x, ci([1, 2], [2, 2])], { mode: text("REFLECT") }, wi([7], [3, 2, 1, 2, 3, 2, 1]));
  await check("MirrorPad", [x, ci([1, 2], [3, 2])], { mode: text("SYMMETRIC") }, wi([8], [3, 2, 1, 1, 2, 3, 3, 2]));
  await check("MirrorPad", [x, i([1, 2], [1, 3])], { mode: text("SYMMETRIC") }, wi([7], [1, 1, 2, 3, 3, 2, 1]), { modes: ["static"] });
  await check("Pad", [t("bool", [1], [true]), ci([1, 2], [0, 1])], {}, want("bool", [2], [1, 0]));
});
it("turns round and rotates", async () => {
  const x = i([2, 3], upTo(6));
  await check("ReverseV2", [x, ci([2], [0, -1])], {}, wi([2, 3], [5, 4, 3, 2, 1, 0]));
  await check("Roll", [x, ci([1], [1]), ci([1], [1])], {}, wi([2, 3], [2, 0, 1, 5, 3, 4]));
  await check("Roll", [x, i([2], [1, -4]), ci([2], [0, 1])], {}, wi([2, 3], [4, 5, 3, 1, 2, 0]), { modes: ["static"] });
  await check("ReverseSequence", [x, t("int64", [2], [2, 3])], { seq_dim: int(1), batch_dim: int(0) }, wi([2, 3], [1, 0, 2, 5, 4, 3]));
});
it("makes ranges, fills, repeats", async () => {
  await check("Range", [i([], [5]), i([], [1]), i([], [-2])], {}, wi([2], [5, 3]));
  await check("Range", [t("float16", [], [0]), t("float16", [], [1]), t("float16", [], [0.5])], {}, want("float16", [2], [0, 0.5]));
  await check("Fill", [ci([2], [2, 0]), f([], [3])], {}, wf([2, 0], []));
  await check("Fill", [i([1], [2]), t("bool", [], [true])], {}, want("bool", [2], [1, 1]), { modes: ["static"] });
  await check("LinSpace", [f([], [0]), f([], [1]), ci([], [5])], {}, wf([5], [0, 0.25, 0.5, 0.75, 1]));
  await check("LinSpace", [f([], [3]), f([], [9]), ci([], [1])], {}, wf([1], [3]));
  await check("Tile", [i([1, 2], [1, 2]), ci([2], [2, 2])], {}, wi([2, 4], [1, 2, 1, 2, 1, 2, 1, 2]));
  await check("BroadcastTo", [i([2, 1], [1, 2]), ci([2], [2, 2])], {}, wi([2, 2], [1, 1, 2, 2]));
  await check("ZerosLike", [t("uint8", [2], [1, 2])], {}, want("uint8", [2], [0, 0]));
  await check("InvertPermutation", [i([3], [2, 0, 1])], {}, wi([3], [1, 2, 0]));
  await check("BroadcastArgs", [i([3], [1, 5, 1]), i([1], [4])], {}, wi([3], [1, 5, 4]), { modes: ["static"] });
  await check("BroadcastGradientArgs", [ci([2], [2, 3]), ci([1], [1])], {}, [wi([0], []), wi([2], [0, 1])]);
});
it("moves space into the batch and back, space into depth and back", async () => {
  const image = i([1, 2, 2, 1], [1, 2, 3, 4]);
  await check("SpaceToBatchND", [image, ci([2], [2, 2]), ci([2, 2], [0, 0, 0, 0])], {}, wi([4, 1, 1, 1], [1, 2, 3, 4]));
  await check("BatchToSpaceND", [i([4, 1, 1, 1], [1, 2, 3, 4]), ci([2], [2, 2]), ci([2, 2], [0, 0, 0, 1])], {}, wi([1, 2, 1, 1], [1, 3]));
  await check("SpaceToBatchND", [i([1, 3], [1, 2, 3]), ci([1], [2]), i([1, 2], [0, 1])], {}, wi([2, 2], [1, 3, 2, 0]), {
    modes: ["static"],
  });
  await check("SpaceToDepth", [f([1, 2, 2, 1], [1, 2, 3, 4])], { block_size: int(2) }, wf([1, 1, 1, 4], [1, 2, 3, 4]));
  await check("DepthToSpace", [t("int32", [1, 1, 1, 8], upTo(8))], { block_size: int(2) }, wi([1, 2, 2, 2], upTo(8)));
});
it("permutes data layouts", async () => {
  await check("DataFormatVecPermute", [i([4], [1, 2, 3, 4])], {}, wi([4], [1, 4, 2, 3]));
  await check("DataFormatDimMap", [i([2], [3, -1])], {}, wi([2], [1, 1]));
});
