/** Inputs that were bound to values, in reports: their form and their words. */
import * as v from "valibot";
import type { BoundInput } from "../ir/bound.js";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
/** By input name. Elements that JSON has no numbers for are text. */
export const boundSchema = v.record(
  v.string(),
  v.strictObject({ type: v.string(), dims: v.array(count), values: v.array(v.union([v.number(), v.boolean(), v.string()])) }),
);
type Bound = v.InferOutput<typeof boundSchema>;

/** The options' entry of a report; empty where nothing was bound. */
export const boundOption = (inputs: Readonly<Record<string, BoundInput>>): { readonly bound?: Bound } =>
  Object.keys(inputs).length === 0
    ? {}
    : { bound: Object.fromEntries(Object.entries(inputs).map(([name, b]) => [name, { ...b, dims: [...b.dims], values: [...b.values] }])) };

/** A line for each, with the first elements. */
export const boundLines = (bound: Bound | undefined): readonly string[] =>
  Object.entries(bound ?? {}).map(
    ([name, { type, dims, values }]) =>
      `  is   ${name} = ${values.slice(0, 8).join(", ")}${values.length > 8 ? ", ..." : ""} (${type}[${dims.join(", ")}])`,
  );
