/** Facts about element types: size, class, wire numbers of ONNX's TensorProto.DataType. */
import type { DType } from "./types.js";

interface DTypeFacts {
  readonly bits: number;
  readonly class: "float" | "int" | "uint" | "bool" | "string" | "complex";
  /** TensorProto.DataType. */
  readonly onnx: number;
}

const table: Readonly<Record<DType, DTypeFacts>> = {
  float32: { bits: 32, class: "float", onnx: 1 },
  uint8: { bits: 8, class: "uint", onnx: 2 },
  int8: { bits: 8, class: "int", onnx: 3 },
  uint16: { bits: 16, class: "uint", onnx: 4 },
  int16: { bits: 16, class: "int", onnx: 5 },
  int32: { bits: 32, class: "int", onnx: 6 },
  int64: { bits: 64, class: "int", onnx: 7 },
  string: { bits: 0, class: "string", onnx: 8 },
  bool: { bits: 8, class: "bool", onnx: 9 },
  float16: { bits: 16, class: "float", onnx: 10 },
  float64: { bits: 64, class: "float", onnx: 11 },
  uint32: { bits: 32, class: "uint", onnx: 12 },
  uint64: { bits: 64, class: "uint", onnx: 13 },
  complex64: { bits: 64, class: "complex", onnx: 14 },
  complex128: { bits: 128, class: "complex", onnx: 15 },
  bfloat16: { bits: 16, class: "float", onnx: 16 },
  float8e4m3fn: { bits: 8, class: "float", onnx: 17 },
  float8e4m3fnuz: { bits: 8, class: "float", onnx: 18 },
  float8e5m2: { bits: 8, class: "float", onnx: 19 },
  float8e5m2fnuz: { bits: 8, class: "float", onnx: 20 },
  uint4: { bits: 4, class: "uint", onnx: 21 },
  int4: { bits: 4, class: "int", onnx: 22 },
  float4e2m1: { bits: 4, class: "float", onnx: 23 },
  float8e8m0: { bits: 8, class: "float", onnx: 24 },
  uint2: { bits: 2, class: "uint", onnx: 25 },
  int2: { bits: 2, class: "int", onnx: 26 },
};

export const dtypes = Object.keys(table) as readonly DType[];
const byOnnx = new Map<number, DType>(dtypes.map((d) => [table[d].onnx, d]));

export const isDType = (text: string): text is DType => Object.hasOwn(table, text);
export const dtypeClass = (d: DType): DTypeFacts["class"] => table[d].class;
export const dtypeBits = (d: DType): number => table[d].bits;
export const onnxNumber = (d: DType): number => table[d].onnx;
export const dtypeFromOnnx = (n: number): DType | undefined => byOnnx.get(n);
export const isFloat = (d: DType): boolean => table[d].class === "float";
export const isInteger = (d: DType): boolean => table[d].class === "int" || table[d].class === "uint";

/** Bytes that `count` elements take, packed: 4-bit and 2-bit elements round up to a whole byte. Strings have no fixed size: 0. */
export const byteLength = (d: DType, count: number): number => Math.ceil((count * table[d].bits) / 8);

/** Whole numbers up to which in magnitude a float holds every one, as a power of two: the bits of its significand. */
const SIGNIFICAND: Partial<Record<DType, number>> = { float16: 11, bfloat16: 8, float32: 24, float64: 53 };
/** Whether every value of `from` is a value of `to`, so that a cast there and back changes nothing. */
export function holdsAll(to: DType, from: DType): boolean {
  if (to === from) return true;
  if (from === "bool") return isInteger(to) || SIGNIFICAND[to] !== undefined;
  const [digits, room] = [SIGNIFICAND[from], SIGNIFICAND[to]];
  // Half and bfloat16 hold neither all of the other; both are float32s.
  if (digits !== undefined) return to === "float64" || (to === "float32" && from !== "float64");
  if (!isInteger(from)) return false;
  const signed = dtypeClass(from) === "int";
  if (room !== undefined) return dtypeBits(from) - (signed ? 1 : 0) <= room;
  if (!isInteger(to)) return false;
  return dtypeClass(to) === "int" ? dtypeBits(to) > dtypeBits(from) : !signed && dtypeBits(to) > dtypeBits(from);
}
