/**
 * Branches and loops over TensorFlow values: tensors become operands and results of If and Loop, lists the tensors behind them, other
 * handles stay what they are. Both the functional operators and TensorFlow 1's frames end here.
 */
import { defineError } from "../../diagnostics.js";
import { UNKNOWN } from "../../ir/dims.js";
import { Editor } from "../../ir/edit.js";
import type { DType, Shape, ValueId, ValueType } from "../../ir/types.js";
import type { BodyRef, ListHandle, TfValue, Val } from "../../ops/tf/define.js";
import { dense, denseItems } from "../../ops/tf/list-values.js";
import { Builder, refused } from "./builder.js";
import { countBody, counted } from "./counted.js";

export const controlError = defineError<{ what: string; fix?: string }>("P1309", "control flow cannot be read", ({ what, fix }) => ({
  what,
  fix: fix ?? "cut the graph behind it with `inputs`, or before it with `outputs`",
}));

const MAX_ROUNDS = 8;
const tensorOf = (dtype: DType, shape: Shape): ValueType => ({ kind: "tensor", dtype, shape });

/** A builder for a body inside `b`. */
export function inside(b: Builder, name: string): Builder {
  const inner = new Builder(new Editor({ name, opsets: b.editor.opsets }), b.shared, b);
  inner.node = b.node;
  inner.op_ = b.op_;
  inner.origin = b.origin;
  return inner;
}

/** A scalar bool of whatever a condition is. */
export function condition(b: Builder, v: TfValue | undefined): Val {
  if (v?.kind !== "tensor") throw controlError({ what: "a condition is no tensor" }, b.place);
  const c = b.cast(v, "bool");
  return c.rank === 0 ? c : b.reshape(c, []);
}

export function lowerIf(
  b: Builder,
  test: TfValue | undefined,
  branches: { readonly yes: (b: Builder) => readonly TfValue[]; readonly no: (b: Builder) => readonly TfValue[] },
): readonly TfValue[] {
  const c = condition(b, test);
  const known = c.numbers?.[0];
  if (known !== undefined) return known === 0 ? branches.no(b) : branches.yes(b);
  const make = (name: string, f: (b: Builder) => readonly TfValue[]): { b: Builder; values: readonly TfValue[] } => {
    const inner = inside(b, name);
    return { b: inner, values: f(inner) };
  };
  const [yes, no] = [make("then", branches.yes), make("else", branches.no)];
  if (yes.values.length !== no.values.length) throw controlError({ what: "the branches have different numbers of results" }, b.place);
  const outs: { readonly at: number; readonly yes: Val; readonly no: Val }[] = [];
  const results: TfValue[] = [...yes.values];
  yes.values.forEach((y, at) => {
    const n = no.values[at];
    if (y.kind === "tensor" && n?.kind === "tensor") outs.push({ at, yes: y, no: n });
    else if (y.kind === "list" && n?.kind === "list") {
      const [p, q] = [denseItems(yes.b, y) ?? emptyLike(yes.b, y, n), denseItems(no.b, n) ?? emptyLike(no.b, n, y)];
      if (p !== undefined && q !== undefined) outs.push({ at, yes: p, no: q });
    } else if (y.kind !== n?.kind)
      throw controlError({ what: `result ${at} is a ${y.kind} on one branch and a ${n?.kind} on the other` }, b.place);
  });
  if (outs.length === 0) return results;
  const [t, e] = [yes.b.close(outs.map((o) => o.yes)), no.b.close(outs.map((o) => o.no))];
  const vals = b.ops("If", [c], { then_branch: t, else_branch: e }, outs.length);
  outs.forEach((o, i) => {
    const [v, y] = [vals[i], yes.values[o.at]];
    if (v === undefined || y === undefined) return;
    results[o.at] = y.kind === "list" ? { ...y, elements: undefined, items: v, size: b.dim(v, 0) } : v;
  });
  return results;
}

/** Zeros of `like`'s element shape for a list nothing was written to; undefined when neither knows it. */
function emptyLike(b: Builder, list: ListHandle, like: ListHandle): Val | undefined {
  const shape = like.items?.shape?.slice(1) ?? like.elements?.find((e) => e !== undefined)?.shape ?? list.element;
  return shape === undefined ? undefined : zeros(b, list, shape);
}

/** [size, ...element] zeros, where every dim is a number or a symbol of an input. */
export function zeros(b: Builder, list: ListHandle, element: readonly (number | string)[]): Val | undefined {
  const dims: Val[] = [b.reshape(list.size, [1])];
  for (const d of element) {
    const v = b.dimension(d);
    if (v === undefined) return undefined;
    dims.push(b.reshape(v, [1]));
  }
  if (list.dtype === "string") return undefined;
  return b.fill(list.dtype, 0, b.concat(dims, 0));
}

