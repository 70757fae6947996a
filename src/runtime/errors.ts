/** The error that several files of the runtime raise, and options that do not exist. */
import { defineError, didYouMean } from "../diagnostics.js";

export const badSession = defineError<{ name: string; what: string; fix: string }>(
  "P3130",
  "an option of a session or of a run is wrong",
  ({ name, what, fix }) => ({ what: `${name} ${what}`, fix }),
);

/** Throws P3130 for what is no object of options, and for an option that is not among `names`; `of` says whose they are: "a run". */
export function demandNamed(options: object, names: readonly string[], of: string): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    const what = `are ${options === null ? "null" : Array.isArray(options) ? "a list" : `a ${typeof options}`}`;
    throw badSession({ name: `the options of ${of}`, what, fix: "give an object of options, or leave it out" });
  }
  for (const name of Object.keys(options)) {
    if (names.includes(name)) continue;
    const near = didYouMean(name, names);
    const fix = near === undefined ? `the options are ${names.join(", ")}` : `did you mean ${near}?`;
    throw badSession({ name, what: `is no option of ${of}`, fix });
  }
}
