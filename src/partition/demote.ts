/** Step 2 of segmentation: what is too small for an engine goes to the host. */
import { Components } from "./dag.js";
import { BYTES_PER_US, CROSSING_US, type SegmentInput } from "./input.js";
import type { Dag, Values } from "./waves.js";

/** What must reach the minimum size for a wave to stay: one of its pieces, or all of them together. */
export type Floor = "piece" | "wave";

/**
 * Step 2. What a piece of class 1 reads comes from lower levels or from the host's wave at its own, which it can join. A piece of a higher
 * class may read class 1 at its own level, and joins the host's wave at the next: what reads it stands no lower.
 */
export function demote(
  g: Dag,
  input: SegmentInput,
  values: Values,
  floor: Floor,
  engine: Uint8Array,
  level: Int32Array,
  demoted: Uint8Array,
): boolean {
  const { n, size, minimumSize, forced } = input;
  const { starts, targets } = g.successors;
  const pieces = new Components(n);
  for (let v = 0; v < n; v++) {
    if (engine[v] === 0) continue;
    for (let e = starts[v] as number; e < (starts[v + 1] as number); e++) {
      const t = targets[e] as number;
      if (engine[t] === engine[v] && level[t] === level[v]) pieces.unite(v, t);
    }
  }
  /** By node, a node of its piece that stands for all of it; -1 on the host. */
  const piece = new Int32Array(n).fill(-1);
  const weight = new Float64Array(n);
  for (let v = 0; v < n; v++) {
    if (engine[v] === 0) continue;
    const root = pieces.find(v);
    piece[v] = root;
    // What is pinned is enough by itself.
    weight[root] = (weight[root] as number) + (forced?.[v] === 1 ? minimumSize : (size[v] as number));
  }
  let depth = 0;
  for (let v = 0; v < n; v++) if ((level[v] as number) > depth) depth = level[v] as number;
  const classes = engine.reduce((a, c) => Math.max(a, c), 0) + 1;
  const waveOf = (v: number): number => (level[v] as number) * classes + (engine[v] as number);
  // What is measured against the floor: the largest piece of a wave, or all of it.
  const most = new Float64Array((depth + 1) * classes);
  for (let v = 0; v < n; v++) {
    if (piece[v] !== v) continue;
    const w = waveOf(v);
    most[w] = floor === "wave" ? (most[w] as number) + (weight[v] as number) : Math.max(most[w] as number, weight[v] as number);
  }
  const small = (v: number): boolean => piece[v] !== -1 && (weight[piece[v] as number] as number) < minimumSize;
  let any = false;
  for (let v = 0; v < n && !any; v++) any = small(v);
  if (!any) return false;
  // Small pieces where the wave stays: by the bytes that their move would add, and the time it would cost, both in bytes. Work stays on the
  // engine that was asked for unless its tensors outweigh it; what computes nothing (a Gather, a Slice) must be worth the tensors' crossing too.
  const gain = new Float64Array(n);
  const works = new Uint8Array(n);
  for (let v = 0; v < n; v++) if (piece[v] !== -1 && input.flops?.[v] !== 0) works[piece[v] as number] = 1;
  const priceOf = (p: number, b: number): number => b + (works[p] === 1 ? 0 : CROSSING_US * BYTES_PER_US);
  const { producer, readers, bytes, exported } = values;
  for (let t = 0; t < producer.length; t++) {
    const p = producer[t] as number;
    if (p < 0) continue;
    const own = piece[p] as number;
    // Bytes cross for t when a reader runs elsewhere than its maker, host to host not counted.
    let elsewhere = exported?.[t] === 1;
    let readBy = -1;
    let severalReaders = false;
    let hostReads = false;
    for (let e = readers.starts[t] as number; e < (readers.starts[t + 1] as number); e++) {
      const r = readers.targets[e] as number;
      const q = piece[r] as number;
      if (q === own && q !== -1) continue;
      if (q === -1) hostReads = true;
      else if (engine[r] !== engine[p] || level[r] !== level[p]) {
        if (readBy !== -1 && readBy !== q) severalReaders = true;
        readBy = q;
      }
      if (engine[r] !== engine[p] || level[r] !== level[p]) elsewhere = true;
    }
    const b = bytes[t] as number;
    // The maker's piece moving to the host: t stops crossing when only the host reads it (or nothing outside), starts when it was internal.
    if (own !== -1 && elsewhere && readBy === -1 && hostReads) gain[own] = (gain[own] as number) - priceOf(own, b);
    // A reader's piece moving to the host: t stops crossing when the host makes it and only that piece reads it.
    if (own === -1 && readBy !== -1 && !severalReaders) gain[readBy] = (gain[readBy] as number) - priceOf(readBy, b);
  }
  if (input.lossUs !== undefined) {
    // Bytes as long as they take; what never crossed costs nothing to keep.
    for (let v = 0; v < n; v++) {
      const p = piece[v] as number;
      if (p !== -1) gain[p] = (gain[p] as number) + (input.lossUs[v] as number) * BYTES_PER_US;
    }
  }
  let changed = false;
  for (let v = 0; v < n; v++) {
    if (!small(v) || ((gain[piece[v] as number] as number) >= 0 && (most[waveOf(v)] as number) >= minimumSize)) continue;
    changed = true;
    demoted[v] = 1;
  }
  for (let v = 0; changed && v < n; v++) {
    if (demoted[v] === 0 || engine[v] === 0) continue;
    if (engine[v] !== 1) level[v] = (level[v] as number) + 1;
    engine[v] = 0;
  }
  return changed;
}
