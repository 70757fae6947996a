import { defineConfig } from "vitest/config";

/** Mutated models and bundles. PARTITA_FUZZ sets their number, PARTITA_SEED the series; PARTITA_TEST_DATA adds real models to start from. */
export default defineConfig({
  test: {
    include: ["test/fuzz/**/*.test.ts"],
    testTimeout: 1_500_000,
    maxWorkers: 1,
    pool: "forks",
    reporters: ["verbose"],
  },
});
