/** No template changes without a run on a GPU behind it. */
import { expect, it } from "vitest";
import { currentHashes, readLedger } from "../../support/ledger.js";

it("kernels/ledger.json has a run on a GPU for the present text of every template", () => {
  const { schema, templates } = readLedger();
  expect(schema).toBe("partita.ledger/1");
  const stale = Object.entries(currentHashes()).flatMap(([name, hash]) => {
    const entry = templates[name];
    if (entry?.hash === hash) return [];
    return [
      `${name} ${entry === undefined ? "has no entry" : `changed since it ran on ${entry.gpu} on ${entry.date}`}: run \`npm run test:gpu\` on a machine with an NVIDIA GPU and commit kernels/ledger.json`,
    ];
  });
  expect(stale).toEqual([]);
  expect(Object.keys(templates).filter((name) => !(name in currentHashes()))).toEqual([]);
});

it("its entries say what ran, where, and how far off it was", () => {
  for (const [name, e] of Object.entries(readLedger().templates)) {
    expect(e.gpu, name).toMatch(/NVIDIA/);
    expect(e.driver, name).toMatch(/^\d+(\.\d+)+$/);
    expect(e.date, name).toMatch(/^\d{4}-\d{2}-\d{2}$/);
    expect(e.kernels, name).toBeGreaterThan(0);
    expect(Object.keys(e.maxError), name).not.toEqual([]);
    for (const error of Object.values(e.maxError)) expect(error, name).toBeLessThanOrEqual(2e-2);
  }
});
