/** Non-maximum suppression in all its versions. Boxes are [y1, x1, y2, x2], any two opposite corners. */
import { typedOf } from "../../ir/payload.js";
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { counting, dimOf, shapeFrom } from "./helpers.js";
import { compute } from "./kernels.js";

const f32 = (b: TfBuilder, x: Val): Val => b.cast(x, "float32");
const scalar64 = (b: TfBuilder, x: Val): Val => b.cast(b.reshape(x, []), "int64");
const scalar32 = (b: TfBuilder, x: Val): Val => f32(b, b.reshape(x, []));

interface Limits {
  readonly count: Val;
  readonly overlap: Val;
  readonly score: Val | undefined;
}
/** Positions of the kept boxes, int64 [kept]. */
function kept(b: TfBuilder, boxes: Val, scores: Val, limits: Limits): Val {
  const selected = b.op("NonMaxSuppression", [
    b.unsqueeze(f32(b, boxes), [0]),
    b.unsqueeze(f32(b, scores), [0, 1]),
    b.reshape(limits.count, [1]),
    b.reshape(limits.overlap, [1]),
    limits.score === undefined ? undefined : b.reshape(limits.score, [1]),
  ]);
  return b.gather(selected, b.int64(2), 1);
}
/** `x` [m] with zeros behind up to `count`. */
function filledUp(b: TfBuilder, x: Val, count: Val): Val {
  const lacking = b.op("Max", [b.sub(count, b.dim(x, 0)), b.int64(0)]);
  return b.op("Pad", [x, b.concat([b.int64([0]), b.reshape(lacking, [1])], 0), undefined]);
}
const SOFT = [
  "Loop",
  "ArgMax",
  "Exp",
  "Where",
  "Compress",
  "Min",
  "Max",
  "Sub",
  "Mul",
  "Add",
  "Div",
  "Greater",
  "And",
  "LessOrEqual",
  "Equal",
];
const boxOps = ["NonMaxSuppression", "Gather", "Cast", "Reshape", "Unsqueeze"];
export const nonMaxSuppression = defineTfOp({
  name: "NonMaxSuppression",
  to: boxOps,
  lower: (n, b) => {
    const limits = { count: scalar64(b, n.in(2)), overlap: b.scalar("float32", n.float("iou_threshold", 0.5)), score: undefined };
    return b.cast(kept(b, n.in(0), n.in(1), limits), "int32");
  },
});
const limitsOf = (n: TfNode, b: TfBuilder): Limits => ({
  count: scalar64(b, n.in(2)),
  overlap: scalar32(b, n.in(3)),
  score: n.ins.length > 4 ? scalar32(b, n.in(4)) : undefined,
});
export const nonMaxSuppressionV2 = defineTfOp({
  names: ["NonMaxSuppressionV2", "NonMaxSuppressionV3"],
  to: boxOps,
  lower: (n, b) => b.cast(kept(b, n.in(0), n.in(1), limitsOf(n, b)), "int32"),
});
export const nonMaxSuppressionV4 = defineTfOp({
  name: "NonMaxSuppressionV4",
  outs: ["selected_indices", "valid_outputs"],
  to: [...boxOps, "Pad", "Size", "Max", "Sub"],
  lower: (n, b) => {
    const limits = limitsOf(n, b);
    const found = kept(b, n.in(0), n.in(1), limits);
    const padded = n.bool("pad_to_max_output_size", false) ? filledUp(b, found, limits.count) : found;
    return [b.cast(padded, "int32"), b.cast(b.size(found), "int32")];
  },
});
export const nonMaxSuppressionV5 = defineTfOp({
  name: "NonMaxSuppressionV5",
  outs: ["selected_indices", "selected_scores", "valid_outputs"],
  to: [...boxOps, "Pad", "Size", ...SOFT],
  lower: (n, b) => {
    const limits = limitsOf(n, b);
    const [boxes, scores] = [n.in(0), n.in(1)];
    const sigma = n.in(5).constant;
    let [found, own]: [Val, Val] = [boxes, scores];
    if (sigma !== undefined && isZero(sigma)) {
      found = kept(b, boxes, scores, limits);
      own = b.gather(scores, found);
    } else {
      const overlaps = overlapRows(b, f32(b, boxes));
      const soft = softened(b, f32(b, scores), limits, overlaps, scalar32(b, n.in(5)));
      found = soft.found;
      own = b.cast(soft.scores, scores.dtype);
    }
    if (n.bool("pad_to_max_output_size", false)) {
      const valid = b.cast(b.size(found), "int32");
      const paddedScores = b.cast(filledUp(b, f32(b, own), limits.count), scores.dtype);
      return [b.cast(filledUp(b, found, limits.count), "int32"), paddedScores, valid];
    }
    return [b.cast(found, "int32"), own, b.cast(b.size(found), "int32")];
  },
});
const isZero = (c: NonNullable<Val["constant"]>): boolean => Array.from(typedOf(c) as ArrayLike<number>).every((v) => v === 0);

