/** Constants as the kernels want them: another element type, another order of dims, one blob for the whole segment. */
import { bfloat16ToNumber, halfToNumber, numberToBfloat16, numberToHalf } from "../../ir/numeric.js";
import { bytesOf, typedOf } from "../../ir/payload.js";
import type { Constant, DType } from "../../ir/types.js";
import { product } from "./indexing.js";
import { storage } from "./storage.js";

/** Elements of a constant, in the order that strides over it give, as bytes of another type. `strides` and `offset` are in elements. */
export function packed(
  c: Constant,
  view: { readonly dims: readonly number[]; readonly strides: readonly number[]; readonly offset: number },
  dtype: DType,
): Uint8Array {
  const count = product(view.dims);
  const natural = isNatural(view.dims, view.strides) && view.offset === 0;
  if (c.dtype === dtype && natural && count === product(c.dims)) return bytesOf(c);
  const source = typedOf(c) as unknown as ArrayLike<number | bigint>;
  const read = reader(c.dtype);
  const out = new Uint8Array(count * storage(dtype).bytes);
  const write = writer(dtype, out);
  const index = new Array<number>(view.dims.length).fill(0);
  let from = view.offset;
  for (let i = 0; i < count; i++) {
    write(i, read === undefined ? (source[from] as number | bigint) : read(source[from] as number));
    for (let d = index.length - 1; d >= 0; d--) {
      const [size, step] = [view.dims[d] as number, view.strides[d] as number];
      const next = (index[d] as number) + 1;
      if (next < size) {
        index[d] = next;
        from += step;
        break;
      }
      index[d] = 0;
      from -= step * (size - 1);
    }
  }
  return out;
}

function isNatural(dims: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let d = dims.length - 1; d >= 0; d--) {
    if (dims[d] !== 1 && strides[d] !== step) return false;
    step *= dims[d] as number;
  }
  return true;
}
function reader(from: DType): ((x: number) => number) | undefined {
  return from === "float16" ? halfToNumber : from === "bfloat16" ? bfloat16ToNumber : undefined;
}
function writer(to: DType, bytes: Uint8Array): (i: number, x: number | bigint) => void {
  const { buffer } = bytes;
  switch (to) {
    case "float32": {
      const a = new Float32Array(buffer);
      return (i, x) => {
        a[i] = Number(x);
      };
    }
    case "float16": {
      const a = new Uint16Array(buffer);
      return (i, x) => {
        a[i] = numberToHalf(Number(x));
      };
    }
    case "bfloat16": {
      const a = new Uint16Array(buffer);
      return (i, x) => {
        a[i] = numberToBfloat16(Number(x));
      };
    }
    case "int64": {
      const a = new BigInt64Array(buffer);
      return (i, x) => {
        a[i] = BigInt(x);
      };
    }
    case "int32": {
      const a = new Int32Array(buffer);
      return (i, x) => {
        a[i] = Number(x);
      };
    }
    default:
      return (i, x) => {
        bytes[i] = Number(x);
      };
  }
}