export interface LoopParts {
  readonly initials: readonly TfValue[];
  /** Variables that every iteration gives back as they are. */
  readonly invariant: readonly boolean[];
  readonly cond: (b: Builder, vars: readonly TfValue[]) => TfValue;
  readonly body: (b: Builder, vars: readonly TfValue[]) => readonly TfValue[];
}

/** Final values of a loop's variables. */
export function lowerLoop(b: Builder, loop: LoopParts): readonly TfValue[] {
  const short = unrolled(b, loop);
  if (short !== undefined) return short;
  const initials = loop.initials.map((v, i) => (v.kind === "list" && loop.invariant[i] !== true ? dense(b, v) : v));
  const carried = initials.flatMap((v, i) => (loop.invariant[i] === true || (v.kind !== "tensor" && v.kind !== "list") ? [] : [i]));
  // What a carried value is known to be at every iteration; undefined: a list nothing was written to yet.
  let types = carried.map((i): ValueType | undefined => typeOf(initials[i]));
  for (let round = 0; ; round++) {
    if (round > MAX_ROUNDS) throw controlError({ what: "the types of the loop's variables do not settle" }, b.place);
    const attempt = tryBody(b, loop, initials, carried, types);
    const next = types.map((t, k) => joined(t, attempt.types[k]));
    if (JSON.stringify(next) === JSON.stringify(types)) return emit(b, loop, initials, carried, attempt);
    types = next;
    // A list whose element shape the body revealed starts as zeros of it.
    carried.forEach((i, k) => {
      const [v, t] = [initials[i], types[k]];
      if (v?.kind !== "list" || v.items !== undefined || t?.kind !== "tensor" || t.shape === undefined) return;
      const items = zeros(b, v, t.shape.slice(1)) ?? zerosLikeFirst(b, v, i, loop, initials);
      initials[i] = { ...v, items };
      types[k] = joined(items.fact.type, t);
    });
  }
}

/** Zeros for a list whose elements have dims that only a run reveals: those of what a first iteration, run before the loop, writes. */
function zerosLikeFirst(b: Builder, list: ListHandle, i: number, loop: LoopParts, initials: readonly TfValue[]): Val {
  const written = loop.body(b, initials)[i];
  const items = written?.kind === "list" ? denseItems(b, written) : undefined;
  if (items === undefined || list.dtype === "string")
    throw refused(
      { why: "the shape of a list's elements is not known before the loop that writes them", fix: "give the graph's inputs fixed shapes" },
      b.place,
    );
  const element = b.op("Shape", [items], { start: 1 });
  return b.fill(list.dtype, 0, b.concat([b.reshape(list.size, [1]), element], 0));
}

/** A loop that certainly runs never or once is no loop: its body is smaller without the Loop around it. */
function unrolled(b: Builder, loop: LoopParts): readonly TfValue[] | undefined {
  const known = (inner: Builder, vars: readonly TfValue[]): number | undefined => condition(inner, loop.cond(inner, vars)).numbers?.[0];
  const first = known(b, loop.initials);
  if (first === undefined) return undefined;
  if (first === 0) return loop.initials;
  const once = (inner: Builder): readonly TfValue[] => {
    const results = loop.body(inner, loop.initials);
    return loop.initials.map((v, i) => (loop.invariant[i] === true ? v : (results[i] ?? v)));
  };
  const trial = inside(b, "once");
  return known(trial, once(trial)) === 0 ? once(b) : undefined;
}

interface Attempt {
  readonly inner: Builder;
  readonly vars: readonly TfValue[];
  readonly results: readonly TfValue[];
  readonly types: readonly (ValueType | undefined)[];
}

function tryBody(
  b: Builder,
  loop: LoopParts,
  initials: readonly TfValue[],
  carried: readonly number[],
  types: readonly (ValueType | undefined)[],
): Attempt {
  const inner = inside(b, "body");
  inner.loop = true;
  inner.input("iteration", tensorOf("int64", []));
  inner.input("condition", tensorOf("bool", []));
  const vars = [...initials];
  carried.forEach((i, k) => {
    const [v, t] = [initials[i], types[k]];
    if (v === undefined || t === undefined) return;
    const formal = inner.input(`var.${i}`, t);
    vars[i] = v.kind === "list" ? { ...v, items: formal, size: sameSize(v, formal) ? v.size : inner.dim(formal, 0) } : formal;
  });
  const results = loop.body(inner, vars).map((v, i) => (v.kind === "list" && carried.includes(i) ? dense(inner, v) : v));
  for (const i of carried) {
    const [before, after] = [initials[i], results[i]];
    if (after?.kind !== before?.kind)
      throw controlError(
        {
          what: `variable ${i} of a loop is a ${before?.kind} before and ${after === undefined ? "nothing" : `a ${after.kind}`} after an iteration`,
        },
        b.place,
      );
    if (before?.kind === "tensor" && after?.kind === "tensor" && before.dtype !== after.dtype)
      throw controlError({ what: `variable ${i} of a loop is ${before.dtype} before and ${after.dtype} after an iteration` }, b.place);
  }
  return { inner, vars, results, types: carried.map((i) => typeOf(results[i])) };
}
/** A list whose length the loop keeps goes on with the length it began with, which may be known. */
const sameSize = (v: ListHandle, formal: Val): boolean => {
  const [n] = v.size.numbers ?? [];
  return n !== undefined && formal.shape?.[0] === n;
};

