/** CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), eight bytes a step, and the mask that TensorFlow's tables store it under. */

const TABLES: readonly Uint32Array[] = (() => {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  const [first] = tables as [Uint32Array];
  for (let i = 0; i < 256; i++) {
    let c = i;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    first[i] = c;
  }
  for (let t = 1; t < 8; t++) {
    for (let i = 0; i < 256; i++) {
      const c = tables[t - 1]?.[i] ?? 0;
      (tables[t] as Uint32Array)[i] = (c >>> 8) ^ (first[c & 255] as number);
    }
  }
  return tables;
})();
const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as [
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
];

/** The checksum of `bytes`; `before` is that of what precedes them. */
export function crc32c(bytes: Uint8Array, before = 0): number {
  let c = ~before;
  let i = 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (; i + 8 <= bytes.length; i += 8) {
    const low = view.getInt32(i, true) ^ c;
    const high = view.getInt32(i + 4, true);
    c =
      (T7[low & 255] as number) ^
      (T6[(low >>> 8) & 255] as number) ^
      (T5[(low >>> 16) & 255] as number) ^
      (T4[low >>> 24] as number) ^
      (T3[high & 255] as number) ^
      (T2[(high >>> 8) & 255] as number) ^
      (T1[(high >>> 16) & 255] as number) ^
      (T0[high >>> 24] as number);
  }
  for (; i < bytes.length; i++) c = (c >>> 8) ^ (T0[(c ^ (bytes[i] as number)) & 255] as number);
  return ~c >>> 0;
}

const DELTA = 0xa282ead8;
/** A stored checksum as the checksum itself: stored ones are rotated by 15 bits and offset, so that data with checksums in it can be summed. */
export function unmasked(stored: number): number {
  const rotated = (stored - DELTA) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}
export const masked = (crc: number): number => ((((crc >>> 15) | (crc << 17)) >>> 0) + DELTA) >>> 0;
