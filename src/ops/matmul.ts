/** Matrix products. */
import { no, yes } from "../diagnostics.js";
import { broadcastDim, isStatic, sameDim, UNKNOWN } from "../ir/dims.js";
import type { Dim, Shape } from "../ir/types.js";
import { FLOATS64, gpu, hostOnly, inParts, integersAreQuantized, on, when } from "./answers.js";
import {
  absent,
  defineOp,
  dtypeOf,
  type Fact,
  flag,
  float,
  optional,
  optString,
  type RawNode,
  type Rewriter,
  shapeOf,
  tensor,
  variadic,
} from "./define.js";
import { aFloat, aInt, aText, given, random } from "./samples.js";
import { count, fact, matmulCost, matmulShape, perSum, traffic } from "./shapes.js";

const weight = (axis: number) => ({ axis, accumulate: "i32" }) as const;
function product(at: { readonly in: { readonly a: Fact; readonly b: Fact }; fail(what: string, fix: string): never }): Shape {
  const s = matmulShape(shapeOf(at.in.a), shapeOf(at.in.b));
  if (s === null)
    return at.fail(
      `operands of dims [${shapeOf(at.in.a)}] and [${shapeOf(at.in.b)}] cannot be multiplied`,
      "make the inner dims equal and the outer ones broadcast",
    );
  return s;
}

export const matmul = defineOp({
  name: "MatMul",
  doc: "Matrix product over the last two dims, broadcasting the others; 1-D operands as NumPy treats them.",
  reads: { onnx: [{ since: 1 }] },
  in: { a: tensor("T"), b: tensor("T") },
  out: { y: tensor("T") },
  types: { T: [...FLOATS64, "int32", "int64", "uint32", "uint64"] },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.a), product(at))],
  cost: matmulCost,
  int8: weight(1),
  on: gpu(),
  *samples() {
    yield { name: "2-D", in: { a: random("float32", 3, 4), b: random("float32", 4, 5) } };
    yield { name: "batched, broadcast", in: { a: random("float32", 2, 1, 3, 4), b: random("float32", 5, 4, 2) } };
    yield { name: "vectors", in: { a: random("float32", 4), b: random("float32", 4) } };
    yield { name: "vector on the left", in: { a: random("float32", 4), b: random("float32", 2, 4, 3) } };
    yield { name: "primes", in: { a: random("float32", 7, 13), b: random("float32", 13, 11) } };
    yield { name: "empty inner", in: { a: random("float32", 2, 0), b: random("float32", 0, 3) } };
  },
});

/** Up to opset 6 C broadcast only on request; that is today's rule without the attribute. */
function dropBroadcast(n: RawNode, to: Rewriter): void {
  const { broadcast: _, ...rest } = n.attrs;
  to.emit("Gemm", n.ins, rest, n.outs);
}
export const gemm = defineOp({
  name: "Gemm",
  doc: "alpha * A' * B' + beta * C, where A' and B' are optionally transposed; C broadcasts.",
  reads: { onnx: [{ since: 1, adapt: dropBroadcast }, { since: 7 }] },
  in: { a: tensor("T"), b: tensor("T"), c: optional("T") },
  out: { y: tensor("T") },
  types: { T: [...FLOATS64, "int32", "int64", "uint32", "uint64"] },
  attrs: { alpha: float(1), beta: float(1), transA: flag(false), transB: flag(false) },
  role: "compute",
  infer: (at) => {
    const [a, b] = [shapeOf(at.in.a), shapeOf(at.in.b)];
    if ((a !== undefined && a.length !== 2) || (b !== undefined && b.length !== 2))
      return at.fail(`operands of dims [${a}] and [${b}] are not matrices`, "use MatMul for other ranks");
    const [m, n] = [a?.[at.attrs.transA ? 1 : 0] ?? UNKNOWN, b?.[at.attrs.transB ? 0 : 1] ?? UNKNOWN];
    const [k1, k2] = [a?.[at.attrs.transA ? 0 : 1] ?? UNKNOWN, b?.[at.attrs.transB ? 1 : 0] ?? UNKNOWN];
    if (isStatic(k1) && isStatic(k2) && k1 !== k2)
      return at.fail(`operands of dims [${a}] and [${b}] cannot be multiplied`, "make the inner dims equal");
    return [fact(dtypeOf(at.in.a), [m, n])];
  },
  cost: (at) => {
    return perSum(shapeOf(at.in.a)?.[at.attrs.transA ? 0 : 1])(at);
  },
  int8: weight(1),
  on: gpu(),
  *samples() {
    yield { name: "bias", in: { a: random("float32", 3, 4), b: random("float32", 4, 5), c: random("float32", 5) } };
    yield {
      name: "transposed",
      in: { a: random("float32", 4, 3), b: random("float32", 5, 4), c: random("float32", 3, 1) },
      attrs: { transA: aInt(1), transB: aInt(1), alpha: aFloat(0.5), beta: aFloat(2) },
    };
    yield { name: "no bias", in: { a: random("float32", 1, 7), b: random("float32", 7, 3) } };
  },
});

