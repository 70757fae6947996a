/** A process killed while it saves: the short form of `npm run test:crash`. */
import { expect, it } from "vitest";
import { killed } from "../support/crash.js";

it("kill -9 leaves the old state or the new one of bundles, calibrations, feeds and cached entries", async () => {
  const seen = await killed({ moments: 4, seed: 7, compile: false, within: 1.5 });
  expect(seen.bundles.size).toBeGreaterThan(0);
  expect(seen.entries).toBeGreaterThan(0);
});