/** Intersection over union of box `i` with all boxes, [n]; boxes without area overlap nothing. */
function overlapRows(b: TfBuilder, boxes: Val): (c: TfBuilder, i: Val) => Val {
  const side = (i: number): Val => b.reshape(b.slice(boxes, [i], [i + 1], [1]), [-1]);
  const [y1, x1, y2, x2] = [side(0), side(1), side(2), side(3)];
  const [top, bottom] = [b.op("Min", [y1, y2]), b.op("Max", [y1, y2])];
  const [left, right] = [b.op("Min", [x1, x2]), b.op("Max", [x1, x2])];
  const area = b.mul(b.sub(bottom, top), b.sub(right, left));
  return (c, i) => {
    const zero = c.scalar("float32", 0);
    const own = (v: Val): Val => c.gather(v, i);
    const span = (low: Val, high: Val): Val => c.op("Max", [c.sub(c.op("Min", [high, own(high)]), c.op("Max", [low, own(low)])), zero]);
    const common = c.mul(span(top, bottom), span(left, right));
    const union = c.sub(c.add(area, own(area)), common);
    const real = c.op("And", [c.op("Greater", [area, zero]), c.op("Greater", [own(area), zero])]);
    return c.where(real, c.div(common, c.where(real, union, c.scalar("float32", 1))), zero);
  };
}
/**
 * Soft suppression (Bodla et al. 2017): the best box is taken, the others' scores shrink by exp(-overlap^2 / (2 sigma)), to nothing above the
 * overlap limit. Without a sigma they keep their score up to the limit.
 */
function softened(
  b: TfBuilder,
  scores: Val,
  limits: Limits,
  overlaps: (c: TfBuilder, i: Val) => Val,
  sigma: Val | undefined,
): { readonly found: Val; readonly scores: Val } {
  const none = b.scalar("float32", Number.NEGATIVE_INFINITY);
  const floor = limits.score ?? none;
  const count = b.op("Min", [limits.count, b.dim(scores, 0)]);
  const body = b.body(
    "suppress",
    [
      { name: "suppress/i", type: { kind: "tensor", dtype: "int64", shape: [] } },
      { name: "suppress/go", type: { kind: "tensor", dtype: "bool", shape: [] } },
      { name: "suppress/scores", type: scores.fact.type },
    ],
    (c, [, , left]) => {
      if (left === undefined) return [];
      const best = c.op("ArgMax", [left], { axis: 0, keepdims: false });
      const score = c.gather(left, best);
      const row = overlaps(c, best);
      const weight =
        sigma === undefined ? c.scalar("float32", 1) : c.op("Exp", [c.mul(c.div(c.scalar("float32", -0.5), sigma), c.mul(row, row))]);
      const shrunk = c.where(c.op("LessOrEqual", [row, limits.overlap]), c.mul(left, weight), none);
      const others = c.op("Equal", [counting(c, c.dim(left, 0)), best]);
      const good = c.op("Greater", [score, floor]);
      return [c.scalar("bool", true), c.where(others, none, shrunk), best, score, good];
    },
  );
  const [, order, own, good] = b.ops("Loop", [count, undefined, scores], { body }, 4);
  if (order === undefined || own === undefined || good === undefined) throw new Error("Loop made no result");
  return { found: b.op("Compress", [order, good], { axis: 0 }), scores: b.op("Compress", [own, good], { axis: 0 }) };
}
export const nonMaxSuppressionWithOverlaps = defineTfOp({
  name: "NonMaxSuppressionWithOverlaps",
  to: SOFT,
  lower: (n, b) => {
    const overlaps = f32(b, n.in(0));
    const { found } = softened(b, f32(b, n.in(1)), limitsOf(n, b), (c, i) => c.gather(overlaps, i), undefined);
    return b.cast(found, "int32");
  },
});

