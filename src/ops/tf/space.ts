/** Exchanging space with depth and with the batch. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { dimOf, shapeFrom, upTo, vector } from "./helpers.js";
import { compute } from "./kernels.js";

const moved = (name: "DepthToSpace" | "SpaceToDepth") =>
  defineTfOp({
    name,
    to: [name, "Transpose"],
    lower: (n, b) => {
      const format = n.string("data_format", "NHWC");
      if (format === "NCHW_VECT_C") return n.refuse(`its data format '${format}' packs channels into vectors`, "use NHWC or NCHW");
      const first = format === "NCHW";
      const attrs = { blocksize: n.int("block_size"), ...(name === "DepthToSpace" ? { mode: "DCR" } : {}) };
      const y = compute(n, b)(name, [first ? n.in(0) : b.toChannelsFirst(n.in(0))], attrs);
      return first ? y : b.toChannelsLast(y);
    },
  });
export const depthToSpace = moved("DepthToSpace");
export const spaceToDepth = moved("SpaceToDepth");

/** Pairs [before, after] as constants, or as a tensor where they are not known. */
function pairs(
  b: TfBuilder,
  x: Val,
  count: number,
): { readonly known: readonly number[] | undefined; readonly at: (i: number, side: 0 | 1) => Val } {
  const known = x.constant === undefined ? undefined : vector(x.constant);
  const wide = b.cast(x, "int64");
  return {
    known: known?.length === 2 * count ? known : undefined,
    at: (i, side) => b.reshape(b.slice(wide, [i, side], [i + 1, side + 1], [0, 1]), [1]),
  };
}
const divided = (b: TfBuilder, d: number | Val, by: number): number | Val => (typeof d === "number" ? d / by : b.div(d, b.int64(by)));
const times = (b: TfBuilder, d: number | Val, by: number): number | Val => (typeof d === "number" ? d * by : b.mul(d, b.int64(by)));
const blockOf = (n: TfNode, b: TfBuilder): readonly number[] => b.numbers(n.in(1), "the block shape");

function spaceToBatch(n: TfNode, b: TfBuilder, x: Val, block: readonly number[], paddings: Val): Val {
  const m = block.length;
  const rank = b.rank(x);
  const amounts = pairs(b, paddings, m);
  const behind = rank - 1 - m;
  const zeros = (k: number): Val => b.int64(new Array<number>(k).fill(0));
  const side = (s: 0 | 1): Val =>
    b.concat(
      [
        zeros(1),
        ...upTo(m).map((i) => (amounts.known === undefined ? amounts.at(i, s) : b.int64([amounts.known[2 * i + s] ?? 0]))),
        ...(behind > 0 ? [zeros(behind)] : []),
      ],
      0,
    );
  const padded = amounts.known?.every((p) => p === 0) === true ? x : compute(n, b)("Pad", [x, b.concat([side(0), side(1)], 0), undefined]);
  const dims = upTo(rank).map((i) => dimOf(b, padded, i));
  const batch = dims[0] ?? 1;
  const rest = dims.slice(1 + m);
  const inner = upTo(m).map((i) => divided(b, dims[1 + i] ?? 1, block[i] ?? 1));
  const split = b.reshape(padded, shapeFrom(b, [batch, ...inner.flatMap((d, i) => [d, block[i] ?? 1]), ...rest]));
  const perm = [...upTo(m).map((i) => 2 + 2 * i), 0, ...upTo(m).map((i) => 1 + 2 * i), ...upTo(rest.length).map((i) => 1 + 2 * m + i)];
  const blocks = block.reduce((product, d) => product * d, 1);
  return b.reshape(b.transpose(split, perm), shapeFrom(b, [times(b, batch, blocks), ...inner, ...rest]));
}
function batchToSpace(b: TfBuilder, x: Val, block: readonly number[], crops: Val): Val {
  const m = block.length;
  const rank = b.rank(x);
  const dims = upTo(rank).map((i) => dimOf(b, x, i));
  const blocks = block.reduce((product, d) => product * d, 1);
  const batch = divided(b, dims[0] ?? 1, blocks);
  const rest = dims.slice(1 + m);
  const split = b.reshape(x, shapeFrom(b, [...block, batch, ...dims.slice(1)]));
  const perm = [m, ...upTo(m).flatMap((i) => [m + 1 + i, i]), ...upTo(rest.length).map((i) => 2 * m + 1 + i)];
  const joined = upTo(m).map((i) => times(b, dims[1 + i] ?? 1, block[i] ?? 1));
  const whole = b.reshape(b.transpose(split, perm), shapeFrom(b, [batch, ...joined, ...rest]));
  const amounts = pairs(b, crops, m);
  if (amounts.known?.every((p) => p === 0) === true) return whole;
  const axes = upTo(m).map((i) => i + 1);
  const starts =
    amounts.known === undefined
      ? b.concat(
          axes.map((_, i) => amounts.at(i, 0)),
          0,
        )
      : b.int64(axes.map((_, i) => amounts.known?.[2 * i] ?? 0));
  const ends = b.concat(
    axes.map((axis, i) => {
      const cut = amounts.known?.[2 * i + 1];
      const size = b.reshape(b.dim(whole, axis), [1]);
      return b.sub(size, cut === undefined ? amounts.at(i, 1) : b.int64([cut]));
    }),
    0,
  );
  return b.op("Slice", [whole, starts, ends, b.int64(axes)]);
}
export const spaceToBatchNd = defineTfOp({
  name: "SpaceToBatchND",
  to: ["Pad", "Reshape", "Transpose", "Mul", "Div"],
  lower: (n, b) => spaceToBatch(n, b, n.in(0), blockOf(n, b), n.in(2)),
});
export const batchToSpaceNd = defineTfOp({
  name: "BatchToSpaceND",
  to: ["Reshape", "Transpose", "Slice", "Mul", "Div", "Sub"],
  lower: (n, b) => batchToSpace(b, n.in(0), blockOf(n, b), n.in(2)),
});
const square = (n: TfNode): readonly number[] => [n.int("block_size"), n.int("block_size")];
export const spaceToBatchOp = defineTfOp({
  name: "SpaceToBatch",
  to: ["Pad", "Reshape", "Transpose", "Mul", "Div"],
  lower: (n, b) => spaceToBatch(n, b, n.in(0), square(n), n.in(1)),
});
export const batchToSpaceOp = defineTfOp({
  name: "BatchToSpace",
  to: ["Reshape", "Transpose", "Slice", "Mul", "Div", "Sub"],
  lower: (n, b) => batchToSpace(b, n.in(0), square(n), n.in(1)),
});
