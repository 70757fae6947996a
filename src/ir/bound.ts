/** Values that inputs are bound to: as a user writes them, as constants, and as reports keep them. */
import { defineError } from "../diagnostics.js";
import { isTensorDType, Tensor, type TensorDType, type TensorLike } from "../tensor.js";
import { dtypeBits } from "./dtypes.js";
import { bfloat16ToNumber, elementNumber, halfToNumber, numberToBfloat16, numberToHalf } from "./numeric.js";
import { elementCount, fromTensor, makeConstant, toTensor } from "./payload.js";
import { typeText } from "./print.js";
import type { Constant, DType, Shape, ValueType } from "./types.js";

type Scalar = number | bigint | boolean | string;
/**
 * What an input may be bound to: one element, which fills the input's dims, all its elements, or a tensor. Text is read as the input's element
 * type asks: "true", "0.5", "1,2,3".
 */
export type BindValue = Scalar | readonly Scalar[] | TensorLike;
/** A bound input as reports keep it. Elements that JSON has no numbers for are text. */
export interface BoundInput {
  readonly type: string;
  readonly dims: readonly number[];
  readonly values: readonly (number | boolean | string)[];
}

/** What is bound is printed, stored with the bundle and folded: larger inputs are weights. */
const MOST_ELEMENTS = 4096;

export const badBinding = defineError<{ what: string; fix: string }>("P1010", "an input cannot be bound to a value", ({ what, fix }) => ({
  what,
  fix,
}));

/** The tensors that inputs were bound to, of what a report keeps. */
export const boundTensors = (bound: Readonly<Record<string, BoundInput>> | undefined): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(bound ?? {}).map(([name, { type, dims, values }]) => {
      const t: ValueType = { kind: "tensor", dtype: type as DType, shape: dims };
      return [name, toTensor(boundConstant(name, values, t, dims, undefined)) as Tensor];
    }),
  );

/** The constant that a value makes of an input: of the input's element type and dims, as far as `shape` says them. Throws P1010. */
export function boundConstant(name: string, value: BindValue, type: ValueType, shape: Shape, file: string | undefined): Constant {
  const fail = (what: string, fix: string): never => {
    throw badBinding({ what, fix }, { file, value: name });
  };
  if (type.kind !== "tensor" || !isTensorDType(type.dtype))
    return fail(`the input is ${typeText(type)}, and only tensors of common element types can be bound`, "feed it");
  const { dtype } = type;
  const wanted = typeText({ kind: "tensor", dtype, shape });
  if (isTensor(value)) {
    const { dims } = value;
    const fits = shape === undefined || (shape.length === dims.length && shape.every((d, i) => typeof d === "string" || d === dims[i]));
    if (value.type !== dtype || !fits)
      fail(`the input is ${wanted}, the tensor ${value.type}[${dims.join(", ")}]`, "give a tensor of the input's type and dims");
    demandSmall(elementCount(dims), fail);
    return fromTensor(new Tensor(dtype, value.data as never, dims));
  }
  const list = typeof value === "object" ? value : typeof value === "string" && dtype !== "string" ? value.split(",") : [value];
  const elements = list.map((x) => elementOf(dtype, x, fail));
  const dims = dimsFor(shape, elements.length);
  if (dims === undefined) {
    const open = shape?.some((d) => typeof d === "string") === true;
    return fail(
      `the input is ${wanted}, and ${elements.length} ${elements.length === 1 ? "element does" : "elements do"} not fill it`,
      open ? "give its dims too (shapes, --shape), or a tensor (on the command line an .npy file)" : "give one element, or all of them",
    );
  }
  const count = demandSmall(elementCount(dims), fail);
  const all = elements.length === count ? elements : new Array<Scalar>(count).fill(elements[0] as Scalar);
  return dtype === "string"
    ? { dtype, dims, data: { kind: "strings", values: all.map((s) => Buffer.from(String(s), "utf8")) } }
    : makeConstant(dtype, dims, all as readonly (number | bigint | boolean)[]);
}

