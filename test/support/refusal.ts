/** What a call is refused with. */
import { expect } from "vitest";
import { PartitaError } from "../../src/diagnostics.js";

export function refusal(run: () => unknown): PartitaError {
  try {
    run();
  } catch (error) {
    expect(error, error instanceof Error ? error.stack : "").toBeInstanceOf(PartitaError);
    return error as PartitaError;
  }
  throw new Error("nothing was refused");
}