/** Suppression class by class, then the best of all classes of an image; padded with zeros. */
export const combinedNonMaxSuppression = defineTfOp({
  name: "CombinedNonMaxSuppression",
  outs: ["nmsed_boxes", "nmsed_scores", "nmsed_classes", "valid_detections"],
  to: [
    ...boxOps,
    "Transpose",
    "ScatterElements",
    "TopK",
    "Mod",
    "Div",
    "GatherND",
    "Where",
    "Clip",
    "Pad",
    "ReduceSum",
    "Mul",
    "Add",
    "Sub",
    "Min",
    "Max",
    "Greater",
  ],
  lower: (n, b) => {
    const [boxes, scores] = [f32(b, n.in(0)), f32(b, n.in(1))];
    const [own, classes] = [boxes.shape?.[2], scores.shape?.[2]];
    if (typeof own !== "number" || typeof classes !== "number")
      return n.refuse("the number of its classes is not known", "give the graph's inputs shapes");
    const k = compute(n, b);
    const [batch, count] = [dimOf(b, boxes, 0), dimOf(b, boxes, 1)];
    const val = (d: number | Val): Val => (typeof d === "number" ? b.int64(d) : d);
    const byClass = b.transpose(scores, [0, 2, 1]);
    const shared = own === 1;
    const each = shared ? b.reshape(boxes, shapeFrom(b, [batch, count, 4])) : b.transpose(boxes, [0, 2, 1, 3]);
    const lists = b.mul(val(batch), b.int64(classes));
    const perClass = scalar64(b, n.in(2));
    const selected = b.op("NonMaxSuppression", [
      shared ? each : b.reshape(each, shapeFrom(b, [lists, count, 4])),
      shared ? byClass : b.reshape(byClass, shapeFrom(b, [lists, 1, count])),
      b.reshape(perClass, [1]),
      b.reshape(scalar32(b, n.in(4)), [1]),
      b.reshape(scalar32(b, n.in(5)), [1]),
    ]);
    const column = (i: number): Val => b.gather(selected, b.int64(i), 1);
    const list = shared ? b.add(b.mul(column(0), b.int64(classes)), column(1)) : column(0);
    const at = b.add(b.mul(list, val(count)), column(2));
    const flat = b.reshape(byClass, [-1]);
    const none = b.scalar("float32", Number.NEGATIVE_INFINITY);
    const base = b.fill("float32", Number.NEGATIVE_INFINITY, b.shape(flat));
    const kept_ = b.op("ScatterElements", [base, at, b.gather(flat, at)], { axis: 0 });
    const inner = b.mul(b.int64(classes), val(count));
    const candidates = b.reshape(kept_, shapeFrom(b, [batch, inner]));
    const asked = scalar64(b, n.in(3));
    const total = n.bool("pad_per_class", false) ? b.op("Min", [asked, b.mul(perClass, b.int64(classes))]) : asked;
    const [best, order] = b.ops(
      "TopK",
      [candidates, b.reshape(b.op("Min", [total, inner]), [1])],
      { axis: -1, largest: true, sorted: true },
      2,
    );
    if (best === undefined || order === undefined) return n.refuse("TopK made no result");
    const valid = b.op("Greater", [best, none]);
    const zero = b.scalar("float32", 0);
    const table = shared ? each : b.reshape(each, shapeFrom(b, [batch, inner, 4]));
    const rows = shared ? b.op("Mod", [order, val(count)]) : order;
    const picked = b.op("GatherND", [table, b.unsqueeze(rows, [-1])], { batch_dims: 1 });
    const clipped = n.bool("clip_boxes", true) ? k("Clip", [picked, zero, b.scalar("float32", 1)]) : picked;
    const lacking = b.reshape(b.op("Max", [b.sub(total, inner), b.int64(0)]), [1]);
    const padded = (x: Val, rank: number): Val =>
      b.op("Pad", [
        x,
        b.concat(
          [b.int64(new Array<number>(rank + 1).fill(0)), lacking, ...(rank > 2 ? [b.int64(new Array<number>(rank - 2).fill(0))] : [])],
          0,
        ),
        undefined,
      ]);
    const classOf = f32(b, b.div(order, val(count)));
    return [
      padded(b.where(b.unsqueeze(valid, [-1]), clipped, zero), 3),
      padded(b.where(valid, best, zero), 2),
      padded(b.where(valid, classOf, zero), 2),
      b.op("ReduceSum", [b.cast(valid, "int32"), b.int64([1])], { keepdims: false }),
    ];
  },
});
export const proposals = defineTfOp({
  names: ["GenerateBoundingBoxProposals"],
  absent: "ONNX has no operator that makes region proposals",
  fix: "cut the graph before it with `outputs`",
});
