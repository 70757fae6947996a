/**
 * What the engines say, in terms operators share. The tables follow the design of each engine: the CUDA engine takes what its kernels will
 * cover (float32, float16, bfloat16, int8, the integer types of index arithmetic); TensorRT what its ONNX parser documents.
 */
import { no, type Verdict, yes } from "../diagnostics.js";
import type { DType } from "../ir/types.js";
import { type Absent, absent, type DoneSite, type Fact, type Lowering, type Lowerings, shapeOf, type Target } from "./define.js";

export const FLOATS: readonly DType[] = ["float32", "float16", "bfloat16"];
export const FLOATS64: readonly DType[] = [...FLOATS, "float64"];
export const SIGNED: readonly DType[] = ["int8", "int16", "int32", "int64"];
export const UNSIGNED: readonly DType[] = ["uint8", "uint16", "uint32", "uint64"];
export const NUMBERS: readonly DType[] = [...FLOATS64, ...SIGNED, ...UNSIGNED];
export const ANY: readonly DType[] = [...NUMBERS, "bool", "string", "complex64", "complex128"];
const GPU: readonly DType[] = [...FLOATS, "int8", "int32", "int64", "bool"];

/** The element types an engine's kernels or layers take. TensorRT has uint8 at the border of a network alone. */
const takes: Readonly<Record<"cuda" | "tensorrt", ReadonlySet<DType>>> = { cuda: new Set([...GPU, "uint8"]), tensorrt: new Set(GPU) };
/** Most dims of a tensor: TensorRT's Dims has room for eight; the CUDA engine computes indices of any rank. */
const MAX_RANK = { cuda: Number.POSITIVE_INFINITY, tensorrt: 8 } as const;

// biome-ignore lint/suspicious/noExplicitAny: one lowering serves operators of any signature.
type AnySite = DoneSite<any, any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
type AnyLowering = Lowering<any, any>;

export const host: AnyLowering = { supports: () => yes };

function tensorsOf(at: AnySite): Fact["type"][] {
  const types: Fact["type"][] = [];
  for (const v of Object.values(at.in) as (Fact | undefined | readonly (Fact | undefined)[])[]) {
    for (const f of Array.isArray(v) ? (v as readonly (Fact | undefined)[]) : [v as Fact | undefined])
      if (f !== undefined) types.push(f.type);
  }
  // An output that is left out in the middle has no type and needs none.
  return [...types, ...at.out.filter((_, i) => at.node.outs[i] !== undefined)];
}

/** Yes where every operand is a tensor of a type the engine takes, of known rank and without a dimension that only a run reveals. */
export function onTensors(engine: "cuda" | "tensorrt", condition?: Condition): AnyLowering {
  return {
    ...(condition === undefined ? {} : { when: condition.when }),
    supports: (at, target) => {
      for (const t of tensorsOf(at)) {
        if (t.kind === "unknown")
          return no("the type of an operand is not known", "fix the model's input shapes, so that shape inference reaches this node");
        if (t.kind !== "tensor") return no(`an operand is a ${t.kind}, not a tensor`);
        if (!takes[engine].has(t.dtype))
          return no(
            `${t.dtype} operands have no ${engine} kernel`,
            t.dtype === "float64" ? "cast to float32 where the precision allows" : undefined,
          );
        if (t.shape === undefined) return no("the rank of an operand is not known", "fix the model's input shapes");
        if (t.shape.length > MAX_RANK[engine])
          return no(
            `a tensor has ${t.shape.length} dims, and ${engine} takes at most ${MAX_RANK[engine]}`,
            "join dims where the model is made",
          );
        if (t.shape.includes("?"))
          return no(
            "a dimension is only known at run time",
            "fix the model's input shapes; what still depends on the data stays on the host",
          );
      }
      return condition === undefined ? yes : condition.holds(at, target);
    },
  };
}