export const matMulInteger = defineOp({
  name: "MatMulInteger",
  doc: "Integer matrix product with zero points, accumulated in int32.",
  reads: { onnx: [{ since: 10 }] },
  in: { a: tensor("T1"), b: tensor("T2"), aZero: optional("T1"), bZero: optional("T2") },
  out: { y: tensor("int32") },
  types: { T1: ["int8", "uint8"], T2: ["int8", "uint8"] },
  attrs: {},
  role: "compute",
  infer: (at) => [fact("int32", product(at))],
  cost: matmulCost,
  int8: weight(1),
  on: on(
    when("one zero point for a, one or a constant for each column for b", (at) => {
      const [za, zb] = [at.in["aZero"] as Fact | undefined, at.in["bZero"] as Fact | undefined];
      const wide = (f: Fact | undefined): readonly Dim[] => (f === undefined ? [] : (shapeOf(f) ?? []).filter((d) => d !== 1));
      if (wide(za).length > 0) return no("its left operand has a zero point for each row", "quantize it with one scale and zero point");
      if (zb === undefined || wide(zb).length === 0) return yes;
      if (zb.elements === undefined && zb.constant === undefined)
        return no("the zero points of its columns are not constants", "make them initializers");
      const columns = shapeOf(at.in["b"] as Fact)?.at(-1) ?? UNKNOWN;
      return wide(zb).length === 1 && sameDim(shapeOf(zb)?.at(-1) ?? UNKNOWN, columns) !== false
        ? yes
        : no("its right operand has other zero points than one for each column", "quantize it per tensor or per column");
    }),
    integersAreQuantized,
  ),
  *samples() {
    yield {
      name: "uint8",
      in: { a: random("uint8", 2, 3), b: random("uint8", 3, 2), aZero: given("uint8", [], [3]), bZero: given("uint8", [], [1]) },
    };
    const weights = {
      dtype: "int8",
      dims: [16, 24],
      fill: Array.from({ length: 384 }, (_, i) => ((i * 37) % 251) - 125),
      constant: true,
    } as const;
    yield {
      name: "int8 weights, a zero point for each column",
      in: {
        a: random("uint8", 2, 5, 16),
        b: weights,
        aZero: given("uint8", [], [7]),
        bZero: { dtype: "int8", dims: [24], fill: Array.from({ length: 24 }, (_, i) => i - 12), constant: true },
      },
    };
    yield { name: "without zero points", in: { a: random("uint8", 3, 16), b: weights } };
  },
});
export const qLinearMatMul = defineOp({
  name: "QLinearMatMul",
  doc: "Quantized matrix product: int8 or uint8 operands with scales and zero points, requantized output.",
  reads: { onnx: [{ since: 10 }] },
  in: {
    a: tensor("T1"),
    aScale: tensor(),
    aZero: tensor("T1"),
    b: tensor("T2"),
    bScale: tensor(),
    bZero: tensor("T2"),
    yScale: tensor(),
    yZero: tensor("T3"),
  },
  out: { y: tensor("T3") },
  types: { T1: ["int8", "uint8"], T2: ["int8", "uint8"], T3: ["int8", "uint8"] },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.yZero), product(at))],
  cost: matmulCost,
  int8: weight(1),
  on: inParts,
  *samples() {
    const s = (x: number) => given("float32", [], [x]);
    const z = (x: number) => given("uint8", [], [x]);
    yield {
      name: "uint8",
      in: {
        a: random("uint8", 2, 3),
        aScale: s(0.1),
        aZero: z(3),
        b: random("uint8", 3, 2),
        bScale: s(0.2),
        bZero: z(1),
        yScale: s(0.5),
        yZero: z(2),
      },
    };
  },
});

