/**
 * A layered layout in two levels: nodes in rows by longest path inside their group, groups in rows by longest path among groups. Long stacks
 * of rows are folded into columns side by side, so that a chain of a thousand groups is a page and not a thread. Linear but for the sorting
 * of each row; made when the report is written, so that the page only draws.
 */

export interface Layout {
  /** By group: left, top, width, height. */
  readonly groups: { readonly x: Int32Array; readonly y: Int32Array; readonly w: Int32Array; readonly h: Int32Array };
  /** By node: left, top, relative to the page; all nodes have the size NODE. */
  readonly x: Int32Array;
  readonly y: Int32Array;
  /** Distinct edges between groups, as pairs. */
  readonly edges: readonly number[];
}
export const NODE = { w: 132, h: 34 } as const;
const GAP = { x: 16, y: 24 } as const;
const PAD = { side: 14, top: 40, bottom: 14 } as const;
const BETWEEN = { x: 40, y: 56 } as const;
/** Width over height that folding aims at. */
const ASPECT = 1.7;

/** `groupOf` by node; `after[i]`: the nodes that node i reads from, all before it. Groups without nodes are laid out as empty boxes. */
export function layoutOf(groupOf: readonly number[], count: number, after: readonly (readonly number[])[]): Layout {
  const n = groupOf.length;
  const members: number[][] = Array.from({ length: count }, () => []);
  for (let i = 0; i < n; i++) members[groupOf[i] as number]?.push(i);
  const x = new Int32Array(n);
  const y = new Int32Array(n);
  const w = new Int32Array(count);
  const h = new Int32Array(count);
  const depth = new Int32Array(n);
  const place = new Float64Array(n);
  members.forEach((nodes, g) => {
    for (const i of nodes)
      for (const a of after[i] ?? [])
        if (groupOf[a] === g && (depth[a] as number) >= (depth[i] as number)) depth[i] = (depth[a] as number) + 1;
    const rows = rowsOf(nodes, depth);
    for (const row of rows) order(row, place, (i) => (after[i] ?? []).filter((a) => groupOf[a] === g));
    const boxes = rows.map((row) => ({ w: row.length * (NODE.w + GAP.x) - GAP.x, h: NODE.h + GAP.y }));
    const folded = fold(boxes, GAP.x * 2);
    rows.forEach((row, r) => {
      const at = folded.at[r] as { x: number; y: number };
      row.forEach((i, k) => {
        x[i] = PAD.side + at.x + k * (NODE.w + GAP.x);
        y[i] = PAD.top + at.y;
      });
    });
    w[g] = Math.max(NODE.w, folded.w) + 2 * PAD.side;
    h[g] = Math.max(NODE.h, folded.h - GAP.y) + PAD.top + PAD.bottom;
  });
  const { edges, before } = groupEdges(groupOf, count, after);
  const level = new Int32Array(count);
  const all = Array.from({ length: count }, (_, g) => g);
  for (const g of all)
    for (const p of before[g] as number[]) if (p < g && (level[p] as number) >= (level[g] as number)) level[g] = (level[p] as number) + 1;
  const spot = new Float64Array(count);
  const rows = rowsOf(all, level);
  for (const row of rows) order(row, spot, (g) => before[g] as number[]);
  const boxes = rows.map((row) => ({
    w: row.reduce((t, g) => t + (w[g] as number) + BETWEEN.x, -BETWEEN.x),
    h: Math.max(...row.map((g) => h[g] as number)) + BETWEEN.y,
  }));
  const folded = fold(boxes, BETWEEN.x * 2);
  const gx = new Int32Array(count);
  const gy = new Int32Array(count);
  rows.forEach((row, r) => {
    let left = folded.at[r]?.x ?? 0;
    for (const g of row) {
      gx[g] = left;
      gy[g] = folded.at[r]?.y ?? 0;
      left += (w[g] as number) + BETWEEN.x;
    }
  });
  for (let i = 0; i < n; i++) {
    x[i] = (x[i] as number) + (gx[groupOf[i] as number] as number);
    y[i] = (y[i] as number) + (gy[groupOf[i] as number] as number);
  }
  return { groups: { x: gx, y: gy, w, h }, x, y, edges };
}

function rowsOf(items: readonly number[], level: Int32Array): number[][] {
  const rows: number[][] = [];
  for (const i of items) (rows[level[i] as number] ??= []).push(i);
  return rows;
}

/** Sorts a row by the mean place of what its members read, and notes their own. */
function order(row: number[], place: Float64Array, reads: (i: number) => readonly number[]): void {
  if (row.length > 1) {
    const key = new Map<number, number>();
    row.forEach((i, k) => {
      const sources = reads(i);
      key.set(i, sources.length === 0 ? k - row.length / 2 : sources.reduce((t, a) => t + (place[a] as number), 0) / sources.length);
    });
    row.sort((a, b) => (key.get(a) as number) - (key.get(b) as number) || a - b);
  }
  row.forEach((i, k) => {
    place[i] = k - (row.length - 1) / 2;
  });
}

interface Box {
  readonly w: number;
  readonly h: number;
}
interface Folded extends Box {
  readonly at: readonly { readonly x: number; readonly y: number }[];
}

/** Places rows of given sizes one under the other, in as many columns as bring the whole near ASPECT; rows are centred in their column. */
function fold(rows: readonly Box[], gap: number): Folded {
  const total = rows.reduce((t, r) => t + r.h, 0);
  const widest = rows.reduce((t, r) => Math.max(t, r.w), 0);
  // A stack that is not much taller than wide stays one column.
  if (total <= 2.5 * widest || rows.length < 12) return columns(rows, gap, Number.POSITIVE_INFINITY);
  const tallest = rows.reduce((t, r) => Math.max(t, r.h), 0);
  let limit = Math.sqrt(rows.reduce((t, r) => t + r.w * r.h, 0) / ASPECT);
  let best = columns(rows, gap, Math.max(tallest, limit));
  // Rows of unlike widths leave room beside the narrow ones, so the first guess comes out too wide: what it gave corrects it.
  for (let i = 0; i < 4; i++) {
    limit *= Math.sqrt(best.w / best.h / ASPECT);
    best = columns(rows, gap, Math.max(tallest, limit));
  }
  return best;
}

function columns(rows: readonly Box[], gap: number, limit: number): Folded {
  const at: { x: number; y: number }[] = [];
  let [left, top, width, height] = [0, 0, 0, 0];
  let first = 0;
  const close = (end: number): void => {
    for (let r = first; r < end; r++) {
      const cell = at[r] as { x: number; y: number };
      cell.x = left + Math.round((width - (rows[r]?.w ?? 0)) / 2);
    }
    first = end;
  };
  rows.forEach((row, r) => {
    if (top > 0 && top + row.h > limit) {
      close(r);
      left += width + gap;
      top = 0;
      width = 0;
    }
    at.push({ x: 0, y: top });
    top += row.h;
    width = Math.max(width, row.w);
    height = Math.max(height, top);
  });
  close(rows.length);
  return { at, w: left + width, h: height };
}

function groupEdges(
  groupOf: readonly number[],
  count: number,
  after: readonly (readonly number[])[],
): { readonly edges: readonly number[]; readonly before: readonly number[][] } {
  const before: number[][] = Array.from({ length: count }, () => []);
  const known = new Set<number>();
  const edges: number[] = [];
  groupOf.forEach((g, i) => {
    for (const a of after[i] ?? []) {
      const p = groupOf[a] as number;
      if (p === g || known.has(p * count + g)) continue;
      known.add(p * count + g);
      before[g]?.push(p);
      edges.push(p, g);
    }
  });
  return { edges, before };
}
