/** 1,000 damaged plans: each ends in a refusal or in an engine, none in the end of the process. PARTITA_SEED sets the series, PARTITA_FUZZ the number. */
import { describe, expect, it } from "vitest";
import { openTensorRt } from "../../src/engines/tensorrt/open.js";
import { compileStandIn } from "../support/fake-tensorrt.js";
import { batch, layer } from "../support/tensorrt-models.js";
import { damagedPlan, tryDamaged } from "../support/tensorrt-plans.js";

const made = compileStandIn("10");
const count = Number(process.env["PARTITA_FUZZ"] ?? 1000);
const seed = Number(process.env["PARTITA_SEED"] ?? 1);

describe.skipIf(typeof made === "string")(`damaged plans${typeof made === "string" ? ` (skipped: ${made})` : ""}`, () => {
  it(`${count} of the stand-in's`, async () => {
    if (typeof made === "string") return;
    const trt = openTensorRt(made);
    const { plan } = await trt.build(layer(), { profiles: [[batch(1, 4, 8)]] });
    const { counts, deaths } = await tryDamaged(trt, plan, count, seed);
    expect(deaths).toEqual([]);
    expect(Object.values(counts).reduce((a, b) => a + b, 0)).toBe(count);
    // Its checksum catches all but flags in its header.
    expect(counts["loaded"] ?? 0).toBeLessThan(count * 0.02);
    expect(counts["deserializeCudaEngine"] ?? 0).toBeGreaterThan(count * 0.9);
  });
  it("those that end their process, or hang, are told, and the others tried", async () => {
    if (typeof made === "string") return;
    const trt = openTensorRt(made);
    // The one damage of this series that gets past the checksum: it is in the header's flags.
    const [series, passing] = [14, 22];
    for (const [name, how] of [
      ["fake:die-on-load", "SIGABRT: LLVM ERROR: out of memory"],
      ["fake:hang-on-load", "hung: no outcome in 1500 ms"],
    ] as const) {
      const { plan } = await trt.build(layer({ name }), { profiles: [[batch(1, 4, 8)]] });
      const { counts, deaths } = await tryDamaged(trt, plan, 40, series, 1500);
      expect(deaths).toEqual([{ index: passing, how }]);
      expect(Object.values(counts).reduce((a, b) => a + b, 0)).toBe(39);
      const damaged = damagedPlan(plan, series, passing);
      expect([...damaged.keys()].filter((i) => damaged[i] !== plan[i]).map((i) => Math.floor(i / 8))).toEqual([3]);
    }
  });
});
