/** What the elementwise families share: one-operand definitions, and how operator sets before 7 spelt broadcasting. */
import type { Attr, Dim, DType } from "../ir/types.js";
import { gpu, SIGNED, UNSIGNED } from "./answers.js";
import { absent, defineOp, dtypeOf, type RawNode, type Rewriter, shapeOf, tensor } from "./define.js";
import { known, small } from "./elements.js";
import { given, random } from "./samples.js";
import { fact, perOutput } from "./shapes.js";

export const noInt8 = absent("elementwise: it is fused into its neighbours and runs at their scale");
export const isIntegral = (d: DType | undefined): boolean => d !== undefined && (SIGNED.includes(d) || UNSIGNED.includes(d));

/**
 * Up to opset 6 a binary operator broadcast only on request, its second operand aligned at `axis`. Trailing alignment is today's rule; any
 * other place is made by an Unsqueeze behind the operand's dims.
 */
export function legacyBroadcast(n: RawNode, to: Rewriter): void {
  const axis = n.attrs["axis"];
  const [a, b] = [n.ins[0], n.ins[1]];
  const rest: Record<string, Attr> = { ...n.attrs };
  for (const key of ["axis", "broadcast", "consumed_inputs"]) delete rest[key];
  const [x, y] = [to.typeOf(a), to.typeOf(b)];
  const [rankA, rankB] = [x.kind === "tensor" ? x.shape?.length : undefined, y.kind === "tensor" ? y.shape?.length : undefined];
  if (axis?.kind === "int" && rankA !== undefined && rankB !== undefined) {
    const at = Number(axis.value) < 0 ? Number(axis.value) + rankA : Number(axis.value);
    const after = rankA - at - rankB;
    if (after > 0) {
      const [wide] = to.emit("Unsqueeze", [b, to.int64(Array.from({ length: after }, (_, i) => rankB + i))]);
      to.emit(n.op, [a, wide], rest, n.outs);
      return;
    }
  }
  to.emit(n.op, [a, b], rest, n.outs);
}

/** `axes` moved from an attribute to an input. */
export function axesToInput(n: RawNode, to: Rewriter): void {
  const { axes, ...rest } = n.attrs;
  to.emit(n.op, axes?.kind === "ints" ? [n.ins[0], to.int64(axes.value.map(Number))] : [n.ins[0]], rest, n.outs);
}

/** A rule for numbers; symbols become unknown. */
export const ofNumber =
  (f: (x: number) => number) =>
  (x: Dim): Dim =>
    typeof x === "number" ? f(x) : "?";
/** Drops attributes that opset 1 had for in-place hints. */
export const bare = (n: RawNode, to: Rewriter): void => void to.emit(n.op, n.ins, {}, n.outs);
export const unary = <const N extends string>(
  name: N,
  doc: string,
  types: readonly DType[],
  since: number,
  flops = 1,
  options: { exact?: (x: Dim) => Dim; positive?: boolean; dtype?: DType; out?: DType } = {},
) =>
  defineOp({
    name,
    doc,
    reads: { onnx: since === 1 ? [{ since: 1, adapt: bare }, { since: 6 }] : [{ since }] },
    in: { x: tensor("T") },
    out: { y: tensor(options.out ?? "T") },
    types: { T: types },
    attrs: {},
    role: "compute",
    infer: (at) => {
      const f = fact(options.out ?? dtypeOf(at.in.x), shapeOf(at.in.x));
      return [options.exact === undefined ? f : known(f, small(at.in.x)?.e.map(options.exact))];
    },
    cost: perOutput(flops),
    int8: noInt8,
    on: gpu(),
    *samples() {
      const d = options.dtype ?? (types.includes("float32") ? "float32" : (types[0] ?? "float32"));
      const values = options.positive === true ? [0.1, 0.5, 0.75, 0.9, 0.25, 0.33] : undefined;
      yield { name: "matrix", in: { x: values === undefined ? random(d, 2, 3) : given(d, [2, 3], values) } };
      yield { name: "scalar", in: { x: values === undefined ? random(d) : given(d, [], [0.5]) } };
      yield { name: "empty", in: { x: random(d, 0, 2) } };
    },
  });
