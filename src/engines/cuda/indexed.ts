/** Operators whose element is another element chosen by data, or a little arithmetic on two: reversal, caches, rotary embeddings, sampling on a grid. */
import { add, divide, type Index, modulo, range, variable, ZERO } from "./indexing.js";
import type { Inline } from "./inline.js";
import { literal } from "./pointwise.js";
import type { Element, Scope } from "./scope.js";
import { allOf, axis, type Operand, operand, output, Refused, type Site, within } from "./site.js";
import { storage } from "./storage.js";

type Rule = (s: Site) => Inline;
const one = (element: Element): Inline => ({ elements: [element], view: false });
/** An integer in a register as an index that is sure to lie in 0 to size - 1. */
const held = (scope: Scope, expression: string, size: number): Index =>
  variable(scope.let("int", `min(max(${expression}, 0), ${Math.max(size - 1, 0)})`), Math.max(size - 1, 0));

/** The first `lengths[b]` elements along the time axis, backwards. */
const reverseSequence: Rule = (s) => {
  const [x, lengths] = [operand(s, 0), operand(s, 1)];
  const [batch, time] = [axis(s.attrs.batch_axis, x.dims.length), axis(s.attrs.time_axis, x.dims.length)];
  const size = x.dims[time] as number;
  return one((scope, index) => {
    const length = scope.let("int", `(int)(${lengths.at(scope, [index[batch] as Index])})`);
    const t = scope.index(index[time] as Index);
    const from = held(scope, `(${t} < ${length} ? ${length} - 1 - (${t}) : ${t})`, size);
    return x.at(
      scope,
      index.map((d, i) => (i === time ? from : d)),
    );
  });
};

/** The past with an update written from a position on, per item of the first dim; circular caches wrap around. */
const tensorScatter: Rule = (s) => {
  const [past, update, y] = [operand(s, 0), operand(s, 1), output(s)];
  const starts = s.ins[2];
  const a = axis(s.attrs.axis, past.dims.length);
  const [size, count] = [past.dims[a] as number, update.dims[a] as number];
  const register = storage(y.dtype).register;
  return one((scope, index) => {
    const start = starts === undefined ? "0" : scope.let("int", `(int)(${starts.at(scope, [index[0] as Index])})`);
    const distance = scope.let("int", `${scope.index(index[a] as Index)} - ${start}`);
    const offset = s.attrs.mode === "circular" ? scope.let("int", `(${distance} % ${size} + ${size}) % ${size}`) : distance;
    const fresh = scope.let("bool", `${offset} >= 0 && ${offset} < ${count}`);
    const from = held(scope, offset, count);
    const written = scope.guarded(fresh, () =>
      update.at(
        scope,
        index.map((d, i) => (i === a ? from : d)),
      ),
    );
    return scope.let(register, `${fresh} ? ${written} : ${past.at(scope, index)}`);
  });
};

/** y = x * cos - partner * sin for the first half of the rotated features, x * cos + partner * sin for the second. */
const rotaryEmbedding: Rule = (s) => {
  const [x, cos, sin] = [operand(s, 0), operand(s, 1), operand(s, 2)];
  const positions = s.ins[3];
  const flat = x.dims.length === 3;
  const heads: number = flat ? s.attrs.num_heads : (x.dims[1] as number);
  if (flat && !(heads > 0)) throw new Refused("the number of heads is not known", "set num_heads");
  const size = flat ? (x.dims[2] as number) / heads : (x.dims[3] as number);
  const rotated: number = s.attrs.rotary_embedding_dim > 0 ? s.attrs.rotary_embedding_dim : size;
  const half = rotated / 2;
  return one((scope, index) => {
    const whole = index[flat ? 2 : 3] as Index;
    const feature = flat ? modulo(whole, size) : whole;
    const [batch, position] = [index[0] as Index, index[flat ? 1 : 2] as Index];
    const turning = within(scope, feature, 0, rotated);
    const own = scope.let("float", x.at(scope, index));
    if (turning === false) return own;
    const pair = s.attrs.interleaved ? divide(feature, 2) : modulo(feature, half);
    const held_ = bounded(scope, pair, half);
    const at = (table: Operand): string => {
      if (positions === undefined) return table.at(scope, [batch, position, held_]);
      const p = positions.at(scope, [positions.dims[0] === 1 ? ZERO : batch, position]);
      return table.at(scope, [held(scope, `(int)(${p})`, table.dims[0] as number), held_]);
    };
    const second = s.attrs.interleaved ? within(scope, modulo(feature, 2), 1, 2) : within(scope, feature, half, rotated);
    const step = s.attrs.interleaved ? 1 : half;
    const read = (d: Index): string =>
      x.at(
        scope,
        index.map((k, i) => (i === (flat ? 2 : 3) ? d : k)),
      );
    const [c, sn] = [scope.let("float", at(cos)), scope.let("float", at(sin))];
    const before = (): string => scope.let("float", `${own} * ${c} + ${read(add(whole, -step))} * ${sn}`);
    const behind = (): string => scope.let("float", `${own} * ${c} - ${read(add(whole, step))} * ${sn}`);
    const rotate = (): string => {
      if (second === true) return before();
      if (second === false) return behind();
      const first = scope.let("bool", `!${second}`);
      return scope.let("float", `${second} ? ${scope.guarded(second, before)} : ${scope.guarded(first, behind)}`);
    };
    // Features that are not rotated have no partner to read.
    const turned = turning === true ? rotate() : scope.guarded(turning, rotate);
    return turning === true ? turned : scope.let("float", `${turning} ? ${turned} : ${own}`);
  });
};
/** An index that outside a condition may exceed its bound, held inside. */
const bounded = (scope: Scope, x: Index, size: number): Index => {
  const r = range(x);
  return r.min >= 0 && r.max < size ? x : held(scope, scope.index(x), size);
};

