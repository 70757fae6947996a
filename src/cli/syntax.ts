/** What stands behind flags: shapes, buckets, options of TensorRT, numbers, calibration. Throws P1001 for what is not written so. */
import { didYouMean } from "../diagnostics.js";
import type { TensorRtOptions } from "../engines/engine.js";
import type { BindValue } from "../ir/bound.js";
import { readNpy } from "../npz.js";
import { badOption, type CalibrationOptions, type ShapeOption, tensorrtNames } from "../options.js";

/** `input=8x3x224x224`, or `input=1x3x224x224:8x...:32x...` (min, opt, max). Throws P1001. */
export function parseShape(text: string): readonly [name: string, shape: ShapeOption] {
  const at = text.lastIndexOf("=");
  const fail = (): never => {
    throw badOption({
      name: "--shape",
      what: `'${text}' is not NAME=DIMS`,
      fix: "write it as input=8x3x224x224, or input=1x3:8x3:32x3 for min, opt and max",
    });
  };
  if (at <= 0) return fail();
  const lists = text
    .slice(at + 1)
    .split(":")
    .map((part) => (/^\d+(x\d+)*$/.test(part) ? part.split("x").map(Number) : part === "scalar" ? [] : fail()));
  const [min, opt, max] = lists;
  if (lists.length === 1 && min !== undefined) return [text.slice(0, at), min];
  if (lists.length === 3 && min !== undefined && opt !== undefined && max !== undefined) return [text.slice(0, at), { min, opt, max }];
  return fail();
}

/** `is_training=false`, `ids=1,2,3`, or `mask=mask.npy`: what an input is bound to. Throws P1001, and what reading an .npy throws. */
export function parseBind(text: string): readonly [name: string, value: BindValue] {
  const at = text.indexOf("=");
  if (at <= 0 || at === text.length - 1)
    throw badOption({
      name: "--bind",
      what: `'${text}' is not NAME=VALUE`,
      fix: "write it as is_training=false, ids=1,2,3, or mask=mask.npy",
    });
  const value = text.slice(at + 1);
  return [text.slice(0, at), value.endsWith(".npy") ? readNpy(value) : value];
}

/** `batch=1,8,32`: the buckets of a dim. Throws P1001. */
export function parseBucket(text: string): readonly [dim: string, sizes: readonly number[]] {
  const found = /^(.+)=(\d+(?:,\d+)*)$/.exec(text);
  if (found === null)
    throw badOption({ name: "--bucket", what: `'${text}' is not DIM=SIZES`, fix: "write it as batch=1,8,32, or input[0]=1,8,32" });
  const [, dim = "", sizes = ""] = found;
  return [dim, sizes.split(",").map(Number)];
}

/** `optimizationLevel=5`: one field of the tensorrt option; what it holds is checked with the rest. Throws P1001. */
export function parseTensorRt(text: string): readonly [name: string, value: boolean | number | string] {
  const at = text.indexOf("=");
  const name = text.slice(0, at);
  if (at <= 0 || !tensorrtNames.includes(name as keyof TensorRtOptions)) {
    const guess = didYouMean(at <= 0 ? text : name, tensorrtNames);
    const wrong = at <= 0 ? `'${text}' is not NAME=VALUE` : `has no option '${name}'`;
    throw badOption({
      name: "--trt",
      what: `${wrong}${guess === undefined ? "" : ` (did you mean '${guess}'?)`}`,
      fix: `the names are ${tensorrtNames.join(", ")}`,
    });
  }
  const value = text.slice(at + 1);
  return [name, value === "true" ? true : value === "false" ? false : /^\d+$/.test(value) ? Number(value) : value];
}

/** The number that a flag of the command line was given. Throws P1001. */
export function parseNumber(flag: string, text: string, { least, whole }: { readonly least: number; readonly whole: boolean }): number {
  const x = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(x) || x < least || (whole && !Number.isSafeInteger(x)))
    throw badOption({
      name: flag,
      what: `is '${text}'`,
      fix: `give a ${whole ? "whole number" : "number"} of at least ${least}`,
    });
  return x;
}

/** What `--calibration` names: a calibration file (.json, .json.gz), a table of TensorRT (.table, .cache, .calib), or data. */
export function parseCalibration(text: string): CalibrationOptions {
  if (/\.json(\.gz)?$/i.test(text)) return { file: text };
  return /\.(table|cache|calib)$/i.test(text) ? { table: text } : { data: text };
}