function emit(b: Builder, loop: LoopParts, initials: readonly TfValue[], carried: readonly number[], attempt: Attempt): readonly TfValue[] {
  const { inner, results } = attempt;
  const all = initials.map((v, i) => (carried.includes(i) ? (results[i] ?? v) : v));
  const again = condition(inner, loop.cond(inner, all));
  const parts = { inner, vars: attempt.vars, initials, results, carried, again };
  const count = counted(parts);
  const live = carried.filter((i) => tensorBehind(initials[i]) !== undefined && tensorBehind(results[i]) !== undefined);
  const first = condition(b, loop.cond(b, initials));
  const finals = [...initials];
  const finish = (i: number, out: Val): void => {
    const v = initials[i];
    if (v?.kind === "list") finals[i] = { ...v, elements: undefined, items: out, size: sameSize(v, out) ? v.size : b.dim(out, 0) };
    else finals[i] = out;
  };
  if (count === undefined || first.numbers?.[0] !== 1) {
    const body: BodyRef = inner.close([again, ...live.map((i) => tensorBehind(results[i]) as Val)]);
    const outs = b.ops("Loop", [undefined, first, ...live.map((i) => tensorBehind(initials[i]) as Val)], { body }, live.length);
    live.forEach((i, k) => {
      if (outs[k] !== undefined) finish(i, outs[k]);
    });
    return finals;
  }
  const states = live.filter((i) => !count.counters.has(i) && !count.scans.has(i));
  const scans = live.filter((i) => count.scans.has(i));
  const bodyResults = [
    ...states.map((i) => inner.use(tensorBehind(results[i]) as Val)),
    ...scans.map((i) => inner.use(inner.valueOf(count.scans.get(i) as ValueId))),
  ];
  countBody(
    parts,
    count,
    bodyResults.map((v) => v.id),
  );
  const formals = new Set(
    [0, 1].map((k) => inner.editor.inputs[k]).concat(states.map((i) => inner.use(tensorBehind(attempt.vars[i]) as Val).id)),
  );
  inner.editor.setInputs(inner.editor.inputs.filter((v) => formals.has(v)));
  const body = inner.close([inner.valueOf(inner.editor.inputs[1] as ValueId), ...bodyResults]);
  const outs = b.ops(
    "Loop",
    [b.int64(count.trips), b.scalar("bool", true), ...states.map((i) => tensorBehind(initials[i]) as Val)],
    { body },
    states.length + scans.length,
  );
  for (const [i, start] of count.counters) {
    const v = initials[i];
    if (v?.kind === "tensor") finals[i] = b.const(v.dtype as "int32", [], [start + count.trips]);
  }
  states.forEach((i, k) => {
    if (outs[k] !== undefined) finish(i, outs[k]);
  });
  scans.forEach((i, k) => {
    const [out, rows] = [outs[states.length + k], tensorBehind(results[i])?.shape];
    if (out !== undefined) finish(i, rows === undefined ? out : b.refined(out, [count.trips, ...rows.slice(1)]));
  });
  return finals;
}

function tensorBehind(v: TfValue | undefined): Val | undefined {
  return v?.kind === "tensor" ? v : v?.kind === "list" ? v.items : undefined;
}
const typeOf = (v: TfValue | undefined): ValueType | undefined => tensorBehind(v)?.fact.type;

/** What holds of both; `b` alone where `a` is not known yet. */
function joined(a: ValueType | undefined, b: ValueType | undefined): ValueType | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  if (a.kind !== "tensor" || b.kind !== "tensor") return a;
  if (a.shape === undefined || b.shape === undefined || a.shape.length !== b.shape.length) return { ...a, shape: undefined };
  return { ...a, shape: a.shape.map((d, i) => (d === b.shape?.[i] ? d : UNKNOWN)) };
}