/** Bilinear or nearest samples of an image at normalised positions (ONNX GridSample; torch.nn.functional.grid_sample). */
const gridSample: Rule = (s) => {
  const [x, grid] = [operand(s, 0), operand(s, 1)];
  const { align_corners: corners, mode, padding_mode: padding } = s.attrs;
  if (x.dims.length !== 4) throw new Refused("sampling of other than images has no kernel");
  if (mode === "cubic") throw new Refused("cubic sampling has no kernel", "sample linearly");
  const dims = [x.dims[2] as number, x.dims[3] as number];
  return one((scope, index) => {
    const [n, c, h, w] = index as [Index, Index, Index, Index];
    const position = (axisOf: 0 | 1): string => {
      const size = dims[axisOf] as number;
      const raw = scope.let("float", grid.at(scope, [n, h, w, { constant: axisOf === 0 ? 1 : 0, terms: [] }]));
      const at = scope.let(
        "float",
        corners ? `(${raw} + 1.0f) * 0.5f * ${literal(size - 1, "float")}` : `((${raw} + 1.0f) * ${literal(size, "float")} - 1.0f) * 0.5f`,
      );
      if (padding === "border") return scope.let("float", `fminf(fmaxf(${at}, 0.0f), ${literal(size - 1, "float")})`);
      if (padding !== "reflection") return at;
      const [low, span] = corners ? [0, size - 1] : [-0.5, size];
      if (span === 0) return "0.0f";
      const distance = scope.let("float", `fabsf(${at} - ${literal(low, "float")})`);
      const rest = scope.let("float", `fmodf(${distance}, ${literal(span, "float")})`);
      const odd = scope.let("bool", `((long long)(${distance} / ${literal(span, "float")}) & 1) != 0`);
      const folded = scope.let("float", `(${odd} ? ${literal(span, "float")} - ${rest} : ${rest}) + ${literal(low, "float")}`);
      return scope.let("float", `fminf(fmaxf(${folded}, 0.0f), ${literal(size - 1, "float")})`);
    };
    const [y, v] = [position(0), position(1)];
    const pixel = (row: string, column: string): string => {
      const inside = allOf(scope, [
        scope.let("bool", `${row} >= 0 && ${row} < ${dims[0]}`),
        scope.let("bool", `${column} >= 0 && ${column} < ${dims[1]}`),
      ]);
      const value = scope.guarded(inside as string, () =>
        x.at(scope, [n, c, held(scope, row, dims[0] as number), held(scope, column, dims[1] as number)]),
      );
      return scope.let("float", `${inside} ? ${value} : 0.0f`);
    };
    if (mode === "nearest") return pixel(scope.let("int", `(int)rintf(${y})`), scope.let("int", `(int)rintf(${v})`));
    const [top, left] = [scope.let("int", `(int)floorf(${y})`), scope.let("int", `(int)floorf(${v})`)];
    const [bottom, right] = [scope.let("int", `${top} + 1`), scope.let("int", `${left} + 1`)];
    const [dy, dx] = [scope.let("float", `${y} - (float)${top}`), scope.let("float", `${v} - (float)${left}`)];
    const rows = [
      `(${pixel(top, left)} * (1.0f - ${dx}) + ${pixel(top, right)} * ${dx}) * (1.0f - ${dy})`,
      `(${pixel(bottom, left)} * (1.0f - ${dx}) + ${pixel(bottom, right)} * ${dx}) * ${dy}`,
    ];
    return scope.let("float", rows.join(" + "));
  });
};

export const indexedRules: Readonly<Record<string, Rule>> = {
  ReverseSequence: reverseSequence,
  TensorScatter: tensorScatter,
  RotaryEmbedding: rotaryEmbedding,
  GridSample: gridSample,
};
