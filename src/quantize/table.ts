/**
 * TensorRT's calibration tables, both ways: a header line, then `name: scale` a line, the scale as the eight hexadecimal digits of a
 * big-endian float32 and amax / 127. Names may hold colons: a line is split at its last ": ".
 */
import { readFileSync } from "node:fs";
import { defineError, didYouMean, type Remarks } from "../diagnostics.js";

import type { Ranges } from "./types.js";

export const badTable = defineError<{ what: string; line: number | undefined }>(
  "P1616",
  "a TensorRT calibration table cannot be read or written",
  ({ what, line }) => ({
    what: line === undefined ? what : `line ${line}: ${what}`,
    fix: "write the table again with TensorRT, or calibrate with `partita calibrate`",
  }),
);
export const otherTable = defineError<{ count: number; first: string; near: string | undefined }>(
  "P1617",
  "a TensorRT calibration table is another model's",
  ({ count, first, near }) => ({
    what: `none of its ${count} names is a tensor of the graph; the first is '${first}'${near === undefined ? "" : `, the graph has '${near}'`}`,
    why: "tables go by the names of tensors, which change when a model is exported again",
    fix: "use the table of this very model file, or calibrate with `partita calibrate`",
  }),
);

export interface CalibrationTable {
  /** Without its line end: `TRT-8601-EntropyCalibration2`. */
  readonly header: string;
  readonly ranges: Ranges;
}
/** The header of a table that no TensorRT wrote. */
export const TABLE_HEADER = "TRT-8601-EntropyCalibration2";

/** Parses a table's text. Throws P1616. */
export function parseTable(text: string, file?: string): CalibrationTable {
  const lines = text.split(/\r?\n/);
  const header = lines[0] ?? "";
  if (header === "" || header.includes(": ")) throw badTable({ what: "there is no header", line: 1 }, { file });
  const ranges = new Map<string, number>();
  lines.forEach((line, i) => {
    if (i === 0 || line === "") return;
    const at = line.lastIndexOf(": ");
    const [name, digits] = [line.slice(0, at), line.slice(at + 2).trim()];
    if (at <= 0 || !/^[0-9a-fA-F]{8}$/.test(digits))
      throw badTable({ what: `'${line.slice(0, 80)}' is not NAME: and eight hexadecimal digits`, line: i + 1 }, { file });
    const scale = Buffer.from(digits, "hex").readFloatBE(0);
    if (!Number.isFinite(scale) || scale < 0) throw badTable({ what: `the scale of '${name}' is ${scale}`, line: i + 1 }, { file });
    if (ranges.has(name)) throw badTable({ what: `'${name}' is there twice`, line: i + 1 }, { file });
    ranges.set(name, scale * 127);
  });
  if (ranges.size === 0) throw badTable({ what: "it holds no tensor", line: undefined }, { file });
  return { header, ranges };
}

/** Reads a table for a graph with these tensors; names that it does not have are left out with a remark. Throws P1616, P1617. */
export function readTable(path: string, tensors: Iterable<string>, remarks?: Remarks): CalibrationTable {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw badTable(
      { what: `it cannot be read: ${cause instanceof Error ? cause.message : cause}`, line: undefined },
      { file: path },
      cause,
    );
  }
  const table = parseTable(text, path);
  const known = new Set(tensors);
  const strangers = [...table.ranges.keys()].filter((name) => !known.has(name));
  const [first = ""] = strangers;
  if (strangers.length === table.ranges.size)
    throw otherTable({ count: strangers.length, first, near: didYouMean(first, [...known].slice(0, 5000)) }, { file: path });
  if (strangers.length > 0)
    remarks?.({
      severity: "note",
      text: `${strangers.length} of the table's ${table.ranges.size} names are not among the tensors to quantize, the first is '${first}'`,
      where: { file: path },
    });
  return { header: table.header, ranges: new Map([...table.ranges].filter(([name]) => known.has(name))) };
}

/** A table's text. Throws P1616 for a name or a range that it cannot hold. */
export function tableText(ranges: Ranges, header: string = TABLE_HEADER): string {
  if (!/^[^\r\n]+$/.test(header) || header.includes(": ")) throw badTable({ what: `'${header}' is no header`, line: undefined });
  const lines = [...ranges].map(([name, amax]) => {
    if (name === "" || /[\r\n]/.test(name))
      throw badTable({ what: `the name ${JSON.stringify(name)} has no place in a table`, line: undefined });
    const digits = Buffer.alloc(4);
    digits.writeFloatBE(amax / 127);
    if (!Number.isFinite(digits.readFloatBE(0)) || amax < 0) throw badTable({ what: `the range of '${name}' is ${amax}`, line: undefined });
    return `${name}: ${digits.toString("hex")}\n`;
  });
  return `${header}\n${lines.join("")}`;
}
