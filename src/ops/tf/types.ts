/** TensorFlow's element types (types.proto) as the IR's. Quantized types are their storage; handles (resource, variant) have none. */
import type { DType } from "../../ir/types.js";

const table: ReadonlyMap<number, DType> = new Map([
  [1, "float32"],
  [2, "float64"],
  [3, "int32"],
  [4, "uint8"],
  [5, "int16"],
  [6, "int8"],
  [7, "string"],
  [8, "complex64"],
  [9, "int64"],
  [10, "bool"],
  [11, "int8"],
  [12, "uint8"],
  [13, "int32"],
  [14, "bfloat16"],
  [15, "int16"],
  [16, "uint16"],
  [17, "uint16"],
  [18, "complex128"],
  [19, "float16"],
  [22, "uint32"],
  [23, "uint64"],
  [24, "float8e5m2"],
  [25, "float8e4m3fn"],
]);
const names: ReadonlyMap<string, number> = new Map([
  ["DT_FLOAT", 1],
  ["DT_DOUBLE", 2],
  ["DT_INT32", 3],
  ["DT_UINT8", 4],
  ["DT_INT16", 5],
  ["DT_INT8", 6],
  ["DT_STRING", 7],
  ["DT_COMPLEX64", 8],
  ["DT_INT64", 9],
  ["DT_BOOL", 10],
  ["DT_QINT8", 11],
  ["DT_QUINT8", 12],
  ["DT_QINT32", 13],
  ["DT_BFLOAT16", 14],
  ["DT_QINT16", 15],
  ["DT_QUINT16", 16],
  ["DT_UINT16", 17],
  ["DT_COMPLEX128", 18],
  ["DT_HALF", 19],
  ["DT_RESOURCE", 20],
  ["DT_VARIANT", 21],
  ["DT_UINT32", 22],
  ["DT_UINT64", 23],
  ["DT_FLOAT8_E5M2", 24],
  ["DT_FLOAT8_E4M3FN", 25],
  ["DT_INT4", 29],
  ["DT_UINT4", 30],
]);
export const DT_STRING = 7;
export const DT_RESOURCE = 20;
export const DT_VARIANT = 21;

/** The element type behind a number of types.proto; reference types (101 on, TensorFlow 1 variables) are their referents. */
export const dtypeFromTf = (n: number): DType | undefined => table.get(n > 100 ? n - 100 : n);
/** `DT_FLOAT` for 1; the number itself where it has no name. */
export function tfTypeName(n: number): string {
  for (const [name, number] of names) if (number === (n > 100 ? n - 100 : n)) return n > 100 ? `${name}_REF` : name;
  return String(n);
}
/** The number of a name in the text format; undefined when there is no such type. */
export function tfTypeNumber(name: string): number | undefined {
  const ref = name.endsWith("_REF");
  const n = names.get(ref ? name.slice(0, -4) : name);
  return n === undefined ? undefined : ref ? n + 100 : n;
}