type Fail = (what: string, fix: string) => never;

function demandSmall(count: number | undefined, fail: Fail): number {
  if (count === undefined || count > MOST_ELEMENTS)
    return fail(
      `that is ${count ?? "too many"} elements, and at most ${MOST_ELEMENTS} are bound`,
      "feed it, or make it an initializer of the model",
    );
  return count;
}

const isTensor = (x: BindValue): x is TensorLike => typeof x === "object" && "dims" in x && "data" in x;

/** Dims for so many elements: the fixed ones, which one element fills; of open dims, what the count says. */
function dimsFor(shape: Shape, count: number): readonly number[] | undefined {
  if (shape === undefined) return count === 1 ? [] : [count];
  const fixed = elementCount(shape.filter((d) => typeof d === "number"));
  const open = shape.filter((d) => typeof d === "string").length;
  if (open === 0) return count === fixed || count === 1 ? (shape as readonly number[]) : undefined;
  const rest = fixed === undefined || fixed === 0 ? Number.NaN : count / fixed;
  return Number.isInteger(rest) && (open === 1 || rest === 1) ? shape.map((d) => (typeof d === "number" ? d : rest)) : undefined;
}

/** One element as the input's element type takes it. */
function elementOf(dtype: TensorDType, x: Scalar, fail: Fail): Scalar {
  const wrong = (fix: string): never =>
    fail(`the input is of ${dtype}, and ${typeof x === "string" ? `'${x}'` : String(x)} is no element of it`, fix);
  if (dtype === "string") return typeof x === "string" ? x : wrong("give text");
  const text = typeof x === "string" ? x.trim().toLowerCase() : undefined;
  if (dtype === "bool") {
    const said = text ?? String(x);
    if (said === "true" || said === "1") return true;
    return said === "false" || said === "0" ? false : wrong("give true or false");
  }
  if (dtype.startsWith("float") || dtype === "bfloat16") {
    if (typeof x === "boolean") return wrong("give a number");
    const special = /^[+-]?(inf(inity)?|nan)$/.test(text ?? "");
    const n = special ? (text?.includes("nan") === true ? Number.NaN : text?.startsWith("-") === true ? -1 / 0 : 1 / 0) : Number(x);
    if (text === "" || (!special && text !== undefined && Number.isNaN(n))) return wrong("give a number");
    return Number.isFinite(n) && !Number.isFinite(rounded(dtype, n)) ? wrong("give one in its range") : n;
  }
  let n: bigint;
  try {
    if (typeof x === "boolean" || text === "") return wrong("give a whole number");
    n = BigInt(text ?? x);
  } catch {
    return wrong("give a whole number");
  }
  const bits = BigInt(dtypeBits(dtype));
  const [low, high] = dtype.startsWith("u") ? [0n, 1n << bits] : [-1n << (bits - 1n), 1n << (bits - 1n)];
  return n >= low && n < high ? n : wrong(`give one from ${low} to ${high - 1n}`);
}

function rounded(dtype: TensorDType, x: number): number {
  switch (dtype) {
    case "float16":
      return halfToNumber(numberToHalf(x));
    case "bfloat16":
      return bfloat16ToNumber(numberToBfloat16(x));
    case "float32":
      return Math.fround(x);
    default:
      return x;
  }
}

/** A bound constant as reports keep it. */
export function recorded(c: Constant): BoundInput {
  const t = toTensor(c) as Tensor;
  const values = Array.from(t.data as ArrayLike<number | bigint | string>, (x): number | boolean | string => {
    if (typeof x === "string") return x;
    if (t.type === "bool") return x !== 0;
    const n = elementNumber(t.type, x);
    return typeof x === "bigint"
      ? Number.isSafeInteger(n)
        ? n
        : String(x)
      : Number.isFinite(n) && !Object.is(n, -0)
        ? n
        : String(x === 0 ? "-0" : n);
  });
  return { type: t.type, dims: t.dims, values };
}
