/** 200 processes killed at random moments of saving, calibrating and compiling: each left the old state or the new one. PARTITA_SEED sets the series. */
import { expect, it } from "vitest";
import { killed } from "../support/crash.js";

it("kill -9 at 200 random moments leaves the old state or the new one", async () => {
  const seed = Number(process.env["PARTITA_SEED"] ?? 1);
  const moments = Number(process.env["PARTITA_KILLS"] ?? 200);
  const seen = await killed({ moments, seed, compile: true, within: 1.5 });
  // Both states of everything were met, or the kills came at the same moment every time.
  expect([seen.bundles.size, seen.calibrations.size, seen.feeds.size]).toEqual([2, 2, 2]);
  expect(seen.entries).toBeGreaterThan(moments);
});