/** Both GPU engines, under the same conditions. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const gpu = (condition?: Condition): Lowerings<any, any> => on(condition, condition);
/** Each engine with its own condition (undefined: none), or why it cannot run the operator at all. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const on = (cuda: Condition | Absent | undefined, tensorrt: Condition | Absent | undefined): Lowerings<any, any> => ({
  host,
  cuda: cuda !== undefined && "absent" in cuda ? cuda : onTensors("cuda", cuda),
  tensorrt: tensorrt !== undefined && "absent" in tensorrt ? tensorrt : onTensors("tensorrt", tensorrt),
});
/** Neither GPU engine, and why. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const hostOnly = (why: string, fix?: string): Lowerings<any, any> => ({ host, cuda: absent(why, fix), tensorrt: absent(why, fix) });

// ---- conditions -------------------------------------------------------------------------------------------------------------------------

/** What an engine asks of a site; `when` says it in a few words. */
export interface Condition {
  readonly when: string;
  readonly holds: (at: AnySite, target: Target) => Verdict;
}
export const when = (text: string, holds: (at: AnySite, target: Target) => Verdict): Condition => ({ when: text, holds });
/** All of them; the first that does not hold gives the reason. */
export const all = (...conditions: readonly Condition[]): Condition => ({
  when: conditions.map((c) => c.when).join("; "),
  holds: (at, target) => {
    for (const c of conditions) {
      const verdict = c.holds(at, target);
      if (!verdict.ok) return verdict;
    }
    return yes;
  },
});
/** The named inputs are constants. */
export const constantInputs = (...names: readonly string[]): Condition => ({
  when: `constant ${names.join(", ")}`,
  holds: (at) => {
    for (const name of names) {
      const f = at.in[name] as Fact | undefined;
      if (f !== undefined && f.constant === undefined && f.elements === undefined)
        return no(`input '${name}' is not a constant`, "make it an initializer, or let constant folding compute it");
    }
    return yes;
  },
});
/** The first input has so many spatial dims (those behind batch and channels). */
export const spatialDims = (low: number, high: number): Condition => ({
  when: `${low} to ${high} spatial dims`,
  holds: (at) => {
    const rank = shapeOf(at.in["x"] as Fact | undefined)?.length ?? low + 2;
    return rank >= low + 2 && rank <= high + 2
      ? yes
      : no(`${rank - 2} spatial dims; it takes ${low} to ${high}`, "reshape the tensor to so many spatial dims");
  },
});
/** An attribute has one of these values. */
export const attribute = (name: string, values: readonly (string | number | boolean | undefined)[], fix?: string): Condition => ({
  when: `${name} ${values.filter((v) => v !== undefined).join(" or ")}`,
  holds: (at) => {
    const value = at.attrs[name] as string | number | boolean | undefined;
    return values.includes(value) ? yes : no(`${name} is ${value}; it takes ${values.filter((v) => v !== undefined).join(", ")}`, fix);
  },
});
/** Operators that are quantizers and a float operator in one: engines get the parts (passes/quantized.ts), where they take those. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const inParts: Lowerings<any, any> = on(
  absent(
    "it is run in parts, quantizers and a float operator, and this one stays whole: its dims are not known, or its scales are neither one for all nor one for each channel",
    "fix the model's input shapes, or quantize with QuantizeLinear and DequantizeLinear (QDQ)",
  ),
  absent(
    "it is run in parts, quantizers and a float operator, where these are of symmetric int8, the one form that TensorRT takes",
    "quantize symmetrically to int8; or let the cuda engine take it",
  ),
);
/** What TensorRT says to integer products and convolutions. */
export const integersAreQuantized = absent(
  "integer arithmetic is written with QuantizeLinear and DequantizeLinear for TensorRT",
  "quantize with Q/DQ instead",
);
/** Nobody asked for the outputs behind the first `count`. */
export const outputsOnly = (count: number, what: string): Condition => ({
  when: `without ${what}`,
  holds: (at) =>
    at.out.length > count ? no(`${what} are asked for and not given out`, "drop the unused outputs where the model is made") : yes,
});
