/** Conversions between small float formats and numbers. Encoders round to nearest, ties to even; every function is exact otherwise. */

const scratch = new DataView(new ArrayBuffer(8));

/** IEEE binary16 bits to a number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** A number to IEEE binary16 bits; beyond 65519.99 it becomes infinite, NaN becomes 0x7e00. */
export function numberToHalf(x: number): number {
  return encodeSmall(x, 5, 10, 15, { infinity: 0x7c00, nan: 0x7e00, largest: undefined });
}

/** bfloat16 bits to a number: the upper half of a binary32. */
export function bfloat16ToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** A number to bfloat16 bits. */
export function numberToBfloat16(x: number): number {
  return encodeSmall(x, 8, 7, 127, { infinity: 0x7f80, nan: 0x7fc0, largest: undefined });
}

/** An element of a tensor as a number: float16 and bfloat16 are held as bits. */
export const elementNumber = (type: string, element: unknown): number =>
  type === "float16" ? halfToNumber(element as number) : type === "bfloat16" ? bfloat16ToNumber(element as number) : Number(element);

interface Specials {
  readonly infinity: number | undefined;
  readonly nan: number;
  /** Bits of the largest finite magnitude, for formats that saturate. */
  readonly largest: number | undefined;
}

function encodeSmall(x: number, exponentBits: number, fractionBits: number, bias: number, s: Specials): number {
  const width = 1 + exponentBits + fractionBits;
  if (Number.isNaN(x)) return s.nan;
  scratch.setFloat64(0, x);
  const sign = scratch.getUint32(0) >>> 31 ? 2 ** (width - 1) : 0;
  const magnitude = Math.abs(x);
  if (magnitude === 0) return sign;
  if (magnitude === Number.POSITIVE_INFINITY) return sign + (s.infinity ?? s.largest ?? s.nan);
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), 1 - bias);
  // Math.log2 may be off by one next to a power of two; the bounds below put it right.
  let e = exponent;
  while (e > 1 - bias && 2 ** e > magnitude) e--;
  while (2 ** (e + 1) <= magnitude) e++;
  const quantum = 2 ** (e - fractionBits);
  const units = roundHalfEven(magnitude / quantum);
  const bits = (e + bias - 1) * 2 ** fractionBits + units;
  const limit = (2 ** exponentBits - 1) * 2 ** fractionBits;
  if (s.infinity !== undefined && bits >= limit) return sign + s.infinity;
  if (s.largest !== undefined && bits > s.largest) return sign + s.largest;
  return sign + bits;
}

/** Nearest integer, ties to even; exact for all doubles. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}