export const einsum = defineOp({
  name: "Einsum",
  doc: "Sum of products over the indices of an equation.",
  reads: { onnx: [{ since: 12 }] },
  in: { xs: variadic("T") },
  out: { y: tensor("T") },
  types: { T: [...FLOATS64, "int32", "int64"] },
  attrs: { equation: optString() },
  role: "compute",
  infer: (at) => {
    const dtype = dtypeOf(at.in.xs[0]);
    const s = einsumShape(
      at.attrs.equation ?? "",
      at.in.xs.map((x) => shapeOf(x)),
      (what) => at.fail(what, "give operands of the ranks and dims that the equation names"),
    );
    return [fact(dtype, s)];
  },
  cost: (at) => {
    const dims = new Map<string, number>();
    const [left = ""] = (at.attrs.equation ?? "").replaceAll(" ", "").split("->");
    left.split(",").forEach((term, i) => {
      const s = shapeOf(at.in.xs[i]);
      if (!term.includes(".")) [...term].forEach((c, k) => dims.set(c, isStatic(s?.[k] ?? "?") ? Number(s?.[k]) : 1));
    });
    return { flops: 2 * [...dims.values()].reduce((a, b) => a * b, 1), bytes: traffic(at.in, at.out) };
  },
  int8: absent("its equation decides; quantize the MatMul it is lowered to"),
  on: on(
    undefined,
    when("at most two operands, no ellipsis, no repeated index", (at) => {
      const equation = String(at.attrs["equation"] ?? "").replaceAll(" ", "");
      const terms = (equation.split("->")[0] ?? "").split(",");
      if (terms.length > 2) return no(`${terms.length} operands`, "contract them in pairs where the model is made");
      if (equation.includes("...")) return no("an ellipsis in the equation", "name all indices");
      if (terms.some((t) => new Set(t).size !== t.length))
        return no("a diagonal: an index repeats in one operand", "take the diagonal apart");
      return yes;
    }),
  ),
  *samples() {
    const equation = (text: string) => ({ equation: aText(text) });
    yield { name: "product", in: { xs: [random("float32", 2, 3), random("float32", 3, 4)] }, attrs: equation("ij,jk->ik") };
    yield {
      name: "batched with ellipsis",
      in: { xs: [random("float32", 5, 2, 3), random("float32", 5, 3, 4)] },
      attrs: equation("...ij,...jk->...ik"),
    };
    yield { name: "diagonal sum, implicit", in: { xs: [random("float32", 3, 3)] }, attrs: equation("ii") };
    yield {
      name: "attention scores",
      in: { xs: [random("float32", 2, 7, 3, 8), random("float32", 2, 5, 3, 8)] },
      attrs: equation("bqhd,bkhd->bhqk"),
    };
    yield {
      name: "three operands",
      in: { xs: [random("float32", 2, 3), random("float32", 3, 4), random("float32", 4)] },
      attrs: equation("ij,jk,k->ik"),
    };
    yield { name: "diagonal", in: { xs: [random("float32", 4, 4)] }, attrs: equation("ii->i") };
    yield { name: "transpose", in: { xs: [random("float32", 2, 3)] }, attrs: equation("ij->ji") };
  },
});
/**
 * Output dims of an Einsum equation; undefined where an operand's rank is unknown. `fail` is called where operands do not fit the equation:
 * ONNX Runtime ends the process on some of these.
 */
function einsumShape(equation: string, shapes: readonly Shape[], fail: (what: string) => never): Shape {
  const [left = "", right] = equation.replaceAll(" ", "").split("->");
  const dims = new Map<string, Dim>();
  const seen = new Map<string, number>();
  let ellipsis: Dim[] = [];
  for (const [i, term] of left.split(",").entries()) {
    const s = shapes[i];
    if (s === undefined) return undefined;
    const letters = term.replace("...", "");
    const hidden = term.includes("...") ? s.length - letters.length : 0;
    if (hidden < 0 || letters.length + hidden !== s.length)
      return fail(`operand ${i} has rank ${s.length}, its term '${term}' of '${equation}' another`);
    const before = term.indexOf("...") < 0 ? letters.length : term.indexOf("...");
    [...letters].forEach((c, k) => {
      const d = s[k < before ? k : k + hidden] ?? UNKNOWN;
      const known = dims.get(c);
      const joined = known === undefined ? d : broadcastDim(known, d);
      if (joined === undefined) return fail(`index '${c}' of '${equation}' is ${known} and ${d}`);
      dims.set(c, joined);
      seen.set(c, (seen.get(c) ?? 0) + 1);
    });
    const part = s.slice(before, before + hidden);
    const rank = Math.max(part.length, ellipsis.length);
    ellipsis = Array.from(
      { length: rank },
      (_, k) =>
        broadcastDim(ellipsis[k - rank + ellipsis.length] ?? 1, part[k - rank + part.length] ?? 1) ??
        fail(`the dims of '...' in '${equation}' do not broadcast`),
    );
  }
  const out =
    right ??
    `${left.includes("...") ? "..." : ""}${[...seen]
      .filter(([, n]) => n === 1)
      .map(([c]) => c)
      .sort()
      .join("")}`;
  const shape: Dim[] = [];
  for (let i = 0; i < out.length; i++) {
    if (out.startsWith("...", i)) {
      shape.push(...ellipsis);
      i += 2;
    } else shape.push(dims.get(out[i] ?? "") ?? UNKNOWN);
  }
  return shape;
}

export const det = defineOp({
  name: "Det",
  doc: "Determinant over the last two dims.",
  reads: { onnx: [{ since: 11 }] },
  in: { x: tensor("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: {},
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), shapeOf(at.in.x)?.slice(0, -2))],
  cost: (at) => ({ flops: count(at.in.x) * 4, bytes: traffic(at.in, at.out) }),
  int8: absent("needs float"),
  on: hostOnly("an LU factorisation has no kernel"),
  *samples() {
    yield { name: "batched", in: { x: random("float32", 2, 3, 3) } };
  },
});
