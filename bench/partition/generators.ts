/** Graphs of any size in the shapes that models have, as typed arrays. Seeded; one tensor per node. Bytes are those of float32 activations. */
import type { SegmentInput } from "../../src/partition/input.js";
import { edgesOf } from "../../src/partition/segment.js";

/** Mulberry32: uniform in [0, 1). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

class Draft {
  readonly from: number[] = [];
  readonly to: number[] = [];
  readonly bytes: number[] = [];
  get size(): number {
    return this.bytes.length;
  }
  /** A node that makes `bytes` out of what `inputs` make. */
  add(bytes: number, ...inputs: readonly number[]): number {
    const id = this.bytes.push(bytes) - 1;
    for (const i of inputs) {
      this.from.push(i);
      this.to.push(id);
    }
    return id;
  }
}

export type Shape = "inception" | "transformer" | "unet" | "chain" | "random" | "hub";
export const shapes: readonly Shape[] = ["inception", "transformer", "unet", "chain", "random", "hub"];

/** `unsupported`: share of nodes, drawn one by one, that only the host takes. */
export function generate(shape: Shape, n: number, unsupported: number, seed: number): SegmentInput {
  const next = generator(seed);
  const d = new Draft();
  switch (shape) {
    case "inception":
      inception(d, n);
      break;
    case "transformer":
      transformer(d, n);
      break;
    case "unet":
      unet(d, n);
      break;
    case "chain":
      for (let last = d.add(4096); d.size < n; ) last = d.add(1024 * (1 + Math.floor(next() * 64)), last);
      break;
    case "random":
      random(d, n, next);
      break;
    case "hub":
      inception(d, n, d.add(4096));
      break;
    default:
      shape satisfies never;
  }
  const count = d.size;
  const successors = edgesOf(count, d.from, d.to);
  const producer = new Int32Array(count);
  const engine = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    producer[i] = i;
    engine[i] = next() < unsupported ? 0 : 1;
  }
  return {
    n: count,
    successors,
    engine,
    size: new Uint8Array(count).fill(1),
    minimumSize: 3,
    values: { producer, readers: successors, bytes: Float64Array.from(d.bytes) },
  };
}

/** Modules of four branches joined by a concatenation, each convolution followed by its activation. `mask` feeds every node. */
function inception(d: Draft, n: number, mask?: number): void {
  const pixels = 14 * 14 * 4;
  const also = mask === undefined ? [] : [mask];
  const conv = (x: number, channels: number): number => {
    const c = d.add(pixels * channels, x, ...also);
    return d.add(pixels * channels, c, ...also);
  };
  let x = d.add(pixels * 480, ...also);
  while (d.size < n) {
    const a = conv(x, 192);
    const b = conv(conv(x, 96), 208);
    const c = conv(conv(conv(x, 16), 48), 48);
    const p = conv(d.add(pixels * 480, x, ...also), 64);
    x = d.add(pixels * 512, a, b, c, p, ...also);
  }
}

/** Encoder layers: normalisation, attention with its views and a mask that every layer reads, residuals, feed-forward. */
function transformer(d: Draft, n: number): void {
  const [tokens, width, heads] = [128, 768, 12];
  const wide = tokens * width * 4;
  const scores = heads * tokens * tokens * 4;
  const mask = d.add(tokens * 4);
  let x = d.add(wide);
  while (d.size < n) {
    const normed = d.add(wide, x);
    const head = (): number => d.add(wide, d.add(wide, d.add(wide, d.add(wide, normed))));
    const [q, k, v] = [head(), head(), head()];
    const masked = d.add(scores, d.add(scores, d.add(scores, q, k)), mask);
    const mixed = d.add(wide, d.add(scores, masked), v);
    x = d.add(wide, d.add(wide, d.add(wide, d.add(wide, mixed))), x);
    const inner = d.add(wide, x);
    const up = d.add(4 * wide, d.add(4 * wide, inner));
    x = d.add(wide, d.add(wide, d.add(4 * wide, up)), x);
  }
}

/** U-nets of depth 32, one behind the other: every level of the way down feeds its mirror on the way up. */
function unet(d: Draft, n: number): void {
  const base = 256 * 256 * 4;
  let x = d.add(base);
  while (d.size < n) {
    const skips: number[] = [];
    for (let level = 0; level < 32; level++) {
      const bytes = Math.max(4096, base >> level);
      x = d.add(bytes, d.add(bytes, d.add(bytes, d.add(bytes, x))));
      skips.push(x);
      x = d.add(Math.max(4096, bytes >> 1), x);
    }
    for (let level = 31; level >= 0; level--) {
      const bytes = Math.max(4096, base >> level);
      const up = d.add(bytes, x);
      const joined = d.add(2 * bytes, up, skips[level] as number);
      x = d.add(bytes, d.add(bytes, d.add(bytes, d.add(bytes, joined))));
    }
  }
}

/** One to three inputs from the 64 nodes before, now and then one from anywhere. */
function random(d: Draft, n: number, next: () => number): void {
  d.add(4096);
  while (d.size < n) {
    const inputs = Array.from({ length: 1 + Math.floor(next() * 3) }, () =>
      next() < 0.002 ? Math.floor(next() * d.size) : Math.max(0, d.size - 1 - Math.floor(next() * 64)),
    );
    d.add(1024 * (1 + Math.floor(next() * 64)), ...new Set(inputs));
  }
}
