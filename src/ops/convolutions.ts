/** What the convolutions share: attributes, result shape, cost. x is [N, C, spatial...], w is [K, C / group, kernel...]. */
import { isStatic, UNKNOWN } from "../ir/dims.js";
import type { Shape } from "../ir/types.js";
import { type Fact, int, optInts, shapeOf, word } from "./define.js";
import { perSum, windowDim, windowOf } from "./shapes.js";

/** Attributes that every convolution has. */
export const convAttributes = {
  auto_pad: word("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
  dilations: optInts(),
  group: int(1),
  kernel_shape: optInts(),
  pads: optInts(),
  strides: optInts(),
};
export type ConvAttrs = {
  readonly auto_pad: string;
  readonly dilations: readonly number[] | undefined;
  readonly group: number;
  readonly kernel_shape: readonly number[] | undefined;
  readonly pads: readonly number[] | undefined;
  readonly strides: readonly number[] | undefined;
};
type ConvSite = { readonly attrs: ConvAttrs; fail(what: string, fix: string): never };

/** [N, K, spatial...] of x [N, C, spatial...] and w [K, C / group, kernel...]. */
export function convShape(at: ConvSite, x: Shape, w: Shape): Shape {
  if (x === undefined || w === undefined) return undefined;
  if (x.length < 2 || w.length !== x.length)
    return at.fail(`an input of dims [${x}] and weights of dims [${w}] do not fit`, "give both [N, C, spatial...] ranks");
  const [c, per] = [x[1] ?? UNKNOWN, w[1] ?? UNKNOWN];
  if (isStatic(c) && isStatic(per) && per * at.attrs.group !== c)
    return at.fail(
      `${c} input channels are not ${per} per group times ${at.attrs.group} groups`,
      "make the channels of input, weights and group agree",
    );
  const kernel = at.attrs.kernel_shape ?? w.slice(2);
  const window = windowOf(x.length - 2, at.attrs, kernel);
  return [x[0] ?? UNKNOWN, w[0] ?? UNKNOWN, ...x.slice(2).map((d, i) => windowDim(d, window, i))];
}
/** Two operations per multiply-add: every output element sums over w's channels and kernel. */
export function convCost(ins: { readonly w: Fact } & object, out: readonly Fact["type"][]): { flops: number; bytes: number } {
  const w = shapeOf(ins.w);
  const each = (w ?? []).slice(1).reduce<number>((a, d) => a * (isStatic(d) ? d : 1), 1);
  return perSum(each)({ in: ins, out });
}
