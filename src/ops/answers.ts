/**
 * What the engines say, in terms operators share. The tables follow the design of each engine: the CUDA engine takes what its kernels will
 * cover (float32, float16, bfloat16, int8, the integer types of index arithmetic); TensorRT what its ONNX parser documents.
 */
import { no, type Verdict, yes } from "../diagnostics.js";
import type { DType } from "../ir/types.js";
import { absent, type DoneSite, type Fact, type Lowering, type Lowerings, type Target } from "./define.js";

export const FLOATS: readonly DType[] = ["float32", "float16", "bfloat16"];
export const FLOATS64: readonly DType[] = [...FLOATS, "float64"];
export const SIGNED: readonly DType[] = ["int8", "int16", "int32", "int64"];
export const UNSIGNED: readonly DType[] = ["uint8", "uint16", "uint32", "uint64"];
export const NUMBERS: readonly DType[] = [...FLOATS64, ...SIGNED, ...UNSIGNED];
export const ANY: readonly DType[] = [...NUMBERS, "bool", "string", "complex64", "complex128"];
const GPU: readonly DType[] = [...FLOATS, "int8", "uint8", "int32", "int64", "bool"];

/** The element types an engine's kernels or layers take. */
const takes: Readonly<Record<"cuda" | "tensorrt", ReadonlySet<DType>>> = { cuda: new Set(GPU), tensorrt: new Set(GPU) };

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
  return [...types, ...at.out];
}

/** Yes where every operand is a tensor of a type the engine takes, of known rank and without a dimension that only a run reveals. */
export function onTensors(engine: "cuda" | "tensorrt", extra?: (at: AnySite, target: Target) => Verdict): AnyLowering {
  return {
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
        if (t.shape.includes("?"))
          return no(
            "a dimension is only known at run time",
            "fix the model's input shapes; what still depends on the data stays on the host",
          );
      }
      return extra === undefined ? yes : extra(at, target);
    },
  };
}

/** Both GPU engines, under the same conditions. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const gpu = (extra?: (at: AnySite, target: Target) => Verdict): Lowerings<any, any> => ({
  host,
  cuda: onTensors("cuda", extra),
  tensorrt: onTensors("tensorrt", extra),
});
/** Neither GPU engine, and why. */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const hostOnly = (why: string, fix?: string): Lowerings<any, any> => ({ host, cuda: absent(why, fix), tensorrt: absent(why, fix) });
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const cudaOnly = (why: string, extra?: (at: AnySite, target: Target) => Verdict): Lowerings<any, any> => ({
  host,
  cuda: onTensors("cuda", extra),
  tensorrt: absent(why),
});
// biome-ignore lint/suspicious/noExplicitAny: as above.
export const tensorrtOnly = (why: string, extra?: (at: AnySite, target: Target) => Verdict): Lowerings<any, any> => ({
  host,
  cuda: absent(why),
  tensorrt: onTensors("tensorrt", extra),
});

/** For `extra`: the named inputs must be constants. */
export const constantInputs =
  (...names: readonly string[]) =>
  (at: AnySite): Verdict => {
    for (const name of names) {
      const f = at.in[name] as Fact | undefined;
      if (f !== undefined && f.constant === undefined && f.elements === undefined)
        return no(`input '${name}' is not a constant`, "make it an initializer, or let constant folding compute it");
    }
    return yes;
  };
