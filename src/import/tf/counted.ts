/**
 * Loops that count: a variable that starts at a constant and grows by one under a constant bound says how often the body runs. Such a Loop
 * gets a trip count instead of a condition, its counters come from the iteration number, and a list that is written at the counter becomes
 * a scan output instead of a tensor that every iteration copies.
 */
import type { ValueId } from "../../ir/types.js";
import type { TfValue, Val } from "../../ops/tf/define.js";
import type { Builder } from "./builder.js";

export interface CountedParts {
  readonly inner: Builder;
  /** The body's formal values, by variable. */
  readonly vars: readonly TfValue[];
  readonly initials: readonly TfValue[];
  readonly results: readonly TfValue[];
  readonly carried: readonly number[];
  /** The condition after an iteration. */
  readonly again: Val;
}
export interface Counted {
  readonly trips: number;
  /** First value by variable. */
  readonly counters: ReadonlyMap<number, number>;
  /** By variable: what one iteration writes. */
  readonly scans: ReadonlyMap<number, ValueId>;
}

/** What is found; undefined where the loop does not count. Reads the draft of the body only. */
export function counted(p: CountedParts): Counted | undefined {
  const { editor } = p.inner;
  const idOf = (v: TfValue | undefined): ValueId | undefined => {
    const t = v?.kind === "tensor" ? v : v?.kind === "list" ? v.items : undefined;
    return t === undefined ? undefined : p.inner.use(t).id;
  };
  const integer = (id: ValueId | undefined): number | undefined => {
    const c = id === undefined ? undefined : p.inner.numbersOf(id);
    return c?.length === 1 ? c[0] : undefined;
  };
  // Variables that an iteration makes one larger.
  const starts = new Map<number, number>();
  const nexts = new Map<ValueId, number>();
  for (const i of p.carried) {
    const [initial, formal, result] = [p.initials[i], idOf(p.vars[i]), idOf(p.results[i])];
    const start = initial?.kind === "tensor" && initial.rank === 0 ? initial.numbers?.[0] : undefined;
    const step = editor.producer(result);
    if (start === undefined || !Number.isInteger(start) || formal === undefined || result === undefined || step?.op !== "Add") continue;
    const [a, b] = step.ins;
    if (!((a === formal && integer(b) === 1) || (b === formal && integer(a) === 1))) continue;
    starts.set(i, start);
    nexts.set(result, i);
  }
  /** How often the body runs before this condition fails; undefined for a condition of another form. */
  const bound = (id: ValueId | undefined): number | undefined => {
    const n = editor.producer(id);
    const [a, b] = n?.ins ?? [];
    if (n?.op === "And") {
      const [x, y] = [bound(a), bound(b)];
      return x === undefined || y === undefined ? undefined : Math.min(x, y);
    }
    const i = a === undefined ? undefined : nexts.get(a);
    const limit = integer(b);
    const start = i === undefined ? undefined : starts.get(i);
    return n?.op === "Less" && start !== undefined && limit !== undefined ? limit - start : undefined;
  };
  const trips = bound(p.inner.use(p.again).id);
  if (trips === undefined || !Number.isSafeInteger(trips) || trips < 1) return undefined;
  const scans = new Map<number, ValueId>();
  for (const i of p.carried) {
    const [v, initial, formal, result] = [p.vars[i], p.initials[i], idOf(p.vars[i]), idOf(p.results[i])];
    if (v?.kind !== "list" || initial?.kind !== "list" || formal === undefined || result === undefined) continue;
    const write = editor.producer(result);
    if (write?.op !== "ScatterND" || write.ins[0] !== formal || v.items?.shape?.[0] !== trips) continue;
    // Nobody else looks at the list on the way.
    if (editor.uses(formal).length !== 1 || editor.uses(result).length !== 0) continue;
    const [, index, update] = write.ins;
    if (!isCounterFromZero(p, starts, index, idOf)) continue;
    const wide = editor.producer(update);
    if (wide?.op !== "Unsqueeze" || wide.ins[0] === undefined || integer(wide.ins[1]) !== 0) continue;
    scans.set(i, wide.ins[0]);
  }
  return { trips, counters: starts, scans };
}

/** Whether an index is a counter that starts at 0, through casts and reshapes. */
function isCounterFromZero(
  p: CountedParts,
  starts: ReadonlyMap<number, number>,
  index: ValueId | undefined,
  idOf: (v: TfValue | undefined) => ValueId | undefined,
): boolean {
  let at = index;
  for (let steps = 0; steps < 6 && at !== undefined; steps++) {
    const i = p.carried.find((k) => idOf(p.vars[k]) === at);
    if (i !== undefined) return starts.get(i) === 0;
    const n = p.inner.editor.producer(at);
    if (n === undefined || !["Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity"].includes(n.op)) return false;
    at = n.ins[0];
  }
  return false;
}

/** Rewrites the body: counters come from the iteration number, and what then nobody reads goes. */
export function countBody(p: CountedParts, found: Counted, outputs: readonly ValueId[]): void {
  const { inner } = p;
  const { editor } = inner;
  const [iteration] = editor.inputs;
  if (iteration === undefined) return;
  for (const [i, start] of found.counters) {
    const formal = p.vars[i];
    if (formal?.kind !== "tensor") continue;
    const id = inner.use(formal).id;
    if (editor.uses(id).length === 0) continue;
    const number = inner.iterationFrom(iteration, start, formal.dtype);
    editor.replaceUses(id, inner.use(number).id);
  }
  const kept = new Set(outputs);
  for (const n of [...editor.nodes()].reverse())
    if (n.outs.every((v) => v === undefined || (!kept.has(v) && editor.uses(v).length === 0))) editor.remove(n.id);
}
