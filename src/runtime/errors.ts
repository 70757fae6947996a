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

/** Of a timer, milliseconds. */
export const MAX_DELAY = 2 ** 31 - 1;

/** Throws P3130 for options of a run that do not exist or are none of their kind; `of` says whose they are: "a run". */
export function demandRun(options: object, names: readonly string[], of: string): void {
  demandNamed(options, names, of);
  const { outputs, signal, transfer, deadlineMs } = options as Readonly<Record<string, unknown>>;
  const refuse = (name: string, value: unknown, fix: string): never => {
    throw badSession({ name, what: `is ${typeof value === "object" && value !== null ? "an object" : String(value)}`, fix });
  };
  if (outputs !== undefined && !(Array.isArray(outputs) && outputs.every((name) => typeof name === "string")))
    refuse("outputs", outputs, "give a list of names");
  // Those of other realms and of libraries serve as well.
  if (signal !== undefined && typeof (signal as AbortSignal | null)?.addEventListener !== "function")
    refuse("signal", signal, "give an AbortSignal, or leave it out");
  if (transfer !== undefined && typeof transfer !== "boolean") refuse("transfer", transfer, "give true or false");
  if (deadlineMs !== undefined && !(typeof deadlineMs === "number" && deadlineMs > 0 && deadlineMs <= MAX_DELAY))
    refuse("deadlineMs", deadlineMs, `give milliseconds from now, more than 0 and at most ${MAX_DELAY}`);
}
