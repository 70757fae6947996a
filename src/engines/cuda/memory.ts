/** Offsets in one arena for buffers that live from one operation to another: buffers whose lives overlap do not share bytes. */

export interface Life {
  readonly name: string;
  readonly bytes: number;
  /** First and last operation that touches it, both included. */
  readonly from: number;
  readonly to: number;
}
export const ALIGNMENT = 256;
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/**
 * Largest first into the lowest gap that fits, and the same in order of birth; the smaller arena wins (greedy by size: Pisarchyk and Lee,
 * "Efficient Memory Management for Deep Neural Net Inference", 2020). `floor` is the largest sum of bytes alive at once: no plan needs less.
 */
export function planMemory(lives: readonly Life[]): {
  readonly offsets: ReadonlyMap<string, number>;
  readonly bytes: number;
  readonly floor: number;
} {
  const bySize = place([...lives].sort((a, b) => b.bytes - a.bytes || a.from - b.from));
  const byBirth = place([...lives].sort((a, b) => a.from - b.from || b.bytes - a.bytes));
  const best = bySize.bytes <= byBirth.bytes ? bySize : byBirth;
  return { ...best, floor: peak(lives) };
}
function place(order: readonly Life[]): { readonly offsets: ReadonlyMap<string, number>; readonly bytes: number } {
  const placed: { life: Life; offset: number; end: number }[] = [];
  const offsets = new Map<string, number>();
  let bytes = 0;
  for (const life of order) {
    const size = aligned(life.bytes);
    const others = placed.filter((p) => p.life.from <= life.to && life.from <= p.life.to).sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const o of others) {
      if (o.offset - offset >= size) break;
      offset = Math.max(offset, o.end);
    }
    placed.push({ life, offset, end: offset + size });
    offsets.set(life.name, offset);
    bytes = Math.max(bytes, offset + size);
  }
  return { offsets, bytes };
}
function peak(lives: readonly Life[]): number {
  const events = lives.flatMap((l) => [
    { at: l.from, by: aligned(l.bytes) },
    { at: l.to + 1, by: -aligned(l.bytes) },
  ]);
  events.sort((a, b) => a.at - b.at || a.by - b.by);
  let [now, most] = [0, 0];
  for (const e of events) {
    now += e.by;
    most = Math.max(most, now);
  }
  return most;
}
