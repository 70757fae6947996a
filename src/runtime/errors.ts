/** The error that several files of the runtime raise. */
import { defineError } from "../diagnostics.js";

export const badSession = defineError<{ name: string; what: string; fix: string }>(
  "P3130",
  "an option of a session or of a run is wrong",
  ({ name, what, fix }) => ({ what: `${name} ${what}`, fix }),
);
