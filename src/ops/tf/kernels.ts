/**
 * Computing in another element type where ONNX Runtime's CPU has no kernel for the operands' own: integers in a wider integer, so that they
 * stay exact; float16 and bfloat16 in float32, rounded once; float64 in float32 only where there is no other kernel.
 */
import type { DType } from "../../ir/types.js";
import type { PlainAttrs, TfBuilder, TfNode, Val } from "./define.js";

type Words = readonly DType[];
const F: Words = ["float32", "float16"];
const FD: Words = [...F, "float64"];
const INTS: Words = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];
const I3264: Words = ["int32", "int64"];
const NUMBERS: Words = [...FD, ...INTS];
const COMMON: Words = [...FD, "int8", "int32", "int64", "uint8"];
const WIDE: Words = [...COMMON, "uint32", "uint64"];
const MOVED: Words = [...NUMBERS, "bool", "string"];

/**
 * Types of ONNX Runtime 1.30's CPU kernels; operators that are not here only move elements and take all. Found by trying each, at
 * operator sets 18 to 26.
 */
const kernels: Readonly<Record<string, Words>> = {
  ...each(
    F,
    "Acos Acosh Asin Asinh Atan Atanh Cosh Sinh Tan Erf Gelu Det Conv ConvTranspose AveragePool LRN GlobalAveragePool LpPool Softplus Softsign Elu Selu LeakyRelu HardSigmoid",
  ),
  ...each(FD, "Cos Sin Tanh Exp Log Sqrt Reciprocal Floor Ceil Round Sigmoid IsNaN"),
  ...each(FD, "Softmax LogSoftmax Sum Gemm BatchNormalization DFT GridSample"),
  ...each(NUMBERS, "Abs Add Sub Mul Div Less LessOrEqual Greater GreaterOrEqual"),
  ...each(INTS, "BitwiseNot BitwiseAnd BitwiseOr BitwiseXor"),
  ...each([...FD, ...I3264], "Pow Einsum ReduceSum ReduceMean ReduceProd ReduceL2 ReduceSumSquare ReduceLogSumExp CumSum CumProd"),
  ...each(COMMON, "ReduceMax ReduceMin ArgMax ArgMin"),
  ...each(WIDE, "Max Min Clip"),
  ...each(MOVED, "Tile Expand ReverseSequence Compress"),
  Neg: [...FD, "int8", "int16", "int32", "int64"],
  Sign: [...NUMBERS, "bfloat16"],
  Relu: [...FD, "int8", "int32"],
  IsInf: ["float32", "float64"],
  Mod: INTS,
  Equal: [...NUMBERS, "bool"],
  MatMul: [...FD, ...I3264, "uint32", "uint64"],
  BitShift: ["uint8", "uint32", "uint64"],
  Where: [...FD, ...I3264, "uint8", "string"],
  Pad: [...WIDE, "bool"],
  Range: ["float32", "float64", "int16", ...I3264],
  TopK: [...COMMON, "int16"],
  Unique: [...FD, "int8", "int64", "string"],
  Trilu: [...FD, ...I3264, "bool"],
  NonZero: ["float32", "float16", ...I3264, "uint8", "bool"],
  DepthToSpace: [...FD, "int8", "uint8"],
  SpaceToDepth: [...FD, "int8", "uint8"],
  MaxPool: [...FD, "int8", "uint8"],
  Resize: F,
  // With a reduction; without one all types are taken.
  ScatterElements: ["float32", "float64", ...INTS],
};
/** Operators whose result has a type of its own. */
const OWN = new Set(["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "IsNaN", "IsInf", "ArgMax", "ArgMin", "NonZero"]);
/** Operand places that carry the data, where not all do. */
const DATA: Readonly<Record<string, readonly number[]>> = {
  ...Object.fromEntries(
    "ReduceSum ReduceMean ReduceProd ReduceL2 ReduceSumSquare ReduceLogSumExp ReduceMax ReduceMin CumSum CumProd Tile Expand TopK ReverseSequence Compress Trilu Resize"
      .split(" ")
      .map((op) => [op, [0]]),
  ),
  Where: [1, 2],
  Pad: [0, 2],
  ScatterElements: [0, 2],
};

/** What to compute in instead, best first. uint64 as int64 wraps, which addition, products and equality do not notice. */
const carriers: Readonly<Partial<Record<DType, Words>>> = {
  bool: ["uint8", "int32", "float32"],
  int8: ["int16", "int32", "int64", "float32"],
  int16: ["int32", "int64", "float32"],
  uint8: ["int16", "int32", "int64", "float32"],
  uint16: ["int32", "int64", "float32"],
  int32: ["int64", "float64", "float32"],
  uint32: ["int64", "uint64", "float64", "float32"],
  int64: ["float64", "float32"],
  uint64: ["int64", "float64", "float32"],
  float16: ["float32"],
  bfloat16: ["float32"],
  float64: ["float32"],
  float8e4m3fn: ["float32"],
  float8e5m2: ["float32"],
};

function each(types: Words, ops: string): Record<string, Words> {
  return Object.fromEntries(ops.split(" ").map((op) => [op, types]));
}

/** The type to compute `op` in for operands of `dtype`; undefined when there is none. */
export function carrierOf(op: string, dtype: DType): DType | undefined {
  const takes = kernels[op];
  if (takes === undefined || takes.includes(dtype)) return dtype;
  return carriers[dtype]?.find((c) => takes.includes(c));
}

/** One canonical operator of the node's operands, in a type that has a kernel; the result has the operands' type again. */
export type Compute = (op: string, ins: readonly (Val | undefined)[], attrs?: PlainAttrs) => Val;
export const compute = (n: TfNode, b: TfBuilder): Compute => {
  return (op, ins, attrs) => {
    const places = DATA[op] ?? ins.map((_, i) => i);
    const first = places.map((i) => ins[i]).find((v) => v !== undefined);
    if (first === undefined) return b.op(op, ins, attrs);
    const own = first.dtype;
    const via = op === "ScatterElements" && (attrs?.["reduction"] ?? "none") === "none" ? own : carrierOf(op, own);
    if (via === undefined) return n.refuse(`${op} of ${own} has no kernel in ONNX Runtime`, "cast to float32 where the model is made");
    if (via === own) return b.op(op, ins, attrs);
    const result = b.op(
      op,
      ins.map((v, i) => (v !== undefined && places.includes(i) ? b.cast(v, via) : v)),
      attrs,
    );
    return OWN.has(op) ? result : b.cast(result, own);
  };
};

/** The types a scalar constant may have. */
type Plain = Exclude<DType, "string">;
export function plainType(n: TfNode, d: DType): Plain {
  return d === "string" ? n.refuse("strings have no arithmetic here", "cut the graph behind it with `inputs`") : d;
}
/** A scalar of `x`'s type. */
export const like = (n: TfNode, b: TfBuilder, x: Val, value: number | bigint | boolean): Val => b.scalar(plainType(n, x.dtype), value);
